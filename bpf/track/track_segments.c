#include "bpf/track/track_segments.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bpf/track/track_ranges.h"
#include "bpf/unwind_abi.h"
#include "daemon/util/cleanup.h"

/* Taking a segment out waits for the kernel, about 11 ms. */
#define RELEASES_AT_ONCE 8

struct segment {
	struct ranges *ranges; /* NULL: there is no such segment */
	int fd;
	bool published;
	void *memory; /* NULL: not mapped now */
};

struct segments {
	int outer_fd;
	uint32_t max, count;
	uint64_t grace_ns;
	bool no_batch; /* this kernel has no batches for an array of maps */
	struct segment list[];
};

int segments_create(int outer_fd, uint32_t max, uint64_t grace_ns, struct segments **ret)
{
	struct segments *s;

	if (!max || max > UNWIND_MAX_SEGMENTS)
		return -EINVAL;
	s = calloc(1, sizeof(*s) + max * sizeof(*s->list));
	if (!s)
		return -ENOMEM;
	s->outer_fd = outer_fd;
	s->max = max;
	s->grace_ns = grace_ns;
	*ret = s;
	return 0;
}

static void unmap(struct segment *g)
{
	if (g->memory)
		munmap(g->memory, sizeof(struct unwind_segment));
	g->memory = NULL;
}

static void forget(struct segments *s, struct segment *g)
{
	unmap(g);
	close(g->fd);
	ranges_destroy(g->ranges);
	*g = (struct segment){0};
	s->count--;
}

void segments_destroy(struct segments *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges)
			forget(s, &s->list[i]);
	free(s);
}

static int add(struct segments *s, uint32_t *ret)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE);
	struct segment g = {0};
	uint32_t i = 0;
	int r;

	while (i < s->max && s->list[i].ranges)
		i++;
	if (i == s->max)
		return -ENOSPC;
	r = ranges_create(UNWIND_SEGMENT_WORDS, s->grace_ns, &g.ranges);
	if (r)
		return r;
	g.fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "unwind_segment", sizeof(uint32_t), sizeof(struct unwind_segment), 1,
			      &options);
	if (g.fd < 0) {
		r = -errno;
		ranges_destroy(g.ranges);
		return r == -ENOSPC ? -ENOMEM : r; /* no room of ours: nothing to evict for */
	}
	s->list[i] = g;
	s->count++;
	*ret = i;
	return 0;
}

/* The first segment with this many free words in a row. */
static bool find(const struct segments *s, uint32_t words, uint32_t *ret)
{
	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges && ranges_largest(s->list[i].ranges) >= words) {
			*ret = i;
			return true;
		}
	return false;
}

static uint32_t even(uint32_t words)
{
	return (words + 1) & ~1u;
}

int segments_take(struct segments *s, uint32_t words, uint32_t at_least, uint64_t now_ns, struct segment_range *ret)
{
	struct segment_range range;
	uint32_t largest;
	int r;

	segments_wake(s, now_ns);
	if ((words > UNWIND_SEGMENT_WORDS || !find(s, even(words), &range.segment)) &&
	    !find(s, even(at_least), &range.segment)) {
		r = add(s, &range.segment);
		if (r)
			return r;
	}
	largest = ranges_largest(s->list[range.segment].ranges);
	range.count = words < largest ? even(words) : largest;
	r = ranges_take(s->list[range.segment].ranges, range.count, now_ns, &range.start);
	if (r)
		return r;
	*ret = range;
	return 0;
}

void segments_trim(struct segments *s, struct segment_range *range, uint32_t words)
{
	words = even(words);
	if (words < range->count)
		ranges_cancel(s->list[range->segment].ranges, range->start + words, range->count - words);
	range->count = words < range->count ? words : range->count;
}

void segments_give(struct segments *s, struct segment_range range, uint64_t now_ns)
{
	ranges_give(s->list[range.segment].ranges, range.start, range.count, now_ns);
}

void segments_cancel(struct segments *s, struct segment_range range)
{
	ranges_cancel(s->list[range.segment].ranges, range.start, range.count);
}

int segments_at(struct segments *s, struct segment_range range, void **ret)
{
	struct segment *g = &s->list[range.segment];

	if (!g->memory) {
		void *memory = mmap(NULL, sizeof(struct unwind_segment), PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);

		if (memory == MAP_FAILED)
			return -errno;
		g->memory = memory;
	}
	*ret = &((struct unwind_segment *)g->memory)->rows[range.start];
	return 0;
}

int segments_publish(struct segments *s)
{
	_cleanup_free_ uint32_t *keys = NULL;
	_cleanup_free_ int *fds = NULL;
	uint32_t count = 0, done;

	for (uint32_t i = 0; i < s->max; i++)
		count += s->list[i].ranges && !s->list[i].published;
	if (!count)
		return 0;
	keys = malloc(count * sizeof(*keys));
	fds = malloc(count * sizeof(*fds));
	if (!keys || !fds)
		return -ENOMEM;
	count = 0;
	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges && !s->list[i].published) {
			keys[count] = i;
			fds[count++] = s->list[i].fd;
		}
	/* New kernels wait once for a batch. */
	done = count;
	if (count == 1 || s->no_batch) {
		done = 0;
	} else if (bpf_map_update_batch(s->outer_fd, keys, fds, &done, NULL)) {
		s->no_batch = true;
		done = 0;
	}
	for (uint32_t i = done; i < count; i++)
		if (bpf_map_update_elem(s->outer_fd, &keys[i], &fds[i], BPF_ANY)) {
			int r = -errno;

			/* What went through stays, empty; a batch may have shown more before it failed. */
			for (uint32_t j = 0; j < count; j++)
				if (j < i)
					s->list[keys[j]].published = true;
				else
					bpf_map_delete_elem(s->outer_fd, &keys[j]);
			return r;
		}
	for (uint32_t i = 0; i < count; i++)
		s->list[keys[i]].published = true;
	return 0;
}

void segments_settle(struct segments *s)
{
	for (uint32_t i = 0; i < s->max; i++) {
		struct segment *g = &s->list[i];

		if (!g->ranges)
			continue;
		unmap(g);
		if (!g->published)
			forget(s, g);
	}
}

void segments_wake(struct segments *s, uint64_t now_ns)
{
	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges)
			ranges_wake(s->list[i].ranges, now_ns);
}

void segments_release(struct segments *s)
{
	uint32_t released = 0;
	bool spare = false;

	for (uint32_t i = 0; i < s->max && released < RELEASES_AT_ONCE; i++) {
		struct segment *g = &s->list[i];

		if (!g->ranges || ranges_used(g->ranges))
			continue;
		if (!spare) {
			spare = true;
			continue;
		}
		if (bpf_map_delete_elem(s->outer_fd, &i) && errno != ENOENT)
			continue;
		forget(s, g);
		released++;
	}
}

uint32_t segments_count(const struct segments *s)
{
	return s->count;
}

uint64_t segments_resting_words(const struct segments *s)
{
	uint64_t words = 0;

	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges)
			words += ranges_resting(s->list[i].ranges);
	return words;
}

uint64_t segments_spare_words(const struct segments *s)
{
	uint64_t words = (uint64_t)(s->max - s->count) * UNWIND_SEGMENT_WORDS + segments_resting_words(s);

	for (uint32_t i = 0; i < s->max; i++)
		if (s->list[i].ranges)
			words += UNWIND_SEGMENT_WORDS - ranges_used(s->list[i].ranges);
	return words;
}
