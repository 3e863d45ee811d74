/* What Go's .debug_frame leaves out, from the function table that every Go program carries (.gopclntab, Go 1.18 on).
 *
 * Go's linker writes one rule a row, CFA = rsp + N, from the table of stack depths that its own unwinder uses. Three
 * things are not in it. Where rbp is: the compiler saves it in every frame. That a function is the outermost one: it
 * has a flag for that. And that rsp was set to another stack (runtime.systemstack, mcall, the vDSO calls): the rules of
 * such a function are wrong behind that place; it has a flag as well, and it keeps the frame pointer, so that it is
 * left to that. So is all that the table does not know, and all of Go where a linker has hidden the table.
 *
 * The table's addresses count from the start of Go's text, which it does not always name: a start fits if entries of
 * the call frame information begin where the table says. */
#include <errno.h>
#include <stdlib.h>

#include "daemon/image/cfi_internal.h"

#define TABLE_MAX_BYTES (160ull << 20)
#define HEAD_BYTES 8
#define WORD_TEXT 2
#define WORD_FUNCTIONS 7
#define ENTRY_BYTES 8 /* offset in the text, offset of the function's record */
#define TRIED 64      /* functions that must be found for a start of the text to be believed */

enum go_format { GO_1_18 = 0xfffffff0, GO_1_20 = 0xfffffff1 };
enum go_flag { GO_TOP_FRAME = 1, GO_SP_WRITE = 2, GO_ASSEMBLY = 4 };

struct go_table {
	uint8_t *data;
	uint64_t bytes, functions, count;
	uint32_t flag_at; /* in a function's record */
};

static void go_table_deinit(struct go_table *t)
{
	free(t->data);
}

static bool get32(const struct go_table *t, uint64_t at, uint32_t *ret)
{
	if (at > t->bytes || t->bytes - at < sizeof(*ret))
		return false;
	memcpy(ret, t->data + at, sizeof(*ret));
	return true;
}

static uint64_t head_word(const struct go_table *t, unsigned int word)
{
	uint64_t v;

	memcpy(&v, t->data + HEAD_BYTES + word * sizeof(v), sizeof(v));
	return v;
}

/* Reads the table's head; false if there is none of a known form. -ENOMEM. */
static int table_read(const struct elf_file *f, struct go_table *t, bool *ret_known)
{
	const struct elf_section *s = elf_find_section(f, ".gopclntab");
	uint32_t magic = 0;
	char *data;
	int r;

	*ret_known = false;
	if (!s)
		s = elf_find_section(f, ".data.rel.ro.gopclntab");
	if (!s)
		return 0;
	r = elf_read_alloc(f, s->offset, s->bytes, TABLE_MAX_BYTES, &data);
	if (r)
		return r == -ENOMEM ? r : 0;
	t->data = (uint8_t *)data;
	t->bytes = s->bytes;
	if (t->bytes < HEAD_BYTES + (WORD_FUNCTIONS + 1) * sizeof(uint64_t) || !get32(t, 0, &magic) ||
	    (magic != GO_1_18 && magic != GO_1_20) || t->data[7] != sizeof(uint64_t))
		return 0;
	t->count = head_word(t, 0);
	t->functions = head_word(t, WORD_FUNCTIONS);
	/* entry, name, args, deferreturn, four tables, unit, since 1.20 the line; then the id, then the flags. */
	t->flag_at = magic == GO_1_20 ? 41 : 37;
	*ret_known = t->functions < t->bytes && t->count && t->count <= (t->bytes - t->functions) / ENTRY_BYTES;
	return 0;
}

/* Entries of both tables that are searched begin with their place, and are sorted by it. */
_Static_assert(offsetof(struct cfi_fde, start) == 0 && offsetof(struct cfi_go_function, start) == 0, "by_start");
static int by_start(const void *pa, const void *pb)
{
	uint32_t a, b;

	memcpy(&a, pa, sizeof(a));
	memcpy(&b, pb, sizeof(b));
	return a < b ? -1 : a > b;
}

