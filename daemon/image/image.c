/* Images by identity, their references and frames, see image.h. Loop thread only.
 *
 * Invariant: an entry stays while a process maps it, a frame is in it or work on it is under way; entries move within
 * `entries` at sweeps only. */
#include "daemon/image/image.h"

#include <errno.h>
#include <string.h>

#include "daemon/image/image_internal.h"
#include "daemon/util/clock.h"

#define DEFAULT_MAX_IMAGES 16384
#define DEFAULT_MAX_FRAMES 1048576
#define DEFAULT_TABLE_IDLE_NS (10 * NS_PER_S)

static const char *const special_names[SPECIAL_COUNT] = {
#define X(sym, name) [SPECIAL_##sym] = name,
	SPECIAL_FRAMES(X)
#undef X
#define X(sym, name, help) [SPECIAL_INCOMPLETE + INCOMPLETE_##sym] = "[incomplete: " name "]",
		INCOMPLETE_CAUSES(X)
#undef X
};

/* --- the table of images --- */

static uint64_t hash_id(const struct images *t, image_id id)
{
	return hash_mix(t->seed, id);
}

static uint64_t hash_file(const struct images *t, uint32_t dev_major, uint32_t dev_minor, uint64_t inode)
{
	return hash_mix(hash_mix(t->seed, (uint64_t)dev_major << 32 | dev_minor), inode);
}

static uint64_t id_hash_of(const void *user, uint32_t slot)
{
	const struct images *t = user;

	return hash_id(t, t->entries[slot]->image.id);
}

static uint64_t file_hash_of(const void *user, uint32_t slot)
{
	const struct images *t = user;
	const struct entry *y = t->entries[slot];

	return hash_file(t, y->dev_major, y->dev_minor, y->inode);
}

struct entry *image_find(const struct images *t, image_id id)
{
	INDEX_EACH(&t->by_id, hash_id(t, id), i)
	{
		struct entry *y = t->entries[INDEX_ID(&t->by_id, i)];

		if (y->image.id == id)
			return y;
	}
	return NULL;
}

bool image_is_file(const struct entry *y)
{
	return y->image.id >= IMAGE_FIRST_FILE;
}

static bool same_file(const struct images *t, const struct entry *y, const struct image_key *key)
{
	if (!image_is_file(y) || y->dev_major != key->dev_major || y->dev_minor != key->dev_minor ||
	    y->inode != key->inode)
		return false;
	if (y->generation && key->inode_generation)
		return y->generation == key->inode_generation;
	if (y->image.refs)
		return true;
	/* Nobody has held the inode meanwhile: it may have been given to another file. */
	return y->generation == key->inode_generation && !strcmp(intern_str(t->strings, y->image.path), key->path);
}

static struct entry *find_file(const struct images *t, const struct image_key *key)
{
	INDEX_EACH(&t->by_file, hash_file(t, key->dev_major, key->dev_minor, key->inode), i)
	{
		struct entry *y = t->entries[INDEX_ID(&t->by_file, i)];

		if (same_file(t, y, key))
			return y;
	}
	return NULL;
}

static void entry_free(struct entry *y)
{
	for (size_t i = 0; i < PLACES; i++)
		free(y->places[i].path);
	free(y->table.key);
	free(y->table.block);
	free(y->pending);
	free(y);
}

static int add_entry(struct images *t, struct entry *y)
{
	int r;

	if (t->entry_count == t->entry_cap) {
		size_t cap = t->entry_cap ? t->entry_cap * 2 : 64;
		struct entry **entries = realloc(t->entries, cap * sizeof(*entries));

		if (!entries)
			return -ENOMEM;
		t->entries = entries;
		t->entry_cap = cap;
	}
	r = index_reserve(&t->by_id, t->entry_count + 1, id_hash_of, t);
	if (!r)
		r = index_reserve(&t->by_file, t->entry_count + 1, file_hash_of, t);
	if (r)
		return r;
	t->entries[t->entry_count] = y;
	index_insert(&t->by_id, hash_id(t, y->image.id), (uint32_t)t->entry_count);
	index_insert(&t->by_file, hash_file(t, y->dev_major, y->dev_minor, y->inode), (uint32_t)t->entry_count);
	t->entry_count++;
	return 0;
}

