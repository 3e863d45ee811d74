/* An unwind table on its way: compiled by the parser, checked and loaded by the daemon, kept by the cache on disk.
 *
 * One block of memory: the head, then infos, pages and rows as in cfi.h, each aligned to 8 bytes. The parser may have
 * been taken over by a file, and a file of the cache may be cut off or old: whoever takes a block from there calls
 * table_check first, and the loader relies on nothing else. Any thread; no state. */
#ifndef BAROSCOPE_IMAGE_TABLE_H
#define BAROSCOPE_IMAGE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/image/cfi.h"

#define TABLE_MAGIC "BAROTAB1" /* another layout: another name; another compiler: CFI_VERSION */
#define TABLE_MAX_BYTES (40u << 20)
#define TABLE_KEY_BYTES 128 /* of a key's text with its NUL: "BUILDID-HASH" in lower-case hex */

enum table_flags {
	TABLE_FRAME_POINTER = 1, /* no call frame information at all: walked by frame pointer */
};

struct table {
	char magic[8];
	uint32_t bytes; /* of the whole block */
	uint32_t flags; /* enum table_flags */
	uint32_t info_count, row_count;
	uint32_t first_page, page_count;
	uint64_t counts[CFI_COUNT_COUNT];
	uint64_t checksum; /* XXH3 of what is behind the head, and of the head with this field 0 */
};

/* malloc'd. t may be NULL for a table of flags alone. -EFBIG above TABLE_MAX_BYTES, -ENOMEM. */
int table_make(const struct cfi_tables *t, uint32_t flags, struct table **ret);
/* 0 or -EBADMSG: sizes, order of rows, indexes and rules are as the loader expects them. */
int table_check(const void *data, size_t bytes);
/* Entries and rows of it that cannot be used, and sections that could not be read; by its head alone. */
uint64_t table_losses(const struct table *t);
const struct cfi_info *table_infos(const struct table *t);
const struct cfi_page *table_pages(const struct table *t);
const struct cfi_row *table_rows(const struct table *t);

#endif
