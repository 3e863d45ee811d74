/* The JSON export: names once, stacks as parallel arrays, a parent's number always smaller than its children's. */
#include <errno.h>

#include "daemon/export/flame.h"
#include "daemon/query/query.h"
#include "daemon/util/json_writer.h"

struct dictionary {
	name_id *names; /* by number */
	size_t count;
	uint32_t *of_node; /* number of each node's name */
	struct index index;
};

static void dictionary_deinit(struct dictionary *d)
{
	free(d->names);
	free(d->of_node);
	index_deinit(&d->index);
}

static uint64_t hash_of(const void *user, uint32_t id)
{
	const struct dictionary *d = user;

	return hash_mix(1, d->names[id]);
}

static int number_of(struct dictionary *d, name_id name, uint32_t *ret)
{
	int r;

	INDEX_EACH(&d->index, hash_mix(1, name), i)
	{
		if (d->names[INDEX_ID(&d->index, i)] == name) {
			*ret = INDEX_ID(&d->index, i);
			return 0;
		}
	}
	r = index_reserve(&d->index, d->count + 1, hash_of, d);
	if (r < 0)
		return r;
	d->names[d->count] = name;
	index_insert(&d->index, hash_mix(1, name), (uint32_t)d->count);
	*ret = (uint32_t)d->count++;
	return 0;
}

static int dictionary_init(struct dictionary *d, const struct flame *f)
{
	d->names = calloc(f->count + 1, sizeof(*d->names));
	d->of_node = calloc(f->count + 1, sizeof(*d->of_node));
	if (!d->names || !d->of_node)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++) {
		int r = number_of(d, f->nodes[i].name, &d->of_node[i]);

		if (r < 0)
			return r;
	}
	return 0;
}

static void write_head(struct json_writer *w, const struct profile *p)
{
	static const char *const causes[] = {
#define X(sym, name, help) name,
		DROP_CAUSES(X)
#undef X
	};

	jw_string(w, "type", p->type->id);
	jw_string(w, "unit", p->type->unit);
	jw_uint(w, "total", p->total);
	jw_double(w, "ci95", query_ci95(p->samples, p->total));
	jw_uint(w, "samples", p->samples);
	jw_double(w, "from", (double)p->from_ns / 1e9);
	jw_double(w, "until", (double)p->until_ns / 1e9);
	jw_uint(w, "ticks", p->ticks);
	jw_uint(w, "idle", p->idle);
	jw_object(w, "dropped");
	for (size_t i = 0; i < DROP_CAUSE_COUNT; i++)
		jw_uint(w, causes[i], p->drops[i]);
	jw_object_end(w);
}

static void write_stacks(struct json_writer *w, const struct flame *f, const struct dictionary *d)
{
	jw_array(w, "names");
	for (size_t i = 0; i < d->count; i++)
		jw_string(w, NULL, names_str(&f->names, d->names[i]));
	jw_array_end(w);
	jw_object(w, "stacks");
	jw_array(w, "parent");
	for (size_t i = 0; i < f->count; i++)
		jw_int(w, NULL, f->nodes[i].parent == FLAME_NONE ? -1 : (int64_t)f->nodes[i].parent);
	jw_array_end(w);
	jw_array(w, "name");
	for (size_t i = 0; i < f->count; i++)
		jw_uint(w, NULL, d->of_node[i]);
	jw_array_end(w);
	jw_array(w, "self");
	for (size_t i = 0; i < f->count; i++)
		jw_uint(w, NULL, f->nodes[i].self);
	jw_array_end(w);
	jw_array(w, "total");
	for (size_t i = 0; i < f->count; i++)
		jw_uint(w, NULL, f->nodes[i].total);
	jw_array_end(w);
	jw_array(w, "ci95");
	for (size_t i = 0; i < f->count; i++)
		jw_double(w, NULL, query_ci95(f->nodes[i].count, f->nodes[i].total));
	jw_array_end(w);
	jw_object_end(w);
}

static void flame_destroyp(struct flame **f)
{
	flame_destroy(*f);
}

int export_json(const struct export_context *c, struct buf *out, struct err *e)
{
	_cleanup_(flame_destroyp) struct flame *f = NULL;
	_cleanup_(dictionary_deinit) struct dictionary d = {0};
	struct json_writer w;
	int r;

	r = flame_create(c, false, &f, e);
	if (r < 0)
		return r;
	r = dictionary_init(&d, f);
	if (r < 0)
		return err_set(e, r, "export: out of memory");
	json_writer_init(&w, out);
	jw_object(&w, NULL);
	write_head(&w, c->profile);
	write_stacks(&w, f, &d);
	jw_object_end(&w);
	return out->failed ? err_set(e, -ENOMEM, "export: out of memory") : 0;
}
