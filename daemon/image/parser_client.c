/* The daemon's side of the parser, see parser_client.h. A parser that dies is started again after a pause that doubles
 * while parsers die without having answered. What it says is checked like any foreign input. */
#include "daemon/image/parser_client.h"

#include <errno.h>
#include <string.h>

#include "daemon/util/buf.h"
#include "daemon/util/child.h"
#include "daemon/util/clock.h"
#include "daemon/util/log.h"
#include "daemon/util/utf8.h"

#define RESTART_MIN_NS (10 * NS_PER_MS)
#define RESTART_MAX_NS (5 * NS_PER_S)
#define STOP_TIMEOUT_NS NS_PER_S
/* A table comes in many messages: as many at a time, then the loop has its turn. */
#define MAX_MESSAGES 16
/* Late ones, when time is up: more than the largest table has. */
#define MAX_LATE_MESSAGES 1024
_Static_assert(MAX_LATE_MESSAGES > TABLE_MAX_BYTES / PARSER_PART_BYTES + 1, "a table that is all there counts");

struct parser_client {
	struct event_base *base;
	char *exe;
	uint64_t timeout_ns, memory_bytes, table_seed;
	const struct parser_client_ops *ops;
	void *user;
	struct child child;
	struct event *readable, *timeout, *restart;
	bool in_flight;
	uint32_t id, count, entries_got;
	enum parser_kind kind;
	struct table *table; /* in the making; NULL before its first part, and when there was no memory */
	uint32_t table_bytes, table_got;
	uint64_t epoch;
	uint64_t restart_ns;
	struct buf clean[2];
	union {
		struct parser_response head;
		char bytes[PARSER_MESSAGE_MAX];
	} message;
};

