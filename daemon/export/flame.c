/* Builds the tree of names. Owner: the caller, for the time of one export. Each node of the trie is translated once;
 * `done` remembers which node of the tree it became. */
#include "daemon/export/flame.h"

#include <errno.h>
#include <string.h>

#include "daemon/query/nodes.h"

struct translation {
	node_id node;
	uint32_t flame;
};

struct builder {
	const struct export_context *c;
	struct flame *f;
	struct translation *done;
	size_t done_count, done_cap;
	struct index done_index;
	node_id *path; /* of trie nodes still to be translated, leaf first */
	size_t path_count, path_cap;
};

static void builder_deinit(struct builder *b)
{
	free(b->done);
	free(b->path);
	index_deinit(&b->done_index);
}

static void flame_destroyp(struct flame **f)
{
	flame_destroy(*f);
}

void flame_destroy(struct flame *f)
{
	if (!f)
		return;
	free(f->nodes);
	names_deinit(&f->names);
	index_deinit(&f->index);
	free(f);
}

static uint64_t hash_child(uint32_t parent, name_id name)
{
	return hash_mix(1, (uint64_t)parent << 32 | name);
}

static uint64_t flame_hash_of(const void *user, uint32_t id)
{
	const struct flame *f = user;

	return hash_child(f->nodes[id].parent, f->nodes[id].name);
}

static uint64_t done_hash_of(const void *user, uint32_t id)
{
	const struct builder *b = user;

	return hash_mix(1, b->done[id].node);
}

static int flame_child(struct flame *f, uint32_t parent, name_id name, uint32_t *ret)
{
	uint64_t hash = hash_child(parent, name);
	int r;

	INDEX_EACH(&f->index, hash, i)
	{
		const struct flame_node *n = &f->nodes[INDEX_ID(&f->index, i)];

		if (n->parent == parent && n->name == name) {
			*ret = INDEX_ID(&f->index, i);
			return 0;
		}
	}
	if (f->count >= FLAME_MAX_NODES)
		return -ENOSPC;
	if (f->count == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 256;
		struct flame_node *nodes = realloc(f->nodes, cap * sizeof(*nodes));

		if (!nodes)
			return -ENOMEM;
		f->nodes = nodes;
		f->cap = cap;
	}
	r = index_reserve(&f->index, f->count + 1, flame_hash_of, f);
	if (r < 0)
		return r;
	f->nodes[f->count] = (struct flame_node){.parent = parent, .name = name};
	index_insert(&f->index, hash, (uint32_t)f->count);
	*ret = (uint32_t)f->count++;
	return 0;
}

static bool find_done(const struct builder *b, node_id n, uint32_t *ret)
{
	INDEX_EACH(&b->done_index, hash_mix(1, n), i)
	{
		const struct translation *d = &b->done[INDEX_ID(&b->done_index, i)];

		if (d->node == n) {
			*ret = d->flame;
			return true;
		}
	}
	return false;
}

static int put_done(struct builder *b, node_id n, uint32_t flame)
{
	int r;

	if (b->done_count == b->done_cap) {
		size_t cap = b->done_cap ? b->done_cap * 2 : 256;
		struct translation *done = realloc(b->done, cap * sizeof(*done));

		if (!done)
			return -ENOMEM;
		b->done = done;
		b->done_cap = cap;
	}
	r = index_reserve(&b->done_index, b->done_count + 1, done_hash_of, b);
	if (r < 0)
		return r;
	b->done[b->done_count] = (struct translation){.node = n, .flame = flame};
	index_insert(&b->done_index, hash_mix(1, n), (uint32_t)b->done_count);
	b->done_count++;
	return 0;
}

static int push_path(struct builder *b, node_id n)
{
	if (b->path_count == b->path_cap) {
		size_t cap = b->path_cap ? b->path_cap * 2 : 256;
		node_id *path = realloc(b->path, cap * sizeof(*path));

		if (!path)
			return -ENOMEM;
		b->path = path;
		b->path_cap = cap;
	}
	b->path[b->path_count++] = n;
	return 0;
}

/* The tree's node below parent for a frame: one level a line, the outermost (last) line first. */
static int add_frame(struct builder *b, frame_id id, uint32_t parent, uint32_t *ret)
{
	const struct frame *f = id ? images_get_frame(b->c->images, id) : NULL;

	for (uint32_t i = names_line_count(f); i > 0; i--) {
		name_id name;
		int r;

		r = names_line(&b->f->names, f, i - 1, &name);
		if (r < 0)
			return r;
		r = flame_child(b->f, parent, name, &parent);
		if (r < 0)
			return r;
	}
	*ret = parent;
	return 0;
}

static int translate(struct builder *b, node_id n, uint32_t *ret)
{
	uint32_t at = FLAME_NONE;
	int r;

	/* An empty stack is one frame of unknown name. */
	if (n == NODE_ROOT)
		return add_frame(b, 0, FLAME_NONE, ret);
	b->path_count = 0;
	for (; n != NODE_ROOT && !find_done(b, n, &at); n = trie_parent(b->c->trie, n)) {
		r = push_path(b, n);
		if (r < 0)
			return r;
	}
	while (b->path_count) {
		n = b->path[--b->path_count];
		r = add_frame(b, trie_frame(b->c->trie, n), at, &at);
		if (r < 0)
			return r;
		r = put_done(b, n, at);
		if (r < 0)
			return r;
	}
	*ret = at;
	return 0;
}

static int build(struct builder *b)
{
	_cleanup_free_ struct node_value *values = NULL;
	size_t count;
	int r;

	r = nodes_of_profile(b->c->profile, &values, &count);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		uint32_t at;

		r = translate(b, values[i].node, &at);
		if (r < 0)
			return r;
		b->f->nodes[at].self += values[i].value;
		b->f->nodes[at].total += values[i].value;
		b->f->nodes[at].count += values[i].count;
	}
	for (size_t i = b->f->count; i > 0; i--) {
		const struct flame_node *n = &b->f->nodes[i - 1];

		if (n->parent == FLAME_NONE)
			continue;
		b->f->nodes[n->parent].total += n->total;
		b->f->nodes[n->parent].count += n->count;
	}
	return 0;
}

int flame_create(const struct export_context *c, bool folded, struct flame **ret, struct err *e)
{
	_cleanup_(flame_destroyp) struct flame *f = calloc(1, sizeof(*f));
	_cleanup_(builder_deinit) struct builder b = {.c = c, .f = f};
	int r;

	if (!f)
		return err_set(e, -ENOMEM, "export: out of memory");
	r = names_init(&f->names, c->images, c->strings, folded);
	if (r == 0)
		r = build(&b);
	if (r == -ENOSPC)
		return err_set(e, r, "export: too many stacks; narrow the selector or the time range");
	if (r < 0)
		return err_errno(e, r, "export");
	*ret = TAKE_PTR(f);
	return 0;
}
