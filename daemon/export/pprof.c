/* pprof: perftools.profiles.Profile, gzipped.
 *
 * A message of protobuf is the concatenation of its fields, and repeated fields of concatenated messages are appended:
 * so the profile is packed and compressed in pieces of some hundred elements, each built in an arena that is reset
 * after it, and the whole never stands in memory. Samples come first; they number locations, functions, mappings and
 * strings, which follow. Owner: the caller, for the time of one export. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <zlib.h>

#include "daemon/export/export.h"
#include "daemon/query/names.h"
#include "daemon/query/query.h"
#include "daemon/util/arena.h"
#include "daemon/util/index.h"
#include "daemon/util/utf8.h"
#include "proto/profile.pb-c.h"

#define PIECE 256
#define STRINGS_MAX_BYTES ((size_t)256 << 20)
#define STACK_MAX 4096
#define PAGE_BYTES 4096ULL
/* windowBits of deflateInit2 that asks for a gzip header. */
#define GZIP_WINDOW_BITS (15 + 16)

typedef Perftools__Profiles__Profile pb_profile;
typedef Perftools__Profiles__Sample pb_sample;
typedef Perftools__Profiles__Label pb_label;
typedef Perftools__Profiles__Mapping pb_mapping;
typedef Perftools__Profiles__Location pb_location;
typedef Perftools__Profiles__Line pb_line;
typedef Perftools__Profiles__Function pb_function;
typedef Perftools__Profiles__ValueType pb_value_type;

/* A sink for protobuf-c that compresses. */
struct sink {
	ProtobufCBuffer base; /* first: protobuf-c hands this back */
	z_stream zip;
	bool started;
	int error;
	struct buf *out;
};

struct function {
	int64_t name, system_name, file, start_line;
};

struct mapping {
	image_id image;
	uint64_t lowest, highest; /* addresses seen */
	bool any_nameless, any_file, any_line, any_inline;
};

/* An array whose element i has the id i + 1, found by content. */
struct numbered {
	void *list;
	size_t count, cap, size;
	struct index index;
};

struct writer {
	const struct export_context *c;
	struct sink sink;
	struct arena arena;
	struct intern *texts; /* ids are positions in the string table */
	struct names names;
	struct numbered locations; /* frame_id */
	struct numbered functions; /* struct function */
	struct numbered mappings;  /* struct mapping */
	int64_t pid_key, comm_key, thread_key;
};

static void sink_deflate(struct sink *s, const uint8_t *data, size_t len, int flush)
{
	unsigned char block[8192];
	int r;

	if (s->error)
		return;
	s->zip.next_in = (unsigned char *)(uintptr_t)data;
	s->zip.avail_in = (unsigned int)len;
	do {
		s->zip.next_out = block;
		s->zip.avail_out = sizeof(block);
		r = deflate(&s->zip, flush);
		if (r == Z_STREAM_ERROR) {
			s->error = -EIO;
			return;
		}
		buf_add(s->out, block, sizeof(block) - s->zip.avail_out);
	} while (s->zip.avail_out == 0 || (flush == Z_FINISH && r != Z_STREAM_END));
}

static void sink_append(ProtobufCBuffer *base, size_t len, const uint8_t *data)
{
	struct sink *s = (struct sink *)base;

	/* zlib counts in unsigned int; nothing here is that long, but a cut would be silent. */
	if (len > UINT32_MAX)
		s->error = -EFBIG;
	else
		sink_deflate(s, data, len, Z_NO_FLUSH);
}

