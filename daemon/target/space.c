/* Address spaces: sorted arrays of executable mappings, reference-counted; the table of processes copies one on write.
 * Owned by targets.c, loop thread only.
 *
 * Invariants: maps[i].start < maps[i].end <= maps[i + 1].start; each mapping of a file holds exactly one reference to
 * its image; owner->mappings is the sum of all counts. munmap is not reported, so stale mappings stay until something
 * is mapped over them: nothing executes there. */
#include "daemon/target/space.h"

#include <errno.h>
#include <string.h>

static void image_ref(struct spaces *owner, image_id image)
{
	if (image >= IMAGE_FIRST_FILE)
		images_ref_again(owner->images, image);
}

static void image_unref(struct spaces *owner, image_id image)
{
	if (image >= IMAGE_FIRST_FILE)
		images_unref(owner->images, image);
}

static void changed(struct space *s)
{
	s->version = ++s->owner->last_version;
}

int space_create(struct spaces *owner, enum space_state state, struct space **ret)
{
	struct space *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->owner = owner;
	s->refs = 1;
	s->state = state;
	owner->count++;
	changed(s);
	*ret = s;
	return 0;
}

struct space *space_ref(struct space *s)
{
	s->refs++;
	return s;
}

struct space *space_unref(struct space *s)
{
	if (!s || --s->refs > 0)
		return NULL;
	for (size_t i = 0; i < s->count; i++)
		image_unref(s->owner, s->maps[i].image);
	s->owner->mappings -= s->count;
	s->owner->count--;
	free(s->maps);
	free(s->born_ns);
	free(s);
	return NULL;
}

static int reserve(struct space *s, size_t count)
{
	size_t cap = s->cap ? s->cap : 8;
	struct mapping *maps;
	uint64_t *born_ns;

	if (count <= s->cap)
		return 0;
	while (cap < count)
		cap *= 2;
	maps = realloc(s->maps, cap * sizeof(*maps));
	if (!maps)
		return -ENOMEM;
	s->maps = maps;
	born_ns = realloc(s->born_ns, cap * sizeof(*born_ns));
	if (!born_ns)
		return -ENOMEM;
	s->born_ns = born_ns;
	s->cap = cap;
	return 0;
}

int space_clone(const struct space *s, uint64_t since_ns, struct space **ret)
{
	struct space *copy;
	int r;

	r = space_create(s->owner, s->state, &copy);
	if (r < 0)
		return r;
	r = reserve(copy, s->count);
	if (r < 0) {
		space_unref(copy);
		return r;
	}
	for (size_t i = 0; i < s->count; i++) {
		if (s->born_ns[i] < since_ns)
			continue;
		copy->maps[copy->count] = s->maps[i];
		copy->born_ns[copy->count++] = s->born_ns[i];
		image_ref(s->owner, s->maps[i].image);
	}
	s->owner->mappings += copy->count;
	*ret = copy;
	return 0;
}

/* First mapping that ends after the address. */
static size_t lower_bound(const struct space *s, uint64_t address)
{
	size_t lo = 0, hi = s->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->maps[mid].end > address)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Joins maps[i] and maps[i + 1] where the second continues the first: code generators map page by page. */
static void join(struct space *s, size_t i)
{
	struct mapping *a, *b;

	if (i + 1 >= s->count)
		return;
	a = &s->maps[i];
	b = &s->maps[i + 1];
	if (a->end != b->start || a->image != b->image || a->offset + (a->end - a->start) != b->offset)
		return;
	a->end = b->end;
	if (s->born_ns[i + 1] > s->born_ns[i])
		s->born_ns[i] = s->born_ns[i + 1];
	image_unref(s->owner, b->image);
	memmove(b, b + 1, (s->count - i - 2) * sizeof(*b));
	memmove(&s->born_ns[i + 1], &s->born_ns[i + 2], (s->count - i - 2) * sizeof(*s->born_ns));
	s->count--;
	s->owner->mappings--;
}

int space_insert(struct space *s, const struct mapping *m, uint64_t born_ns)
{
	struct mapping piece[3];
	uint64_t born[3];
	size_t pieces = 0, first, last, count, mine;
	int r = -EINVAL;

	if (m->start >= m->end)
		goto refuse;
	first = lower_bound(s, m->start);
	for (last = first; last < s->count && s->maps[last].start < m->end; last++)
		;
	if (first < last && s->maps[first].start < m->start) {
		piece[pieces] = s->maps[first];
		piece[pieces].end = m->start;
		born[pieces++] = s->born_ns[first];
	}
	mine = pieces;
	piece[pieces] = *m;
	born[pieces++] = born_ns;
	if (first < last && s->maps[last - 1].end > m->end) {
		piece[pieces] = s->maps[last - 1];
		piece[pieces].offset += m->end - piece[pieces].start;
		piece[pieces].start = m->end;
		born[pieces++] = s->born_ns[last - 1];
	}
	count = s->count - (last - first) + pieces;
	if (count > s->owner->max_mappings && count > s->count) {
		s->owner->mappings_full++;
		r = -ENOSPC;
		goto refuse;
	}
	r = reserve(s, count);
	if (r < 0)
		goto refuse;

	/* The remainders get references of their own, then the old ones go. */
	for (size_t i = 0; i < pieces; i++)
		if (i != mine)
			image_ref(s->owner, piece[i].image);
	for (size_t i = first; i < last; i++)
		image_unref(s->owner, s->maps[i].image);
	memmove(&s->maps[first + pieces], &s->maps[last], (s->count - last) * sizeof(*s->maps));
	memmove(&s->born_ns[first + pieces], &s->born_ns[last], (s->count - last) * sizeof(*s->born_ns));
	memcpy(&s->maps[first], piece, pieces * sizeof(*piece));
	memcpy(&s->born_ns[first], born, pieces * sizeof(*born));
	s->owner->mappings += count - s->count;
	s->count = count;
	join(s, first + mine);
	if (first + mine > 0)
		join(s, first + mine - 1);
	changed(s);
	return 0;
refuse:
	image_unref(s->owner, m->image);
	return r;
}

void space_take(struct space *s, struct space *other)
{
	struct mapping *maps = s->maps;
	uint64_t *born_ns = s->born_ns;
	size_t count = s->count, cap = s->cap;

	s->maps = other->maps;
	s->born_ns = other->born_ns;
	s->count = other->count;
	s->cap = other->cap;
	other->maps = maps;
	other->born_ns = born_ns;
	other->cap = cap;
	for (size_t i = 0; i < count; i++)
		image_unref(s->owner, maps[i].image);
	s->owner->mappings -= count;
	other->count = 0;
	changed(s);
	changed(other);
}

int space_lay_over(struct space *s, struct space *older)
{
	for (size_t i = 0; i < s->count; i++) {
		int r;

		image_ref(s->owner, s->maps[i].image);
		r = space_insert(older, &s->maps[i], s->born_ns[i]);
		if (r < 0)
			return r;
	}
	space_take(s, older);
	return 0;
}

bool space_equal(const struct space *a, const struct space *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (a->maps[i].start != b->maps[i].start || a->maps[i].end != b->maps[i].end ||
		    a->maps[i].offset != b->maps[i].offset || a->maps[i].image != b->maps[i].image)
			return false;
	return true;
}

int space_find(const struct space *s, uint64_t address, struct mapping *ret)
{
	size_t i = lower_bound(s, address);

	if (i >= s->count || s->maps[i].start > address)
		return -ENOENT;
	*ret = s->maps[i];
	return 0;
}