static int add_pseudo(struct images *t, image_id id, const char *name)
{
	struct entry *y = calloc(1, sizeof(*y));
	int r;

	if (!y)
		return -ENOMEM;
	y->image.id = id;
	y->image.refs = 1;
	r = intern_puts(t->strings, name, &y->image.path);
	if (!r)
		r = add_entry(t, y);
	if (r)
		entry_free(y);
	return r;
}

static image_id free_id(struct images *t)
{
	image_id id = t->next_id;

	/* Ids are given out again as late as possible: a stack may still carry an old one. */
	while (image_find(t, id))
		id = id >= IMAGE_MAX ? IMAGE_FIRST_FILE : id + 1;
	t->next_id = id >= IMAGE_MAX ? IMAGE_FIRST_FILE : id + 1;
	return id;
}

static void add_place(struct entry *y, const struct opener_file *file)
{
	char *path;

	if (!file || !file->path)
		return;
	if (y->places[0].path && y->places[0].pid == file->pid && y->places[0].start == file->start)
		return;
	path = strdup(file->path);
	if (!path)
		return; /* the older places have to do */
	free(y->places[PLACES - 1].path);
	memmove(y->places + 1, y->places, (PLACES - 1) * sizeof(*y->places));
	y->places[0] = (struct place){file->pid, file->start, file->end, path};
}

/* --- references --- */

static void retry(struct images *t, struct entry *y)
{
	image_table_retry(y);
	if (y->image.state != IMAGE_FAILED || y == t->current)
		return;
	if (!y->gone && clock_mono_ns() - y->failed_ns < RETRY_NS)
		return;
	y->image.state = IMAGE_NEW;
	y->image.problem = INTERN_EMPTY;
	y->gone = false;
	y->parser_epoch = 0;
	if (!y->frame_count)
		return;
	for (frame_id id = 1; id < t->frames.end; id++) {
		struct frame *frame = frames_get(&t->frames, id);

		if (!frame || frame->image != y->image.id || frame->state != FRAME_NAMELESS)
			continue;
		frames_set_pending(&t->frames, frame);
		if (image_push_pending(t, y, id))
			image_set_nameless(t, id);
	}
}

static void add_ref(struct images *t, struct entry *y)
{
	if (!y->image.refs++)
		image_table_ref(t, y);
}

int images_ref(struct images *t, const struct image_key *key, const struct opener_file *file, image_id *ret)
{
	struct entry *y = find_file(t, key);
	int r;

	if (!y) {
		if (t->entry_count >= t->max_images) {
			t->images_full++;
			return -ENOSPC;
		}
		y = calloc(1, sizeof(*y));
		if (!y)
			return -ENOMEM;
		y->image.id = free_id(t);
		y->dev_major = key->dev_major;
		y->dev_minor = key->dev_minor;
		y->inode = key->inode;
		y->generation = key->inode_generation;
		r = intern_puts(t->strings, key->path, &y->image.path);
		if (!r)
			r = add_entry(t, y);
		if (r) {
			entry_free(y);
			return r;
		}
	} else if (!y->image.refs && !y->generation) {
		/* Same name, same inode, but perhaps written anew: further frames are looked up in today's file. */
		y->parser_epoch = 0;
		image_table_doubt(t, y);
	}
	if (!y->generation)
		y->generation = key->inode_generation;
	add_ref(t, y);
	add_place(y, file);
	retry(t, y);
	*ret = y->image.id;
	return 0;
}

void images_ref_again(struct images *t, image_id id)
{
	struct entry *y = image_find(t, id);

	if (y)
		add_ref(t, y);
}

