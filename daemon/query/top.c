/* The table of functions or lines: self and total.
 *
 * Each stack is walked once; a row that stands several times in it (recursion, inlining) counts once in total, known by
 * the serial number of the stack that touched the row last. Owner: the caller, for the time of one query. */
#include <errno.h>
#include <string.h>

#include "daemon/query/names.h"
#include "daemon/query/nodes.h"
#include "daemon/query/query.h"
#include "daemon/util/index.h"

struct row {
	name_id name;
	intern_id file;
	uint32_t line;
	uint32_t last_stack;
	uint64_t self, total, total_count;
};

/* The rows of one frame's lines: rows_of_frames[first .. first + count). */
struct frame_rows {
	frame_id frame;
	uint32_t first, count;
};

struct table {
	enum top_by by;
	struct names names;
	struct row *rows;
	size_t row_count, row_cap;
	struct index row_index;
	struct frame_rows *frames;
	size_t frame_count, frame_cap;
	struct index frame_index;
	uint32_t *frame_rows;
	size_t frame_rows_count, frame_rows_cap;
};

static void table_deinit(struct table *t)
{
	names_deinit(&t->names);
	free(t->rows);
	free(t->frames);
	free(t->frame_rows);
	index_deinit(&t->row_index);
	index_deinit(&t->frame_index);
}

static uint64_t hash_row(const struct table *t, name_id name, intern_id file, uint32_t line)
{
	if (t->by == TOP_BY_FUNCTION)
		return hash_mix(1, name);
	return hash_mix(hash_mix(1, name), (uint64_t)file << 32 | line);
}

static uint64_t row_hash_of(const void *user, uint32_t id)
{
	const struct table *t = user;

	return hash_row(t, t->rows[id].name, t->rows[id].file, t->rows[id].line);
}

static uint64_t frame_hash_of(const void *user, uint32_t id)
{
	const struct table *t = user;

	return hash_mix(1, t->frames[id].frame);
}

/* Room for one more element of an array; list points to the array's pointer. */
static int grow(void *list, size_t count, size_t *cap, size_t size)
{
	size_t more = *cap ? *cap * 2 : 64;
	void *old, *bigger;

	if (count < *cap)
		return 0;
	/* Copied as bytes: a struct row * must not be read as a void *. */
	memcpy(&old, list, sizeof(old));
	bigger = realloc(old, more * size);
	if (!bigger)
		return -ENOMEM;
	memcpy(list, &bigger, sizeof(bigger));
	*cap = more;
	return 0;
}

static int row_of(struct table *t, name_id name, intern_id file, uint32_t line, uint32_t *ret)
{
	uint64_t hash = hash_row(t, name, file, line);
	int r;

	INDEX_EACH(&t->row_index, hash, i)
	{
		struct row *row = &t->rows[INDEX_ID(&t->row_index, i)];

		if (row->name != name || (t->by == TOP_BY_LINE && (row->file != file || row->line != line)))
			continue;
		/* A function's file may be known in one image and not in another. */
		if (row->file == INTERN_EMPTY) {
			row->file = file;
			row->line = line;
		}
		*ret = INDEX_ID(&t->row_index, i);
		return 0;
	}
	r = grow(&t->rows, t->row_count, &t->row_cap, sizeof(*t->rows));
	if (r < 0)
		return r;
	r = index_reserve(&t->row_index, t->row_count + 1, row_hash_of, t);
	if (r < 0)
		return r;
	t->rows[t->row_count] = (struct row){.name = name, .file = file, .line = line};
	index_insert(&t->row_index, hash, (uint32_t)t->row_count);
	*ret = (uint32_t)t->row_count++;
	return 0;
}

static int add_frame(struct table *t, frame_id id, uint32_t *ret)
{
	const struct frame *f = id ? images_get_frame(t->names.images, id) : NULL;
	uint32_t count = names_line_count(f);
	int r;

	r = grow(&t->frames, t->frame_count, &t->frame_cap, sizeof(*t->frames));
	if (r < 0)
		return r;
	r = index_reserve(&t->frame_index, t->frame_count + 1, frame_hash_of, t);
	if (r < 0)
		return r;
	t->frames[t->frame_count] =
		(struct frame_rows){.frame = id, .first = (uint32_t)t->frame_rows_count, .count = count};
	for (uint32_t i = 0; i < count; i++) {
		const struct frame_line *line = f && i < f->line_count ? &f->lines[i] : NULL;
		uint32_t number = !line ? 0 : t->by == TOP_BY_LINE ? line->line : line->start_line;
		name_id name;
		uint32_t row;

		r = names_line(&t->names, f, i, &name);
		if (r < 0)
			return r;
		r = row_of(t, name, line ? line->file : INTERN_EMPTY, number, &row);
		if (r < 0)
			return r;
		r = grow(&t->frame_rows, t->frame_rows_count, &t->frame_rows_cap, sizeof(*t->frame_rows));
		if (r < 0)
			return r;
		t->frame_rows[t->frame_rows_count++] = row;
	}
	index_insert(&t->frame_index, hash_mix(1, id), (uint32_t)t->frame_count);
	*ret = (uint32_t)t->frame_count++;
	return 0;
}

