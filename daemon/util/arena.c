/* Chunked bump allocator. Owner: whoever holds the struct; chunks are freed by reset and deinit only. */
#include "daemon/util/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)64 * 1024)

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, cap;
	_Alignas(max_align_t) unsigned char data[];
};

void arena_init(struct arena *a)
{
	*a = (struct arena){0};
}

static void free_chunks(struct arena_chunk *c)
{
	while (c) {
		struct arena_chunk *next = c->next;

		free(c);
		c = next;
	}
}

void arena_deinit(struct arena *a)
{
	free_chunks(a->chunks);
	*a = (struct arena){0};
}

void arena_reset(struct arena *a)
{
	struct arena_chunk *keep = a->chunks;

	if (!keep)
		return;
	free_chunks(keep->next);
	keep->next = NULL;
	keep->used = 0;
	a->bytes = keep->cap;
}

void *arena_alloc(struct arena *a, size_t count, size_t size)
{
	const size_t align = _Alignof(max_align_t);
	struct arena_chunk *c = a->chunks;
	size_t bytes;
	void *p;

	if (size && count > SIZE_MAX / 4 / size)
		return NULL;
	bytes = (count * size + align - 1) / align * align;
	if (!c || c->cap - c->used < bytes) {
		size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;

		c = malloc(sizeof(*c) + cap);
		if (!c)
			return NULL;
		c->next = a->chunks;
		c->used = 0;
		c->cap = cap;
		a->chunks = c;
		a->bytes += cap;
	}
	p = c->data + c->used;
	c->used += bytes;
	memset(p, 0, bytes);
	return p;
}
