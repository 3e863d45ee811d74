/* Fuzzer of the compiler of call frame information: an input is the .eh_frame (first byte even) or .debug_frame (odd)
 * of a program that is otherwise sound, so that every input gets past the ELF reader. */
#include <elf.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/cfi.h"

#define MAX_BYTES 65536
#define TEXT_BYTES 0x100000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Header, one executable segment that is all of the file, the section, its names, section headers. */
static size_t make_elf(const uint8_t *data, size_t size, bool debug_frame, char *ret)
{
	static const char names[] = "\0.eh_frame\0.debug_frame\0.shstrtab";
	size_t at = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), names_at = at + size;
	size_t headers_at = (names_at + sizeof(names) + 7) & ~(size_t)7;
	Elf64_Ehdr header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_DYN,
		.e_machine = EM_X86_64,
		.e_phoff = sizeof(header),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
		.e_shoff = headers_at,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 3,
		.e_shstrndx = 2,
	};
	Elf64_Phdr segment = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = TEXT_BYTES, .p_memsz = TEXT_BYTES};
	Elf64_Shdr sections[3] = {
		{.sh_type = SHT_NULL},
		{.sh_name = debug_frame ? 11 : 1,
		 .sh_type = SHT_PROGBITS,
		 .sh_flags = debug_frame ? 0 : SHF_ALLOC,
		 .sh_addr = debug_frame ? 0 : at,
		 .sh_offset = at,
		 .sh_size = size},
		{.sh_name = 24, .sh_type = SHT_STRTAB, .sh_offset = names_at, .sh_size = sizeof(names)},
	};

	memcpy(ret, &header, sizeof(header));
	memcpy(ret + sizeof(header), &segment, sizeof(segment));
	if (size)
		memcpy(ret + at, data, size);
	memcpy(ret + names_at, names, sizeof(names));
	memcpy(ret + headers_at, sections, sizeof(sections));
	return headers_at + sizeof(sections);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char image[MAX_BYTES + 4096];
	const struct cfi_options options = {.max_entries = 4096, .max_rows = 65536};
	_cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct cfi_tables tables;
	struct elf_file f;
	struct err e = {0};
	size_t bytes;

	if (!size || size > MAX_BYTES || fd < 0)
		return 0;
	bytes = make_elf(data + 1, size - 1, data[0] & 1, image);
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
