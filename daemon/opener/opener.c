/* The daemon's side of the opener: a queue of requests, one of them in flight, and the child's life.
 *
 * Loop thread only. Invariants: `flight` is the request the child works on, it is in no list; `queue` holds requests
 * not sent yet; `done` holds requests whose callback is due with an error, delivered from the loop. A child that dies
 * is started again after a pause that doubles while children die without having answered anything. */
#include "daemon/opener/opener.h"

#include <errno.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/opener/opener_wire.h"
#include "daemon/util/buf.h"
#include "daemon/util/child.h"
#include "daemon/util/clock.h"
#include "daemon/util/log.h"

#define DEFAULT_TIMEOUT_NS (2 * NS_PER_S)
#define DEFAULT_MAX_QUEUED 4096
#define RESTART_MIN_NS (10 * NS_PER_MS)
#define RESTART_MAX_NS (5 * NS_PER_S)
#define STOP_TIMEOUT_NS NS_PER_S
/* A request is sent to a second child when the first one died over it, then it fails. */
#define MAX_ATTEMPTS 2
/* After so many children in a row that answered nothing, requests fail at once instead of waiting. */
#define MAX_SILENT_DEATHS 3

struct request {
	TAILQ_ENTRY(request) link;
	struct opener_wire_request wire;
	opener_file_fn *file_fn; /* one of the two, or neither: cancelled */
	opener_text_fn *text_fn;
	void *user;
	unsigned int attempts;
	int error; /* in `done` */
	struct buf text;
	size_t path_len;
	char path[];
};
TAILQ_HEAD(request_list, request);

struct opener {
	struct event_base *base;
	char *exe;
	uint64_t timeout_ns;
	size_t max_queued;
	struct child child;
	struct event *readable, *timeout, *restart, *deliver;
	struct request *flight;
	struct request_list queue, done;
	size_t queued;
	uint32_t next_id;
	uint64_t restarts;
	uint64_t restart_ns;
	unsigned int silent_deaths;
	bool destroying;
};

static void pump(struct opener *o);

