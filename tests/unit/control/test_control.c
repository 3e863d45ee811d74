/* The control server over a real Unix socket, with a service of the test's own. Server and clients share the test's
 * thread: whoever waits for something turns the loop until it is there. */
#include "daemon/control/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/control/control_test.h"
#include "daemon/util/clock.h"

#define CALL(method, rest) "{\"method\":\"io.baroscope.Control." method "\"" rest "}"
#define TOP CALL("Top", ",\"parameters\":{\"type\":\"t\"}")
#define TOP_REPLY "{\"parameters\":{\"rows\":[\"function\",0],\"note\":\"nothing selected\"}}"
#define FOLDED CALL("Export", ",\"parameters\":{\"type\":\"t\",\"format\":\"folded\"}")
#define STATUS CALL("Status", "")
#define STATUS_REPLY(n) "{\"parameters\":{\"version\":\"1\",\"answered\":" n "}}"
#define ERR(name) "{\"error\":\"io.baroscope.Control." name "\",\"parameters\":"
#define VERR(name, p, v) "{\"error\":\"org.varlink.service." name "\",\"parameters\":{\"" p "\":\"" v "\"}}"
#define INVALID(p) VERR("InvalidParameter", "parameter", p)
#define WAITING_MAX 8

struct service {
	service_ready_fn *fn[WAITING_MAX];
	void *user[WAITING_MAX];
	size_t waiting, cancelled, answered;
	bool hold;	  /* service_when_ready does not call back */
	size_t big_bytes; /* of an export */
};

static const struct control_options defaults;
static struct service service;
static struct event_base *base;
static struct control *control;
static char dir[] = "/tmp/baroscope-control-XXXXXX", path[80];

int service_status(struct service *s, struct json_writer *w, struct err *e)
{
	(void)e;
	jw_object(w, NULL);
	jw_string(w, "version", "1");
	jw_uint(w, "answered", s->answered++);
	jw_object_end(w);
	return 0;
}

int service_top(struct service *s, const struct service_range *r, const char *by, uint64_t limit, struct json_writer *w,
		const char **ret_note, struct err *e)
{
	(void)s;
	if (!strcmp(r->type, "nope"))
		return err_set(e, -ENOENT, "no such type: nope");
	if (r->selector && r->selector[0] != '{')
		return err_set(e, -EINVAL, "the selector %s has no {", r->selector);
	jw_array(w, NULL);
	jw_string(w, NULL, by ? by : "function");
	jw_uint(w, NULL, limit);
	jw_array_end(w);
	*ret_note = "nothing selected";
	return 0;
}

int service_export(struct service *s, const struct service_range *r, const char *format, struct buf *out,
		   bool *ret_binary, const char **ret_note, struct err *e)
{
	(void)r;
	(void)e;
	for (size_t i = 0; i < s->big_bytes; i++)
		buf_add(out, "x", 1);
	if (!s->big_bytes)
		buf_adds(out, "a;b 1\n");
	*ret_binary = !strcmp(format, "pprof");
	*ret_note = NULL;
	return 0;
}

static void ready_all(evutil_socket_t fd, short what, void *user)
{
	struct service *s = user;

	(void)fd;
	(void)what;
	while (s->waiting) {
		s->waiting--;
		s->fn[s->waiting](s->user[s->waiting]);
	}
}

int service_when_ready(struct service *s, service_ready_fn *fn, void *user)
{
	struct timeval now = {0};

	if (s->waiting == WAITING_MAX)
		return -EAGAIN;
	s->fn[s->waiting] = fn;
	s->user[s->waiting++] = user;
	if (!s->hold)
		(void)event_base_once(base, -1, EV_TIMEOUT, ready_all, s, &now);
	return 0;
}

void service_cancel(struct service *s, void *user)
{
	for (size_t i = 0; i < s->waiting; i++) {
		if (s->user[i] != user)
			continue;
		s->waiting--;
		s->user[i] = s->user[s->waiting];
		s->fn[i] = s->fn[s->waiting];
		s->cancelled++;
		return;
	}
}

static void turn(void)
{
	(void)event_base_loop(base, EVLOOP_NONBLOCK);
}

static int client(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void put(int fd, const char *data, size_t len)
{
	uint64_t deadline = clock_mono_ns() + 10 * NS_PER_S;

	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			assert_true(errno == EAGAIN && clock_mono_ns() < deadline);
			turn();
			continue;
		}
		data += n;
		len -= (size_t)n;
	}
}