void images_unref(struct images *t, image_id id)
{
	struct entry *y = image_find(t, id);

	if (y && y->image.refs && !--y->image.refs)
		image_table_unref(t, y);
}

/* --- frames --- */

int images_frame(struct images *t, image_id image, uint64_t offset, frame_id *ret)
{
	struct entry *y = image_find(t, image);
	struct frame *frame;
	frame_id id;
	bool is_new;
	int r;

	if (image == IMAGE_SPECIAL && offset < SPECIAL_COUNT)
		return images_special_frame(t, (enum special_frame)offset, ret);
	/* Also an image that was dropped meanwhile. */
	if (!y)
		image = IMAGE_NONE;
	if (image == IMAGE_NONE && offset == FRAME_FREE)
		offset--;
	r = frames_put(&t->frames, image, offset, &id, &is_new);
	if (r) {
		t->frames_full += r == -ENOSPC;
		return r;
	}
	*ret = id;
	if (!is_new)
		return 0;
	frame = frames_get(&t->frames, id);
	if (y)
		y->frame_count++;
	if (!y || image == IMAGE_JIT || y->image.state == IMAGE_FAILED || image_push_pending(t, y, id))
		frames_set_nameless(&t->frames, frame, offset);
	return 0;
}

int images_special_frame(struct images *t, enum special_frame which, frame_id *ret)
{
	struct frame *frame;
	intern_id name;
	frame_id id;
	bool is_new;
	int r;

	if ((unsigned int)which >= SPECIAL_COUNT)
		return -EINVAL;
	r = intern_puts(t->strings, special_names[which], &name);
	if (r)
		return r;
	r = frames_put(&t->frames, IMAGE_SPECIAL, which, &id, &is_new);
	if (r) {
		t->frames_full += r == -ENOSPC;
		return r;
	}
	frame = frames_get(&t->frames, id);
	if (frame->state != FRAME_NAMED) {
		r = frames_set_name(&t->frames, frame, 0, name, name);
		if (r) {
			frames_set_nameless(&t->frames, frame, 0);
			return r;
		}
	}
	*ret = id;
	return 0;
}

const struct frame *images_get_frame(const struct images *t, frame_id id)
{
	static const struct frame none = {.state = FRAME_NAMELESS};
	const struct frame *frame = frames_get(&t->frames, id);

	return frame ? frame : &none;
}

const struct image *images_get(const struct images *t, image_id id)
{
	const struct entry *y = image_find(t, id);

	return y ? &y->image : NULL;
}

const char *images_nameless(const struct images *t, const struct frame *f, char *text, size_t size)
{
	const struct entry *y = image_find(t, f->image);
	const char *path = y ? intern_str(t->strings, y->image.path) : "", *base = strrchr(path, '/');

	switch (f->image) {
	case IMAGE_KERNEL:
		snprintf(text, size, "[kernel]");
		break;
	case IMAGE_VDSO:
		snprintf(text, size, "[vdso]");
		break;
	case IMAGE_JIT:
		snprintf(text, size, "[jit]");
		break;
	default:
		snprintf(text, size, "[%s]", base && base[1] ? base + 1 : path[0] ? path : "unknown");
	}
	return text;
}

/* --- mark and sweep --- */

void images_begin_mark(struct images *t)
{
	frames_begin_mark(&t->frames);
}

void images_mark_frame(struct images *t, frame_id id)
{
	frames_mark(&t->frames, id);
}

static void on_frame_dropped(void *user, const struct frame *frame)
{
	struct entry *y = image_find(user, frame->image);

	if (y && y->frame_count)
		y->frame_count--;
}