static int sink_start(struct sink *s, struct buf *out)
{
	s->base.append = sink_append;
	s->out = out;
	/* A low level: the stacks repeat so much that higher ones cost time and save little. */
	if (deflateInit2(&s->zip, 3, Z_DEFLATED, GZIP_WINDOW_BITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	s->started = true;
	return 0;
}

static void writer_deinit(struct writer *w)
{
	struct numbered *all[] = {&w->locations, &w->functions, &w->mappings};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		free(all[i]->list);
		index_deinit(&all[i]->index);
	}
	if (w->sink.started)
		deflateEnd(&w->sink.zip);
	arena_deinit(&w->arena);
	names_deinit(&w->names);
	intern_destroy(w->texts);
}

/* Appends *element, whose hash is not in the index yet. */
static int numbered_append(struct numbered *n, uint64_t hash, index_hash_fn *hash_of, const void *element)
{
	int r;

	if (n->count == n->cap) {
		size_t cap = n->cap ? n->cap * 2 : 128;
		void *list = realloc(n->list, cap * n->size);

		if (!list)
			return -ENOMEM;
		n->list = list;
		n->cap = cap;
	}
	r = index_reserve(&n->index, n->count + 1, hash_of, n);
	if (r < 0)
		return r;
	memcpy((char *)n->list + n->count * n->size, element, n->size);
	index_insert(&n->index, hash, (uint32_t)n->count);
	n->count++;
	return 0;
}

static int text_bytes(struct writer *w, const char *s, size_t len, int64_t *ret)
{
	_cleanup_(buf_deinit) struct buf repaired = {0};
	intern_id id;
	int r;

	/* Readers refuse a whole profile for one bad byte. */
	if (!utf8_valid(s, len)) {
		utf8_add(&repaired, s, len);
		if (repaired.failed)
			return -ENOMEM;
		s = repaired.data;
		len = repaired.len;
	}
	r = intern_put(w->texts, s, len, &id);
	if (r < 0)
		return r;
	*ret = id;
	return 0;
}

static int text(struct writer *w, const char *s, int64_t *ret)
{
	return text_bytes(w, s, strlen(s), ret);
}

static int text_id(struct writer *w, intern_id id, int64_t *ret)
{
	return text(w, intern_str(w->c->strings, id), ret);
}

/* Functions. */

static uint64_t hash_function(const struct function *f)
{
	return hash_mix(hash_mix(1, (uint64_t)f->name << 32 | (uint64_t)f->system_name),
			(uint64_t)f->file << 32 | (uint64_t)f->start_line);
}

static uint64_t function_hash_of(const void *user, uint32_t id)
{
	const struct numbered *n = user;

	return hash_function((const struct function *)n->list + id);
}

static int function_number(struct writer *w, const struct function *f, uint64_t *ret)
{
	struct numbered *n = &w->functions;
	uint64_t hash = hash_function(f);
	int r;

	INDEX_EACH(&n->index, hash, i)
	{
		const struct function *there = (const struct function *)n->list + INDEX_ID(&n->index, i);

		if (!memcmp(there, f, sizeof(*f))) {
			*ret = INDEX_ID(&n->index, i) + 1ULL;
			return 0;
		}
	}
	r = numbered_append(n, hash, function_hash_of, f);
	if (r < 0)
		return r;
	*ret = n->count;
	return 0;
}

/* Mappings. */

static uint64_t mapping_hash_of(const void *user, uint32_t id)
{
	const struct numbered *n = user;

	return hash_mix(1, ((const struct mapping *)n->list)[id].image);
}

/* 0 for frames that belong to no image. */
static int mapping_number(struct writer *w, image_id image, uint64_t *ret)
{
	const struct mapping fresh = {.image = image, .lowest = UINT64_MAX};
	struct numbered *n = &w->mappings;
	uint64_t hash = hash_mix(1, image);
	int r;

	if (image == IMAGE_NONE || image == IMAGE_SPECIAL) {
		*ret = 0;
		return 0;
	}
	INDEX_EACH(&n->index, hash, i)
	{
		if (((const struct mapping *)n->list)[INDEX_ID(&n->index, i)].image == image) {
			*ret = INDEX_ID(&n->index, i) + 1ULL;
			return 0;
		}
	}
	r = numbered_append(n, hash, mapping_hash_of, &fresh);
	if (r < 0)
		return r;
	*ret = n->count;
	return 0;
}

/* Locations. */

static uint64_t location_hash_of(const void *user, uint32_t id)
{
	const struct numbered *n = user;

	return hash_mix(1, ((const frame_id *)n->list)[id]);
}

static int location_number(struct writer *w, frame_id frame, uint64_t *ret)
{
	struct numbered *n = &w->locations;
	uint64_t hash = hash_mix(1, frame);
	int r;

	INDEX_EACH(&n->index, hash, i)
	{
		if (((const frame_id *)n->list)[INDEX_ID(&n->index, i)] == frame) {
			*ret = INDEX_ID(&n->index, i) + 1ULL;
			return 0;
		}
	}
	r = numbered_append(n, hash, location_hash_of, &frame);
	if (r < 0)
		return r;
	*ret = n->count;
	return 0;
}

/* Lines of a location. A frame without image has its shown name, a nameless one of an image none. */
static int make_lines(struct writer *w, const struct frame *f, pb_location *l, struct mapping *m)
{
	bool special = !f || f->image == IMAGE_SPECIAL || f->image == IMAGE_NONE;
	uint32_t count = !special && !f->line_count ? 0 : names_line_count(f);
	pb_line *lines = arena_alloc(&w->arena, count, sizeof(*lines));

	l->line = arena_alloc(&w->arena, count, sizeof(*l->line));
	if (!lines || !l->line)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const struct frame_line *line = f && i < f->line_count ? &f->lines[i] : NULL;
		struct function function = {0};
		name_id name;
		int r;

		r = names_line(&w->names, f, i, &name);
		if (r == 0)
			r = text(w, names_str(&w->names, name), &function.name);
		function.system_name = function.name;
		if (r == 0 && line && line->system_name != INTERN_EMPTY)
			r = text_id(w, line->system_name, &function.system_name);
		if (r == 0 && line)
			r = text_id(w, line->file, &function.file);
		if (r < 0)
			return r;
		function.start_line = line ? line->start_line : 0;
		perftools__profiles__line__init(&lines[i]);
		r = function_number(w, &function, &lines[i].function_id);
		if (r < 0)
			return r;
		lines[i].line = line ? line->line : 0;
		l->line[i] = &lines[i];
		if (m) {
			m->any_file |= function.file != 0;
			m->any_line |= lines[i].line != 0;
		}
	}
	l->n_line = count;
	if (m) {
		m->any_nameless |= count == 0;
		m->any_inline |= count > 1;
	}
	return 0;
}