static void put_text(int fd, const char *text)
{
	put(fd, text, strlen(text) + 1);
}

/* One reply without its NUL, to be freed; NULL = the connection ended. */
static char *take(int fd)
{
	uint64_t deadline = clock_mono_ns() + 20 * NS_PER_S;
	struct buf b;
	char c;

	buf_init(&b);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		turn();
		if (poll(&p, 1, 2) <= 0) {
			assert_true(clock_mono_ns() < deadline);
			continue;
		}
		while ((n = recv(fd, &c, 1, MSG_DONTWAIT)) == 1) {
			buf_add(&b, &c, 1);
			if (!c)
				return b.data;
		}
		if (!n || (n < 0 && errno == ECONNRESET)) {
			assert_int_equal(b.len, 0); /* no half reply */
			buf_deinit(&b);
			return NULL;
		}
	}
}

static void expect(int fd, const char *reply)
{
	char *got = take(fd);

	if (!reply) {
		assert_null(got);
	} else {
		assert_non_null(got);
		assert_string_equal(got, reply);
	}
	free(got);
}

static void ask(int fd, const char *call, const char *reply)
{
	put_text(fd, call);
	expect(fd, reply);
}

static void start(const struct control_options *options)
{
	struct control_options o = *options;
	struct err e = {0};

	o.socket_path = path;
	memset(&service, 0, sizeof(service));
	if (control_create(base, &service, &o, &control, &e) < 0)
		fail_msg("%s", e.text);
}

static void restart(const struct control_options *o)
{
	control_destroy(control);
	start(o);
}

static int setup(void **state)
{
	(void)state;
	base = event_base_new();
	start(&defaults);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(control);
	control = NULL;
	event_base_free(base);
	return access(path, F_OK) < 0 ? 0 : -1;
}

static void control__answers_each_method(void **state)
{
	int fd = client();
	char *got;

	(void)state;
	ask(fd, STATUS, STATUS_REPLY("0"));
	ask(fd, CALL("Status", ",\"parameters\":{\"watch\":null}"), STATUS_REPLY("1"));
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":\"t\",\"limit\":7,\"by\":\"line\"}"),
	    "{\"parameters\":{\"rows\":[\"line\",7],\"note\":\"nothing selected\"}}");
	ask(fd, CALL("Export", ",\"parameters\":{\"type\":\"t\"}"),
	    "{\"parameters\":{\"format\":\"pprof\",\"encoding\":\"base64\",\"data\":\"YTtiIDEK\"}}");
	ask(fd, FOLDED, "{\"parameters\":{\"format\":\"folded\",\"data\":\"a;b 1\\n\"}}");
	put_text(fd, "{\"method\":\"org.varlink.service.GetInfo\"}");
	got = take(fd);
	assert_non_null(strstr(got, "\"interfaces\":[\"org.varlink.service\",\"io.baroscope.Control\"]"));
	free(got);
	close(fd);
}

static void control__names_what_it_does_not_know(void **state)
{
	int fd = client();

	(void)state;
	ask(fd, CALL("Dance", ""), VERR("MethodNotFound", "method", "io.baroscope.Control.Dance"));
	ask(fd, "{\"method\":\"io.other.Thing\"}", VERR("InterfaceNotFound", "interface", "io.other"));
	ask(fd, "{\"method\":\"Status\"}", VERR("MethodNotFound", "method", "Status"));
	ask(fd, "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"x.y\"}}",
	    VERR("InterfaceNotFound", "interface", "x.y"));
	ask(fd, CALL("Status", ",\"parameters\":{\"watch\":1}"), INVALID("watch"));
	ask(fd, CALL("Status", ",\"parameters\":{\"colour\":1}"), INVALID("colour"));
	ask(fd, CALL("Top", ""), INVALID("type"));
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":null}"), INVALID("type"));
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":\"t\",\"limit\":-1}"), INVALID("limit"));
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":\"t\",\"limit\":\"5\"}"), INVALID("limit"));
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":\"nope\"}"),
	    ERR("NotFound") "{\"what\":\"no such type: nope\"}}");
	ask(fd, CALL("Top", ",\"parameters\":{\"type\":\"t\",\"selector\":\"x\"}"),
	    ERR("Failed") "{\"message\":\"the selector x has no {\"}}");
	close(fd);
}

