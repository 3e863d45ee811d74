/* The windows of one type, and their merge into a profile.
 *
 * Owner: the loop thread. An open window adds up in a hash (entries.h); when it closes it is packed (packed.h) and the
 * hash is freed. If there is no memory to pack, the sorted entries stay as they are: a window holds its entries in one
 * of the two forms. Invariants: `list` is sorted by start and has no start twice; a closed window's entries don't
 * change. The counters of ticks and drops of a closed window may still be corrected while it is kept, because a
 * late sample's loss belongs to the window of its tick: reported + idle + lost = ticks holds per window. */
#include <errno.h>
#include <string.h>

#include "daemon/profile/packed.h"

/* Entries of one merged profile; 40 bytes each, and 8 of index while it is built. */
#define MERGE_MAX_ENTRIES ((size_t)1 << 20)
#define MATCH_CACHE 256

struct window {
	uint64_t start_ns;
	bool closed;
	struct entries open;
	struct packed packed;
	uint64_t ticks, idle;
	uint64_t drops[DROP_CAUSE_COUNT];
	uint64_t incomplete[INCOMPLETE_CAUSE_COUNT];
};

struct windows {
	const struct profile_type *type;
	struct windows_options options;
	struct window **list;
	size_t count, cap;
	uint64_t now_ns;    /* as windows_advance was told: closes windows */
	uint64_t newest_ns; /* of now and the newest sample: how far the open window reaches */
	uint64_t evicted_until_ns;
	size_t bytes;
	uint64_t evicted_early, samples;
};

int windows_create(const struct profile_type *type, const struct windows_options *options, struct windows **ret)
{
	struct windows *t;

	if (!options->span_ns || !options->keep)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->type = type;
	t->options = *options;
	*ret = t;
	return 0;
}

static size_t window_bytes(const struct window *w)
{
	return sizeof(*w) + entries_bytes(&w->open) + w->packed.bytes;
}

static size_t window_entries(const struct window *w)
{
	return w->open.count + w->packed.count;
}

static void window_destroy(struct window *w)
{
	if (!w)
		return;
	entries_deinit(&w->open);
	packed_deinit(&w->packed);
	free(w);
}

void windows_destroy(struct windows *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->count; i++)
		window_destroy(t->list[i]);
	free(t->list);
	free(t);
}

/* Position of the first window that starts at or after start_ns. */
static size_t position_of(const struct windows *t, uint64_t start_ns)
{
	size_t at = t->count;

	/* From the end: nearly always the last or the one before. */
	while (at > 0 && t->list[at - 1]->start_ns >= start_ns)
		at--;
	return at;
}

static void evict(struct windows *t, size_t at)
{
	struct window *w = t->list[at];

	t->bytes -= window_bytes(w);
	t->count--;
	memmove(&t->list[at], &t->list[at + 1], (t->count - at) * sizeof(t->list[0]));
	window_destroy(w);
}

/* Frees the oldest closed window; false when there is none. */
static bool evict_oldest_closed(struct windows *t)
{
	for (size_t i = 0; i < t->count; i++) {
		if (!t->list[i]->closed)
			continue;
		if (t->list[i]->start_ns + t->options.span_ns > t->evicted_until_ns)
			t->evicted_until_ns = t->list[i]->start_ns + t->options.span_ns;
		evict(t, i);
		t->evicted_early++;
		return true;
	}
	return false;
}

static int make_room(struct windows *t, size_t more)
{
	while (t->bytes + more > t->options.max_bytes)
		if (!evict_oldest_closed(t))
			return -ENOSPC;
	return 0;
}

static bool is_due(const struct windows *t, uint64_t start_ns)
{
	return start_ns + t->options.span_ns + t->options.close_delay_ns <= t->now_ns;
}

/* Too old, or so far in the future that the clock must have been set: not kept. */
static bool is_out_of_range(const struct windows *t, uint64_t start_ns)
{
	uint64_t kept_ns = t->options.keep * t->options.span_ns;

	if (!t->now_ns)
		return false;
	return start_ns + t->options.span_ns + kept_ns <= t->now_ns || start_ns > t->now_ns + kept_ns;
}

