/* Compiled unwind tables on disk, by key: one file KEY.table with the block as it is, in a directory of the daemon's
 * own. The oldest leave when there are too many bytes; a hit makes a file young.
 *
 * Nothing depends on it: a file that is cut off, changed or no file at all is removed and counts as not there, and a
 * disk that is full or read-only costs a counter. One thread at a time, not the loop: it waits for the disk. */
#ifndef BAROSCOPE_IMAGE_TABLE_CACHE_H
#define BAROSCOPE_IMAGE_TABLE_CACHE_H

#include <stdint.h>

#include "daemon/image/table.h"
#include "daemon/util/err.h"

struct table_cache;

/* The directory is made, with mode 0700, if it is not there. max_bytes 0: 256 MiB. */
int table_cache_open(const char *dir, uint64_t max_bytes, struct table_cache **ret, struct err *e);
void table_cache_close(struct table_cache *c);
/* A checked block (free with free()), or -ENOENT; -EINVAL: such a key cannot be. */
int table_cache_get(struct table_cache *c, const char *key, struct table **ret);
/* Replaces what is there. An error is counted and leaves nothing behind. */
int table_cache_put(struct table_cache *c, const char *key, const struct table *table);

struct table_cache_stats {
	uint64_t hits, misses;
	uint64_t broken; /* files removed because they were no good; also misses */
	uint64_t write_errors;
	uint64_t removed; /* files that left to make room */
	uint64_t bytes;	  /* as the disk counts them, in blocks of 4 KiB */
};
void table_cache_get_stats(const struct table_cache *c, struct table_cache_stats *ret);

#endif
