#include "bpf/track/track_ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct extent {
	uint32_t start, count;
	uint64_t free_at_ns; /* 0 in the free list */
};

/* free: sorted by start, neighbours joined. resting: in the order given back. */
struct ranges {
	uint64_t grace_ns;
	uint32_t entries, free_entries, resting_entries;
	struct extent *free, *resting;
	size_t free_count, free_cap, resting_count, resting_cap;
};

int ranges_create(uint32_t entries, uint64_t grace_ns, struct ranges **ret)
{
	struct ranges *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->free = malloc(sizeof(*r->free));
	if (!r->free) {
		free(r);
		return -ENOMEM;
	}
	r->free_cap = r->free_count = 1;
	r->free[0] = (struct extent){.start = 0, .count = entries};
	r->entries = r->free_entries = entries;
	r->grace_ns = grace_ns;
	*ret = r;
	return 0;
}

void ranges_destroy(struct ranges *r)
{
	if (!r)
		return;
	free(r->free);
	free(r->resting);
	free(r);
}

static int insert(struct extent **list, size_t *count, size_t *cap, size_t at, struct extent e)
{
	if (*count == *cap) {
		size_t n = *cap ? *cap * 2 : 64;
		struct extent *grown = realloc(*list, n * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		*list = grown;
		*cap = n;
	}
	memmove(*list + at + 1, *list + at, (*count - at) * sizeof(**list));
	(*list)[at] = e;
	(*count)++;
	return 0;
}

static int release(struct ranges *r, uint32_t start, uint32_t count)
{
	size_t low = 0, high = r->free_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (r->free[middle].start < start)
			low = middle + 1;
		else
			high = middle;
	}
	if (low > 0 && r->free[low - 1].start + r->free[low - 1].count == start) {
		r->free[low - 1].count += count;
		if (low < r->free_count && r->free[low].start == start + count) {
			r->free[low - 1].count += r->free[low].count;
			memmove(r->free + low, r->free + low + 1, (r->free_count - low - 1) * sizeof(*r->free));
			r->free_count--;
		}
	} else if (low < r->free_count && r->free[low].start == start + count) {
		r->free[low].start = start;
		r->free[low].count += count;
	} else {
		int err = insert(&r->free, &r->free_count, &r->free_cap, low,
				 (struct extent){.start = start, .count = count});

		if (err)
			return err;
	}
	r->free_entries += count;
	return 0;
}

void ranges_wake(struct ranges *r, uint64_t now_ns)
{
	size_t done = 0;

	while (done < r->resting_count && r->resting[done].free_at_ns <= now_ns) {
		if (release(r, r->resting[done].start, r->resting[done].count))
			break; /* no memory now: stays resting */
		r->resting_entries -= r->resting[done].count;
		done++;
	}
	if (done) {
		memmove(r->resting, r->resting + done, (r->resting_count - done) * sizeof(*r->resting));
		r->resting_count -= done;
	}
}

int ranges_take(struct ranges *r, uint32_t count, uint64_t now_ns, uint32_t *ret_start)
{
	ranges_wake(r, now_ns);
	for (size_t i = 0; i < r->free_count; i++) {
		struct extent *e = &r->free[i];

		if (e->count < count)
			continue;
		*ret_start = e->start;
		e->start += count;
		e->count -= count;
		r->free_entries -= count;
		if (!e->count) {
			memmove(e, e + 1, (r->free_count - i - 1) * sizeof(*e));
			r->free_count--;
		}
		return 0;
	}
	return -ENOSPC;
}

void ranges_give(struct ranges *r, uint32_t start, uint32_t count, uint64_t now_ns)
{
	/* Without memory to remember it the range is lost to us, but never handed out twice. */
	if (!insert(&r->resting, &r->resting_count, &r->resting_cap, r->resting_count,
		    (struct extent){.start = start, .count = count, .free_at_ns = now_ns + r->grace_ns}))
		r->resting_entries += count;
}

void ranges_cancel(struct ranges *r, uint32_t start, uint32_t count)
{
	(void)release(r, start, count); /* lost without memory, as above */
}

uint32_t ranges_used(const struct ranges *r)
{
	return r->entries - r->free_entries;
}

uint32_t ranges_resting(const struct ranges *r)
{
	return r->resting_entries;
}

uint32_t ranges_largest(const struct ranges *r)
{
	uint32_t largest = 0;

	for (size_t i = 0; i < r->free_count; i++)
		if (r->free[i].count > largest)
			largest = r->free[i].count;
	return largest;
}
