/* Call frame information of a file, see cfi.h: lists the functions of its sections, sorts them by file offset and has
 * each one's program run in that order, so that rows come out sorted and nothing but the list and the rows is held. */
#include "daemon/image/cfi.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/image/cfi_internal.h"

#define DEFAULT_SECTION_BYTES (96ull << 20)
#define DEFAULT_ENTRIES (3u << 20)
#define DEFAULT_ROWS (8u << 20)
#define DEFAULT_INFOS 16384u
#define DEFAULT_GAP_BYTES 16u
#define GO_GAP_BYTES 32u /* that Go's functions are aligned to */
#define RADIX_BITS 11

static void build_deinit(struct cfi_build *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(b->sections); i++)
		free((void *)(uintptr_t)b->sections[i].data);
	free(b->cies);
	free(b->fdes);
	free(b->go);
	free(b->info_slots);
	cfi_free(&b->out);
}

void cfi_free(struct cfi_tables *t)
{
	free(t->rows);
	free(t->infos);
	free(t->pages);
	*t = (struct cfi_tables){0};
}

bool cfi_place(const struct cfi_build *b, uint64_t address, uint64_t bytes, uint32_t *ret)
{
	for (size_t i = 0; i < b->code_count; i++) {
		const struct elf_segment *s = b->code[i];
		uint64_t in = address - s->vaddr, offset;

		if (address < s->vaddr || in >= s->file_bytes || bytes > s->file_bytes - in ||
		    __builtin_add_overflow(s->offset, in, &offset) || offset > UINT32_MAX ||
		    bytes > UINT32_MAX - offset)
			continue;
		*ret = (uint32_t)offset;
		return true;
	}
	return false;
}

static int fde_append(struct cfi_build *b, struct cfi_fde fde)
{
	if (b->fde_count == b->fde_cap) {
		size_t cap = b->fde_cap ? b->fde_cap + b->fde_cap / 2 : 1024;
		struct cfi_fde *fdes;

		if (b->fde_count >= b->options.max_entries)
			return -EFBIG;
		fdes = realloc(b->fdes, cap * sizeof(*fdes));
		if (!fdes)
			return -ENOMEM;
		b->fdes = fdes;
		b->fde_cap = cap;
	}
	b->fdes[b->fde_count++] = fde;
	return 0;
}

static int list_section(struct cfi_build *b, const struct cfi_section *s)
{
	struct cfi_entry e;

	for (uint32_t at = 0; s->data && at < s->bytes; at = e.next) {
		struct cfi_fde fde = {.at = at | (s->debug ? FDE_DEBUG : 0)};
		uint64_t start, bytes;
		int r;

		if (cfi_entry_read(s, at, &e)) {
			b->out.counts[CFI_BROKEN]++;
			break;
		}
		b->work_bytes += e.next - at;
		if (e.kind == CFI_KIND_END)
			break;
		if (e.kind == CFI_KIND_CIE)
			continue;
		r = cfi_fde_head(s, cfi_cie_get(b, s, e.cie), &e, &start, &bytes);
		if (r) {
			b->out.counts[r - 1]++;
			continue;
		}
		b->out.counts[CFI_ENTRIES]++;
		if (!bytes)
			continue;
		if (!cfi_place(b, start, bytes, &fde.start)) {
			b->out.counts[CFI_OUTSIDE]++;
			continue;
		}
		fde.bytes = (uint32_t)bytes;
		r = fde_append(b, fde);
		if (r)
			return r;
	}
	return 0;
}

/* Radix sort by start: bounded whatever the order, and stable, so that .eh_frame precedes .debug_frame. */
static int sort(struct cfi_build *b)
{
	_cleanup_free_ struct cfi_fde *spare = NULL;
	struct cfi_fde *from = b->fdes, *to;
	bool sorted = true;

	for (size_t i = 1; i < b->fde_count && sorted; i++)
		sorted = b->fdes[i - 1].start <= b->fdes[i].start;
	if (sorted)
		return 0;
	to = spare = malloc(b->fde_count * sizeof(*spare));
	if (!spare)
		return -ENOMEM;
	for (unsigned int shift = 0; shift < 32; shift += RADIX_BITS) {
		size_t places[1 << RADIX_BITS] = {0}, sum = 0;
		struct cfi_fde *swap = from;

		for (size_t i = 0; i < b->fde_count; i++)
			places[from[i].start >> shift & ((1 << RADIX_BITS) - 1)]++;
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			size_t count = places[i];

			places[i] = sum;
			sum += count;
		}
		for (size_t i = 0; i < b->fde_count; i++)
			to[places[from[i].start >> shift & ((1 << RADIX_BITS) - 1)]++] = from[i];
		from = to;
		to = swap;
	}
	/* Three passes: the result is in the spare array. */
	_Static_assert(32 / RADIX_BITS + (32 % RADIX_BITS != 0) == 3, "an odd number of passes");
	spare = b->fdes;
	b->fdes = from;
	b->fde_cap = b->fde_count;
	return 0;
}

