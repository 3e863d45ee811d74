/* Images, and the naming of their frames, see image.h.
 *
 * Loop thread only. An image with pending frames is in `work`, or is `current`. One image at a time is worked on:
 *
 *   idle --(kick, answer, new parser)--> opening (the opener is asked) --> parsing (the parser has the batch) --> idle
 *
 * Opening is left out while the parser still has the image's index (`parser_epoch`). Frames of the batch stay pending
 * until the answer; they are out of the image's list meanwhile, and may be swept: an answer is taken only for a frame
 * that still is what it was. */
#include "daemon/image/image.h"

#include <errno.h>
#include <string.h>

#include "daemon/image/image_internal.h"
#include "daemon/util/clock.h"
#include "daemon/util/log.h"

#define DEFAULT_MAX_IMAGES 16384
#define DEFAULT_MAX_FRAMES 1048576
#define DEFAULT_PARSE_TIMEOUT_NS (10 * NS_PER_S)
#define DEFAULT_PARSER_MEMORY_BYTES (256u << 20)
#define MAX_WAITERS 256
/* A failed image is tried again for a new process, but not at every start of a process. */
#define RETRY_NS (10 * NS_PER_S)
#define MAX_PARSER_DEATHS 2
#define KALLSYMS_MIN_NS (10 * NS_PER_S)
#define KALLSYMS_MAX_NS (300 * NS_PER_S)
/* Failing images are logged one by one up to this many in 10 s, then by the log's own limit. */
#define MAX_FAILURES_LOGGED 20

static const char *const special_names[SPECIAL_COUNT] = {
#define X(sym, name) [SPECIAL_##sym] = name,
	SPECIAL_FRAMES(X)
#undef X
};

static void pump(struct images *t);