static int make_location(struct writer *w, size_t position, pb_location *l)
{
	frame_id id = ((const frame_id *)w->locations.list)[position];
	const struct frame *f = id ? images_get_frame(w->c->images, id) : NULL;
	struct mapping *m = NULL;
	int r;

	perftools__profiles__location__init(l);
	l->id = position + 1;
	r = mapping_number(w, f ? f->image : IMAGE_NONE, &l->mapping_id);
	if (r < 0)
		return r;
	if (l->mapping_id) {
		m = (struct mapping *)w->mappings.list + l->mapping_id - 1;
		l->address = f->address;
		if (f->address < m->lowest)
			m->lowest = f->address;
		if (f->address > m->highest)
			m->highest = f->address;
	}
	return make_lines(w, f, l, m);
}

/* Packing. */

static int flush(struct writer *w, const pb_profile *piece)
{
	perftools__profiles__profile__pack_to_buffer(piece, &w->sink.base);
	arena_reset(&w->arena);
	if (w->sink.out->failed)
		return -ENOMEM;
	return w->sink.error;
}

static pb_label *make_label(struct writer *w, int64_t key)
{
	pb_label *l = arena_alloc(&w->arena, 1, sizeof(*l));

	if (l) {
		perftools__profiles__label__init(l);
		l->key = key;
	}
	return l;
}

static int make_labels(struct writer *w, const struct profile_entry *e, pb_sample *s)
{
	const struct {
		intern_id value;
		int64_t key;
	} texts[] = {{e->comm, w->comm_key}, {e->thread, w->thread_key}};

	s->label = arena_alloc(&w->arena, 3, sizeof(*s->label));
	if (!s->label)
		return -ENOMEM;
	if (e->pid) {
		pb_label *l = make_label(w, w->pid_key);

		if (!l)
			return -ENOMEM;
		l->num = e->pid;
		s->label[s->n_label++] = l;
	}
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		pb_label *l;
		int r;

		if (texts[i].value == INTERN_EMPTY)
			continue;
		l = make_label(w, texts[i].key);
		if (!l)
			return -ENOMEM;
		r = text_id(w, texts[i].value, &l->str);
		if (r < 0)
			return r;
		s->label[s->n_label++] = l;
	}
	return 0;
}

