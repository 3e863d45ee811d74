/* The control server: connections, framing, limits. Owner: the loop thread; nothing here blocks.
 *
 * A client is in one state at a time:
 *   reading    waits for a whole message (half_timer runs while there is half a one)
 *   waiting    asked something that depends on samples; service_when_ready calls back
 *   streaming  a reply a second, until the client goes
 *   flushing   a reply is on its way out; the next message is taken once all of it is out
 *   ending     as flushing or lingering, and then the connection is closed
 * Invariants: at most one message of a client is in work; a client's output is empty when the next message is taken,
 * so it holds at most one reply; a client in `waiting` is cancelled with the service before it is freed. */
#include "daemon/control/control.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "daemon/control/auth.h"
#include "daemon/control/control_test.h"
#include "daemon/control/listen.h"
#include "daemon/control/message.h"
#include "daemon/control/methods.h"
#include "daemon/util/clock.h"
#include "daemon/util/log.h"

#define DEFAULT_MAX_CLIENTS 128
#define DEFAULT_MAX_MESSAGE_BYTES (1024 * 1024)
#define DEFAULT_IDLE_TIMEOUT_NS (10 * NS_PER_S)
/* What all clients together may have waiting for them; a single reply may pass it. */
#define OUTPUT_TOTAL_MAX_BYTES (128u << 20)
/* Peers that are being told that they may not: few, and not for long, so that they can't keep others out. */
#define REFUSED_MAX 16
#define REFUSED_LINGER_NS NS_PER_S
#define STREAM_INTERVAL_NS NS_PER_S
#define ACCEPT_PAUSE_NS (100 * NS_PER_MS)

enum client_state { CLIENT_READING, CLIENT_WAITING, CLIENT_STREAMING, CLIENT_FLUSHING, CLIENT_ENDING };

struct client {
	LIST_ENTRY(client) link;
	struct control *control;
	struct bufferevent *bev;
	struct event *half_timer; /* half a message, or lingering */
	struct event *turn_timer; /* next message at the next turn of the loop; a stream's next reply */
	enum client_state state;
	bool refused;
	bool eof;	       /* it sends no more, but may still read */
	size_t searched_bytes; /* of the input, known to hold no NUL */
	struct message call;   /* the one in work; root NULL = none */
	const struct method *method;
};

struct control {
	struct event_base *base;
	struct service *service;
	struct control_options options;
	struct listen_socket socket;
	struct evconnlistener *listener;
	struct event *accept_timer; /* accepts again after a pause */
	control_allow_fn *allow;
	gid_t group;
	LIST_HEAD(, client) clients;
	size_t client_count, refused_count;
};

static struct timeval timeval_of(uint64_t ns)
{
	return (struct timeval){.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};
}

static void client_destroy(struct client *c)
{
	if (!c)
		return;
	if (c->state == CLIENT_WAITING)
		service_cancel(c->control->service, c);
	LIST_REMOVE(c, link);
	if (c->refused)
		c->control->refused_count--;
	else
		c->control->client_count--;
	message_deinit(&c->call);
	if (c->half_timer)
		event_free(c->half_timer);
	if (c->turn_timer)
		event_free(c->turn_timer);
	if (c->bev)
		bufferevent_free(c->bev);
	free(c);
}

static void set_timer(struct event *timer, uint64_t ns)
{
	struct timeval tv = timeval_of(ns);

	(void)event_add(timer, &tv);
}

static bool output_empty(const struct client *c)
{
	return evbuffer_get_length(bufferevent_get_output(c->bev)) == 0;
}

/* Sends what is in out, unless the call wanted no reply. False: the client is gone. */
static bool client_send(struct client *c, struct buf *out)
{
	bool failed = out->failed;
	int r = 0;

	if (!failed && out->len)
		r = bufferevent_write(c->bev, out->data, out->len);
	buf_deinit(out);
	if (!failed && r >= 0)
		return true;
	/* Half a reply would be worse than none. */
	log_error("control", "reply_dropped reason=no_memory");
	client_destroy(c);
	return false;
}