static struct timeval timeval_of(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

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

static struct entry *find(const struct images *t, image_id id)
{
	INDEX_EACH(&t->by_id, hash_id(t, id), i)
	{
		struct entry *y = t->entries[INDEX_ID(&t->by_id, i)];

		if (y->image.id == id)
			return y;
	}
	return NULL;
}

static bool is_file(const struct entry *y)
{
	return y->image.id >= IMAGE_FIRST_FILE;
}

static bool same_file(const struct images *t, const struct entry *y, const struct image_key *key)
{
	if (!is_file(y) || y->dev_major != key->dev_major || y->dev_minor != key->dev_minor || y->inode != key->inode)
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
	while (find(t, id))
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

/* --- pending frames --- */

static void check_idle(struct images *t)
{
	if (!t->frames.pending && t->waiter_count && !t->destroying)
		event_active(t->idle, EV_TIMEOUT, 1);
}

static void set_nameless(struct images *t, frame_id id)
{
	struct frame *frame = frames_get(&t->frames, id);

	if (frame && frame->state == FRAME_PENDING)
		frames_set_nameless(&t->frames, frame, frame->offset);
}

static int push_pending(struct images *t, struct entry *y, frame_id id)
{
	if (y->pending_count == y->pending_cap) {
		size_t cap = y->pending_cap ? y->pending_cap * 2 : 16;
		frame_id *pending = realloc(y->pending, cap * sizeof(*pending));

		if (!pending)
			return -ENOMEM;
		y->pending = pending;
		y->pending_cap = cap;
	}
	y->pending[y->pending_count++] = id;
	if (!y->queued && y != t->current) {
		TAILQ_INSERT_TAIL(&t->work, y, link);
		y->queued = true;
	}
	return 0;
}

/* event: what the problem means for the image. */
static void log_problem(struct images *t, struct entry *y, const char *event, const char *problem)
{
	uint64_t now = clock_mono_ns();
	static struct log_site shared;

	if (now - t->failures_since_ns >= RETRY_NS) {
		t->failures_since_ns = now;
		t->failures_logged = 0;
	}
	/* Files of processes that ended before they were read are no one's fault. */
	log_line(t->failures_logged++ < MAX_FAILURES_LOGGED ? &y->log_site : &shared,
		 y->gone ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, "image", "%s path=\"%s\" cause=\"%s\"", event,
		 intern_str(t->strings, y->image.path), problem);
}

/* The end of work on the current image; what was not answered goes back to its list. */
static struct entry *leave_current(struct images *t, bool give_back)
{
	struct entry *y = TAKE_PTR(t->current);

	t->state = WORK_IDLE;
	for (uint32_t i = 0; i < t->batch_count; i++) {
		struct frame *frame = frames_get(&t->frames, t->batch[i]);

		if (!frame || frame->state != FRAME_PENDING || frame->image != y->image.id ||
		    frame->offset != t->offsets[i])
			continue;
		if (!give_back || push_pending(t, y, t->batch[i]))
			set_nameless(t, t->batch[i]);
	}
	t->batch_count = 0;
	if (y->pending_count && !y->queued) {
		TAILQ_INSERT_TAIL(&t->work, y, link);
		y->queued = true;
	}
	return y;
}

static void fail_current(struct images *t, const char *problem)
{
	struct entry *y = leave_current(t, true);

	y->image.state = IMAGE_FAILED;
	y->failed_ns = clock_mono_ns();
	y->deaths = 0;
	y->next_place = 0;
	y->open_error = 0;
	if (intern_puts(t->strings, problem, &y->image.problem))
		y->image.problem = INTERN_EMPTY;
	for (size_t i = 0; i < y->pending_count; i++)
		set_nameless(t, y->pending[i]);
	free(TAKE_PTR(y->pending));
	y->pending_count = y->pending_cap = 0;
	if (y->queued)
		TAILQ_REMOVE(&t->work, y, link);
	y->queued = false;
	log_problem(t, y, "cannot be read", problem);
	check_idle(t);
}

/* --- the parser's answers --- */

static void on_entry(void *user, const struct parser_entry *entry, const char *function, size_t function_len,
		     const char *system_name, size_t system_len)
{
	struct images *t = user;
	frame_id id = t->batch[entry->index];
	struct frame *frame = frames_get(&t->frames, id);
	intern_id names[2];

	if (!t->current || !frame || frame->state != FRAME_PENDING || frame->image != t->current->image.id ||
	    frame->offset != t->offsets[entry->index])
		return;
	if (function_len && !intern_put(t->strings, function, function_len, &names[0]) &&
	    !intern_put(t->strings, system_name, system_len, &names[1]) &&
	    !frames_set_name(&t->frames, frame, entry->address, names[0], names[1])) {
		t->batch_named++;
		return;
	}
	frames_set_nameless(&t->frames, frame, entry->address);
	/* An address that came after the symbols were read: a module loaded since. */
	if (t->current->image.id == IMAGE_KERNEL && !t->fresh && t->missed_count < KALLSYMS_MAX_MISSED)
		t->missed[t->missed_count++] = id;
}

static void after_kallsyms(struct images *t)
{
	uint64_t due;
	struct timeval tv;

	if (t->fresh) {
		bool first = !t->kallsyms_ns;

		t->kallsyms_ns = clock_mono_ns();
		/* Reading them costs; where that brings nothing it is done ever more rarely. */
		if (first || t->batch_named)
			t->kallsyms_interval_ns = KALLSYMS_MIN_NS;
		else if (t->kallsyms_interval_ns < KALLSYMS_MAX_NS / 2)
			t->kallsyms_interval_ns *= 2;
		else
			t->kallsyms_interval_ns = KALLSYMS_MAX_NS;
	}
	if (!t->missed_count || event_pending(t->kernel_retry, EV_TIMEOUT, NULL))
		return;
	due = t->kallsyms_ns + t->kallsyms_interval_ns;
	tv = timeval_of(due > clock_mono_ns() ? due - clock_mono_ns() : 0);
	event_add(t->kernel_retry, &tv);
}

static void on_kernel_retry(evutil_socket_t fd, short what, void *user)
{
	struct images *t = user;
	struct entry *y = find(t, IMAGE_KERNEL);

	(void)fd;
	(void)what;
	for (size_t i = 0; i < t->missed_count; i++) {
		struct frame *frame = frames_get(&t->frames, t->missed[i]);

		if (!frame || frame->image != IMAGE_KERNEL || frame->state != FRAME_NAMELESS)
			continue;
		frames_set_pending(&t->frames, frame);
		if (push_pending(t, y, t->missed[i]))
			set_nameless(t, t->missed[i]);
	}
	t->missed_count = 0;
	y->parser_epoch = 0;
	pump(t);
}

static void take_description(struct images *t, struct entry *y, const struct parser_response *response)
{
	/* Readable in part: what was found is used, what is wrong is told once. */
	if (response->problem[0] && strcmp(response->problem, intern_str(t->strings, y->image.problem)) != 0)
		log_problem(t, y, "is damaged", response->problem);
	y->image.state = IMAGE_READY;
	y->image.has_symbols = response->has_symbols;
	y->image.segment =
		(struct image_segment){response->segment_vaddr, response->segment_offset, response->segment_bytes};
	y->deaths = 0;
	if (intern_puts(t->strings, response->build_id, &y->image.build_id))
		y->image.build_id = INTERN_EMPTY;
	if (intern_puts(t->strings, response->problem, &y->image.problem))
		y->image.problem = INTERN_EMPTY;
	y->parser_epoch = parser_client_epoch(t->parser);
}

static void on_done(void *user, int error, const struct parser_response *response)
{
	struct images *t = user;
	struct entry *y = t->current;

	if (!y)
		return;
	if (error == -ETIMEDOUT) {
		t->parse_timeouts++;
		fail_current(t, "parser timed out");
	} else if (error) {
		if (++y->deaths >= MAX_PARSER_DEATHS)
			fail_current(t, "the parser died over it");
		else
			leave_current(t, true);
	} else if (response->result == PARSER_BAD_IMAGE) {
		fail_current(t, response->problem);
	} else if (response->result == PARSER_NEED_FILE) {
		y->parser_epoch = 0;
		if (t->fresh)
			fail_current(t, "the descriptor was lost");
		else
			leave_current(t, true);
	} else {
		take_description(t, y, response);
		leave_current(t, false);
		if (y->image.id == IMAGE_KERNEL)
			after_kallsyms(t);
	}
	check_idle(t);
	pump(t);
}

static void on_parser_ready(void *user)
{
	pump(user);
}

static const struct parser_client_ops parser_ops = {.entry = on_entry, .done = on_done, .ready = on_parser_ready};

/* --- work --- */

static void take_batch(struct images *t, struct entry *y)
{
	t->batch_count = 0;
	t->batch_named = 0;
	while (y->pending_count && t->batch_count < PARSER_BATCH_MAX) {
		frame_id id = y->pending[--y->pending_count];
		struct frame *frame = frames_get(&t->frames, id);

		if (!frame || frame->state != FRAME_PENDING || frame->image != y->image.id)
			continue;
		t->batch[t->batch_count] = id;
		t->offsets[t->batch_count++] = frame->offset;
	}
	if (!y->pending_count) {
		free(TAKE_PTR(y->pending));
		y->pending_cap = 0;
	}
}

static void parse(struct images *t, int fd)
{
	struct entry *y = t->current;
	int r;

	t->fresh = fd >= 0;
	t->state = WORK_PARSING;
	r = parser_client_send(t->parser, y->image.id == IMAGE_KERNEL ? PARSER_KALLSYMS : PARSER_ELF, y->image.id,
			       t->offsets, t->batch_count, fd);
	/* No parser at the moment: its successor's `ready` starts again. */
	if (r)
		leave_current(t, true);
}

static bool open_next(struct images *t);

static void on_open(void *user, int error, int fd, const struct stat *st)
{
	_cleanup_close_ int owned = fd;
	struct images *t = user;
	struct entry *y = t->current;
	char text[128];

	(void)st;
	if (error == -ECANCELED || t->destroying || !y)
		return;
	if (!error) {
		y->next_place = 0;
		y->open_error = 0;
		parse(t, owned);
		return;
	}
	/* The failure that says most stays; a file system that hangs hangs for every process. */
	if (!y->open_error || y->open_error == -ENOENT || y->open_error == -ESRCH)
		y->open_error = error;
	if (error == -ETIMEDOUT || error == -EIO || !open_next(t)) {
		error = y->open_error;
		y->gone = error == -ENOENT || error == -ESRCH;
		fail_current(t, image_explain_open(error, text, sizeof(text)));
		pump(t);
	}
}

/* Asks for the current image at its next place. false: there is none left. */
static bool open_next(struct images *t)
{
	struct entry *y = t->current;

	while (is_file(y) && y->next_place < PLACES && y->places[y->next_place].path) {
		const struct place *p = &y->places[y->next_place++];
		struct opener_file file = {.pid = p->pid,
					   .start = p->start,
					   .end = p->end,
					   .inode = y->inode,
					   .dev_major = y->dev_major,
					   .dev_minor = y->dev_minor,
					   .path = p->path};
		int r = opener_open_file(t->opener, &file, on_open, t);

		if (!r)
			return true;
		if (!y->open_error)
			y->open_error = r;
	}
	return false;
}

static void start_current(struct images *t)
{
	struct entry *y = t->current;
	_cleanup_close_ int fd = -1;
	char text[128];
	int r;

	if (y->image.state == IMAGE_NEW)
		y->image.state = IMAGE_LOADING;
	if (y->parser_epoch == parser_client_epoch(t->parser)) {
		parse(t, -1);
		return;
	}
	t->state = WORK_OPENING;
	if (y->image.id == IMAGE_KERNEL) {
		r = opener_open_host(t->opener, "/proc/kallsyms", on_open, t);
		if (!r)
			return;
	} else if (y->image.id == IMAGE_VDSO) {
		r = image_copy_vdso(&fd);
		if (!r) {
			parse(t, fd);
			return;
		}
	} else {
		y->next_place = 0;
		y->open_error = 0;
		if (open_next(t))
			return;
		r = y->open_error ? y->open_error : -ENOENT;
	}
	if (r == -EAGAIN) {
		/* The opener is busy: at the next kick. */
		leave_current(t, true);
		return;
	}
	y->gone = r == -ENOENT;
	fail_current(t, image_explain_open(r, text, sizeof(text)));
}

static void pump(struct images *t)
{
	size_t tries = t->entry_count;

	/* Bounded, since a busy opener gives images back to the list. */
	while (!t->destroying && t->state == WORK_IDLE && parser_client_idle(t->parser) && !TAILQ_EMPTY(&t->work) &&
	       tries-- > 0) {
		struct entry *y = TAILQ_FIRST(&t->work);

		TAILQ_REMOVE(&t->work, y, link);
		y->queued = false;
		take_batch(t, y);
		t->current = y;
		if (t->batch_count)
			start_current(t);
		else
			leave_current(t, false);
	}
	check_idle(t);
}

void images_kick(struct images *t)
{
	pump(t);
}

/* --- references --- */

static void retry(struct images *t, struct entry *y)
{
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
		if (push_pending(t, y, id))
			set_nameless(t, id);
	}
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
	}
	if (!y->generation)
		y->generation = key->inode_generation;
	y->image.refs++;
	add_place(y, file);
	retry(t, y);
	*ret = y->image.id;
	return 0;
}

