/* The string table: records in an array by id, an index by content, a free list of swept ids.
 *
 * Owner: the loop thread. Invariants: id 0 is the empty string and is never freed; a free record has text NULL and
 * links the next free id in `len`; without a sweep ids are dense in order of their first put (exporters rely on it);
 * `bytes` counts records, texts and index. */
#include "daemon/util/intern.h"

#include <stdbool.h>
#include <string.h>

#include "daemon/util/cleanup.h"
#include "daemon/util/index.h"

#define ID_MAX (UINT32_MAX / 2)
/* What malloc adds to a text. */
#define TEXT_OVERHEAD_BYTES 8

struct record {
	char *text;
	uint32_t len;
	bool marked;
};

struct intern {
	struct record *records;
	size_t used, cap; /* records in use or free; allocated */
	size_t count;	  /* strings */
	uint32_t free;	  /* first free id; 0 = none */
	struct index index;
	uint64_t seed;
	size_t text_bytes, max_bytes;
	bool marking;
};

static uint64_t hash_text(uint64_t seed, const char *s, size_t len)
{
	uint64_t h = hash_mix(seed, len), word;

	for (; len >= sizeof(word); s += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, s, sizeof(word));
		h = hash_mix(h, word);
	}
	word = 0;
	if (len)
		memcpy(&word, s, len);
	return hash_mix(h, word);
}

static uint64_t hash_of(const void *user, uint32_t id)
{
	const struct intern *t = user;

	return hash_text(t->seed, t->records[id].text, t->records[id].len);
}

int intern_create(size_t max_bytes, struct intern **ret)
{
	struct intern *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->seed = hash_seed();
	t->max_bytes = max_bytes;
	t->cap = 64;
	t->records = calloc(t->cap, sizeof(*t->records));
	if (!t->records || index_reserve(&t->index, 1, hash_of, t) < 0)
		goto no_memory;
	t->records[0].text = calloc(1, 1);
	if (!t->records[0].text)
		goto no_memory;
	t->used = t->count = 1;
	index_insert(&t->index, hash_of(t, INTERN_EMPTY), INTERN_EMPTY);
	*ret = t;
	return 0;
no_memory:
	intern_destroy(t);
	return -ENOMEM;
}

void intern_destroy(struct intern *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->used; i++)
		free(t->records[i].text);
	free(t->records);
	index_deinit(&t->index);
	free(t);
}

static int find(const struct intern *t, const char *s, size_t len, uint64_t hash, intern_id *ret)
{
	INDEX_EACH(&t->index, hash, i)
	{
		const struct record *r = &t->records[INDEX_ID(&t->index, i)];

		if (r->len == len && (!len || !memcmp(r->text, s, len))) {
			*ret = INDEX_ID(&t->index, i);
			return 0;
		}
	}
	return -ENOENT;
}

int intern_find(const struct intern *t, const char *s, size_t len, intern_id *ret)
{
	return find(t, s, len, hash_text(t->seed, s, len), ret);
}

static int grow_records(struct intern *t)
{
	size_t cap = t->cap + t->cap / 2;
	struct record *records;

	if (t->cap >= ID_MAX)
		return -ENOSPC;
	records = realloc(t->records, cap * sizeof(*records));
	if (!records)
		return -ENOMEM;
	t->records = records;
	t->cap = cap;
	return 0;
}

int intern_put(struct intern *t, const char *s, size_t len, intern_id *ret)
{
	uint64_t hash = hash_text(t->seed, s, len);
	_cleanup_free_ char *text = NULL;
	size_t added = len + 1 + TEXT_OVERHEAD_BYTES;
	uint32_t id;
	int r;

	if (!find(t, s, len, hash, ret))
		return 0;
	if (len >= UINT32_MAX || intern_bytes(t) + added > t->max_bytes)
		return -ENOSPC;
	text = malloc(len + 1);
	if (!text)
		return -ENOMEM;
	memcpy(text, s, len);
	text[len] = '\0';
	r = index_reserve(&t->index, t->index.count + 1, hash_of, t);
	if (r < 0)
		return r;
	if (t->free) {
		id = t->free;
		t->free = t->records[id].len;
	} else {
		if (t->used == t->cap) {
			r = grow_records(t);
			if (r < 0)
				return r;
		}
		id = (uint32_t)t->used++;
	}
	t->records[id] = (struct record){.text = TAKE_PTR(text), .len = (uint32_t)len, .marked = t->marking};
	t->text_bytes += added;
	t->count++;
	index_insert(&t->index, hash, id);
	*ret = id;
	return 0;
}

int intern_puts(struct intern *t, const char *s, intern_id *ret)
{
	return intern_put(t, s, strlen(s), ret);
}

const char *intern_str(const struct intern *t, intern_id id)
{
	if (id >= t->used || !t->records[id].text)
		return "";
	return t->records[id].text;
}

size_t intern_bytes(const struct intern *t)
{
	return t->text_bytes + t->cap * sizeof(*t->records) + index_bytes(&t->index);
}

size_t intern_count(const struct intern *t)
{
	return t->count;
}

void intern_begin_mark(struct intern *t)
{
	for (size_t i = 0; i < t->used; i++)
		t->records[i].marked = false;
	t->marking = true;
}

void intern_mark(struct intern *t, intern_id id)
{
	if (id < t->used)
		t->records[id].marked = true;
}

void intern_sweep(struct intern *t)
{
	if (!t->marking)
		return;
	t->marking = false;
	for (uint32_t id = 1; id < t->used; id++) {
		struct record *r = &t->records[id];

		if (!r->text || r->marked)
			continue;
		t->text_bytes -= (size_t)r->len + 1 + TEXT_OVERHEAD_BYTES;
		t->count--;
		free(r->text);
		*r = (struct record){.len = t->free};
		t->free = id;
	}
	index_clear(&t->index, t->count);
	for (uint32_t id = 0; id < t->used; id++)
		if (t->records[id].text)
			index_insert(&t->index, hash_of(t, id), id);
}
