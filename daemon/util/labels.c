/* The table of label sets: an array sorted by id (ids only grow), an index by content.
 *
 * Owner: the loop thread. Invariants: sets are sorted by label name, without empty values; ids start at 1 and are
 * never given twice; the index holds positions in the array and is rebuilt by the sweep. */
#include "daemon/util/labels.h"

#include <stdbool.h>
#include <string.h>

#include "daemon/util/index.h"

struct series {
	series_id id;
	bool marked;
	struct label_set set;
};

struct labels {
	struct intern *strings;
	struct series *series;
	size_t count, cap, max;
	series_id last_id;
	struct index index;
	uint64_t seed;
	bool marking;
};

static uint64_t hash_set(uint64_t seed, const struct label_set *set)
{
	uint64_t h = hash_mix(seed, set->count);

	for (size_t i = 0; i < set->count; i++)
		h = hash_mix(h, (uint64_t)set->labels[i].name << 32 | set->labels[i].value);
	return h;
}

static uint64_t hash_of(const void *user, uint32_t position)
{
	const struct labels *t = user;

	return hash_set(t->seed, &t->series[position].set);
}

static bool equal(const struct label_set *a, const struct label_set *b)
{
	return a->count == b->count && !memcmp(a->labels, b->labels, a->count * sizeof(a->labels[0]));
}

int labels_create(struct intern *strings, size_t max_series, struct labels **ret)
{
	struct labels *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->strings = strings;
	t->max = max_series;
	t->seed = hash_seed();
	*ret = t;
	return 0;
}

void labels_destroy(struct labels *t)
{
	if (!t)
		return;
	free(t->series);
	index_deinit(&t->index);
	free(t);
}

struct intern *labels_strings(const struct labels *t)
{
	return t->strings;
}

int label_set_put(struct label_set *set, struct intern *strings, const char *name, const char *value)
{
	struct label label;
	size_t at = 0;
	bool there;
	int r, order = -1;

	while (at < set->count) {
		order = strcmp(name, intern_str(strings, set->labels[at].name));
		if (order <= 0)
			break;
		at++;
	}
	there = at < set->count && order == 0;
	if (!value[0]) {
		if (there) {
			set->count--;
			memmove(&set->labels[at], &set->labels[at + 1], (set->count - at) * sizeof(label));
		}
		return 0;
	}
	if (!there && set->count == LABELS_MAX_PER_SET)
		return -E2BIG;
	r = intern_puts(strings, name, &label.name);
	if (r < 0)
		return r;
	r = intern_puts(strings, value, &label.value);
	if (r < 0)
		return r;
	if (!there) {
		memmove(&set->labels[at + 1], &set->labels[at], (set->count - at) * sizeof(label));
		set->count++;
	}
	set->labels[at] = label;
	return 0;
}

int labels_put(struct labels *t, const struct label_set *set, series_id *ret)
{
	uint64_t hash = hash_set(t->seed, set);
	int r;

	INDEX_EACH(&t->index, hash, i)
	{
		const struct series *s = &t->series[INDEX_ID(&t->index, i)];

		if (equal(&s->set, set)) {
			*ret = s->id;
			return 0;
		}
	}
	if (t->count >= t->max || t->last_id == UINT32_MAX)
		return -ENOSPC;
	if (t->count == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 16;
		struct series *series = realloc(t->series, cap * sizeof(*series));

		if (!series)
			return -ENOMEM;
		t->series = series;
		t->cap = cap;
	}
	r = index_reserve(&t->index, t->count + 1, hash_of, t);
	if (r < 0)
		return r;
	t->series[t->count] = (struct series){.id = ++t->last_id, .marked = t->marking, .set = *set};
	index_insert(&t->index, hash, (uint32_t)t->count);
	t->count++;
	*ret = t->last_id;
	return 0;
}

static struct series *series_find(const struct labels *t, series_id id)
{
	size_t low = 0, high = t->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (t->series[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < t->count && t->series[low].id == id ? &t->series[low] : NULL;
}

const struct label_set *labels_get(const struct labels *t, series_id id)
{
	const struct series *s = series_find(t, id);

	return s ? &s->set : NULL;
}

const char *labels_value(const struct labels *t, series_id id, const char *name)
{
	const struct label_set *set = labels_get(t, id);

	for (size_t i = 0; set && i < set->count; i++)
		if (!strcmp(intern_str(t->strings, set->labels[i].name), name))
			return intern_str(t->strings, set->labels[i].value);
	return "";
}

size_t labels_count(const struct labels *t)
{
	return t->count;
}

void labels_begin_mark(struct labels *t)
{
	for (size_t i = 0; i < t->count; i++)
		t->series[i].marked = false;
	t->marking = true;
}

void labels_mark(struct labels *t, series_id id)
{
	struct series *s = series_find(t, id);

	if (s)
		s->marked = true;
}

void labels_sweep(struct labels *t)
{
	size_t kept = 0;

	if (!t->marking)
		return;
	t->marking = false;
	for (size_t i = 0; i < t->count; i++) {
		if (!t->series[i].marked)
			continue;
		if (kept != i)
			t->series[kept] = t->series[i];
		for (size_t k = 0; k < t->series[kept].set.count; k++) {
			intern_mark(t->strings, t->series[kept].set.labels[k].name);
			intern_mark(t->strings, t->series[kept].set.labels[k].value);
		}
		kept++;
	}
	t->count = kept;
	index_clear(&t->index, kept);
	for (size_t i = 0; i < kept; i++)
		index_insert(&t->index, hash_of(t, (uint32_t)i), (uint32_t)i);
}
