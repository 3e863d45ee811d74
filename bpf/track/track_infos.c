#include "bpf/track/track_infos.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/util/index.h"

#define FIXED 2 /* UNWIND_INFO_NONE, UNWIND_INFO_INVALID */
#define NO_SLOT UINT32_MAX

/* Free: no refs, no free_at_ns, and in the list of free ones. Resting: no refs. */
struct slot {
	struct unwind_info value;
	uint32_t refs;
	uint32_t next_free;
	uint64_t free_at_ns;
};

struct infos {
	int map_fd;
	uint64_t grace_ns, seed;
	struct unwind_info *map; /* NULL: not mapped now */
	struct slot *slots;	 /* by index in the map; the first FIXED are never in use */
	uint32_t slot_count, slot_cap;
	uint32_t first_free, live, resting;
	uint64_t wake_ns;   /* nothing that rests is done before */
	struct index index; /* of live and resting ones, by value */
};

static uint64_t hash_value(const struct infos *t, struct unwind_info value)
{
	uint64_t bits;

	_Static_assert(sizeof(bits) == sizeof(value), "an info is one word");
	memcpy(&bits, &value, sizeof(bits));
	return hash_mix(t->seed, bits);
}

static uint64_t hash_slot(const void *user, uint32_t id)
{
	const struct infos *t = user;

	return hash_value(t, t->slots[id].value);
}

static int map_infos(struct infos *t)
{
	void *map;

	if (t->map)
		return 0;
	map = mmap(NULL, UNWIND_MAX_INFOS * sizeof(*t->map), PROT_READ | PROT_WRITE, MAP_SHARED, t->map_fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	t->map = map;
	return 0;
}

int infos_create(int map_fd, uint64_t grace_ns, struct infos **ret)
{
	struct infos *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->map_fd = map_fd;
	t->grace_ns = grace_ns;
	t->seed = hash_seed();
	t->first_free = NO_SLOT;
	t->slot_count = FIXED;
	t->slot_cap = 256;
	t->slots = calloc(t->slot_cap, sizeof(*t->slots));
	r = t->slots ? map_infos(t) : -ENOMEM;
	if (r) {
		infos_destroy(t);
		return r;
	}
	t->map[UNWIND_INFO_NONE] = (struct unwind_info){0};
	t->map[UNWIND_INFO_INVALID] = (struct unwind_info){.rules = UNWIND_CFA_INVALID};
	infos_settle(t);
	*ret = t;
	return 0;
}

void infos_destroy(struct infos *t)
{
	if (!t)
		return;
	infos_settle(t);
	free(t->slots);
	index_deinit(&t->index);
	free(t);
}

void infos_settle(struct infos *t)
{
	if (t->map)
		munmap(t->map, UNWIND_MAX_INFOS * sizeof(*t->map));
	t->map = NULL;
}

static int free_slot(struct infos *t, uint64_t now_ns, uint32_t *ret)
{
	if (t->first_free == NO_SLOT)
		infos_wake(t, now_ns);
	if (t->first_free != NO_SLOT) {
		*ret = t->first_free;
		t->first_free = t->slots[*ret].next_free;
		return 0;
	}
	if (t->slot_count == UNWIND_MAX_INFOS)
		return -ENOSPC;
	if (t->slot_count == t->slot_cap) {
		struct slot *grown = realloc(t->slots, (size_t)t->slot_cap * 2 * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		t->slots = grown;
		t->slot_cap *= 2;
	}
	*ret = t->slot_count++;
	return 0;
}

int infos_ref(struct infos *t, struct unwind_info value, uint64_t now_ns, uint16_t *ret)
{
	uint64_t hash = hash_value(t, value);
	struct slot *s;
	uint32_t id;
	int r;

	if ((value.rules & 15) == UNWIND_CFA_NONE || (value.rules & 15) == UNWIND_CFA_INVALID) {
		*ret = (value.rules & 15) == UNWIND_CFA_NONE ? UNWIND_INFO_NONE : UNWIND_INFO_INVALID;
		return 0;
	}
	INDEX_EACH(&t->index, hash, i)
	{
		s = &t->slots[INDEX_ID(&t->index, i)];
		if (memcmp(&s->value, &value, sizeof(value)) != 0)
			continue;
		if (!s->refs++) {
			s->free_at_ns = 0;
			t->resting--;
			t->live++;
		}
		*ret = (uint16_t)INDEX_ID(&t->index, i);
		return 0;
	}
	r = map_infos(t);
	if (!r)
		r = index_reserve(&t->index, t->index.count + 1, hash_slot, t);
	if (!r)
		r = free_slot(t, now_ns, &id);
	if (r)
		return r;
	t->slots[id] = (struct slot){.value = value, .refs = 1};
	t->map[id] = value;
	t->live++;
	index_insert(&t->index, hash, id);
	*ret = (uint16_t)id;
	return 0;
}

void infos_unref(struct infos *t, uint16_t info, uint64_t now_ns)
{
	struct slot *s = &t->slots[info];

	if (info < FIXED || --s->refs)
		return;
	t->live--;
	if (!t->resting++ || now_ns + t->grace_ns < t->wake_ns)
		t->wake_ns = now_ns + t->grace_ns;
	s->free_at_ns = now_ns + t->grace_ns;
}

void infos_wake(struct infos *t, uint64_t now_ns)
{
	uint32_t freed = 0;

	if (!t->resting || now_ns < t->wake_ns)
		return;
	t->wake_ns = UINT64_MAX;
	for (uint32_t i = FIXED; i < t->slot_count; i++) {
		struct slot *s = &t->slots[i];

		if (s->refs || !s->free_at_ns)
			continue;
		if (s->free_at_ns > now_ns) {
			if (s->free_at_ns < t->wake_ns)
				t->wake_ns = s->free_at_ns;
			continue;
		}
		*s = (struct slot){.next_free = t->first_free};
		t->first_free = i;
		freed++;
	}
	if (!freed)
		return;
	t->resting -= freed;
	index_clear(&t->index, t->live + t->resting + 1); /* and the one that is being added */
	for (uint32_t i = FIXED; i < t->slot_count; i++)
		if (t->slots[i].refs || t->slots[i].free_at_ns)
			index_insert(&t->index, hash_slot(t, i), i);
}

uint32_t infos_count(const struct infos *t)
{
	return FIXED + t->live;
}

uint32_t infos_spare(const struct infos *t)
{
	return UNWIND_MAX_INFOS - FIXED - t->live;
}