void images_sweep(struct images *t)
{
	size_t kept = 0;

	frames_sweep(&t->frames, t->strings, on_frame_dropped, t);
	for (size_t i = 0; i < t->entry_count; i++) {
		struct entry *y = t->entries[i];
		bool unused = !y->image.refs && !y->frame_count && y != t->current;

		/* Samples on their way may still name an image that lost its last process just now. */
		if (unused && y->unused_before) {
			image_table_drop(t, y);
			if (y->queued)
				TAILQ_REMOVE(&t->work, y, link);
			entry_free(y);
			continue;
		}
		y->unused_before = unused;
		intern_mark(t->strings, y->image.path);
		intern_mark(t->strings, y->image.build_id);
		intern_mark(t->strings, y->image.problem);
		t->entries[kept++] = y;
	}
	t->entry_count = kept;
	index_clear(&t->by_id, kept);
	index_clear(&t->by_file, kept);
	for (size_t i = 0; i < kept; i++) {
		index_insert(&t->by_id, id_hash_of(t, (uint32_t)i), (uint32_t)i);
		index_insert(&t->by_file, file_hash_of(t, (uint32_t)i), (uint32_t)i);
	}
	image_check_idle(t);
}

void images_get_stats(const struct images *t, struct images_stats *ret)
{
	*ret = (struct images_stats){
		.frames = t->frames.count,
		.frames_pending = t->frames.pending,
		.frames_nameless = t->frames.nameless,
		.parser_restarts = parser_client_epoch(t->parser) - t->first_epoch,
		.opener_restarts = opener_restarts(t->opener),
		.parse_timeouts = t->parse_timeouts,
		.images_full = t->images_full,
		.frames_full = t->frames_full,
		.tables_waiting = t->tables_waiting,
		.tables_compiled = t->tables_compiled,
		.tables_cached = t->tables_cached,
		.tables_none = t->tables_none,
		.tables_failed = t->tables_failed,
		.tables_dropped = t->tables_dropped,
		.table_losses = t->table_losses,
		.parser_pid = parser_client_pid(t->parser),
	};
	for (size_t i = 0; i < t->entry_count; i++)
		ret->by_state[t->entries[i]->image.state]++;
}

/* --- life --- */

int images_create(struct event_base *base, struct opener *opener, struct intern *strings,
		  const struct images_options *options, struct images **ret, struct err *e)
{
	static const struct images_options none;
	static const struct {
		image_id id;
		const char *name;
	} pseudo[] = {{IMAGE_KERNEL, "[kernel.kallsyms]"}, {IMAGE_VDSO, "[vdso]"}, {IMAGE_JIT, "[jit]"}};
	struct images *t = calloc(1, sizeof(*t));
	int r = -ENOMEM;

	if (!t)
		return err_set(e, -ENOMEM, "no memory for the image table");
	if (!options)
		options = &none;
	t->base = base;
	t->opener = opener;
	t->strings = strings;
	t->seed = hash_seed();
	t->next_id = IMAGE_FIRST_FILE;
	t->max_images = (options->max_images ? options->max_images : DEFAULT_MAX_IMAGES) + ARRAY_SIZE(pseudo);
	t->table_idle_ns = options->table_idle_ns ? options->table_idle_ns : DEFAULT_TABLE_IDLE_NS;
	TAILQ_INIT(&t->table_work);
	TAILQ_INIT(&t->slow_table_work);
	TAILQ_INIT(&t->idle_tables);
	frames_init(&t->frames, options->max_frames ? options->max_frames : DEFAULT_MAX_FRAMES);
	for (size_t i = 0; i < ARRAY_SIZE(pseudo); i++) {
		r = add_pseudo(t, pseudo[i].id, pseudo[i].name);
		if (r)
			goto err;
	}
	r = image_work_init(t, options, e);
	if (r)
		goto err;
	*ret = t;
	return 0;
err:
	images_destroy(t);
	return r;
}

void images_destroy(struct images *t)
{
	if (!t)
		return;
	image_work_deinit(t);
	for (size_t i = 0; i < t->entry_count; i++)
		entry_free(t->entries[i]);
	free(t->entries);
	index_deinit(&t->by_id);
	index_deinit(&t->by_file);
	frames_deinit(&t->frames);
	free(t);
}
