/* PLTs that no entry describes: those of lld, and the one for indirect functions in a static program. Their code is
 * known, so that a sample in it needs no frame pointer. Only holes between functions that are described are filled. */
#include "daemon/image/cfi_internal.h"

static const char *const names[] = {".plt", ".plt.sec", ".plt.got", ".iplt"};
_Static_assert(ARRAY_SIZE(names) == MAX_PLTS, "a place for each name");

static bool apart(const struct cfi_build *b, const struct cfi_plt *p)
{
	for (size_t i = 0; i < b->plt_count; i++)
		if (p->start < b->plts[i].start + b->plts[i].bytes && b->plts[i].start < p->start + p->bytes)
			return false;
	return true;
}

void cfi_plt_find(struct cfi_build *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const struct elf_section *s = elf_find_section(b->file, names[i]);
		struct cfi_plt p = {.lazy = false};
		uint8_t code[2];
		size_t at;

		/* cfi_place: its end fits 32 bits. */
		if (!s || !s->bytes || !cfi_place(b, s->addr, s->bytes, &p.start))
			continue;
		p.bytes = (uint32_t)s->bytes;
		/* Its contents, as the key of the table knows them, not what its address leads to. */
		p.lazy = p.bytes >= CFI_PLT_ENTRY_BYTES && !elf_read(b->file, s->offset, code, sizeof(code)) &&
			 code[0] == CFI_PLT_HEAD_0 && code[1] == CFI_PLT_HEAD_1;
		if (!apart(b, &p))
			continue;
		for (at = b->plt_count++; at && b->plts[at - 1].start > p.start; at--)
			b->plts[at] = b->plts[at - 1];
		b->plts[at] = p;
	}
}

static int fill(struct cfi_build *b, const struct cfi_plt *p)
{
	const struct cfi_info sp = {.offset = 8, .rules = CFI_CFA_SP}, called = {.offset = 16, .rules = CFI_CFA_SP},
			      pushed = {.offset = 24, .rules = CFI_CFA_SP},
			      entry = {.offset = CFI_PLT_PUSHED_MAX, .rules = CFI_CFA_PLT};
	uint32_t at = p->start;
	int r = 0;

	if (p->lazy) {
		r = cfi_rows_add(b, at, called);
		if (!r)
			r = cfi_rows_add(b, at + CFI_PLT_HEAD_PUSHED, pushed);
		at += CFI_PLT_ENTRY_BYTES;
	}
	if (!r && at < p->start + p->bytes)
		r = cfi_rows_add(b, at, p->lazy ? entry : sp);
	return r;
}

int cfi_plt_fill(struct cfi_build *b, uint32_t from, uint32_t to)
{
	uint32_t at = from; /* up to here all is said */
	int r = 0;

	for (size_t i = 0; !r && i < b->plt_count; i++) {
		const struct cfi_plt *p = &b->plts[i];

		if (p->start < from || p->start + p->bytes > to)
			continue;
		/* One that begins where something else ends has its own first row there. */
		if (p->start > at)
			r = cfi_rows_add(b, at, (struct cfi_info){0});
		if (!r)
			r = fill(b, p);
		at = p->start + p->bytes;
	}
	return r || at == to ? r : cfi_rows_add(b, at, (struct cfi_info){0});
}