static void control__pipelined_messages_in_order(void **state)
{
	static const char *const calls[] = {TOP, STATUS, CALL("Status", ",\"oneway\":true"), STATUS};
	struct buf all;
	int fd = client();

	(void)state;
	buf_init(&all);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		buf_add(&all, calls[i], strlen(calls[i]) + 1);
	put(fd, all.data, all.len);
	buf_deinit(&all);
	expect(fd, TOP_REPLY);
	expect(fd, STATUS_REPLY("0"));
	/* The one-way call was carried out, and not answered. */
	expect(fd, STATUS_REPLY("2"));
	close(fd);
}

static void control__message_in_single_bytes(void **state)
{
	static const char call[] = STATUS;
	int fd = client();

	(void)state;
	for (size_t i = 0; i < sizeof(call); i++) {
		put(fd, call + i, 1);
		turn();
	}
	expect(fd, STATUS_REPLY("0"));
	close(fd);
}

static void control__malformed_messages_end_the_connection(void **state)
{
	static const char *const texts[] = {
		"",
		"{",
		"[]",
		"5",
		"{}",
		"{\"method\":5}",
		"{\"method\":\"a.b\",\"method\":\"a.b\"}",
		"\xff",
		"{\"method\":\"a.b\",\"parameters\":[]}",
		"{\"method\":\"a.b\",\"more\":\"yes\"}",
		"{\"method\":\"a\\u0000b\"}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = client();
		char *got;

		put_text(fd, texts[i]);
		got = take(fd);
		assert_non_null(got);
		assert_memory_equal(got, ERR("Failed"), strlen(ERR("Failed")));
		free(got);
		expect(fd, NULL);
		close(fd);
	}
}

static void control__deep_json_is_refused(void **state)
{
	char *text = malloc(100001), *got;
	int fd = client();

	(void)state;
	memset(text, '[', 100000);
	text[100000] = 0;
	put_text(fd, text);
	got = take(fd);
	assert_non_null(strstr(got, "maximum parsing depth"));
	free(got);
	expect(fd, NULL);
	close(fd);
	free(text);
}

static void control__longest_message_is_taken_and_a_longer_one_is_not(void **state)
{
	static const struct control_options o = {.max_message_bytes = 4096};
	static const char refusal[] = ERR("Failed") "{\"message\":\"the message is longer than 4096 bytes\"}}";
	char text[4200];
	int fd;

	(void)state;
	restart(&o);
	memset(text, ' ', sizeof(text));
	memcpy(text, STATUS, strlen(STATUS));
	text[4096] = 0;
	fd = client();
	put(fd, text, 4097);
	expect(fd, STATUS_REPLY("0"));
	text[4096] = ' ';
	text[4097] = 0;
	put(fd, text, 4098);
	expect(fd, refusal);
	expect(fd, NULL);
	close(fd);
	/* Without its NUL ever coming, too. */
	fd = client();
	memset(text, ' ', sizeof(text));
	put(fd, text, sizeof(text));
	expect(fd, refusal);
	expect(fd, NULL);
	close(fd);
}

static void control__half_message_times_out_and_an_idle_client_does_not(void **state)
{
	static const struct control_options o = {.idle_timeout_ns = 50 * NS_PER_MS};
	int half, idle;

	(void)state;
	restart(&o);
	idle = client();
	half = client();
	ask(idle, STATUS, STATUS_REPLY("0"));
	put(half, "{\"meth", 6);
	expect(half, NULL);
	ask(idle, STATUS, STATUS_REPLY("1"));
	close(half);
	close(idle);
}

static void control__stalled_reader_is_closed_and_others_go_on(void **state)
{
	static const struct control_options o = {.idle_timeout_ns = 100 * NS_PER_MS};
	uint64_t deadline = clock_mono_ns() + 10 * NS_PER_S;
	struct pollfd p = {.events = POLLRDHUP};
	ssize_t n, total = 0;
	int stalled, other;
	char *got;

	(void)state;
	restart(&o);
	service.big_bytes = 4 << 20;
	stalled = client();
	other = client();
	put_text(stalled, FOLDED);
	p.fd = stalled;
	while (poll(&p, 1, 0) == 0) {
		assert_true(clock_mono_ns() < deadline);
		put_text(other, STATUS);
		got = take(other);
		assert_non_null(got);
		free(got);
	}
	/* What the kernel held is there, far from the whole reply. */
	got = malloc(65536);
	while ((n = recv(stalled, got, 65536, MSG_DONTWAIT)) > 0)
		total += n;
	assert_true(total < 4 << 20);
	free(got);
	close(stalled);
	close(other);
}