static int make_sample(struct writer *w, const struct profile_entry *e, pb_sample *s)
{
	const struct trie *trie = w->c->trie;
	size_t depth = 0;
	int r;

	perftools__profiles__sample__init(s);
	for (node_id n = e->node; n != NODE_ROOT && depth < STACK_MAX; n = trie_parent(trie, n))
		depth++;
	if (!depth)
		depth = 1;
	s->location_id = arena_alloc(&w->arena, depth, sizeof(*s->location_id));
	s->value = arena_alloc(&w->arena, 2, sizeof(*s->value));
	if (!s->location_id || !s->value)
		return -ENOMEM;
	/* An empty stack is one location of unknown name: frame 0. */
	for (node_id n = e->node; s->n_location_id < depth; n = trie_parent(trie, n)) {
		r = location_number(w, n == NODE_ROOT ? 0 : trie_frame(trie, n), &s->location_id[s->n_location_id]);
		if (r < 0)
			return r;
		s->n_location_id++;
	}
	s->value[0] = (int64_t)e->count;
	s->value[1] = (int64_t)e->value;
	s->n_value = 2;
	return make_labels(w, e, s);
}

static int by_stack_and_labels(const void *a, const void *b)
{
	const struct profile_entry *x = a, *y = b;

	if (x->node != y->node)
		return x->node < y->node ? -1 : 1;
	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	if (x->comm != y->comm)
		return x->comm < y->comm ? -1 : 1;
	return x->thread < y->thread ? -1 : x->thread > y->thread;
}

/* Entries of several series with equal stack and labels are one sample. */
static size_t fold(struct profile_entry *list, size_t count)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (kept && !by_stack_and_labels(&list[kept - 1], &list[i])) {
			list[kept - 1].count += list[i].count;
			list[kept - 1].value += list[i].value;
		} else {
			list[kept++] = list[i];
		}
	}
	return kept;
}

