/* The trie of stacks: (parent, frame) in one array, an index by that pair, a free list, a bit a node for marks.
 *
 * Owner: the loop thread. Cost: 8 bytes a node, at most 25 % spare, 5 to 11 bytes of index, one bit: below 24.
 * Invariants: node 0 is the root, never free, always marked; a free node has frame FRAME_FREE and links the next free
 * node in `parent` (0 = none); the index holds every node but the root and the free ones; a marked node's ancestors are
 * marked. */
#include "daemon/profile/trie.h"

#include <string.h>

#include "daemon/util/cleanup.h"
#include "daemon/util/index.h"

#define FRAME_FREE UINT32_MAX
#define FIRST_CAP 1024

struct node {
	node_id parent;
	frame_id frame;
};

struct trie {
	struct node *nodes;
	uint64_t *marks;
	size_t used, cap; /* nodes in use or free, with the root; allocated, a multiple of 64 */
	size_t count, max;
	node_id free;
	struct index index;
	uint64_t seed;
	bool marking;
};

static uint64_t hash_node(uint64_t seed, node_id parent, frame_id frame)
{
	return hash_mix(hash_mix(seed, parent), frame);
}

static uint64_t hash_of(const void *user, uint32_t id)
{
	const struct trie *t = user;

	return hash_node(t->seed, t->nodes[id].parent, t->nodes[id].frame);
}

static int grow(struct trie *t)
{
	size_t cap = t->cap ? (t->cap + t->cap / 4 + 63) / 64 * 64 : FIRST_CAP;
	struct node *nodes;
	uint64_t *marks;

	marks = realloc(t->marks, cap / 8);
	if (!marks)
		return -ENOMEM;
	t->marks = marks;
	nodes = realloc(t->nodes, cap * sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	memset((char *)marks + t->cap / 8, 0, (cap - t->cap) / 8);
	t->nodes = nodes;
	t->cap = cap;
	return 0;
}

int trie_create(size_t max_nodes, struct trie **ret)
{
	struct trie *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->seed = hash_seed();
	/* Ids are 32 bits and the index stores id + 1. */
	t->max = max_nodes < UINT32_MAX / 2 ? max_nodes : UINT32_MAX / 2;
	if (grow(t) < 0) {
		trie_destroy(t);
		return -ENOMEM;
	}
	t->nodes[NODE_ROOT] = (struct node){0};
	t->used = 1;
	t->marks[0] |= 1;
	*ret = t;
	return 0;
}

void trie_destroy(struct trie *t)
{
	if (!t)
		return;
	free(t->nodes);
	free(t->marks);
	index_deinit(&t->index);
	free(t);
}

static bool is_node(const struct trie *t, node_id n)
{
	return n < t->used && t->nodes[n].frame != FRAME_FREE;
}

static void set_mark(struct trie *t, node_id n, bool on)
{
	uint64_t bit = 1ULL << (n % 64);

	if (on)
		t->marks[n / 64] |= bit;
	else
		t->marks[n / 64] &= ~bit;
}

int trie_child(struct trie *t, node_id parent, frame_id frame, node_id *ret)
{
	uint64_t hash = hash_node(t->seed, parent, frame);
	node_id n;
	int r;

	if (frame == FRAME_FREE || !is_node(t, parent))
		return -EINVAL;
	INDEX_EACH(&t->index, hash, i)
	{
		n = INDEX_ID(&t->index, i);
		if (t->nodes[n].parent == parent && t->nodes[n].frame == frame) {
			*ret = n;
			return 0;
		}
	}
	if (t->count >= t->max)
		return -ENOSPC;
	r = index_reserve(&t->index, t->count + 1, hash_of, t);
	if (r < 0)
		return r;
	if (t->free) {
		n = t->free;
		t->free = t->nodes[n].parent;
	} else {
		if (t->used == t->cap) {
			r = grow(t);
			if (r < 0)
				return r;
		}
		n = (node_id)t->used++;
	}
	t->nodes[n] = (struct node){.parent = parent, .frame = frame};
	t->count++;
	index_insert(&t->index, hash, n);
	/* Made between mark and sweep: stays, and so do its ancestors. */
	set_mark(t, n, false);
	if (t->marking)
		trie_mark(t, n);
	*ret = n;
	return 0;
}

int trie_stack(struct trie *t, const frame_id *frames, size_t count, node_id *ret)
{
	node_id n = NODE_ROOT;

	for (size_t i = 0; i < count; i++) {
		int r = trie_child(t, n, frames[i], &n);

		if (r < 0)
			return r;
	}
	*ret = n;
	return 0;
}

node_id trie_parent(const struct trie *t, node_id n)
{
	return is_node(t, n) ? t->nodes[n].parent : NODE_ROOT;
}

frame_id trie_frame(const struct trie *t, node_id n)
{
	return is_node(t, n) ? t->nodes[n].frame : 0;
}

size_t trie_count(const struct trie *t)
{
	return t->count;
}

size_t trie_bytes(const struct trie *t)
{
	return t->cap * sizeof(*t->nodes) + t->cap / 8 + index_bytes(&t->index);
}

void trie_begin_mark(struct trie *t)
{
	memset(t->marks, 0, t->cap / 8);
	set_mark(t, NODE_ROOT, true);
	t->marking = true;
}

bool trie_marked(const struct trie *t, node_id n)
{
	return is_node(t, n) && t->marks[n / 64] >> (n % 64) & 1;
}

void trie_mark(struct trie *t, node_id n)
{
	if (!is_node(t, n))
		return;
	for (; !trie_marked(t, n); n = t->nodes[n].parent)
		set_mark(t, n, true);
}

void trie_sweep(struct trie *t, struct images *images)
{
	if (!t->marking)
		return;
	t->marking = false;
	for (node_id n = 1; n < t->used; n++) {
		struct node *node = &t->nodes[n];

		if (node->frame == FRAME_FREE)
			continue;
		if (trie_marked(t, n)) {
			images_mark_frame(images, node->frame);
			continue;
		}
		*node = (struct node){.parent = t->free, .frame = FRAME_FREE};
		t->free = n;
		t->count--;
	}
	index_clear(&t->index, t->count);
	for (node_id n = 1; n < t->used; n++)
		if (t->nodes[n].frame != FRAME_FREE)
			index_insert(&t->index, hash_of(t, n), n);
}
