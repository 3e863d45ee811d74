/* Call frame information of a file, see cfi.h: finds the sections, lists the functions, sorts them by file offset and
 * has each one's program run in that order, so that rows come out sorted and nothing but the list and the rows is held.
 */
#include "daemon/image/cfi.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/image/cfi_internal.h"

#define DEFAULT_SECTION_BYTES (96ull << 20)
#define DEFAULT_ENTRIES (3u << 20)
#define DEFAULT_ROWS (8u << 20)
#define DEFAULT_INFOS 16384u
#define DEFAULT_GAP_BYTES 16u
#define RADIX_BITS 11
#define PE_UDATA4_PC 0x1b
#define HDR_BYTES 8

static void build_deinit(struct cfi_build *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(b->sections); i++)
		free((void *)(uintptr_t)b->sections[i].data);
	free(b->cies);
	free(b->fdes);
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

static int section_load(struct cfi_build *b, struct cfi_section *s, uint64_t offset, uint64_t bytes)
{
	char *data;
	int r;

	r = elf_read_alloc(b->file, offset, bytes, b->options.max_section_bytes, &data);
	if (r == -EFBIG || r == -ENODATA) {
		b->out.counts[CFI_SECTIONS]++;
		return 0;
	}
	if (r)
		return r;
	s->data = (const uint8_t *)data;
	s->bytes = (uint32_t)bytes;
	return 0;
}

/* Without a section table the program header of the search table leads to .eh_frame; its end is not known then. */
static int find_by_segment(struct cfi_build *b, struct cfi_section *s)
{
	const struct elf_file *f = b->file;

	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *p = &f->segments[i];
		uint8_t head[HDR_BYTES];
		uint64_t offset;
		int32_t to;

		if (p->type != PT_GNU_EH_FRAME || p->file_bytes < HDR_BYTES ||
		    elf_read(f, p->offset, head, sizeof(head)) || head[0] != 1 || head[1] != PE_UDATA4_PC)
			continue;
		memcpy(&to, head + 4, sizeof(to));
		s->address = p->vaddr + 4 + (uint64_t)(int64_t)to;
		s->ends_at_zero = true;
		if (elf_offset_of(f, s->address, &offset))
			continue;
		for (size_t j = 0; j < f->segment_count; j++) {
			const struct elf_segment *load = &f->segments[j];

			if (load->type == PT_LOAD && offset >= load->offset && offset - load->offset < load->file_bytes)
				return section_load(b, s, offset, load->file_bytes - (offset - load->offset));
		}
	}
	return 0;
}

static int find_sections(struct cfi_build *b)
{
	const struct elf_file *f = b->file;
	const struct elf_section *eh = elf_find_section(f, ".eh_frame"), *debug = elf_find_section(f, ".debug_frame");
	const struct elf_section *text = elf_find_section(f, ".text"), *got = elf_find_section(f, ".got");
	struct cfi_section *s = &b->sections[0];
	int r;

	s->text_address = text ? text->addr : 0;
	s->data_address = got ? got->addr : 0;
	if (eh) {
		s->address = eh->addr;
		r = section_load(b, s, eh->offset, eh->bytes);
	} else {
		r = find_by_segment(b, s);
	}
	if (r || !debug)
		return r;
	if (debug->flags & SHF_COMPRESSED) {
		b->out.counts[CFI_SECTIONS]++;
		return 0;
	}
	b->sections[1].debug = true;
	return section_load(b, &b->sections[1], debug->offset, debug->bytes);
}

/* The file's offset of a function that lies in one executable segment and below 4 GiB of the file. */
static bool place(const struct elf_file *f, uint64_t address, uint64_t bytes, uint32_t *ret)
{
	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *s = &f->segments[i];
		uint64_t in = address - s->vaddr, offset;

		if (s->type != PT_LOAD || !(s->flags & PF_X) || address < s->vaddr || in >= s->file_bytes ||
		    bytes > s->file_bytes - in || __builtin_add_overflow(s->offset, in, &offset) ||
		    offset > UINT32_MAX || bytes > UINT32_MAX - offset)
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
		if (!place(b->file, start, bytes, &fde.start)) {
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

static int run_all(struct cfi_build *b)
{
	uint64_t end = 0; /* of the function before */
	int r;

	for (size_t i = 0; i < b->fde_count; i++) {
		const struct cfi_fde *fde = &b->fdes[i];
		const struct cfi_section *s = &b->sections[fde->at & FDE_DEBUG ? 1 : 0];
		uint64_t stop = (uint64_t)fde->start + fde->bytes, start, bytes;
		const struct cfi_cie *cie;
		struct cfi_entry e;

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
		if (i && fde->start > end && fde->start - end >= b->options.gap_bytes) {
			r = cfi_rows_add(b, (uint32_t)end, (struct cfi_info){0});
			if (r)
				return r;
		}
		if (cfi_entry_read(s, fde->at & ~FDE_DEBUG, &e))
			return -EBADMSG;
		cie = cfi_cie_get(b, s, e.cie);
		if (cfi_fde_head(s, cie, &e, &start, &bytes))
			return -EBADMSG;
		r = cfi_run(b, cie, e.body, fde->start, (uint32_t)stop);
		if (r)
			return r;
		end = stop;
	}
	r = cfi_rows_add(b, (uint32_t)end, (struct cfi_info){0});
	return r ? r : cfi_rows_finish(b);
}

static int build(struct cfi_build *b, struct err *e)
{
	int r;

	b->cies = calloc(CIE_CACHE, sizeof(*b->cies));
	if (!b->cies)
		return -ENOMEM;
	r = find_sections(b);
	if (r)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(b->sections); i++) {
		r = list_section(b, &b->sections[i]);
		if (r)
			return err_set(e, r, "more than %u functions in the call frame information",
				       b->options.max_entries);
	}
	if (!b->fde_count)
		return err_set(e, -ENODATA, "no usable call frame information");
	r = sort(b);
	if (r)
		return r;
	/* About 8 bytes of section a merged row. */
	r = cfi_rows_init(b, (b->sections[0].bytes + b->sections[1].bytes) / 8);
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
	if (!r) {
		*ret = b.out;
		b.out = (struct cfi_tables){0};
	} else if (e && !e->code) {
		err_errno(e, r, "cannot compile the call frame information");
	}
	build_deinit(&b);
	return r;
}
