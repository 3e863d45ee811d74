/* Reading of ELF files that may be hostile: every offset and count is checked against the file's size, and read with
 * pread (a mapping of a file that is cut meanwhile would be a SIGBUS). Both classes, the host's byte order. Parser
 * process only; no state. */
#ifndef BAROSCOPE_IMAGE_ELF_H
#define BAROSCOPE_IMAGE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/util/err.h"

#define ELF_MAX_SEGMENTS 1024
#define ELF_MAX_SECTIONS 65536
#define BUILD_ID_MAX_BYTES 32

struct elf_segment {
	uint32_t type, flags;
	uint64_t offset, vaddr, file_bytes, memory_bytes, align;
};

struct elf_section {
	uint32_t name, type, link;
	uint64_t flags, addr, offset, bytes, entry_bytes;
};

struct elf_file {
	int fd; /* borrowed */
	uint64_t bytes;
	bool is64;
	uint16_t type, machine;
	struct elf_segment *segments;
	size_t segment_count;
	struct elf_section *sections; /* none when the table is missing or broken: that is no error, see damage */
	size_t section_count;
	char *names; /* section names, terminated */
	size_t names_bytes;
	const char *damage; /* what is wrong with the section table; static text, NULL = nothing */
};

/* e tells what is wrong with the file. */
int elf_open(int fd, struct elf_file *ret, struct err *e);
void elf_close(struct elf_file *f);
/* All of it or an error: -ENODATA beyond the end of the file. */
int elf_read(const struct elf_file *f, uint64_t offset, void *buf, size_t len);
/* malloc'd copy of len bytes with a NUL behind; max bounds len (-EFBIG). */
int elf_read_alloc(const struct elf_file *f, uint64_t offset, uint64_t len, uint64_t max, char **ret);
const char *elf_section_name(const struct elf_file *f, const struct elf_section *s);
const struct elf_section *elf_find_section(const struct elf_file *f, const char *name);
const struct elf_section *elf_find_section_type(const struct elf_file *f, uint32_t type);
/* The file's own address of an offset, by its PT_LOADs, executable ones first. -ENOENT. */
int elf_address_of(const struct elf_segment *segments, size_t count, uint64_t offset, size_t *ret_segment,
		   uint64_t *ret_address);
/* Offset of an address that is in the file. -ENOENT. */
int elf_offset_of(const struct elf_file *f, uint64_t address, uint64_t *ret);
/* Hex of the GNU build id; "" without. */
void elf_build_id(const struct elf_file *f, char *text, size_t size);

#endif
