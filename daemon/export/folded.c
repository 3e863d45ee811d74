/* Folded stacks: `root;...;leaf value`, one line a stack of names, sorted by the names from the root on. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/export/flame.h"

/* Deep stacks repeat long names in every line. */
#define FOLDED_MAX_BYTES ((size_t)256 << 20)

struct writer {
	const struct flame *f;
	uint32_t *children; /* node numbers, sorted by (parent, name) */
	uint32_t *first;    /* by parent + 1: where its children begin; one more at the end */
	struct buf path;    /* the stack so far, without the last ';' */
};

static void writer_deinit(struct writer *w)
{
	free(w->children);
	free(w->first);
	buf_deinit(&w->path);
}

static int by_parent_and_name(const void *a, const void *b, void *flame)
{
	const struct flame *f = flame;
	const struct flame_node *x = &f->nodes[*(const uint32_t *)a], *y = &f->nodes[*(const uint32_t *)b];

	/* FLAME_NONE + 1 is 0: roots first. */
	if (x->parent != y->parent)
		return x->parent + 1 < y->parent + 1 ? -1 : 1;
	return strcmp(names_str(&f->names, x->name), names_str(&f->names, y->name));
}

static int sort_children(struct writer *w)
{
	size_t count = w->f->count, at = 0;

	w->children = calloc(count + 1, sizeof(*w->children));
	w->first = calloc(count + 2, sizeof(*w->first));
	if (!w->children || !w->first)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		w->children[i] = (uint32_t)i;
	qsort_r(w->children, count, sizeof(*w->children), by_parent_and_name, (void *)(uintptr_t)w->f);
	for (size_t parent = 0; parent <= count; parent++) {
		w->first[parent] = (uint32_t)at;
		while (at < count && w->f->nodes[w->children[at]].parent + 1 == parent)
			at++;
	}
	w->first[count + 1] = (uint32_t)at;
	return 0;
}

static void cut(struct buf *b, size_t len)
{
	if (b->data && len <= b->len) {
		b->len = len;
		b->data[len] = '\0';
	}
}

/* Depth first without recursion: `next` walks the children of the node that the path ends with; going up, the path is
 * cut by the name's length. */
static int write_all(struct writer *w, struct buf *out, struct err *e)
{
	uint32_t node = FLAME_NONE, next = w->first[0];
	size_t start = out->len;
	_cleanup_free_ uint32_t *resume = calloc(w->f->count + 1, sizeof(*resume));

	if (!resume)
		return err_set(e, -ENOMEM, "export: out of memory");
	for (;;) {
		const struct flame_node *n;

		if (next == w->first[(size_t)(uint32_t)(node + 1) + 1]) {
			size_t name;

			if (node == FLAME_NONE)
				return 0;
			n = &w->f->nodes[node];
			name = strlen(names_str(&w->f->names, n->name));
			cut(&w->path, w->path.len - name - (n->parent != FLAME_NONE));
			node = n->parent;
			next = resume[(uint32_t)(node + 1)];
			continue;
		}
		resume[(uint32_t)(node + 1)] = next + 1;
		if (node != FLAME_NONE)
			buf_adds(&w->path, ";");
		node = w->children[next];
		n = &w->f->nodes[node];
		buf_adds(&w->path, names_str(&w->f->names, n->name));
		if (w->path.failed)
			return err_set(e, -ENOMEM, "export: out of memory");
		if (n->self) {
			buf_add(out, w->path.data, w->path.len);
			buf_addf(out, " %" PRIu64 "\n", n->self);
		}
		if (out->len - start > FOLDED_MAX_BYTES)
			return err_set(e, -EFBIG, "export: above %zu MiB; narrow the selector or the time range",
				       FOLDED_MAX_BYTES >> 20);
		next = w->first[(size_t)node + 1];
	}
}

static void flame_destroyp(struct flame **f)
{
	flame_destroy(*f);
}

int export_folded(const struct export_context *c, struct buf *out, struct err *e)
{
	_cleanup_(flame_destroyp) struct flame *f = NULL;
	_cleanup_(writer_deinit) struct writer w = {0};
	int r;

	r = flame_create(c, true, &f, e);
	if (r < 0)
		return r;
	w.f = f;
	r = sort_children(&w);
	if (r < 0)
		return err_set(e, r, "export: out of memory");
	r = write_all(&w, out, e);
	if (r < 0)
		return r;
	return out->failed ? err_set(e, -ENOMEM, "export: out of memory") : 0;
}