/* The window of wall_ns, made if need be. -ESTALE when it was dropped already. */
static int window_at(struct windows *t, uint64_t wall_ns, struct window **ret)
{
	uint64_t start_ns = wall_ns - wall_ns % t->options.span_ns;
	size_t at = position_of(t, start_ns);
	struct window *w;
	int r;

	if (at < t->count && t->list[at]->start_ns == start_ns) {
		*ret = t->list[at];
		return 0;
	}
	if (is_out_of_range(t, start_ns) || start_ns < t->evicted_until_ns)
		return -ESTALE;
	r = make_room(t, sizeof(*w));
	if (r < 0)
		return r;
	/* A clock that is set back and forth may leave windows on both sides of now. */
	while (t->count > 2 * t->options.keep + 2)
		if (!evict_oldest_closed(t))
			return -ENOSPC;
	at = position_of(t, start_ns);
	if (t->count == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 16;
		struct window **list = realloc(t->list, cap * sizeof(*list));

		if (!list)
			return -ENOMEM;
		t->list = list;
		t->cap = cap;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->start_ns = start_ns;
	w->closed = is_due(t, start_ns);
	memmove(&t->list[at + 1], &t->list[at], (t->count - at) * sizeof(t->list[0]));
	t->list[at] = w;
	t->count++;
	t->bytes += window_bytes(w);
	*ret = w;
	return 0;
}

int windows_add(struct windows *t, const struct labelled_sample *s)
{
	const struct profile_entry e = {
		.series = s->series,
		.node = s->node,
		.pid = s->pid,
		.comm = s->comm,
		.thread = s->thread,
		.count = s->count,
		.value = s->value,
	};
	struct window *w;
	int r;

	/* No window is made for a late sample: only count_* may do that. */
	if (is_due(t, s->wall_ns - s->wall_ns % t->options.span_ns))
		return -ESTALE;
	r = window_at(t, s->wall_ns, &w);
	if (r < 0)
		return r;
	if (w->closed)
		return -ESTALE;
	if (!entries_fold(&w->open, &e)) {
		size_t before;

		r = make_room(t, entries_growth(&w->open));
		if (r < 0)
			return r;
		before = window_bytes(w);
		r = entries_append(&w->open, &e);
		t->bytes += window_bytes(w) - before;
		if (r < 0)
			return r;
	}
	t->samples += s->count;
	if (s->wall_ns > t->newest_ns)
		t->newest_ns = s->wall_ns;
	return 0;
}

void windows_count_lost(struct windows *t, uint64_t wall_ns, enum drop_cause cause, uint64_t count)
{
	struct window *w;

	if (count && (unsigned int)cause < DROP_CAUSE_COUNT && window_at(t, wall_ns, &w) == 0)
		w->drops[cause] += count;
}

void windows_count_incomplete(struct windows *t, uint64_t wall_ns, enum incomplete_cause cause, uint64_t count)
{
	struct window *w;

	if (count && (unsigned int)cause < INCOMPLETE_CAUSE_COUNT && window_at(t, wall_ns, &w) == 0)
		w->incomplete[cause] += count;
}

void windows_count_ticks(struct windows *t, uint64_t wall_ns, uint64_t ticks, uint64_t idle)
{
	struct window *w;

	if (window_at(t, wall_ns, &w) < 0)
		return;
	w->ticks += ticks;
	w->idle += idle;
}

static void window_close(struct windows *t, struct window *w)
{
	size_t before = window_bytes(w);
	struct packed packed;

	w->closed = true;
	if (packed_create(&w->open, &packed) == 0) {
		w->packed = packed;
		entries_deinit(&w->open);
	}
	t->bytes += window_bytes(w);
	t->bytes -= before;
}

void windows_advance(struct windows *t, uint64_t wall_ns)
{
	size_t i = 0;

	t->now_ns = t->newest_ns = wall_ns;
	while (i < t->count) {
		struct window *w = t->list[i];

		if (is_out_of_range(t, w->start_ns)) {
			evict(t, i);
			continue;
		}
		if (!w->closed && is_due(t, w->start_ns))
			window_close(t, w);
		i++;
	}
	/* The clock was set back: what was evicted early lies in the future now and must not bar new windows. */
	if (t->evicted_until_ns > wall_ns)
		t->evicted_until_ns = 0;
}

void windows_set_period(struct windows *t, uint64_t period)
{
	t->options.period = period;
}

void profile_destroy(struct profile *p)
{
	if (!p)
		return;
	free(p->entries);
	free(p);
}

static void profile_destroyp(struct profile **p)
{
	profile_destroy(*p);
}

struct merge {
	profile_match_fn *match;
	void *user;
	struct entries sum;
	uint64_t samples, total;
	struct {
		series_id series;
		bool known, matches;
	} cache[MATCH_CACHE];
};

static void merge_deinit(struct merge *m)
{
	entries_deinit(&m->sum);
}

static bool matches(struct merge *m, series_id series)
{
	size_t slot = series % MATCH_CACHE;

	if (!m->match)
		return true;
	if (!m->cache[slot].known || m->cache[slot].series != series) {
		m->cache[slot].series = series;
		m->cache[slot].known = true;
		m->cache[slot].matches = m->match(m->user, series);
	}
	return m->cache[slot].matches;
}

static int merge_entry(struct merge *m, const struct profile_entry *e)
{
	if (!matches(m, e->series))
		return 0;
	m->samples += e->count;
	m->total += e->value;
	if (entries_fold(&m->sum, e))
		return 0;
	if (m->sum.count >= MERGE_MAX_ENTRIES)
		return -ENOSPC;
	return entries_append(&m->sum, e);
}

static int merge_window(struct merge *m, const struct window *w)
{
	struct packed_reader reader;
	int r = 0;

	for (size_t i = 0; i < w->open.count && r == 0; i++)
		r = merge_entry(m, &w->open.list[i]);
	packed_reader_init(&reader, &w->packed);
	while (r == 0 && packed_next(&reader))
		r = merge_entry(m, &reader.entry);
	return r;
}

/* What a window covers ends at its end, or where we are now. */
static uint64_t window_until(const struct windows *t, const struct window *w)
{
	uint64_t end_ns = w->start_ns + t->options.span_ns;

	if (t->newest_ns >= end_ns)
		return end_ns;
	return t->newest_ns > w->start_ns ? t->newest_ns : w->start_ns;
}

int windows_merge(struct windows *t, uint64_t from_ns, uint64_t until_ns, profile_match_fn *match, void *user,
		  struct profile **ret)
{
	_cleanup_(profile_destroyp) struct profile *p = calloc(1, sizeof(*p));
	_cleanup_(merge_deinit) struct merge m = {.match = match, .user = user};
	bool any = false;
	int r;

	if (!p)
		return -ENOMEM;
	p->type = t->type;
	p->period = t->options.period;
	for (size_t i = 0; i < t->count; i++) {
		const struct window *w = t->list[i];

		if (w->start_ns >= until_ns || w->start_ns + t->options.span_ns <= from_ns)
			continue;
		r = merge_window(&m, w);
		if (r < 0)
			return r;
		if (!any)
			p->from_ns = w->start_ns;
		any = true;
		p->until_ns = window_until(t, w);
		p->ticks += w->ticks;
		p->idle += w->idle;
		for (size_t k = 0; k < DROP_CAUSE_COUNT; k++)
			p->drops[k] += w->drops[k];
		for (size_t k = 0; k < INCOMPLETE_CAUSE_COUNT; k++)
			p->incomplete[k] += w->incomplete[k];
	}
	p->samples = m.samples;
	p->total = m.total;
	entries_sort(&m.sum);
	p->entry_count = m.sum.count;
	p->entries = TAKE_PTR(m.sum.list);
	*ret = TAKE_PTR(p);
	return 0;
}

static void mark_entry(const struct profile_entry *e, struct trie *trie, struct labels *labels, struct intern *strings)
{
	trie_mark(trie, e->node);
	labels_mark(labels, e->series);
	intern_mark(strings, e->comm);
	intern_mark(strings, e->thread);
}

void windows_mark(struct windows *t, struct trie *trie, struct labels *labels, struct intern *strings)
{
	for (size_t i = 0; i < t->count; i++) {
		struct packed_reader reader;

		for (size_t k = 0; k < t->list[i]->open.count; k++)
			mark_entry(&t->list[i]->open.list[k], trie, labels, strings);
		packed_reader_init(&reader, &t->list[i]->packed);
		while (packed_next(&reader))
			mark_entry(&reader.entry, trie, labels, strings);
	}
}

void windows_get_stats(const struct windows *t, struct windows_stats *ret)
{
	struct windows_stats s = {
		.windows = t->count,
		.bytes = t->bytes,
		.evicted_early = t->evicted_early,
		.samples = t->samples,
		.oldest_ns = t->count ? t->list[0]->start_ns : 0,
	};

	for (size_t i = 0; i < t->count; i++)
		s.entries += window_entries(t->list[i]);
	*ret = s;
}
