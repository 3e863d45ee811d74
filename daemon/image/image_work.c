/* Naming of frames and reading of tables: the opener and the parser are kept busy, see image.h.
 *
 * Loop thread only. An image with pending frames is in `work`, one whose table is to be found or compiled in
 * `table_work` (image_table.c), which goes first, or in `slow_table_work`, which goes last; or it is `current`. One
 * image at a time is worked on:
 *
 *   idle --(kick, answer, new parser)--> opening (the opener is asked) --> parsing (the parser has the task) --> idle
 *
 * Opening is left out while the parser still has the image's index (`parser_epoch`) or file (`held_image`). Frames of
 * the batch stay pending until the answer; they are out of the image's list meanwhile, and may be swept: an answer is
 * taken only for a frame that still is what it was. */
#include <errno.h>
#include <string.h>

#include "daemon/image/image_internal.h"
#include "daemon/util/clock.h"

#define DEFAULT_PARSE_TIMEOUT_NS (10 * NS_PER_S)
#define DEFAULT_PARSER_MEMORY_BYTES (256u << 20)
#define MAX_WAITERS 256
#define KALLSYMS_MAX_NS (300 * NS_PER_S)
/* Failing images are logged one by one up to this many in 10 s, then by the log's own limit. */
#define MAX_FAILURES_LOGGED 20

