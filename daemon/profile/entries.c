/* A hash of entries. Owner: whoever holds the struct. The keys' parts are ids that the daemon gave out, pids aside:
 * a seed isn't needed to keep the chains short. */
#include "daemon/profile/entries.h"

#include <string.h>

#define FIRST_CAP 64

static uint64_t hash_entry(const struct profile_entry *e)
{
	uint64_t h = hash_mix(0, (uint64_t)e->series << 32 | e->node);

	h = hash_mix(h, (uint64_t)e->pid << 32 | e->comm);
	return hash_mix(h, e->thread);
}

static uint64_t hash_of(const void *user, uint32_t id)
{
	const struct entries *t = user;

	return hash_entry(&t->list[id]);
}

void entries_deinit(struct entries *t)
{
	free(t->list);
	index_deinit(&t->index);
	*t = (struct entries){0};
}

bool entries_fold(struct entries *t, const struct profile_entry *e)
{
	uint64_t hash = hash_entry(e);

	INDEX_EACH(&t->index, hash, i)
	{
		struct profile_entry *there = &t->list[INDEX_ID(&t->index, i)];

		if (there->node == e->node && there->series == e->series && there->pid == e->pid &&
		    there->comm == e->comm && there->thread == e->thread) {
			there->count += e->count;
			there->value += e->value;
			return true;
		}
	}
	return false;
}

static size_t next_cap(const struct entries *t)
{
	return t->cap ? t->cap + t->cap / 2 : FIRST_CAP;
}

int entries_append(struct entries *t, const struct profile_entry *e)
{
	int r;

	if (t->count == t->cap) {
		struct profile_entry *list = realloc(t->list, next_cap(t) * sizeof(*list));

		if (!list)
			return -ENOMEM;
		t->list = list;
		t->cap = next_cap(t);
	}
	r = index_reserve(&t->index, t->count + 1, hash_of, t);
	if (r < 0)
		return r;
	t->list[t->count] = *e;
	index_insert(&t->index, hash_entry(e), (uint32_t)t->count);
	t->count++;
	return 0;
}

size_t entries_bytes(const struct entries *t)
{
	return t->cap * sizeof(*t->list) + index_bytes(&t->index);
}

size_t entries_growth(const struct entries *t)
{
	size_t growth = 0;

	if (t->count == t->cap)
		growth += (next_cap(t) - t->cap) * sizeof(*t->list);
	if (t->count + 1 > t->index.cap / 4 * 3)
		growth += (index_cap_for(t->count + 1) - t->index.cap) * sizeof(*t->index.slots);
	return growth;
}

static int by_key(const void *a, const void *b)
{
	const struct profile_entry *x = a, *y = b;

	if (x->series != y->series)
		return x->series < y->series ? -1 : 1;
	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	if (x->comm != y->comm)
		return x->comm < y->comm ? -1 : 1;
	if (x->thread != y->thread)
		return x->thread < y->thread ? -1 : 1;
	return x->node < y->node ? -1 : x->node > y->node;
}

void entries_sort(struct entries *t)
{
	index_deinit(&t->index);
	if (t->count)
		qsort(t->list, t->count, sizeof(*t->list), by_key);
}