/* The call in work is answered: once its reply is out, the next message is taken. */
static void client_finish(struct client *c)
{
	message_deinit(&c->call);
	c->method = NULL;
	c->state = CLIENT_FLUSHING;
	/* With nothing to write there is no write callback; and one turn of the loop a message keeps a client that
	 * pipelines thousands from holding up the others. */
	if (output_empty(c))
		set_timer(c->turn_timer, 0);
}

/* One last message, then the end. */
static void client_end(struct client *c, struct buf *out)
{
	message_deinit(&c->call);
	(void)event_del(c->turn_timer);
	(void)event_del(c->half_timer);
	c->state = CLIENT_ENDING;
	if (!client_send(c, out))
		return;
	if (output_empty(c))
		client_destroy(c);
}

static size_t output_total(const struct control *control)
{
	const struct client *c;
	size_t total = 0;

	LIST_FOREACH (c, &control->clients, link)
		total += evbuffer_get_length(bufferevent_get_output(c->bev));
	return total;
}

static void client_answer(struct client *c)
{
	bool streams = method_streams(c->method, &c->call);
	struct buf out;

	buf_init(&out);
	method_answer(c->method, c->control->service, c->call.parameters, streams, &out);
	if (c->call.oneway)
		buf_deinit(&out);
	if (!client_send(c, &out))
		return;
	if (!streams || c->call.oneway) {
		client_finish(c);
		return;
	}
	c->state = CLIENT_STREAMING;
	set_timer(c->turn_timer, STREAM_INTERVAL_NS);
}

static void on_ready(void *user)
{
	struct client *c = user;

	c->state = CLIENT_FLUSHING; /* nothing to cancel any more */
	client_answer(c);
}

static void client_call(struct client *c)
{
	struct buf out;
	int r;

	buf_init(&out);
	if (method_find(&c->call, &c->method, &out) < 0)
		goto refuse;
	if (output_total(c->control) > OUTPUT_TOTAL_MAX_BYTES) {
		message_error(&out, CONTROL_INTERFACE ".Busy", "message",
			      "too many replies wait for their readers; try again in a moment");
		goto refuse;
	}
	if (!method_waits(c->method)) {
		client_answer(c);
		return;
	}
	c->state = CLIENT_WAITING;
	r = service_when_ready(c->control->service, on_ready, c);
	if (r >= 0)
		return;
	c->state = CLIENT_FLUSHING;
	if (r == -EAGAIN)
		message_error(&out, CONTROL_INTERFACE ".Busy", "message",
			      "too many requests wait for their samples; try again in a moment");
	else
		message_error(&out, CONTROL_INTERFACE ".Failed", "message", strerror(-r));
refuse:
	if (c->call.oneway)
		buf_deinit(&out);
	if (client_send(c, &out))
		client_finish(c);
}

/* Finds the NUL that ends the next message; -EAGAIN when it is not there yet, -EMSGSIZE. */
static int find_end(struct client *c, size_t *ret_len)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	size_t len = evbuffer_get_length(in), max = c->control->options.max_message_bytes;
	struct evbuffer_ptr from, end;

	if (len > c->searched_bytes) {
		(void)evbuffer_ptr_set(in, &from, c->searched_bytes, EVBUFFER_PTR_SET);
		end = evbuffer_search(in, "", 1, &from);
		if (end.pos >= 0) {
			if ((size_t)end.pos > max)
				return -EMSGSIZE;
			*ret_len = (size_t)end.pos;
			return 0;
		}
		c->searched_bytes = len;
	}
	return len > max ? -EMSGSIZE : -EAGAIN;
}