static int write_samples(struct writer *w)
{
	const struct profile *p = w->c->profile;
	_cleanup_free_ struct profile_entry *list = NULL;
	size_t count = 0;

	if (p->entry_count) {
		list = malloc(p->entry_count * sizeof(*list));
		if (!list)
			return -ENOMEM;
		memcpy(list, p->entries, p->entry_count * sizeof(*list));
		qsort(list, p->entry_count, sizeof(*list), by_stack_and_labels);
		count = fold(list, p->entry_count);
	}
	for (size_t i = 0; i < count; i += PIECE) {
		pb_profile piece = PERFTOOLS__PROFILES__PROFILE__INIT;
		pb_sample samples[PIECE], *pointers[PIECE];
		int r;

		piece.sample = pointers;
		for (; piece.n_sample < PIECE && i + piece.n_sample < count; piece.n_sample++) {
			size_t k = piece.n_sample;

			pointers[k] = &samples[k];
			r = make_sample(w, &list[i + k], &samples[k]);
			if (r < 0)
				return r;
		}
		r = flush(w, &piece);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_locations(struct writer *w)
{
	for (size_t i = 0; i < w->locations.count; i += PIECE) {
		pb_profile piece = PERFTOOLS__PROFILES__PROFILE__INIT;
		pb_location locations[PIECE], *pointers[PIECE];
		int r;

		piece.location = pointers;
		for (; piece.n_location < PIECE && i + piece.n_location < w->locations.count; piece.n_location++) {
			size_t k = piece.n_location;

			pointers[k] = &locations[k];
			r = make_location(w, i + k, &locations[k]);
			if (r < 0)
				return r;
		}
		r = flush(w, &piece);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_functions(struct writer *w)
{
	const struct function *list = w->functions.list;

	for (size_t i = 0; i < w->functions.count; i += PIECE) {
		pb_profile piece = PERFTOOLS__PROFILES__PROFILE__INIT;
		pb_function functions[PIECE], *pointers[PIECE];
		int r;

		piece.function = pointers;
		for (; piece.n_function < PIECE && i + piece.n_function < w->functions.count; piece.n_function++) {
			size_t k = piece.n_function;

			pointers[k] = &functions[k];
			perftools__profiles__function__init(&functions[k]);
			functions[k].id = i + k + 1;
			functions[k].name = list[i + k].name;
			functions[k].system_name = list[i + k].system_name;
			functions[k].filename = list[i + k].file;
			functions[k].start_line = list[i + k].start_line;
		}
		r = flush(w, &piece);
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_mapping(struct writer *w, size_t position, pb_mapping *out)
{
	const struct mapping *m = (const struct mapping *)w->mappings.list + position;
	const struct image *image = images_get(w->c->images, m->image);
	int r;

	perftools__profiles__mapping__init(out);
	out->id = position + 1;
	out->has_functions = !m->any_nameless;
	out->has_filenames = m->any_file;
	out->has_line_numbers = m->any_line;
	out->has_inline_frames = m->any_inline;
	if (image && image->segment.bytes) {
		out->memory_start = image->segment.vaddr;
		out->memory_limit = image->segment.vaddr + image->segment.bytes;
		out->file_offset = image->segment.file_offset;
	} else {
		/* The segment is not known. In a file addresses are then file offsets; the kernel has no file. */
		if (m->image < IMAGE_FIRST_FILE)
			out->memory_start = m->lowest / PAGE_BYTES * PAGE_BYTES;
		out->memory_limit = m->highest / PAGE_BYTES * PAGE_BYTES;
		if (out->memory_limit <= UINT64_MAX - PAGE_BYTES)
			out->memory_limit += PAGE_BYTES;
	}
	if (!image)
		return 0;
	r = text_id(w, image->path, &out->filename);
	if (r < 0)
		return r;
	return text_id(w, image->build_id, &out->build_id);
}

/* Files first: readers take the first mapping for the main program. */
static int write_mappings(struct writer *w)
{
	const struct mapping *list = w->mappings.list;

	for (int files = 1; files >= 0; files--) {
		for (size_t i = 0; i < w->mappings.count; i++) {
			pb_profile piece = PERFTOOLS__PROFILES__PROFILE__INIT;
			pb_mapping mapping, *pointer = &mapping;
			int r;

			if ((list[i].image >= IMAGE_FIRST_FILE) != files)
				continue;
			r = make_mapping(w, i, &mapping);
			if (r < 0)
				return r;
			piece.mapping = &pointer;
			piece.n_mapping = 1;
			r = flush(w, &piece);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static void add_comment(struct writer *w, pb_profile *head, int *error, const char *fmt, ...) _printf_(4, 5);

static void add_comment(struct writer *w, pb_profile *head, int *error, const char *fmt, ...)
{
	char line[256];
	va_list args;
	int r;

	if (*error)
		return;
	va_start(args, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	r = text(w, line, &head->comment[head->n_comment]);
	if (r < 0)
		*error = r;
	else
		head->n_comment++;
}

#define COMMENTS_MAX (16 + DROP_CAUSE_COUNT + INCOMPLETE_CAUSE_COUNT)

static int add_comments(struct writer *w, pb_profile *head)
{
	const struct profile *p = w->c->profile;
	double ci95 = query_ci95(p->samples, p->total);
	int error = 0;

	head->comment = arena_alloc(&w->arena, COMMENTS_MAX, sizeof(*head->comment));
	if (!head->comment)
		return -ENOMEM;
	add_comment(w, head, &error, "samples=%" PRIu64, p->samples);
	add_comment(w, head, &error, "total_%s=%" PRIu64, p->type->unit, p->total);
	if (ci95 == ci95)
		add_comment(w, head, &error, "total_ci95_%s=%.0f", p->type->unit, ci95);
	else
		add_comment(w, head, &error, "total_ci95_%s=unknown", p->type->unit);
	add_comment(w, head, &error, "host_ticks=%" PRIu64, p->ticks);
	add_comment(w, head, &error, "host_idle=%" PRIu64, p->idle);
#define X(sym, name, help) add_comment(w, head, &error, "dropped_" name "=%" PRIu64, p->drops[DROP_##sym]);
	DROP_CAUSES(X)
#undef X
#define X(sym, name, help)                                                                                             \
	add_comment(w, head, &error, "incomplete_" name "=%" PRIu64, p->incomplete[INCOMPLETE_##sym]);
	INCOMPLETE_CAUSES(X)
#undef X
	add_comment(w, head, &error, "budget=always-on");
	add_comment(w, head, &error, "mode=sampling");
	add_comment(w, head, &error, "scale_factors=1");
	return error;
}

static int set_value_type(struct writer *w, pb_value_type *v, const char *type, const char *unit)
{
	int r;

	perftools__profiles__value_type__init(v);
	r = text(w, type, &v->type);
	return r < 0 ? r : text(w, unit, &v->unit);
}

static int write_head(struct writer *w)
{
	const struct profile *p = w->c->profile;
	pb_profile head = PERFTOOLS__PROFILES__PROFILE__INIT;
	pb_value_type types[3], *pointers[] = {&types[0], &types[1]};
	int r;

	r = set_value_type(w, &types[0], p->type->count_type, p->type->count_unit);
	if (r == 0)
		r = set_value_type(w, &types[1], p->type->sample_type, p->type->unit);
	if (r == 0)
		r = set_value_type(w, &types[2], p->type->period_type, p->type->period_unit);
	if (r == 0)
		r = add_comments(w, &head);
	if (r < 0)
		return r;
	head.sample_type = pointers;
	head.n_sample_type = ARRAY_SIZE(pointers);
	head.period_type = &types[2];
	head.period = (int64_t)p->period;
	head.time_nanos = (int64_t)p->from_ns;
	head.duration_nanos = (int64_t)(p->until_ns - p->from_ns);
	head.default_sample_type = types[1].type;
	return flush(w, &head);
}

static int write_texts(struct writer *w)
{
	size_t count = intern_count(w->texts);

	for (size_t i = 0; i < count; i += PIECE) {
		pb_profile piece = PERFTOOLS__PROFILES__PROFILE__INIT;
		char *pointers[PIECE];
		int r;

		piece.string_table = pointers;
		for (; piece.n_string_table < PIECE && i + piece.n_string_table < count; piece.n_string_table++)
			pointers[piece.n_string_table] =
				(char *)(uintptr_t)intern_str(w->texts, (intern_id)(i + piece.n_string_table));
		r = flush(w, &piece);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_all(struct writer *w)
{
	static int (*const parts[])(struct writer *) = {
		write_head, write_samples, write_locations, write_functions, write_mappings, write_texts,
	};
	int r;

	r = text(w, "pid", &w->pid_key);
	if (r == 0)
		r = text(w, "comm", &w->comm_key);
	if (r == 0)
		r = text(w, "thread", &w->thread_key);
	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		r = parts[i](w);
	if (r < 0)
		return r;
	sink_deflate(&w->sink, NULL, 0, Z_FINISH);
	if (w->sink.out->failed)
		return -ENOMEM;
	return w->sink.error;
}

int export_pprof(const struct export_context *c, struct buf *out, struct err *e)
{
	_cleanup_(writer_deinit) struct writer w = {
		.c = c,
		.locations = {.size = sizeof(frame_id)},
		.functions = {.size = sizeof(struct function)},
		.mappings = {.size = sizeof(struct mapping)},
	};
	int r;

	r = sink_start(&w.sink, out);
	if (r == 0)
		r = names_init(&w.names, c->images, c->strings, false);
	if (r == 0)
		r = intern_create(STRINGS_MAX_BYTES, &w.texts);
	if (r == 0)
		r = write_all(&w);
	return r < 0 ? err_errno(e, r, "export: the pprof could not be written") : 0;
}
