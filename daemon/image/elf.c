/* ELF reader for hostile files, see elf.h. Invariant: nothing read from the file is used as an offset, a count or an
 * index before it was compared with the file's size or the table's length. */
#include "daemon/image/elf.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTION_NAMES_MAX_BYTES (4u << 20)
#define NOTE_MAX_BYTES 65536
#define PAGE_BYTES 4096ull

int elf_read(const struct elf_file *f, uint64_t offset, void *buf, size_t len)
{
	size_t done = 0;

	if (offset > f->bytes || len > f->bytes - offset)
		return -ENODATA;
	while (done < len) {
		ssize_t n = pread(f->fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

int elf_read_alloc(const struct elf_file *f, uint64_t offset, uint64_t len, uint64_t max, char **ret)
{
	_cleanup_free_ char *data = NULL;
	int r;

	if (offset > f->bytes || len > f->bytes - offset)
		return -ENODATA;
	if (len > max)
		return -EFBIG;
	data = malloc((size_t)len + 1);
	if (!data)
		return -ENOMEM;
	r = elf_read(f, offset, data, (size_t)len);
	if (r)
		return r;
	data[len] = '\0';
	*ret = TAKE_PTR(data);
	return 0;
}

static int read_segments(struct elf_file *f, uint64_t offset, size_t count, size_t entry_bytes, struct err *e)
{
	size_t want = f->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (!count)
		return 0;
	if (entry_bytes != want)
		return err_set(e, -EBADMSG, "program headers of %zu bytes instead of %zu", entry_bytes, want);
	if (count > ELF_MAX_SEGMENTS)
		return err_set(e, -EBADMSG, "%zu program headers, more than %u", count, ELF_MAX_SEGMENTS);
	f->segments = calloc(count, sizeof(*f->segments));
	if (!f->segments)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct elf_segment *s = &f->segments[i];
		union {
			Elf64_Phdr h64;
			Elf32_Phdr h32;
		} h;

		if (offset > f->bytes || elf_read(f, offset + i * want, &h, want))
			return err_set(e, -EBADMSG, "the program headers lie outside the file");
		if (f->is64)
			*s = (struct elf_segment){h.h64.p_type,	  h.h64.p_flags, h.h64.p_offset, h.h64.p_vaddr,
						  h.h64.p_filesz, h.h64.p_memsz, h.h64.p_align};
		else
			*s = (struct elf_segment){h.h32.p_type,	  h.h32.p_flags, h.h32.p_offset, h.h32.p_vaddr,
						  h.h32.p_filesz, h.h32.p_memsz, h.h32.p_align};
		f->segment_count = i + 1;
	}
	return 0;
}

static int read_section(const struct elf_file *f, uint64_t offset, struct elf_section *ret)
{
	union {
		Elf64_Shdr h64;
		Elf32_Shdr h32;
	} h;
	int r = elf_read(f, offset, &h, f->is64 ? sizeof(h.h64) : sizeof(h.h32));

	if (r)
		return r;
	if (f->is64)
		*ret = (struct elf_section){h.h64.sh_name, h.h64.sh_type,   h.h64.sh_link, h.h64.sh_flags,
					    h.h64.sh_addr, h.h64.sh_offset, h.h64.sh_size, h.h64.sh_entsize};
	else
		*ret = (struct elf_section){h.h32.sh_name, h.h32.sh_type,   h.h32.sh_link, h.h32.sh_flags,
					    h.h32.sh_addr, h.h32.sh_offset, h.h32.sh_size, h.h32.sh_entsize};
	return 0;
}

/* Without a section table a file has no symbols, which is no error; a damaged one is told. */
static void read_sections(struct elf_file *f, uint64_t offset, uint64_t count, size_t entry_bytes, uint64_t names_index)
{
	size_t want = f->is64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
	struct elf_section first;

	if (!offset)
		return;
	if (entry_bytes != want) {
		f->damage = "section headers of a wrong size";
		return;
	}
	if (offset > f->bytes || read_section(f, offset, &first)) {
		f->damage = "the section headers lie outside the file";
		return;
	}
	if (count == 0)
		count = first.bytes; /* more than 65279 sections */
	if (names_index == SHN_XINDEX)
		names_index = first.link;
	if (count == 0 || count > ELF_MAX_SECTIONS || count * want > f->bytes - offset) {
		f->damage = "more section headers than the file holds";
		return;
	}
	f->sections = calloc((size_t)count, sizeof(*f->sections));
	if (!f->sections)
		return;
	for (size_t i = 0; i < count; i++) {
		if (read_section(f, offset + i * want, &f->sections[i]))
			break;
		f->section_count = i + 1;
	}
	if (names_index < f->section_count) {
		const struct elf_section *s = &f->sections[names_index];

		if (s->type == SHT_STRTAB &&
		    !elf_read_alloc(f, s->offset, s->bytes, SECTION_NAMES_MAX_BYTES, &f->names))
			f->names_bytes = (size_t)s->bytes;
		else
			f->damage = "the names of the sections lie outside the file";
	} else {
		f->damage = "the names of the sections are in none of them";
	}
}

int elf_open(int fd, struct elf_file *ret, struct err *e)
{
	struct elf_file f = {.fd = fd};
	off_t end = lseek(fd, 0, SEEK_END);
	union {
		unsigned char ident[EI_NIDENT];
		Elf64_Ehdr h64;
		Elf32_Ehdr h32;
	} h = {.ident = {0}};
	int r;

	if (end < 0)
		return err_errno(e, -errno, "cannot tell the file's size");
	f.bytes = (uint64_t)end;
	if (elf_read(&f, 0, h.ident, EI_NIDENT) || memcmp(h.ident, ELFMAG, SELFMAG) != 0)
		return err_set(e, -ENOEXEC, "not an ELF file");
	if (h.ident[EI_CLASS] != ELFCLASS64 && h.ident[EI_CLASS] != ELFCLASS32)
		return err_set(e, -EBADMSG, "ELF class %u", h.ident[EI_CLASS]);
	if (h.ident[EI_DATA] != (BYTE_ORDER == LITTLE_ENDIAN ? ELFDATA2LSB : ELFDATA2MSB))
		return err_set(e, -EBADMSG, "an ELF file of the other byte order");
	f.is64 = h.ident[EI_CLASS] == ELFCLASS64;
	if (elf_read(&f, 0, &h, f.is64 ? sizeof(h.h64) : sizeof(h.h32)))
		return err_set(e, -EBADMSG, "the ELF header is cut off");
	f.type = f.is64 ? h.h64.e_type : h.h32.e_type;
	f.machine = f.is64 ? h.h64.e_machine : h.h32.e_machine;
	if (f.type != ET_EXEC && f.type != ET_DYN)
		return err_set(e, -EBADMSG, "ELF type %u, neither a program nor a library", f.type);
	if (f.is64)
		r = read_segments(&f, h.h64.e_phoff, h.h64.e_phnum, h.h64.e_phentsize, e);
	else
		r = read_segments(&f, h.h32.e_phoff, h.h32.e_phnum, h.h32.e_phentsize, e);
	if (r) {
		elf_close(&f);
		return r;
	}
	if (f.is64)
		read_sections(&f, h.h64.e_shoff, h.h64.e_shnum, h.h64.e_shentsize, h.h64.e_shstrndx);
	else
		read_sections(&f, h.h32.e_shoff, h.h32.e_shnum, h.h32.e_shentsize, h.h32.e_shstrndx);
	*ret = f;
	return 0;
}

void elf_close(struct elf_file *f)
{
	free(f->segments);
	free(f->sections);
	free(f->names);
	*f = (struct elf_file){.fd = -1};
}

const char *elf_section_name(const struct elf_file *f, const struct elf_section *s)
{
	return s->name < f->names_bytes ? f->names + s->name : "";
}

const struct elf_section *elf_find_section(const struct elf_file *f, const char *name)
{
	for (size_t i = 0; i < f->section_count; i++)
		if (!strcmp(elf_section_name(f, &f->sections[i]), name) && f->sections[i].type != SHT_NOBITS)
			return &f->sections[i];
	return NULL;
}

const struct elf_section *elf_find_section_type(const struct elf_file *f, uint32_t type)
{
	for (size_t i = 0; i < f->section_count; i++)
		if (f->sections[i].type == type)
			return &f->sections[i];
	return NULL;
}

static bool holds(const struct elf_segment *s, uint64_t offset, bool by_pages, uint64_t *ret_address)
{
	uint64_t from = s->offset, to;

	if (s->type != PT_LOAD || __builtin_add_overflow(s->offset, s->file_bytes, &to))
		return false;
	if (by_pages) {
		/* The kernel maps whole pages, so code of the neighbour may be reached through this segment. */
		from &= ~(PAGE_BYTES - 1);
		if (to > UINT64_MAX - PAGE_BYTES)
			return false;
		to = (to + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	}
	if (offset < from || offset >= to)
		return false;
	*ret_address = s->vaddr + (offset - s->offset);
	return true;
}

int elf_address_of(const struct elf_segment *segments, size_t count, uint64_t offset, size_t *ret_segment,
		   uint64_t *ret_address)
{
	for (int pass = 0; pass < 4; pass++)
		for (size_t i = 0; i < count; i++) {
			bool executable = segments[i].flags & PF_X;
			uint64_t address;

			if (executable != !(pass & 1) || !holds(&segments[i], offset, pass >= 2, &address))
				continue;
			*ret_segment = i;
			*ret_address = address;
			return 0;
		}
	return -ENOENT;
}

int elf_offset_of(const struct elf_file *f, uint64_t address, uint64_t *ret)
{
	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *s = &f->segments[i];

		if (s->type != PT_LOAD || address < s->vaddr || address - s->vaddr >= s->file_bytes)
			continue;
		*ret = s->offset + (address - s->vaddr);
		return 0;
	}
	return -ENOENT;
}

static bool find_build_id(const char *notes, size_t len, char *text, size_t size)
{
	size_t at = 0;

	while (len - at >= 12) {
		uint32_t name_bytes, desc_bytes, type;
		uint64_t desc, next;

		memcpy(&name_bytes, notes + at, 4);
		memcpy(&desc_bytes, notes + at + 4, 4);
		memcpy(&type, notes + at + 8, 4);
		desc = at + 12 + (((uint64_t)name_bytes + 3) & ~3ull);
		next = desc + (((uint64_t)desc_bytes + 3) & ~3ull);
		if (desc + desc_bytes > len)
			return false;
		if (type == NT_GNU_BUILD_ID && name_bytes == 4 && !memcmp(notes + at + 12, "GNU", 4) &&
		    desc_bytes > 0 && desc_bytes <= BUILD_ID_MAX_BYTES && size > 2 * (size_t)desc_bytes) {
			for (uint32_t i = 0; i < desc_bytes; i++)
				snprintf(text + 2 * i, 3, "%02x", (unsigned char)notes[desc + i]);
			return true;
		}
		if (next > len)
			return false;
		at = (size_t)next;
	}
	return false;
}

void elf_build_id(const struct elf_file *f, char *text, size_t size)
{
	text[0] = '\0';
	for (size_t i = 0; i < f->segment_count + f->section_count; i++) {
		_cleanup_free_ char *notes = NULL;
		uint64_t offset, bytes;

		if (i < f->segment_count) {
			if (f->segments[i].type != PT_NOTE)
				continue;
			offset = f->segments[i].offset;
			bytes = f->segments[i].file_bytes;
		} else {
			const struct elf_section *s = &f->sections[i - f->segment_count];

			if (s->type != SHT_NOTE)
				continue;
			offset = s->offset;
			bytes = s->bytes;
		}
		if (!elf_read_alloc(f, offset, bytes, NOTE_MAX_BYTES, &notes) &&
		    find_build_id(notes, (size_t)bytes, text, size))
			return;
	}
}