/* Takes the next message, if it is there. The client may be gone afterwards. */
static void client_read(struct client *c)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	_cleanup_free_ char *text = NULL;
	struct err e = {0};
	struct buf out;
	size_t len = 0;
	int r;

	c->state = CLIENT_READING;
	r = find_end(c, &len);
	if (r == -EAGAIN) {
		if (c->eof)
			client_destroy(c);
		/* The whole message has to come in time: a byte now and then must not keep the connection. */
		else if (evbuffer_get_length(in) && !evtimer_pending(c->half_timer, NULL))
			set_timer(c->half_timer, c->control->options.idle_timeout_ns);
		return;
	}
	(void)event_del(c->half_timer);
	if (r >= 0) {
		text = malloc(len + 1);
		r = text ? 0 : err_set(&e, -ENOMEM, "out of memory");
	} else {
		(void)err_set(&e, r, "the message is longer than %zu bytes", c->control->options.max_message_bytes);
	}
	if (r >= 0) {
		(void)evbuffer_remove(in, text, len + 1);
		c->searched_bytes = 0;
		r = message_decode(text, len, &c->call, &e);
	}
	if (r >= 0) {
		client_call(c);
		return;
	}
	buf_init(&out);
	message_error(&out, CONTROL_INTERFACE ".Failed", "message", e.text);
	client_end(c, &out);
}

static void on_read(struct bufferevent *bev, void *user)
{
	struct client *c = user;

	if (c->state == CLIENT_ENDING)
		(void)evbuffer_drain(bufferevent_get_input(bev), SIZE_MAX);
	else if (c->state == CLIENT_READING)
		client_read(c);
	/* Else it stays in the input, which is bounded by its watermark, until the call in work is done. */
}

/* Everything that was to be written is out. */
static void on_written(struct bufferevent *bev, void *user)
{
	struct client *c = user;

	(void)bev;
	if (c->state == CLIENT_ENDING && !c->refused)
		client_destroy(c);
	else if (c->state == CLIENT_FLUSHING)
		set_timer(c->turn_timer, 0);
}

static void on_turn(evutil_socket_t fd, short what, void *user)
{
	struct client *c = user;

	(void)fd;
	(void)what;
	if (c->state == CLIENT_FLUSHING) {
		if (output_empty(c))
			client_read(c);
	} else if (c->state == CLIENT_STREAMING) {
		/* A reader that is behind misses a reply rather than piling them up; the write time-out ends it. */
		if (output_empty(c))
			client_answer(c);
		else
			set_timer(c->turn_timer, STREAM_INTERVAL_NS);
	}
}

static void on_half_timeout(evutil_socket_t fd, short what, void *user)
{
	struct client *c = user;

	(void)fd;
	(void)what;
	if (!c->refused)
		log_info("control", "client_closed reason=half_message");
	client_destroy(c);
}