static struct timeval timeval_of(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

/* --- pending frames --- */

void image_check_idle(struct images *t)
{
	if (!t->frames.pending && t->waiter_count && !t->destroying)
		event_active(t->idle, EV_TIMEOUT, 1);
}

void image_set_nameless(struct images *t, frame_id id)
{
	struct frame *frame = frames_get(&t->frames, id);

	if (frame && frame->state == FRAME_PENDING)
		frames_set_nameless(&t->frames, frame, frame->offset);
}

int image_push_pending(struct images *t, struct entry *y, frame_id id)
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

void image_log_problem(struct images *t, struct entry *y, bool quiet, const char *event, const char *problem)
{
	uint64_t now = clock_mono_ns();
	static struct log_site shared;

	if (now - t->failures_since_ns >= RETRY_NS) {
		t->failures_since_ns = now;
		t->failures_logged = 0;
	}
	log_line(t->failures_logged++ < MAX_FAILURES_LOGGED ? &y->log_site : &shared,
		 quiet ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, "image", "%s path=\"%s\" cause=\"%s\"", event,
		 intern_str(t->strings, y->image.path), problem);
}

/* The end of work on the current image; what was not answered goes back to its list. */
static struct entry *leave_current(struct images *t, bool give_back)
{
	struct entry *y = TAKE_PTR(t->current);

	t->state = WORK_IDLE;
	t->task_void = false;
	for (uint32_t i = 0; i < t->batch_count; i++) {
		struct frame *frame = frames_get(&t->frames, t->batch[i]);

		if (!frame || frame->state != FRAME_PENDING || frame->image != y->image.id ||
		    frame->offset != t->offsets[i])
			continue;
		if (!give_back || image_push_pending(t, y, t->batch[i]))
			image_set_nameless(t, t->batch[i]);
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
		image_set_nameless(t, y->pending[i]);
	free(TAKE_PTR(y->pending));
	y->pending_count = y->pending_cap = 0;
	if (y->queued)
		TAILQ_REMOVE(&t->work, y, link);
	y->queued = false;
	image_log_problem(t, y, y->gone, "cannot be read", problem);
	image_check_idle(t);
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
	struct entry *y = image_find(t, IMAGE_KERNEL);

	(void)fd;
	(void)what;
	for (size_t i = 0; i < t->missed_count; i++) {
		struct frame *frame = frames_get(&t->frames, t->missed[i]);

		if (!frame || frame->image != IMAGE_KERNEL || frame->state != FRAME_NAMELESS)
			continue;
		frames_set_pending(&t->frames, frame);
		if (image_push_pending(t, y, t->missed[i]))
			image_set_nameless(t, t->missed[i]);
	}
	t->missed_count = 0;
	y->parser_epoch = 0;
	image_pump(t);
}

static void take_description(struct images *t, struct entry *y, const struct parser_response *response)
{
	/* Readable in part: what was found is used, what is wrong is told once. */
	if (response->problem[0] && strcmp(response->problem, intern_str(t->strings, y->image.problem)) != 0)
		image_log_problem(t, y, y->gone, "is damaged", response->problem);
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

static void table_done(struct images *t, int error, const struct parser_response *response)
{
	bool wanted = !t->task_void;
	struct entry *y = leave_current(t, true);

	if (wanted)
		image_table_done(t, y, t->task, error, response);
}

static void on_done(void *user, int error, const struct parser_response *response)
{
	struct images *t = user;
	struct entry *y = t->current;

	if (!y)
		return;
	if (error || response->result == PARSER_NEED_FILE)
		t->held_image = IMAGE_NONE;
	t->parse_timeouts += error == -ETIMEDOUT;
	if (t->task != TASK_NAMES) {
		table_done(t, error, response);
	} else if (error == -ETIMEDOUT) {
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
	image_check_idle(t);
	image_pump(t);
}

static void on_parser_ready(void *user)
{
	image_pump(user);
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

static enum parser_kind kind_of(enum work_task task, image_id image)
{
	switch (task) {
	case TASK_TABLE_FIND:
		return PARSER_TABLE_FIND;
	case TASK_TABLE_COMPILE:
		return PARSER_TABLE_COMPILE;
	default:
		return image == IMAGE_KERNEL ? PARSER_KALLSYMS : PARSER_ELF;
	}
}

/* The current image cannot be worked on now; it keeps its place. */
static void put_back(struct images *t)
{
	bool table = t->task != TASK_NAMES && !t->task_void;
	struct entry *y = leave_current(t, true);

	if (table)
		image_table_again(t, y);
}

static void parse(struct images *t, int fd)
{
	struct entry *y = t->current;
	int r;

	t->fresh = fd >= 0;
	t->state = WORK_PARSING;
	r = parser_client_send(t->parser, kind_of(t->task, y->image.id), y->image.id, t->offsets, t->batch_count, fd);
	if (r) {
		/* No parser at the moment: its successor's `ready` starts again. */
		put_back(t);
		return;
	}
	t->held_image = t->task == TASK_NAMES ? IMAGE_NONE : y->image.id;
	t->held_epoch = parser_client_epoch(t->parser);
}

static void fail_open(struct images *t, int error)
{
	struct entry *y = t->current;
	bool gone = error == -ENOENT || error == -ESRCH;
	char text[128];
	const char *problem = image_explain_open(error, text, sizeof(text));
	bool table = t->task != TASK_NAMES, wanted = !t->task_void;

	if (table) {
		leave_current(t, true);
		if (wanted)
			image_table_fail(t, y, gone, problem);
	} else {
		y->gone = gone;
		fail_current(t, problem);
	}
}

static bool open_next(struct images *t);

static void on_open(void *user, int error, int fd, const struct stat *st)
{
	_cleanup_close_ int owned = fd;
	struct images *t = user;
	struct entry *y = t->current;

	if (error == -ECANCELED || t->destroying || !y)
		return;
	if (!error) {
		if (t->task != TASK_NAMES)
			image_table_opened(y, st);
		y->next_place = 0;
		y->open_error = 0;
		parse(t, owned);
		return;
	}
	/* The failure that says most stays; a file system that hangs hangs for every process. */
	if (!y->open_error || y->open_error == -ENOENT || y->open_error == -ESRCH)
		y->open_error = error;
	if (error == -ETIMEDOUT || error == -EIO || !open_next(t)) {
		fail_open(t, y->open_error);
		image_pump(t);
	}
}

/* Asks for the current image at its next place. false: there is none left. */
static bool open_next(struct images *t)
{
	struct entry *y = t->current;

	while (image_is_file(y) && y->next_place < PLACES && y->places[y->next_place].path) {
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

/* Does the parser have what the current task needs? */
static bool parser_has_it(const struct images *t)
{
	const struct entry *y = t->current;
	uint64_t epoch = parser_client_epoch(t->parser);

	if (t->task == TASK_NAMES && y->parser_epoch == epoch)
		return true;
	return t->task != TASK_TABLE_FIND && t->held_image == y->image.id && t->held_epoch == epoch;
}

/* false: the opener is busy, try again at the next kick. */
static bool start_current(struct images *t)
{
	struct entry *y = t->current;
	_cleanup_close_ int fd = -1;
	int r;

	if (t->task == TASK_NAMES && y->image.state == IMAGE_NEW)
		y->image.state = IMAGE_LOADING;
	if (parser_has_it(t)) {
		parse(t, -1);
		return true;
	}
	t->state = WORK_OPENING;
	if (y->image.id == IMAGE_KERNEL) {
		r = opener_open_host(t->opener, "/proc/kallsyms", on_open, t);
		if (!r)
			return true;
	} else if (y->image.id == IMAGE_VDSO) {
		r = image_copy_vdso(&fd);
		if (!r) {
			if (t->task != TASK_NAMES)
				image_table_opened(y, NULL);
			parse(t, fd);
			return true;
		}
	} else {
		y->next_place = 0;
		y->open_error = 0;
		if (open_next(t))
			return true;
		r = y->open_error ? y->open_error : -ENOENT;
	}
	if (r == -EAGAIN) {
		put_back(t);
		return false;
	}
	fail_open(t, r);
	return true;
}

static struct entry *next_names(struct images *t)
{
	struct entry *y = TAILQ_FIRST(&t->work);

	if (!y || image_table_holds_names(t))
		return NULL;
	TAILQ_REMOVE(&t->work, y, link);
	y->queued = false;
	take_batch(t, y);
	t->task = TASK_NAMES;
	return y;
}

void image_pump(struct images *t)
{
	/* Bounded, since a busy opener gives images back to the list. */
	size_t tries = 2 * t->entry_count;
	bool tables = true;

	while (!t->destroying && t->state == WORK_IDLE && parser_client_idle(t->parser) && tries-- > 0) {
		struct entry *y = tables ? image_table_next(t, false, &t->task) : NULL;

		if (!y)
			y = next_names(t);
		if (!y && tables && TAILQ_EMPTY(&t->work))
			y = image_table_next(t, true, &t->task);
		if (!y)
			break;
		t->current = y;
		if (t->task == TASK_NAMES && !t->batch_count)
			leave_current(t, false);
		else if (!start_current(t))
			tables = false;
	}
	image_check_idle(t);
}

void images_kick(struct images *t)
{
	image_table_drop_idle(t);
	image_pump(t);
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
	image_pump(t);
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

/* --- life --- */

int image_work_init(struct images *t, const struct images_options *options, struct err *e)
{
	struct parser_client_options parser = {
		.exe = options->exe,
		.timeout_ns = options->parse_timeout_ns ? options->parse_timeout_ns : DEFAULT_PARSE_TIMEOUT_NS,
		.memory_bytes =
			options->parser_memory_bytes ? options->parser_memory_bytes : DEFAULT_PARSER_MEMORY_BYTES,
		.table_seed = options->table_seed ? options->table_seed : hash_seed(),
	};
	int r;

	t->kallsyms_interval_ns = KALLSYMS_MIN_NS;
	TAILQ_INIT(&t->work);
	TAILQ_INIT(&t->waiters);
	t->idle = event_new(t->base, -1, 0, on_idle, t);
	t->kernel_retry = event_new(t->base, -1, 0, on_kernel_retry, t);
	if (!t->idle || !t->kernel_retry)
		return -ENOMEM;
	r = parser_client_create(t->base, &parser, &parser_ops, t, &t->parser, e);
	if (r)
		return r;
	t->first_epoch = parser_client_epoch(t->parser);
	return 0;
}

void image_work_deinit(struct images *t)
{
	t->destroying = true;
	if (t->opener)
		opener_cancel(t->opener, t);
	parser_client_destroy(t->parser);
	while (!TAILQ_EMPTY(&t->waiters))
		waiter_free(t, TAILQ_FIRST(&t->waiters));
	if (t->idle)
		event_free(t->idle);
	if (t->kernel_retry)
		event_free(t->kernel_retry);
}