static void control__whole_large_reply(void **state)
{
	int fd = client();
	char *got;

	(void)state;
	service.big_bytes = 1 << 20;
	put_text(fd, FOLDED);
	got = take(fd);
	assert_true(strlen(got) > 1 << 20);
	free(got);
	close(fd);
}

static void control__hundred_clients_and_the_one_too_many(void **state)
{
	static const struct control_options o = {.max_clients = 100};
	int fds[100], extra;

	(void)state;
	restart(&o);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client();
		turn();
	}
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		ask(fds[i], TOP, TOP_REPLY);
	extra = client();
	expect(extra, ERR("Busy") "{\"message\":\"too many clients; try again in a moment\"}}");
	close(extra);
	close(fds[0]);
	turn();
	extra = client();
	ask(extra, STATUS, STATUS_REPLY("0"));
	close(extra);
	for (size_t i = 1; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static void wait_for(const size_t *value, size_t wanted)
{
	uint64_t deadline = clock_mono_ns() + 10 * NS_PER_S;

	while (*value != wanted) {
		assert_true(clock_mono_ns() < deadline);
		turn();
	}
}

static void control__too_many_waiting_is_busy(void **state)
{
	int fds[WAITING_MAX], extra;

	(void)state;
	service.hold = true;
	for (size_t i = 0; i < WAITING_MAX; i++) {
		fds[i] = client();
		put_text(fds[i], TOP);
	}
	wait_for(&service.waiting, WAITING_MAX);
	extra = client();
	ask(extra, TOP,
	    ERR("Busy") "{\"message\":\"too many requests wait for their samples; try again in a moment\"}}");
	close(extra);
	ready_all(-1, 0, &service);
	for (size_t i = 0; i < WAITING_MAX; i++) {
		expect(fds[i], TOP_REPLY);
		close(fds[i]);
	}
}

static void control__vanished_client_is_cancelled(void **state)
{
	int fd = client();

	(void)state;
	service.hold = true;
	put_text(fd, TOP);
	wait_for(&service.waiting, 1);
	close(fd);
	wait_for(&service.cancelled, 1);
	assert_int_equal(service.waiting, 0);
}

static void control_destroy__while_clients_wait(void **state)
{
	int fd = client();

	(void)state;
	service.hold = true;
	put_text(fd, TOP);
	wait_for(&service.waiting, 1);
	control_destroy(control);
	assert_int_equal(service.cancelled, 1);
	expect(fd, NULL);
	close(fd);
	start(&defaults);
}

static void control__half_closed_client_gets_its_reply(void **state)
{
	int fd = client();

	(void)state;
	put_text(fd, TOP);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	expect(fd, TOP_REPLY);
	expect(fd, NULL);
	close(fd);
}

static void control__watch_streams_until_the_client_goes(void **state)
{
	int fd = client();
	uint64_t end;
	size_t before;

	(void)state;
	put_text(fd, CALL("Status", ",\"more\":true,\"parameters\":{\"watch\":true}"));
	expect(fd, "{\"parameters\":{\"version\":\"1\",\"answered\":0},\"continues\":true}");
	expect(fd, "{\"parameters\":{\"version\":\"1\",\"answered\":1},\"continues\":true}");
	close(fd);
	turn();
	before = service.answered;
	end = clock_mono_ns() + 1200 * NS_PER_MS;
	while (clock_mono_ns() < end)
		turn();
	assert_int_equal(service.answered, before);
	fd = client();
	/* Neither of the two alone is a stream. */
	ask(fd, CALL("Status", ",\"parameters\":{\"watch\":true}"), STATUS_REPLY("2"));
	ask(fd, CALL("Status", ",\"more\":true"), STATUS_REPLY("3"));
	close(fd);
}

static bool allow_nobody(const struct peer *p, uid_t daemon_uid, gid_t group)
{
	(void)p;
	(void)daemon_uid;
	(void)group;
	return false;
}

static void control__refused_peer_is_told_and_closed(void **state)
{
	char reply[100];
	int fd;

	(void)state;
	control_set_allow(control, allow_nobody);
	fd = client();
	put_text(fd, STATUS);
	(void)snprintf(reply, sizeof(reply), ERR("PermissionDenied") "{\"uid\":%u}}", (unsigned int)geteuid());
	expect(fd, reply);
	expect(fd, NULL);
	assert_int_equal(service.answered, 0);
	close(fd);
}

static void control_create__dead_socket_is_replaced(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd;

	(void)state;
	control_destroy(control);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
	assert_int_equal(access(path, F_OK), 0);
	start(&defaults);
	fd = client();
	ask(fd, STATUS, STATUS_REPLY("0"));
	close(fd);
}

static void control_create__live_socket_is_refused(void **state)
{
	struct control_options o = {.socket_path = path};
	struct control *second = NULL;
	struct err e = {0};

	(void)state;
	assert_int_equal(control_create(base, &service, &o, &second, &e), -EADDRINUSE);
	assert_null(second);
	assert_non_null(strstr(e.text, "another daemon answers at "));
	assert_int_equal(access(path, F_OK), 0);
}

static void control_create__what_is_no_socket_stays(void **state)
{
	char file[100];
	struct control_options o = {.socket_path = file};
	struct control *second = NULL;
	struct err e = {0};
	FILE *f;

	(void)state;
	(void)snprintf(file, sizeof(file), "%s/file", dir);
	f = fopen(file, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(control_create(base, &service, &o, &second, &e), -EEXIST);
	assert_int_equal(access(file, F_OK), 0);
	(void)unlink(file);
}

static void control_create__mode_and_owner(void **state)
{
	gid_t group = auth_group();
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, group == AUTH_NO_GROUP ? 0600 : 0660);
	if (group != AUTH_NO_GROUP)
		assert_int_equal(st.st_gid, group);
}

static void control_destroy__leaves_what_another_made(void **state)
{
	FILE *f;

	(void)state;
	assert_int_equal(unlink(path), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	control_destroy(control);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(unlink(path), 0);
	start(&defaults);
}

static void peer_allowed__root_own_user_and_group(void **state)
{
	gid_t groups[] = {7, 50};
	struct peer p = {.uid = 1000, .gid = 1000, .groups = groups, .group_count = 2};

	(void)state;
	assert_true(peer_allowed(&(struct peer){.uid = 0, .gid = 9}, 500, AUTH_NO_GROUP));
	assert_true(peer_allowed(&(struct peer){.uid = 500, .gid = 9}, 500, AUTH_NO_GROUP));
	assert_false(peer_allowed(&p, 500, AUTH_NO_GROUP));
	assert_false(peer_allowed(&p, 500, 8));
	assert_true(peer_allowed(&p, 500, 50));
	assert_true(peer_allowed(&p, 500, 1000));
	/* The group's number as a uid means nothing. */
	assert_false(peer_allowed(&(struct peer){.uid = 50, .gid = 9}, 500, 50));
	assert_false(peer_allowed(&(struct peer){.uid = 1000, .gid = AUTH_NO_GROUP}, 500, AUTH_NO_GROUP));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(control__answers_each_method),
		T(control__names_what_it_does_not_know),
		T(control__pipelined_messages_in_order),
		T(control__message_in_single_bytes),
		T(control__malformed_messages_end_the_connection),
		T(control__deep_json_is_refused),
		T(control__longest_message_is_taken_and_a_longer_one_is_not),
		T(control__half_message_times_out_and_an_idle_client_does_not),
		T(control__stalled_reader_is_closed_and_others_go_on),
		T(control__whole_large_reply),
		T(control__hundred_clients_and_the_one_too_many),
		T(control__too_many_waiting_is_busy),
		T(control__vanished_client_is_cancelled),
		T(control_destroy__while_clients_wait),
		T(control__half_closed_client_gets_its_reply),
		T(control__watch_streams_until_the_client_goes),
		T(control__refused_peer_is_told_and_closed),
		T(control_create__dead_socket_is_replaced),
		T(control_create__live_socket_is_refused),
		T(control_create__what_is_no_socket_stays),
		T(control_create__mode_and_owner),
		T(control_destroy__leaves_what_another_made),
		cmocka_unit_test(peer_allowed__root_own_user_and_group),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/c.sock", dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)rmdir(dir);
	return r;
}