/* A peer that shut down its sending side may still read; one that closed is gone, and what it asked is dropped. */
static bool peer_closed(struct bufferevent *bev)
{
	struct pollfd p = {.fd = bufferevent_getfd(bev), .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static void on_event(struct bufferevent *bev, short what, void *user)
{
	struct client *c = user;

	if ((what & BEV_EVENT_EOF) && c->state != CLIENT_ENDING && !peer_closed(bev)) {
		c->eof = true;
		if (c->state == CLIENT_READING)
			client_read(c);
		return;
	}
	if (what & BEV_EVENT_TIMEOUT)
		log_info("control", "client_closed reason=output_stuck");
	client_destroy(c);
}

static struct client *client_create(struct control *control, evutil_socket_t fd, bool refused)
{
	struct timeval timeout = timeval_of(control->options.idle_timeout_ns);
	struct client *c = calloc(1, sizeof(*c));

	if (!c) {
		(void)evutil_closesocket(fd);
		return NULL;
	}
	c->control = control;
	c->refused = refused;
	LIST_INSERT_HEAD(&control->clients, c, link);
	if (refused)
		control->refused_count++;
	else
		control->client_count++;
	c->half_timer = evtimer_new(control->base, on_half_timeout, c);
	c->turn_timer = evtimer_new(control->base, on_turn, c);
	c->bev = bufferevent_socket_new(control->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!c->bev)
		(void)evutil_closesocket(fd);
	if (!c->half_timer || !c->turn_timer || !c->bev) {
		client_destroy(c);
		return NULL;
	}
	bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
	/* One byte more than a message may have, and its NUL: an over-long one is seen, and no more than that is held.
	 */
	bufferevent_setwatermark(c->bev, EV_READ, 0, control->options.max_message_bytes + 2);
	bufferevent_set_timeouts(c->bev, NULL, &timeout);
	(void)bufferevent_enable(c->bev, EV_READ | EV_WRITE);
	return c;
}

/* Tells the peer why and lets it read that: closing at once would turn its request into a broken pipe. */
static void refuse(struct control *control, evutil_socket_t fd, struct buf *out)
{
	struct client *c = NULL;

	if (control->refused_count < REFUSED_MAX)
		c = client_create(control, fd, true);
	else
		(void)evutil_closesocket(fd);
	if (!c) {
		buf_deinit(out);
		return;
	}
	c->state = CLIENT_ENDING;
	set_timer(c->half_timer, REFUSED_LINGER_NS);
	(void)client_send(c, out);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa, int sa_len, void *user)
{
	struct control *control = user;
	struct peer peer;
	struct buf out;
	bool allowed;
	int r;

	(void)listener;
	(void)sa;
	(void)sa_len;
	r = peer_init(fd, &peer);
	if (r < 0) {
		log_warn("control", "peer_unknown errno=%d", -r);
		(void)evutil_closesocket(fd);
		return;
	}
	allowed = control->allow(&peer, geteuid(), control->group);
	peer_deinit(&peer);
	buf_init(&out);
	if (!allowed) {
		log_warn("control", "peer_refused uid=%u", (unsigned int)peer.uid);
		message_denied(&out, peer.uid);
		refuse(control, fd, &out);
	} else if (control->client_count >= control->options.max_clients) {
		log_warn("control", "client_refused reason=max_clients max=%zu", control->options.max_clients);
		message_error(&out, CONTROL_INTERFACE ".Busy", "message", "too many clients; try again in a moment");
		refuse(control, fd, &out);
	} else {
		(void)client_create(control, fd, false);
	}
}

/* Out of descriptors, most likely: the listener would be called again at once and spin, so it takes a pause. */
static void on_accept_error(struct evconnlistener *listener, void *user)
{
	struct control *control = user;

	log_warn("control", "accept_failed errno=%d", errno);
	(void)evconnlistener_disable(listener);
	set_timer(control->accept_timer, ACCEPT_PAUSE_NS);
}

static void on_accept_again(evutil_socket_t fd, short what, void *user)
{
	struct control *control = user;

	(void)fd;
	(void)what;
	(void)evconnlistener_enable(control->listener);
}

void control_set_allow(struct control *c, control_allow_fn *allow)
{
	c->allow = allow;
}

int control_create(struct event_base *base, struct service *service, const struct control_options *options,
		   struct control **ret, struct err *e)
{
	struct control *c = calloc(1, sizeof(*c));
	int fd, r;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	LIST_INIT(&c->clients);
	c->base = base;
	c->service = service;
	c->allow = peer_allowed;
	c->options = *options;
	c->options.socket_path = NULL; /* borrowed; c->socket has its copy */
	if (!c->options.max_clients)
		c->options.max_clients = DEFAULT_MAX_CLIENTS;
	if (!c->options.max_message_bytes)
		c->options.max_message_bytes = DEFAULT_MAX_MESSAGE_BYTES;
	if (!c->options.idle_timeout_ns)
		c->options.idle_timeout_ns = DEFAULT_IDLE_TIMEOUT_NS;
	c->group = auth_group();
	r = listen_init(&c->socket, options->socket_path, c->group, (int)c->options.max_clients, &fd, e);
	if (r < 0)
		goto fail;
	c->accept_timer = evtimer_new(base, on_accept_again, c);
	c->listener = evconnlistener_new(base, on_accept, c, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (!c->listener || !c->accept_timer) {
		if (!c->listener)
			(void)close(fd);
		r = err_set(e, -ENOMEM, "out of memory");
		goto fail;
	}
	evconnlistener_set_error_cb(c->listener, on_accept_error);
	*ret = c;
	return 0;
fail:
	control_destroy(c);
	return r;
}

void control_destroy(struct control *c)
{
	struct client *client;

	if (!c)
		return;
	if (c->accept_timer)
		event_free(c->accept_timer);
	if (c->listener)
		evconnlistener_free(c->listener);
	while ((client = LIST_FIRST(&c->clients)))
		client_destroy(client);
	listen_deinit(&c->socket);
	free(c);
}
