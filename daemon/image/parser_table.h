/* Unwind tables in the parser: under which key the cache keeps a file's table, and the table in parts. Parser process
 * only; no state. */
#ifndef BAROSCOPE_IMAGE_PARSER_TABLE_H
#define BAROSCOPE_IMAGE_PARSER_TABLE_H

#include <sys/uio.h>

#include "daemon/image/elf.h"
#include "daemon/image/table.h"

/* "BUILDID-HASH", or "none-HASH". The hash is over all that the compiler reads of the file, so a file that only borrows
 * another one's build id has another key; it is seeded, so nobody can choose contents that collide. CFI_VERSION goes
 * into it: another compiler, another key. */
int parser_table_key(const struct elf_file *f, uint64_t seed, char ret[TABLE_KEY_BYTES]);

#define PARSER_TABLE_PIECES 4 /* at most, of a part */
/* One part of a block of total_bytes. Not 0: no more of them, and parser_table_compile returns it. */
typedef int parser_table_part_fn(void *user, uint32_t total_bytes, uint32_t offset, const struct iovec *pieces,
				 size_t piece_count);
/* Compiles the file's call frame information and hands the block out in parts of up to part_bytes, straight from the
 * compiler's arrays. A file without any has a table that says so. The key, of the file as it is after the compiler has
 * read it, is there before the first part. */
int parser_table_compile(const struct elf_file *f, uint64_t seed, size_t part_bytes, parser_table_part_fn *part,
			 void *user, char ret_key[TABLE_KEY_BYTES], struct err *e);

#endif