static bool begins_here(const struct cfi_build *b, uint32_t offset)
{
	return bsearch(&offset, b->fdes, b->fde_count, sizeof(*b->fdes), by_start) != NULL;
}

static bool fits(const struct cfi_build *b, const struct go_table *t, uint64_t text)
{
	uint64_t tried = t->count < TRIED ? t->count : TRIED, found = 0;
	uint32_t entry, offset;

	/* Spread over the whole table; a few names in it are of functions without an entry. */
	for (uint64_t i = 0; i < tried; i++)
		if (get32(t, t->functions + i * t->count / tried * ENTRY_BYTES, &entry) &&
		    cfi_place(b, text + entry, 1, &offset))
			found += begins_here(b, offset);
	return found * 4 >= tried * 3;
}

/* Where the table's addresses count from. */
static bool find_text(const struct cfi_build *b, const struct go_table *t, uint64_t *ret)
{
	const struct elf_section *text = elf_find_section(b->file, ".text");
	uint64_t named = head_word(t, WORD_TEXT);
	size_t first = 0, segment;

	if (fits(b, t, named)) {
		*ret = named;
		return true;
	}
	if (text && fits(b, t, text->addr)) {
		*ret = text->addr;
		return true;
	}
	/* Beside C, Go's functions begin somewhere in the middle, with the first entry of its linker. */
	while (first < b->fde_count && !(b->fdes[first].at & FDE_DEBUG))
		first++;
	return first < b->fde_count &&
	       !elf_address_of(b->file->segments, b->file->segment_count, b->fdes[first].start, &segment, ret) &&
	       fits(b, t, *ret);
}

static enum cfi_go kind_of(uint8_t flags)
{
	if (flags & GO_TOP_FRAME)
		return CFI_GO_OUTERMOST;
	if (flags & GO_SP_WRITE)
		return CFI_GO_STACK_SWITCH;
	return flags & GO_ASSEMBLY ? CFI_GO_ASSEMBLY : CFI_GO_COMPILED;
}

static bool has_go_entries(struct cfi_build *b)
{
	/* Few CIEs, most often one: the cache still holds them. */
	for (size_t i = 0; i < CIE_CACHE; i++)
		if (b->cies[i].key && b->cies[i].go && !b->cies[i].error)
			return true;
	return false;
}

int cfi_go_load(struct cfi_build *b)
{
	_cleanup_(go_table_deinit) struct go_table t = {0};
	uint64_t text = 0, record, before = 0;
	bool known;
	int r;

	if (!b->sections[1].data || !has_go_entries(b))
		return 0;
	r = table_read(b->file, &t, &known);
	if (r || !known || !find_text(b, &t, &text))
		return r;
	if (t.count > b->options.max_entries)
		t.count = b->options.max_entries;
	b->go = malloc((size_t)t.count * sizeof(*b->go));
	if (!b->go)
		return -ENOMEM;
	for (uint64_t i = 0; i < t.count; i++) {
		uint32_t entry, function, offset;

		if (!get32(&t, t.functions + i * ENTRY_BYTES, &entry) ||
		    !get32(&t, t.functions + i * ENTRY_BYTES + 4, &function))
			break;
		record = t.functions + function + t.flag_at;
		if (record >= t.bytes || !cfi_place(b, text + entry, 1, &offset))
			continue;
		if (b->go_count && offset <= before)
			continue; /* sorted, or not to be searched */
		before = offset;
		b->go[b->go_count++] = (struct cfi_go_function){offset, kind_of(t.data[record])};
	}
	return 0;
}

enum cfi_go cfi_go_find(const struct cfi_build *b, uint32_t start)
{
	const struct cfi_go_function *f =
		b->go_count ? bsearch(&start, b->go, b->go_count, sizeof(*b->go), by_start) : NULL;

	return f ? (enum cfi_go)f->kind : CFI_GO_UNKNOWN;
}