void images_ref_again(struct images *t, image_id id)
{
	struct entry *y = find(t, id);

	if (y)
		y->image.refs++;
}

void images_unref(struct images *t, image_id id)
{
	struct entry *y = find(t, id);

	if (y && y->image.refs)
		y->image.refs--;
}

/* --- frames --- */

int images_frame(struct images *t, image_id image, uint64_t offset, frame_id *ret)
{
	struct entry *y = find(t, image);
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
	if (!y || image == IMAGE_JIT || y->image.state == IMAGE_FAILED || push_pending(t, y, id))
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
	const struct entry *y = find(t, id);

	return y ? &y->image : NULL;
}

const char *images_nameless(const struct images *t, const struct frame *f, char *text, size_t size)
{
	const struct entry *y = find(t, f->image);
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

/* --- waiting --- */

static void waiter_free(struct images *t, struct waiter *w)
{
	TAILQ_REMOVE(&t->waiters, w, link);
	t->waiter_count--;
	event_free(w->timeout);
	free(w);
}

static void call_waiter(struct images *t, struct waiter *w, bool idle)
{
	images_idle_fn *fn = w->fn;
	void *user = w->user;

	waiter_free(t, w);
	fn(user, idle);
}

static void on_wait_timeout(evutil_socket_t fd, short what, void *user)
{
	struct waiter *w = user;

	(void)fd;
	(void)what;
	call_waiter(w->images, w, w->images->frames.pending == 0);
}

static void on_idle(evutil_socket_t fd, short what, void *user)
{
	struct images *t = user;

	(void)fd;
	(void)what;
	while (!t->frames.pending && !TAILQ_EMPTY(&t->waiters))
		call_waiter(t, TAILQ_FIRST(&t->waiters), true);
}

int images_when_idle(struct images *t, uint64_t timeout_ns, images_idle_fn *fn, void *user)
{
	struct timeval tv = timeval_of(timeout_ns);
	struct waiter *w;

	if (t->waiter_count >= MAX_WAITERS)
		return -EAGAIN;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->images = t;
	w->fn = fn;
	w->user = user;
	w->timeout = event_new(t->base, -1, 0, on_wait_timeout, w);
	if (!w->timeout || event_add(w->timeout, &tv)) {
		if (w->timeout)
			event_free(w->timeout);
		free(w);
		return -ENOMEM;
	}
	TAILQ_INSERT_TAIL(&t->waiters, w, link);
	t->waiter_count++;
	pump(t);
	return 0;
}

void images_cancel_idle(struct images *t, void *user)
{
	struct waiter *w = TAILQ_FIRST(&t->waiters);

	while (w) {
		struct waiter *next = TAILQ_NEXT(w, link);

		if (w->user == user)
			waiter_free(t, w);
		w = next;
	}
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
	struct entry *y = find(user, frame->image);

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
	check_idle(t);
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
	t->kallsyms_interval_ns = KALLSYMS_MIN_NS;
	TAILQ_INIT(&t->work);
	TAILQ_INIT(&t->waiters);
	frames_init(&t->frames, options->max_frames ? options->max_frames : DEFAULT_MAX_FRAMES);
	t->idle = event_new(base, -1, 0, on_idle, t);
	t->kernel_retry = event_new(base, -1, 0, on_kernel_retry, t);
	if (!t->idle || !t->kernel_retry)
		goto err;
	for (size_t i = 0; i < ARRAY_SIZE(pseudo); i++) {
		r = add_pseudo(t, pseudo[i].id, pseudo[i].name);
		if (r)
			goto err;
	}
	r = parser_client_create(
		base, options->exe, options->parse_timeout_ns ? options->parse_timeout_ns : DEFAULT_PARSE_TIMEOUT_NS,
		options->parser_memory_bytes ? options->parser_memory_bytes : DEFAULT_PARSER_MEMORY_BYTES, &parser_ops,
		t, &t->parser, e);
	if (r)
		goto err;
	t->first_epoch = parser_client_epoch(t->parser);
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
	t->destroying = true;
	if (t->opener)
		opener_cancel(t->opener, t);
	parser_client_destroy(t->parser);
	while (!TAILQ_EMPTY(&t->waiters))
		waiter_free(t, TAILQ_FIRST(&t->waiters));
	for (size_t i = 0; i < t->entry_count; i++)
		entry_free(t->entries[i]);
	free(t->entries);
	index_deinit(&t->by_id);
	index_deinit(&t->by_file);
	frames_deinit(&t->frames);
	if (t->idle)
		event_free(t->idle);
	if (t->kernel_retry)
		event_free(t->kernel_retry);
	free(t);
}