/* The program of b->fdes[i], or the one rule that is known without it. */
static int run_one(struct cfi_build *b, const struct cfi_fde *fde, uint32_t stop)
{
	const struct cfi_section *s = &b->sections[fde->at & FDE_DEBUG ? 1 : 0];
	struct cfi_function f = {.section = s, .start = fde->start, .stop = stop};
	struct cfi_entry e;
	uint64_t bytes;

	if (cfi_entry_read(s, fde->at & ~FDE_DEBUG, &e))
		return -EBADMSG;
	f.cie = cfi_cie_get(b, s, e.cie);
	if (cfi_fde_head(s, f.cie, &e, &f.address, &bytes))
		return -EBADMSG;
	f.program = e.body;
	if (f.cie->go)
		f.go = cfi_go_find(b, fde->start);
	if (f.go == CFI_GO_STACK_SWITCH || f.go == CFI_GO_UNKNOWN)
		return cfi_rows_add(b, fde->start, (struct cfi_info){0});
	if (f.go == CFI_GO_OUTERMOST)
		return cfi_rows_add(b, fde->start, (struct cfi_info){.rules = CFI_CFA_END});
	return cfi_run(b, &f);
}

static int run_all(struct cfi_build *b)
{
	uint32_t gap_bytes = b->go_count && b->options.gap_bytes < GO_GAP_BYTES ? GO_GAP_BYTES : b->options.gap_bytes;
	uint64_t end = 0; /* of the function before */
	int r;

	for (size_t i = 0; i < b->fde_count; i++) {
		const struct cfi_fde *fde = &b->fdes[i];
		uint64_t stop = (uint64_t)fde->start + fde->bytes;

		if (i && fde->start == b->fdes[i - 1].start) {
			b->out.counts[CFI_OVERLAPS] += !(fde->at & FDE_DEBUG);
			continue;
		}
		/* Of two that overlap, each holds from its start on; what is left of the first is not resumed. */
		for (size_t j = i + 1; j < b->fde_count; j++)
			if (b->fdes[j].start != fde->start) {
				if (b->fdes[j].start < stop) {
					stop = b->fdes[j].start;
					b->out.counts[CFI_OVERLAPS]++;
				}
				break;
			}
		if (fde->start > end && fde->start - end >= gap_bytes) {
			r = cfi_plt_fill(b, (uint32_t)end, fde->start);
			if (r)
				return r;
		}
		r = run_one(b, fde, (uint32_t)stop);
		if (r)
			return r;
		end = stop;
	}
	r = cfi_plt_fill(b, (uint32_t)end, UINT32_MAX);
	return r ? r : cfi_rows_finish(b);
}

static int build(struct cfi_build *b, struct err *e)
{
	int r;

	for (size_t i = 0; i < b->file->segment_count && b->code_count < MAX_CODE_SEGMENTS; i++)
		if (b->file->segments[i].type == PT_LOAD && b->file->segments[i].flags & PF_X)
			b->code[b->code_count++] = &b->file->segments[i];
	b->cies = calloc(CIE_CACHE, sizeof(*b->cies));
	if (!b->cies)
		return -ENOMEM;
	r = cfi_sections_load(b);
	if (r)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(b->sections); i++) {
		r = list_section(b, &b->sections[i]);
		if (r)
			return err_set(e, r, "more than %u functions in the call frame information",
				       b->options.max_entries);
	}
	if (!b->fde_count && (b->out.counts[CFI_SECTIONS] || b->out.counts[CFI_BROKEN] || b->out.counts[CFI_ENCODING]))
		return err_set(e, -EBADMSG, "its call frame information cannot be read");
	if (!b->fde_count)
		return err_set(e, -ENODATA, "no usable call frame information");
	r = sort(b);
	if (r)
		return r;
	cfi_plt_find(b);
	/* About 8 bytes of section a merged row. */
	r = cfi_rows_init(b, (b->sections[0].bytes + b->sections[1].bytes) / 8);
	if (!r)
		r = cfi_go_load(b);
	if (!r)
		r = run_all(b);
	return r == -EFBIG ? err_set(e, r, "more than %u unwind rows", b->options.max_rows) : r;
}

int cfi_compile(const struct elf_file *f, const struct cfi_options *options, struct cfi_tables *ret, struct err *e)
{
	struct cfi_build b = {.file = f};
	int r;

	if (!f->is64 || f->machine != CFI_MACHINE)
		return err_set(e, -EOPNOTSUPP, "call frame information of ELF machine %u is not read", f->machine);
	if (options)
		b.options = *options;
#define DEFAULT(field, value) (b.options.field = b.options.field ? b.options.field : (value))
	DEFAULT(max_section_bytes, DEFAULT_SECTION_BYTES);
	DEFAULT(max_entries, DEFAULT_ENTRIES);
	DEFAULT(max_rows, DEFAULT_ROWS);
	DEFAULT(max_infos, DEFAULT_INFOS);
	DEFAULT(gap_bytes, DEFAULT_GAP_BYTES);
#undef DEFAULT
	if (b.options.max_section_bytes >= FDE_DEBUG)
		b.options.max_section_bytes = FDE_DEBUG - 1;
	if (b.options.max_infos > CFI_MAX_INFOS)
		b.options.max_infos = CFI_MAX_INFOS;
	r = build(&b, e);
	if (b.options.ret_work_bytes)
		*b.options.ret_work_bytes = b.work_bytes;
	if (b.options.ret_probes)
		*b.options.ret_probes = b.probes;
	if (!r) {
		*ret = b.out;
		b.out = (struct cfi_tables){0};
	} else if (e && !e->code) {
		err_errno(e, r, "cannot compile the call frame information");
	}
	build_deinit(&b);
	return r;
}
