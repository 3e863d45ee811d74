/* Functions of Go programs from their pclntab, which even stripped ones carry. Four formats: Go 1.2, 1.16, 1.18, 1.20,
 * told by the magic number. Parser process only. Nothing in the table is used before it was checked against its size.
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/symbols.h"

#define TABLE_MAX_BYTES (160ull << 20)
#define RELOCATIONS_MAX_BYTES (64ull << 20)

enum go_format { GO_1_2 = 0xfffffffb, GO_1_16 = 0xfffffffa, GO_1_18 = 0xfffffff0, GO_1_20 = 0xfffffff1 };

struct table {
	const char *data;
	size_t bytes;
	size_t pointer_bytes;
};

static bool get(const struct table *t, uint64_t at, size_t width, uint64_t *ret)
{
	uint32_t narrow;

	if (at > t->bytes || width > t->bytes - at)
		return false;
	if (width == 4) {
		memcpy(&narrow, t->data + at, 4);
		*ret = narrow;
	} else {
		memcpy(ret, t->data + at, 8);
	}
	return true;
}

static bool get_header(const struct table *t, unsigned int word, uint64_t *ret)
{
	return get(t, 8 + (uint64_t)word * t->pointer_bytes, t->pointer_bytes, ret);
}

/* A pointer of the data segment: what the file has there, or what a relative relocation will put there. */
static int read_pointer(const struct elf_file *f, uint64_t address, size_t width, uint64_t *ret)
{
	uint64_t offset, value = 0;

	if (elf_offset_of(f, address, &offset) || elf_read(f, offset, &value, width))
		return -ENODATA;
	if (value) {
		*ret = value;
		return 0;
	}
	for (size_t i = 0; f->is64 && i < f->section_count; i++) {
		const struct elf_section *s = &f->sections[i];
		_cleanup_free_ char *data = NULL;

		if (s->type != SHT_RELA || elf_read_alloc(f, s->offset, s->bytes, RELOCATIONS_MAX_BYTES, &data))
			continue;
		for (size_t at = 0; at + sizeof(Elf64_Rela) <= s->bytes; at += sizeof(Elf64_Rela)) {
			Elf64_Rela rela;

			memcpy(&rela, data + at, sizeof(rela));
			if (rela.r_offset == address && ELF64_R_SYM(rela.r_info) == 0 && rela.r_addend) {
				*ret = (uint64_t)rela.r_addend;
				return 0;
			}
		}
	}
	return -ENOENT;
}

/* Since Go 1.26 the header no longer has the start of the text: it is in the module data (behind the pointer to the
 * header, six slices, findfunctab, minpc and maxpc). Without that section the text section itself has to do. */
static int find_text(const struct elf_file *f, size_t pointer_bytes, uint64_t *ret)
{
	const struct elf_section *module = elf_find_section(f, ".go.module");
	const struct elf_section *text;

	if (module && !read_pointer(f, module->addr + (1 + 6 * 3 + 1 + 2) * pointer_bytes, pointer_bytes, ret))
		return 0;
	text = elf_find_section(f, ".text");
	if (!text)
		return -ENOENT;
	*ret = text->addr;
	return 0;
}

struct layout {
	uint64_t count;
	uint64_t functions; /* offset of the table of (entry, function) */
	uint64_t names;
	uint64_t text;
	size_t width;	    /* of the table's fields */
	size_t entry_bytes; /* of the entry field in a function */
};

static int read_layout(const struct table *t, const struct elf_file *f, uint32_t magic, struct layout *l)
{
	size_t p = t->pointer_bytes;

	if (!get_header(t, 0, &l->count))
		return -EBADMSG;
	switch (magic) {
	case GO_1_2:
		l->functions = 8 + p;
		l->width = p;
		l->entry_bytes = p;
		break;
	case GO_1_16:
		if (!get_header(t, 2, &l->names) || !get_header(t, 6, &l->functions))
			return -EBADMSG;
		l->width = p;
		l->entry_bytes = p;
		break;
	case GO_1_18:
	case GO_1_20:
		if (!get_header(t, 2, &l->text) || !get_header(t, 3, &l->names) || !get_header(t, 7, &l->functions))
			return -EBADMSG;
		l->width = 4;
		l->entry_bytes = 4;
		if (!l->text && find_text(f, p, &l->text))
			return -EBADMSG;
		break;
	default:
		return -EBADMSG;
	}
	if (l->functions > t->bytes || l->names > t->bytes || l->count > (t->bytes - l->functions) / (2 * l->width))
		return -EBADMSG;
	return 0;
}

static int add_function(struct symbols *s, const struct table *t, const struct layout *l, uint32_t magic, uint64_t i)
{
	uint64_t at = l->functions + i * 2 * l->width, entry, function, next, name;
	const char *text;
	size_t len;

	if (!get(t, at, l->width, &entry) || !get(t, at + l->width, l->width, &function) ||
	    !get(t, at + 2 * l->width, l->width, &next) || next < entry)
		return -EBADMSG;
	/* Since 1.16 relative to the function table. */
	if (magic != GO_1_2 && __builtin_add_overflow(function, l->functions, &function))
		return -EBADMSG;
	if (function > t->bytes || !get(t, function + l->entry_bytes, 4, &name))
		return -EBADMSG;
	name += l->names;
	if (name >= t->bytes)
		return -EBADMSG;
	text = t->data + name;
	len = strnlen(text, t->bytes - (size_t)name);
	return symbols_add(s, l->text + entry, next - entry, SYMBOL_PCLNTAB, text, len);
}

int gopclntab_load(struct symbols *s, const struct elf_file *f)
{
	static const char *const sections[] = {".gopclntab", ".data.rel.ro.gopclntab"};
	const struct elf_section *section = NULL;
	_cleanup_free_ char *data = NULL;
	struct layout l = {0};
	struct table t;
	uint64_t magic;
	int r;

	for (size_t i = 0; !section && i < ARRAY_SIZE(sections); i++)
		section = elf_find_section(f, sections[i]);
	if (!section)
		return -ENOENT;
	r = elf_read_alloc(f, section->offset, section->bytes, TABLE_MAX_BYTES, &data);
	if (r)
		return r;
	t = (struct table){.data = data, .bytes = (size_t)section->bytes};
	if (t.bytes < 16 || (data[7] != 4 && data[7] != 8))
		return -EBADMSG;
	t.pointer_bytes = (size_t)data[7];
	if (!get(&t, 0, 4, &magic))
		return -EBADMSG;
	r = read_layout(&t, f, (uint32_t)magic, &l);
	for (uint64_t i = 0; !r && i < l.count; i++)
		r = add_function(s, &t, &l, (uint32_t)magic, i);
	return r;
}