static struct timeval timeval_of(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

static void on_readable(evutil_socket_t fd, short what, void *user);

static int start_child(struct parser_client *p, struct err *e)
{
	struct parser_request config = {
		.kind = PARSER_CONFIG, .memory_bytes = p->memory_bytes, .table_seed = p->table_seed};
	struct iovec iov = {.iov_base = &config, .iov_len = sizeof(config)};
	int r = child_spawn(p->exe, "--internal-parser", &p->child, e);

	if (r)
		return r;
	(void)child_send(p->child.fd, &iov, 1, -1); /* a failure shows as the end of the socket */
	p->readable = event_new(p->base, p->child.fd, EV_READ | EV_PERSIST, on_readable, p);
	if (!p->readable || event_add(p->readable, NULL)) {
		if (p->readable)
			event_free(TAKE_PTR(p->readable));
		child_kill(&p->child);
		return -ENOMEM;
	}
	p->epoch++;
	return 0;
}

static void drop_child(struct parser_client *p)
{
	if (p->readable)
		event_free(TAKE_PTR(p->readable));
	child_kill(&p->child);
	event_del(p->timeout);
}

static void schedule_restart(struct parser_client *p)
{
	struct timeval tv = timeval_of(p->restart_ns);

	event_add(p->restart, &tv);
	p->restart_ns = p->restart_ns * 2 < RESTART_MAX_NS ? p->restart_ns * 2 : RESTART_MAX_NS;
}

static void on_restart(evutil_socket_t fd, short what, void *user)
{
	_cleanup_free_ struct err *e = calloc(1, sizeof(*e));
	struct parser_client *p = user;

	(void)fd;
	(void)what;
	if (start_child(p, e)) {
		log_error("parser", "cannot start cause=\"%s\"", e ? e->text : "out of memory");
		schedule_restart(p);
		return;
	}
	p->ops->ready(p->user);
}

static void fail(struct parser_client *p, int error)
{
	bool in_flight = p->in_flight;

	drop_child(p);
	p->in_flight = false;
	free(TAKE_PTR(p->table));
	log_warn("parser", "%s restart_in_ms=%llu", error == -ETIMEDOUT ? "timed out" : "died",
		 (unsigned long long)(p->restart_ns / NS_PER_MS));
	schedule_restart(p);
	if (in_flight)
		p->ops->done(p->user, error, NULL);
}

/* Control characters would garble terminals and logs. */
static const char *clean_name(struct buf *b, const char *name, size_t *len)
{
	bool good = utf8_valid(name, *len);

	for (size_t i = 0; good && i < *len; i++)
		good = (unsigned char)name[i] >= 0x20 && name[i] != 0x7f;
	if (good)
		return name;
	b->len = 0;
	utf8_add(b, name, *len);
	if (b->failed || !b->data) {
		*len = 0;
		return "";
	}
	for (size_t i = 0; i < b->len; i++)
		if ((unsigned char)b->data[i] < 0x20 || b->data[i] == 0x7f)
			b->data[i] = '?';
	*len = b->len;
	return b->data;
}

static void clean_text(char *text, size_t size)
{
	text[size - 1] = '\0';
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
			*c = '?';
}

static int take_entries(struct parser_client *p, size_t len)
{
	const char *at = p->message.bytes + sizeof(p->message.head), *end = p->message.bytes + len;
	uint32_t entries = p->message.head.entry_count;

	/* Each message brings the answer on, so it ends. */
	if (entries > p->count - p->entries_got || (p->message.head.more && !entries))
		return -EBADMSG;
	p->entries_got += entries;
	for (uint32_t i = 0; i < entries; i++) {
		struct parser_entry entry;
		const char *function, *system_name;
		size_t n, m;

		if ((size_t)(end - at) < sizeof(entry))
			return -EBADMSG;
		memcpy(&entry, at, sizeof(entry));
		at += sizeof(entry);
		n = entry.function_bytes;
		m = entry.system_bytes;
		if (entry.index >= p->count || n > PARSER_NAME_MAX || m > PARSER_NAME_MAX || (size_t)(end - at) < n + m)
			return -EBADMSG;
		function = clean_name(&p->clean[0], at, &n);
		system_name = clean_name(&p->clean[1], at + entry.function_bytes, &m);
		at += entry.function_bytes + entry.system_bytes;
		p->ops->entry(p->user, &entry, function, n, m ? system_name : function, m ? m : n);
	}
	return 0;
}

/* The key becomes the name of a file. */
static bool key_is_sound(char *key)
{
	size_t n;

	key[TABLE_KEY_BYTES - 1] = '\0';
	n = strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789-");
	return n && !key[n];
}

/* Each part goes on where the one before ended, within the size that the first one named, and the last one fills it. */
static int take_table_part(struct parser_client *p, size_t len)
{
	struct parser_response *s = &p->message.head;
	size_t bytes = len - sizeof(*s);

	if (s->result != PARSER_DONE)
		return p->table_got || bytes || s->more ? -EBADMSG : 0;
	if (!p->table_got) {
		if (s->table_bytes < sizeof(struct table) || s->table_bytes > TABLE_MAX_BYTES)
			return -EBADMSG;
		p->table_bytes = s->table_bytes;
		p->table = malloc(p->table_bytes);
	}
	if (!bytes || (s->more && bytes != PARSER_PART_BYTES) || s->entry_count || s->table_bytes != p->table_bytes ||
	    s->table_offset != p->table_got || bytes > p->table_bytes - p->table_got)
		return -EBADMSG;
	if (p->table)
		memcpy((char *)p->table + p->table_got, s + 1, bytes);
	p->table_got += (uint32_t)bytes;
	if (s->more ? p->table_got == p->table_bytes : p->table_got != p->table_bytes || !key_is_sound(s->table_key))
		return -EBADMSG;
	/* Who takes the block over knows its size from its head. */
	return !s->more && p->table && p->table->bytes != p->table_bytes ? -EBADMSG : 0;
}

static int take_content(struct parser_client *p, size_t len)
{
	struct parser_response *s = &p->message.head;

	switch (p->kind) {
	case PARSER_TABLE_FIND:
		return s->more || s->entry_count || (s->result == PARSER_DONE && !key_is_sound(s->table_key)) ? -EBADMSG
													      : 0;
	case PARSER_TABLE_COMPILE:
		return take_table_part(p, len);
	default:
		return take_entries(p, len);
	}
}

/* One message. -EAGAIN: none there; -EPIPE. */
static int receive(struct parser_client *p)
{
	struct parser_response *s = &p->message.head;
	size_t len = 0;
	int r, fd = -1;

	r = child_recv(p->child.fd, &p->message, sizeof(p->message), &len, &fd);
	if (r)
		return r == -EAGAIN ? -EAGAIN : -EPIPE;
	if (fd >= 0)
		close(fd); /* it has none to give */
	if (len < sizeof(*s) || !p->in_flight || s->id != p->id || take_content(p, len))
		return -EPIPE;
	if (s->more)
		return 0;
	clean_text(s->build_id, sizeof(s->build_id));
	clean_text(s->problem, sizeof(s->problem));
	p->in_flight = false;
	p->restart_ns = RESTART_MIN_NS;
	event_del(p->timeout);
	p->ops->done(p->user, 0, s);
	free(TAKE_PTR(p->table)); /* a `done` that sends again comes before its answer */
	return 0;
}

struct table *parser_client_take_table(struct parser_client *p)
{
	return TAKE_PTR(p->table);
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
	struct parser_client *p = user;
	int r, n = 0;

	(void)fd;
	(void)what;
	do
		r = receive(p);
	while (r == 0 && p->in_flight && ++n < MAX_MESSAGES);
	if (r == -EPIPE)
		fail(p, -EPIPE);
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	struct parser_client *p = user;
	int r, n = 0;

	(void)fd;
	(void)what;
	/* The loop itself may have been late: what is there counts. */
	do
		r = receive(p);
	while (r == 0 && p->in_flight && ++n < MAX_LATE_MESSAGES);
	if (r == -EPIPE)
		fail(p, -EPIPE);
	else if (p->in_flight)
		fail(p, -ETIMEDOUT);
}

bool parser_client_idle(const struct parser_client *p)
{
	return p->child.fd >= 0 && !p->in_flight;
}

int parser_client_send(struct parser_client *p, enum parser_kind kind, uint32_t image, const uint64_t *offsets,
		       uint32_t count, int fd)
{
	struct parser_request request = {.kind = kind, .image = image, .count = count, .id = p->id + 1};
	struct iovec iov[2] = {
		{.iov_base = &request, .iov_len = sizeof(request)},
		{.iov_base = (void *)(uintptr_t)offsets, .iov_len = count * sizeof(*offsets)},
	};
	struct timeval tv = timeval_of(p->timeout_ns);
	int r;

	if (!parser_client_idle(p))
		return -EAGAIN;
	r = child_send(p->child.fd, iov, count ? 2 : 1, fd);
	if (r)
		return r;
	p->id++;
	p->count = count;
	p->kind = kind;
	p->table_got = p->table_bytes = p->entries_got = 0;
	p->in_flight = true;
	event_add(p->timeout, &tv);
	return 0;
}

uint64_t parser_client_epoch(const struct parser_client *p)
{
	return p->epoch;
}

int parser_client_pid(const struct parser_client *p)
{
	return p->child.pid;
}

int parser_client_create(struct event_base *base, const struct parser_client_options *options,
			 const struct parser_client_ops *ops, void *user, struct parser_client **ret, struct err *e)
{
	struct parser_client *p = calloc(1, sizeof(*p));
	int r = -ENOMEM;

	if (!p)
		return -ENOMEM;
	p->base = base;
	p->timeout_ns = options->timeout_ns;
	p->memory_bytes = options->memory_bytes;
	p->table_seed = options->table_seed;
	p->ops = ops;
	p->user = user;
	p->child = (struct child){.pid = -1, .fd = -1};
	p->restart_ns = RESTART_MIN_NS;
	p->timeout = event_new(base, -1, 0, on_timeout, p);
	p->restart = event_new(base, -1, 0, on_restart, p);
	p->exe = options->exe ? strdup(options->exe) : NULL;
	if (p->timeout && p->restart && (!options->exe || p->exe))
		r = start_child(p, e);
	if (r) {
		parser_client_destroy(p);
		return r;
	}
	*ret = p;
	return 0;
}

void parser_client_destroy(struct parser_client *p)
{
	if (!p)
		return;
	if (p->readable)
		event_free(p->readable);
	child_stop(&p->child, STOP_TIMEOUT_NS);
	if (p->timeout)
		event_free(p->timeout);
	if (p->restart)
		event_free(p->restart);
	buf_deinit(&p->clean[0]);
	buf_deinit(&p->clean[1]);
	free(p->table);
	free(p->exe);
	free(p);
}
