/* An open-addressing index of small integers, for tables that keep their records in arrays: it holds ids and compares
 * nothing itself. Deletion is by rebuilding (tables here delete in sweeps only).
 *
 * A slot holds id + 1; 0 is empty. At most 3/4 full. Not thread-safe. */
#ifndef BAROSCOPE_UTIL_INDEX_H
#define BAROSCOPE_UTIL_INDEX_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>

struct index {
	uint32_t *slots;
	size_t cap; /* a power of two, or 0 */
	size_t count;
};

/* The hash under which id was inserted. */
typedef uint64_t index_hash_fn(const void *user, uint32_t id);

static inline uint64_t hash_mix(uint64_t h, uint64_t value)
{
	h = (h ^ value) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 29);
}

/* Names and stacks come from programs that we don't trust: a seed keeps them from choosing their slots. */
static inline uint64_t hash_seed(void)
{
	uint64_t seed = 0x5bd1e9955bd1e995ULL;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
		return 0x5bd1e9955bd1e995ULL;
	return seed;
}

/* Walks the candidates for hash: INDEX_ID(x, i) is each one's id. */
#define INDEX_EACH(x, hash, i)                                                                                         \
	for (size_t i = (size_t)(hash) & ((x)->cap - 1); (x)->cap && (x)->slots[i]; i = (i + 1) & ((x)->cap - 1))
#define INDEX_ID(x, i) ((x)->slots[i] - 1)

static inline size_t index_cap_for(size_t count)
{
	size_t cap = 16;

	while (cap / 4 * 3 < count)
		cap *= 2;
	return cap;
}

static inline size_t index_bytes(const struct index *x)
{
	return x->cap * sizeof(*x->slots);
}

static inline void index_deinit(struct index *x)
{
	free(x->slots);
	*x = (struct index){0};
}

/* id must not be there, and room for it reserved. */
static inline void index_insert(struct index *x, uint64_t hash, uint32_t id)
{
	size_t i = (size_t)hash & (x->cap - 1);

	while (x->slots[i])
		i = (i + 1) & (x->cap - 1);
	x->slots[i] = id + 1;
	x->count++;
}

/* Makes room for `count` ids altogether. -ENOMEM leaves the index as it was. */
static inline int index_reserve(struct index *x, size_t count, index_hash_fn *hash_of, const void *user)
{
	struct index bigger = {0};

	if (count <= x->cap / 4 * 3)
		return 0;
	bigger.cap = index_cap_for(count);
	bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < x->cap; i++)
		if (x->slots[i])
			index_insert(&bigger, hash_of(user, x->slots[i] - 1), x->slots[i] - 1);
	free(x->slots);
	*x = bigger;
	return 0;
}

/* Empties the index, for a rebuild with at most `count` ids; shrinks when that pays, and if that fails goes on with
 * the larger one (never fails: what was indexed before must be indexable again). */
static inline void index_clear(struct index *x, size_t count)
{
	size_t cap = index_cap_for(count);

	if (cap < x->cap) {
		uint32_t *slots = realloc(x->slots, cap * sizeof(*slots));

		if (slots) {
			x->slots = slots;
			x->cap = cap;
		}
	}
	for (size_t i = 0; i < x->cap; i++)
		x->slots[i] = 0;
	x->count = 0;
}

#endif