static struct timeval timeval_of(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

static void request_free(struct request *r)
{
	buf_deinit(&r->text);
	free(r);
}

/* Calls back and frees. The descriptor changes hands. */
static void finish(struct request *r, int error, int fd, const struct stat *st)
{
	if (r->file_fn) {
		r->file_fn(r->user, error, error ? -1 : fd, st);
		fd = error ? fd : -1;
	} else if (r->text_fn) {
		r->text_fn(r->user, error, error ? "" : (r->text.data ? r->text.data : ""), error ? 0 : r->text.len);
	}
	if (fd >= 0)
		close(fd);
	request_free(r);
}

static void finish_later(struct opener *o, struct request *r, int error)
{
	r->error = error;
	TAILQ_INSERT_TAIL(&o->done, r, link);
	event_active(o->deliver, EV_TIMEOUT, 1);
}

static void on_deliver(evutil_socket_t fd, short what, void *user)
{
	struct opener *o = user;
	struct request *r;

	(void)fd;
	(void)what;
	while ((r = TAILQ_FIRST(&o->done))) {
		TAILQ_REMOVE(&o->done, r, link);
		finish(r, r->error, -1, NULL);
	}
}

static void fail_queue(struct opener *o, int error)
{
	struct request *r;

	while ((r = TAILQ_FIRST(&o->queue))) {
		TAILQ_REMOVE(&o->queue, r, link);
		o->queued--;
		finish_later(o, r, error);
	}
}

static void on_readable(evutil_socket_t fd, short what, void *user);

static int start_child(struct opener *o, struct err *e)
{
	int r = child_spawn(o->exe, "--internal-opener", &o->child, e);

	if (r)
		return r;
	o->readable = event_new(o->base, o->child.fd, EV_READ | EV_PERSIST, on_readable, o);
	if (!o->readable || event_add(o->readable, NULL)) {
		if (o->readable)
			event_free(TAKE_PTR(o->readable));
		child_kill(&o->child);
		return -ENOMEM;
	}
	return 0;
}

static void drop_child(struct opener *o)
{
	if (o->readable)
		event_free(TAKE_PTR(o->readable));
	child_kill(&o->child);
	event_del(o->timeout);
}

static void restart_after(struct opener *o, uint64_t ns)
{
	struct timeval tv = timeval_of(ns);

	event_add(o->restart, &tv);
}

static void on_restart(evutil_socket_t fd, short what, void *user)
{
	_cleanup_free_ struct err *e = calloc(1, sizeof(*e));
	struct opener *o = user;

	(void)fd;
	(void)what;
	if (o->child.pid > 0)
		return;
	if (start_child(o, e)) {
		log_error("opener", "cannot start cause=\"%s\"", e ? e->text : "out of memory");
		o->restart_ns = o->restart_ns * 2 < RESTART_MAX_NS ? o->restart_ns * 2 : RESTART_MAX_NS;
		restart_after(o, o->restart_ns);
		return;
	}
	o->restarts++;
	pump(o);
}

static void on_death(struct opener *o)
{
	struct request *r = TAKE_PTR(o->flight);

	drop_child(o);
	o->silent_deaths++;
	o->restart_ns = o->silent_deaths == 1 ? RESTART_MIN_NS : o->restart_ns * 2;
	if (o->restart_ns > RESTART_MAX_NS)
		o->restart_ns = RESTART_MAX_NS;
	log_warn("opener", "died in_flight=%d path=\"%s\" restart_in_ms=%llu", r != NULL, r ? r->path : "",
		 (unsigned long long)(o->restart_ns / NS_PER_MS));
	restart_after(o, o->restart_ns);
	if (r && r->attempts < MAX_ATTEMPTS) {
		buf_deinit(&r->text);
		buf_init(&r->text);
		TAILQ_INSERT_HEAD(&o->queue, r, link);
		o->queued++;
	} else if (r) {
		finish_later(o, r, -EIO);
	}
	if (o->silent_deaths >= MAX_SILENT_DEATHS)
		fail_queue(o, -EIO);
}

/* One message of the child. -EAGAIN: none there; -EPIPE: the child is gone or talks nonsense. */
static int receive(struct opener *o)
{
	static union {
		struct opener_wire_response head;
		char bytes[sizeof(struct opener_wire_response) + OPENER_WIRE_TEXT_MAX];
	} s;
	_cleanup_close_ int fd = -1;
	struct request *r = o->flight;
	size_t len = 0;
	int error;

	error = child_recv(o->child.fd, &s, sizeof(s), &len, &fd);
	if (error)
		return error == -EAGAIN ? -EAGAIN : -EPIPE;
	if (len < sizeof(s.head) || !r || s.head.id != r->wire.id)
		return -EPIPE;
	if (len > sizeof(s.head))
		buf_add(&r->text, s.bytes + sizeof(s.head), len - sizeof(s.head));
	if (s.head.more) {
		struct timeval tv = timeval_of(o->timeout_ns);

		event_add(o->timeout, &tv);
		return 0;
	}
	error = s.head.error < 0 ? s.head.error : 0;
	if (!error && r->text.failed)
		error = -ENOMEM;
	if (!error && r->wire.kind != OPENER_READ_PROC && fd < 0)
		error = -EMFILE; /* the descriptor did not fit into our table */
	o->flight = NULL;
	o->silent_deaths = 0;
	event_del(o->timeout);
	pump(o); /* keep the child busy while the callback works */
	finish(r, error, TAKE_FD(fd), error ? NULL : &s.head.st);
	return 0;
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
	struct opener *o = user;

	(void)fd;
	(void)what;
	/* One message a turn: callbacks may be slow and may do anything but destroy. */
	if (receive(o) == -EPIPE)
		on_death(o);
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	_cleanup_free_ struct err *e = calloc(1, sizeof(*e));
	struct opener *o = user;
	struct request *r = o->flight;
	int got;

	(void)fd;
	(void)what;
	/* The loop itself may have been late. */
	got = receive(o);
	if (got == 0)
		return;
	if (got == -EPIPE) {
		on_death(o);
		return;
	}
	if (!r)
		return;
	o->flight = NULL;
	log_warn("opener", "timed out path=\"%s\" pid=%u", r->path, r->wire.pid);
	drop_child(o);
	if (start_child(o, e)) {
		o->restart_ns = RESTART_MIN_NS;
		restart_after(o, o->restart_ns);
	} else {
		o->restarts++;
	}
	pump(o);
	finish(r, -ETIMEDOUT, -1, NULL);
}

/* Sends the next request when the child is free. */
static void pump(struct opener *o)
{
	while (!o->flight && o->child.fd >= 0 && !TAILQ_EMPTY(&o->queue)) {
		struct request *r = TAILQ_FIRST(&o->queue);
		struct iovec iov[2] = {
			{.iov_base = &r->wire, .iov_len = sizeof(r->wire)},
			{.iov_base = r->path, .iov_len = r->path_len},
		};
		struct timeval tv = timeval_of(o->timeout_ns);

		r->wire.id = ++o->next_id;
		/* A failure means that the child is gone: the end of its socket tells so soon. */
		if (child_send(o->child.fd, iov, r->path_len ? 2 : 1, -1))
			return;
		TAILQ_REMOVE(&o->queue, r, link);
		o->queued--;
		r->attempts++;
		o->flight = r;
		event_add(o->timeout, &tv);
	}
}

static int submit(struct opener *o, const struct opener_wire_request *wire, const char *path, opener_file_fn *file_fn,
		  opener_text_fn *text_fn, void *user)
{
	size_t len = path ? strlen(path) : 0;
	struct request *r;

	if (o->destroying)
		return -ECANCELED;
	if (len > OPENER_WIRE_PATH_MAX)
		return -ENAMETOOLONG;
	if (o->queued >= o->max_queued)
		return -EAGAIN;
	r = calloc(1, sizeof(*r) + len + 1);
	if (!r)
		return -ENOMEM;
	r->wire = *wire;
	r->file_fn = file_fn;
	r->text_fn = text_fn;
	r->user = user;
	r->path_len = len;
	if (len)
		memcpy(r->path, path, len);
	buf_init(&r->text);
	if (o->silent_deaths >= MAX_SILENT_DEATHS && o->child.fd < 0) {
		finish_later(o, r, -EIO);
		return 0;
	}
	TAILQ_INSERT_TAIL(&o->queue, r, link);
	o->queued++;
	pump(o);
	return 0;
}

int opener_open_file(struct opener *o, const struct opener_file *file, opener_file_fn *fn, void *user)
{
	struct opener_wire_request wire = {
		.kind = OPENER_OPEN_FILE,
		.pid = file->pid,
		.start = file->start,
		.end = file->end,
		.inode = file->inode,
		.dev_major = file->dev_major,
		.dev_minor = file->dev_minor,
	};

	return submit(o, &wire, file->path, fn, NULL, user);
}

int opener_open_host(struct opener *o, const char *path, opener_file_fn *fn, void *user)
{
	struct opener_wire_request wire = {.kind = OPENER_OPEN_HOST};

	return submit(o, &wire, path, fn, NULL, user);
}

int opener_read_proc(struct opener *o, uint32_t pid, enum proc_file file, opener_text_fn *fn, void *user)
{
	struct opener_wire_request wire = {.kind = OPENER_READ_PROC, .pid = pid, .file = file};

	return submit(o, &wire, NULL, NULL, fn, user);
}

struct sync_read {
	bool done;
	int error;
	char *text;
	size_t len;
};

static void on_sync_read(void *user, int error, const char *text, size_t len)
{
	struct sync_read *s = user;

	s->done = true;
	s->error = error;
	if (error)
		return;
	s->text = malloc(len + 1);
	if (!s->text) {
		s->error = -ENOMEM;
		return;
	}
	memcpy(s->text, text, len);
	s->text[len] = '\0';
	s->len = len;
}

int opener_read_proc_sync(struct opener *o, uint32_t pid, enum proc_file file, char **ret_text, size_t *ret_len)
{
	struct sync_read s = {0};
	int r;

	r = opener_read_proc(o, pid, file, on_sync_read, &s);
	if (r)
		return r;
	while (!s.done)
		if (event_base_loop(o->base, EVLOOP_ONCE)) {
			opener_cancel(o, &s);
			return -ECANCELED;
		}
	if (s.error)
		return s.error;
	*ret_text = s.text;
	*ret_len = s.len;
	return 0;
}

static void cancel_one(struct request *r)
{
	opener_file_fn *file_fn = r->file_fn;
	opener_text_fn *text_fn = r->text_fn;

	r->file_fn = NULL;
	r->text_fn = NULL;
	if (file_fn)
		file_fn(r->user, -ECANCELED, -1, NULL);
	else if (text_fn)
		text_fn(r->user, -ECANCELED, "", 0);
}

static bool cancel_first(struct opener *o, struct request_list *list, const void *user, bool counted)
{
	struct request *r;

	TAILQ_FOREACH (r, list, link)
		if (r->user == user) {
			TAILQ_REMOVE(list, r, link);
			o->queued -= counted;
			cancel_one(r);
			request_free(r);
			return true;
		}
	return false;
}

void opener_cancel(struct opener *o, void *user)
{
	/* Called back at once: the caller is usually about to free what `user` points to. The one in flight stays,
	 * without its callback, until the child has answered. */
	if (o->flight && o->flight->user == user)
		cancel_one(o->flight);
	while (cancel_first(o, &o->queue, user, true) || cancel_first(o, &o->done, user, false))
		;
}

int opener_child_pid(const struct opener *o)
{
	return o->child.pid;
}

uint64_t opener_restarts(const struct opener *o)
{
	return o->restarts;
}

int opener_create(struct event_base *base, const struct opener_options *options, struct opener **ret, struct err *e)
{
	struct opener *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->base = base;
	o->timeout_ns = options && options->timeout_ns ? options->timeout_ns : DEFAULT_TIMEOUT_NS;
	o->max_queued = options && options->max_queued ? options->max_queued : DEFAULT_MAX_QUEUED;
	o->child = (struct child){.pid = -1, .fd = -1};
	TAILQ_INIT(&o->queue);
	TAILQ_INIT(&o->done);
	o->restart_ns = RESTART_MIN_NS;
	o->timeout = event_new(base, -1, 0, on_timeout, o);
	o->restart = event_new(base, -1, 0, on_restart, o);
	o->deliver = event_new(base, -1, 0, on_deliver, o);
	if (options && options->exe)
		o->exe = strdup(options->exe);
	r = -ENOMEM;
	if (!o->timeout || !o->restart || !o->deliver || (options && options->exe && !o->exe))
		goto err;
	r = start_child(o, e);
	if (r)
		goto err;
	*ret = o;
	return 0;
err:
	opener_destroy(o);
	return r;
}

void opener_destroy(struct opener *o)
{
	struct request *r;

	if (!o)
		return;
	o->destroying = true;
	if (o->readable)
		event_free(TAKE_PTR(o->readable));
	child_stop(&o->child, STOP_TIMEOUT_NS);
	if (o->flight)
		finish(TAKE_PTR(o->flight), -ECANCELED, -1, NULL);
	while ((r = TAILQ_FIRST(&o->queue))) {
		TAILQ_REMOVE(&o->queue, r, link);
		finish(r, -ECANCELED, -1, NULL);
	}
	while ((r = TAILQ_FIRST(&o->done))) {
		TAILQ_REMOVE(&o->done, r, link);
		finish(r, -ECANCELED, -1, NULL);
	}
	if (o->timeout)
		event_free(o->timeout);
	if (o->restart)
		event_free(o->restart);
	if (o->deliver)
		event_free(o->deliver);
	free(o->exe);
	free(o);
}
