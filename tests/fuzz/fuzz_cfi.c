/* Fuzzer of the compiler of call frame information: an input is the section's bytes in a program that is otherwise
 * sound, so that every input gets past the ELF reader. The first byte says what the bytes are (enum input). */
#include <elf.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "daemon/image/cfi.h"

#define MAX_BYTES 65536
#define TEXT_BYTES 0x100000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum input {
	INPUT_DEBUG = 1,      /* .debug_frame; else .eh_frame */
	INPUT_PACK = 2,	      /* .debug_frame, compressed here */
	INPUT_COMPRESSED = 4, /* .debug_frame, said to be compressed: its head and stream are the input */
	INPUT_GO = 8,	      /* two bytes more: the length of a .gopclntab before the section */
};

struct part {
	const char *name;
	uint64_t flags;
	const void *data;
	size_t bytes;
};

/* Header, one executable segment that is all of the file, the sections, their names, section headers. */
static size_t make_elf(const struct part *parts, size_t count, char *ret)
{
	Elf64_Shdr sections[4] = {{.sh_type = SHT_NULL}};
	char names[64] = "";
	size_t names_bytes = 1, at = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
	struct part all[3];
	Elf64_Ehdr header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_DYN,
		.e_machine = EM_X86_64,
		.e_phoff = sizeof(header),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = (Elf64_Half)(count + 2),
		.e_shstrndx = (Elf64_Half)(count + 1),
	};
	Elf64_Phdr segment = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = TEXT_BYTES, .p_memsz = TEXT_BYTES};

	memcpy(all, parts, count * sizeof(*parts));
	all[count] = (struct part){".shstrtab", 0, names, sizeof(names)};
	for (size_t i = 0; i <= count; i++) {
		sections[i + 1] = (Elf64_Shdr){
			.sh_name = (Elf64_Word)names_bytes,
			.sh_type = i < count ? SHT_PROGBITS : SHT_STRTAB,
			.sh_flags = all[i].flags,
			.sh_addr = all[i].flags & SHF_ALLOC ? at : 0,
			.sh_offset = at,
			.sh_size = all[i].bytes,
		};
		strcpy(names + names_bytes, all[i].name);
		names_bytes += strlen(all[i].name) + 1;
		at += all[i].bytes;
	}
	for (size_t i = 0; i <= count; i++)
		if (all[i].bytes)
			memcpy(ret + sections[i + 1].sh_offset, all[i].data, all[i].bytes);
	at = (at + 7) & ~(size_t)7;
	header.e_shoff = at;
	memcpy(ret, &header, sizeof(header));
	memcpy(ret + sizeof(header), &segment, sizeof(segment));
	memcpy(ret + at, sections, (count + 2) * sizeof(sections[0]));
	return at + (count + 2) * sizeof(sections[0]);
}

/* What the input says; the rest of it is the section. */
static size_t make_parts(const uint8_t *data, size_t size, char *packed, struct part *ret)
{
	uint8_t what = *data++;
	size_t count = 0;

	size--;
	if (what & INPUT_GO && size >= 2) {
		size_t bytes = (size_t)data[0] | (size_t)data[1] << 8;

		data += 2;
		size -= 2;
		if (bytes > size)
			bytes = size;
		ret[count++] = (struct part){".gopclntab", SHF_ALLOC, data, bytes};
		data += bytes;
		size -= bytes;
	}
	if (what & INPUT_PACK) {
		Elf64_Chdr head = {.ch_type = ELFCOMPRESS_ZLIB, .ch_size = size, .ch_addralign = 1};
		uLongf bytes = MAX_BYTES + 1024;

		memcpy(packed, &head, sizeof(head));
		if (compress2((Bytef *)packed + sizeof(head), &bytes, data, size, 0) != Z_OK)
			abort(); /* there is room for it */
		ret[count++] = (struct part){".debug_frame", SHF_COMPRESSED, packed, sizeof(head) + bytes};
	} else if (what & INPUT_COMPRESSED) {
		ret[count++] = (struct part){".debug_frame", SHF_COMPRESSED, data, size};
	} else if (what & INPUT_DEBUG) {
		ret[count++] = (struct part){".debug_frame", 0, data, size};
	} else {
		ret[count++] = (struct part){".eh_frame", SHF_ALLOC, data, size};
	}
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char image[MAX_BYTES + 8192], packed[MAX_BYTES + 2048];
	const struct cfi_options options = {.max_entries = 4096, .max_rows = 65536, .max_section_bytes = 1 << 20};
	_cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct cfi_tables tables;
	struct elf_file f;
	struct err e = {0};
	struct part parts[2];
	size_t bytes;

	if (!size || size > MAX_BYTES || fd < 0)
		return 0;
	bytes = make_elf(parts, make_parts(data, size, packed, parts), image);
	if (write(fd, image, bytes) != (ssize_t)bytes || ftruncate(fd, TEXT_BYTES))
		return 0;
	if (elf_open(fd, &f, &e))
		abort(); /* what is made above is sound */
	if (!cfi_compile(&f, &options, &tables, &e)) {
		for (uint64_t offset = 0; offset < TEXT_BYTES; offset += 61)
			(void)cfi_lookup(&tables, offset);
		cfi_free(&tables);
	}
	elf_close(&f);
	return 0;
}
