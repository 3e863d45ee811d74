/* Where a file's call frame information is, and reading of it: plain, or compressed as Go's linker and `ld
 * --compress-debug-sections` leave .debug_frame. What is inflated is bounded by the limit for a section and by what its
 * compressed bytes can hold at all, before memory is taken for it. */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#include "daemon/image/cfi_internal.h"

#define PE_UDATA4_PC 0x1b
#define HDR_BYTES 8
#define CHUNK_BYTES 65536
#define DEFLATE_MAX_RATIO 1032 /* a match of 258 bytes takes two bits at least */
#define ZDEBUG_MAGIC "ZLIB"
#define ZDEBUG_HEAD_BYTES 12 /* the magic, then the size, high byte first */

/* The section does without; 0, as nothing else is spoilt. */
static int leave_out(struct cfi_build *b)
{
	b->out.counts[CFI_SECTIONS]++;
	return 0;
}

static int section_load(struct cfi_build *b, struct cfi_section *s, uint64_t offset, uint64_t bytes)
{
	char *data;
	int r;

	r = elf_read_alloc(b->file, offset, bytes, b->options.max_section_bytes, &data);
	if (r == -EFBIG || r == -ENODATA)
		return leave_out(b);
	if (r)
		return r;
	s->data = (const uint8_t *)data;
	s->bytes = (uint32_t)bytes;
	return 0;
}

/* Exactly `size` bytes from the stream in [offset, offset + bytes) of the file. -EBADMSG: it is something else. */
static int inflate_to(const struct elf_file *f, uint64_t offset, uint64_t bytes, uint8_t *to, uint32_t size)
{
	_cleanup_free_ uint8_t *chunk = malloc(CHUNK_BYTES);
	z_stream z = {.next_out = to, .avail_out = size};
	int r = 0, state = Z_OK;

	if (!chunk || inflateInit(&z) != Z_OK)
		return -ENOMEM;
	while (state == Z_OK && bytes) {
		size_t n = bytes < CHUNK_BYTES ? (size_t)bytes : CHUNK_BYTES;

		r = elf_read(f, offset, chunk, n);
		if (r)
			break;
		offset += n;
		bytes -= n;
		z.next_in = chunk;
		z.avail_in = (uInt)n;
		/* The output has all of its room from the start: what does not take all of a chunk is the end or too
		 * large. */
		state = inflate(&z, Z_NO_FLUSH);
	}
	if (!r && (state != Z_STREAM_END || z.avail_out))
		r = state == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
	inflateEnd(&z);
	return r;
}

static int section_inflate(struct cfi_build *b, struct cfi_section *s, uint64_t offset, uint64_t bytes, uint64_t size)
{
	_cleanup_free_ uint8_t *data = NULL;
	int r;

	if (offset > b->file->bytes || bytes > b->file->bytes - offset || !size ||
	    size > b->options.max_section_bytes || size / DEFLATE_MAX_RATIO > bytes)
		return leave_out(b);
	data = malloc((size_t)size);
	if (!data)
		return -ENOMEM;
	r = inflate_to(b->file, offset, bytes, data, (uint32_t)size);
	if (r == -EBADMSG || r == -ENODATA)
		return leave_out(b);
	if (r)
		return r;
	s->data = TAKE_PTR(data);
	s->bytes = (uint32_t)size;
	return 0;
}

static int load_compressed(struct cfi_build *b, struct cfi_section *s, const struct elf_section *from)
{
	Elf64_Chdr head;

	if (from->bytes < sizeof(head) || elf_read(b->file, from->offset, &head, sizeof(head)) ||
	    head.ch_type != ELFCOMPRESS_ZLIB)
		return leave_out(b);
	return section_inflate(b, s, from->offset + sizeof(head), from->bytes - sizeof(head), head.ch_size);
}

/* The form before there was SHF_COMPRESSED. */
static int load_zdebug(struct cfi_build *b, struct cfi_section *s, const struct elf_section *from)
{
	uint8_t head[ZDEBUG_HEAD_BYTES];
	uint64_t size = 0;

	if (from->bytes < sizeof(head) || elf_read(b->file, from->offset, head, sizeof(head)) ||
	    memcmp(head, ZDEBUG_MAGIC, strlen(ZDEBUG_MAGIC)) != 0)
		return leave_out(b);
	for (size_t i = strlen(ZDEBUG_MAGIC); i < sizeof(head); i++)
		size = size << 8 | head[i];
	return section_inflate(b, s, from->offset + sizeof(head), from->bytes - sizeof(head), size);
}

static const struct elf_segment *load_of(const struct elf_file *f, uint64_t offset)
{
	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *s = &f->segments[i];

		if (s->type == PT_LOAD && offset >= s->offset && offset - s->offset < s->file_bytes)
			return s;
	}
	return NULL;
}

/* The first usable header counts, wherever it leads: each one may take a look at all segments. */
int cfi_segment_of_eh_frame(const struct elf_file *f, uint64_t *ret_address, uint64_t *ret_offset, uint64_t *ret_bytes)
{
	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *p = &f->segments[i], *load;
		uint64_t address, offset;
		uint8_t head[HDR_BYTES];
		int32_t to;

		if (p->type != PT_GNU_EH_FRAME || p->file_bytes < HDR_BYTES ||
		    elf_read(f, p->offset, head, sizeof(head)) || head[0] != 1 || head[1] != PE_UDATA4_PC)
			continue;
		memcpy(&to, head + 4, sizeof(to));
		address = p->vaddr + 4 + (uint64_t)(int64_t)to;
		if (elf_offset_of(f, address, &offset))
			return -ENOENT;
		load = load_of(f, offset);
		if (!load)
			return -ENOENT;
		*ret_address = address;
		*ret_offset = offset;
		*ret_bytes = load->file_bytes - (offset - load->offset);
		return 0;
	}
	return -ENOENT;
}

static int find_by_segment(struct cfi_build *b, struct cfi_section *s)
{
	uint64_t offset, bytes;

	if (cfi_segment_of_eh_frame(b->file, &s->address, &offset, &bytes))
		return 0;
	s->ends_at_zero = true;
	return section_load(b, s, offset, bytes);
}

int cfi_sections_load(struct cfi_build *b)
{
	const struct elf_file *f = b->file;
	const struct elf_section *eh = elf_find_section(f, ".eh_frame"), *debug = elf_find_section(f, ".debug_frame");
	const struct elf_section *zdebug = elf_find_section(f, ".zdebug_frame");
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
	if (r)
		return r;
	s = &b->sections[1];
	s->debug = true;
	if (debug && debug->flags & SHF_COMPRESSED)
		return load_compressed(b, s, debug);
	if (debug)
		return section_load(b, s, debug->offset, debug->bytes);
	return zdebug ? load_zdebug(b, s, zdebug) : 0;
}