static int frame_rows_of(struct table *t, frame_id id, uint32_t *ret)
{
	INDEX_EACH(&t->frame_index, hash_mix(1, id), i)
	{
		if (t->frames[INDEX_ID(&t->frame_index, i)].frame == id) {
			*ret = INDEX_ID(&t->frame_index, i);
			return 0;
		}
	}
	return add_frame(t, id, ret);
}

static int add_stack(struct table *t, const struct trie *trie, const struct node_value *v, uint32_t serial)
{
	node_id n = v->node;
	bool leaf = true;

	/* An empty stack is one frame of unknown name. */
	do {
		uint32_t f;
		int r = frame_rows_of(t, n == NODE_ROOT ? 0 : trie_frame(trie, n), &f);

		if (r < 0)
			return r;
		for (uint32_t i = 0; i < t->frames[f].count; i++) {
			struct row *row = &t->rows[t->frame_rows[t->frames[f].first + i]];

			if (leaf)
				row->self += v->value;
			leaf = false;
			if (row->last_stack == serial)
				continue;
			row->last_stack = serial;
			row->total += v->value;
			row->total_count += v->count;
		}
		n = trie_parent(trie, n);
	} while (n != NODE_ROOT);
	return 0;
}

static int by_self(const void *a, const void *b, void *names)
{
	const struct row *x = a, *y = b;
	int order;

	if (x->self != y->self)
		return x->self > y->self ? -1 : 1;
	if (x->total != y->total)
		return x->total > y->total ? -1 : 1;
	order = strcmp(names_str(names, x->name), names_str(names, y->name));
	return order ? order : (x->line > y->line) - (x->line < y->line);
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

static void top_destroyp(struct top **t)
{
	top_destroy(*t);
}

static int make_top(const struct table *t, const struct profile *p, size_t limit, struct top **ret)
{
	_cleanup_(top_destroyp) struct top *top = calloc(1, sizeof(*top));
	size_t count = t->row_count < limit ? t->row_count : limit, own_bytes = 1;
	char *own;

	if (!top)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		if (t->rows[i].name & NAME_LOCAL)
			own_bytes += strlen(names_str(&t->names, t->rows[i].name)) + 1;
	top->rows = calloc(count ? count : 1, sizeof(*top->rows));
	own = top->storage = malloc(own_bytes);
	if (!top->rows || !own)
		return -ENOMEM;
	top->count = count;
	for (size_t i = 0; i < count; i++) {
		const struct row *row = &t->rows[i];
		const char *name = names_str(&t->names, row->name);

		if (row->name & NAME_LOCAL) {
			size_t bytes = strlen(name) + 1;

			memcpy(own, name, bytes);
			name = own;
			own += bytes;
		}
		top->rows[i] = (struct top_row){
			.function = name,
			.file = intern_str(t->names.strings, row->file),
			.line = row->line,
			.self = row->self,
			.total = row->total,
			.self_percent = percent(row->self, p->total),
			.total_percent = percent(row->total, p->total),
			.ci95 = query_ci95(row->total_count, row->total),
		};
	}
	*ret = TAKE_PTR(top);
	return 0;
}

int query_top(const struct profile *p, const struct trie *trie, const struct images *images, struct intern *strings,
	      enum top_by by, size_t limit, struct top **ret)
{
	_cleanup_(table_deinit) struct table t = {.by = by};
	_cleanup_free_ struct node_value *nodes = NULL;
	size_t count;
	int r;

	r = names_init(&t.names, images, strings, false);
	if (r < 0)
		return r;
	r = nodes_of_profile(p, &nodes, &count);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		r = add_stack(&t, trie, &nodes[i], (uint32_t)i + 1);
		if (r < 0)
			return r;
	}
	if (t.row_count)
		qsort_r(t.rows, t.row_count, sizeof(*t.rows), by_self, &t.names);
	return make_top(&t, p, limit, ret);
}

void top_destroy(struct top *t)
{
	if (!t)
		return;
	free(t->rows);
	free(t->storage);
	free(t);
}
