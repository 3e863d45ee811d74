/* Memory that is dropped whole: many small allocations, one release. Not thread-safe. */
#ifndef BAROSCOPE_UTIL_ARENA_H
#define BAROSCOPE_UTIL_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks; /* newest first */
	size_t bytes;
};

void arena_init(struct arena *a);
void arena_deinit(struct arena *a);
/* Forgets everything, keeps the newest chunk for what comes next. */
void arena_reset(struct arena *a);
/* Zeroed, aligned for any type; NULL when there is no memory. */
void *arena_alloc(struct arena *a, size_t count, size_t size);

#endif
