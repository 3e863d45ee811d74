/* The way to the daemon and back, and the sentences for everything that can go wrong on it. */
#include "ctl/client.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define INTERFACE "io.baroscope.Control"
#define READ_BYTES 65536

static int fail_unreachable(const char *path, int code, struct err *e)
{
	if (code == -EACCES || code == -EPERM)
		return err_set(e, code, "cannot reach baroscoped at %s: %s; run as root or join the group baroscope",
			       path, strerror(-code));
	return err_set(e, code, "cannot reach baroscoped at %s: %s; is it running? (systemctl start baroscope)", path,
		       strerror(-code));
}

int ctl_client_init(struct ctl_client *c, const char *path, struct err *e)
{
	struct timeval timeout = {.tv_sec = CTL_TIMEOUT_S};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	*c = (struct ctl_client){.fd = -1, .path = path};
	if (!*path || strlen(path) >= sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG,
			       "the socket path \"%.120s\" is empty or longer than %zu bytes; see --socket", path,
			       sizeof(sa.sun_path) - 1);
	memcpy(sa.sun_path, path, strlen(path));
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return err_errno(e, -errno, "cannot make a socket");
	if (setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int r = -errno;

		ctl_client_deinit(c);
		return fail_unreachable(path, r, e);
	}
	return 0;
}

void ctl_client_deinit(struct ctl_client *c)
{
	if (c->fd >= 0)
		(void)close(c->fd);
	free(c->in);
	c->fd = -1;
	c->in = NULL;
}

int ctl_client_call(struct ctl_client *c, const char *method, json_t *parameters, bool more, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	json_t *call;
	size_t len, sent = 0;

	call = json_pack("{s:s+, s:o}", "method", INTERFACE ".", method, "parameters", parameters);
	if (call && more && json_object_set_new(call, "more", json_true()) < 0) {
		json_decref(call);
		call = NULL;
	}
	text = call ? json_dumps(call, JSON_COMPACT) : NULL;
	json_decref(call);
	if (!text)
		return err_set(e, -EINVAL, "an argument is not UTF-8 text");
	len = strlen(text) + 1;
	while (sent < len) {
		ssize_t n = send(c->fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		/* A daemon that refuses may have hung up already; its reply says why. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			break;
		if (n < 0)
			return err_errno(e, -errno, "cannot ask baroscoped at %s", c->path);
		sent += (size_t)n;
	}
	return 0;
}

static int receive_more(struct ctl_client *c, struct err *e)
{
	ssize_t n;

	if (c->taken) {
		memmove(c->in, c->in + c->taken, c->len - c->taken);
		c->len -= c->taken;
		c->taken = 0;
	}
	if (c->cap - c->len < READ_BYTES) {
		size_t cap = c->cap * 2 + READ_BYTES;
		char *in;

		if (c->len > CTL_REPLY_MAX_BYTES)
			return err_set(e, -EMSGSIZE, "the reply is larger than %u MiB; select less",
				       CTL_REPLY_MAX_BYTES >> 20);
		in = realloc(c->in, cap);
		if (!in)
			return err_set(e, -ENOMEM, "out of memory");
		c->in = in;
		c->cap = cap;
	}
	do {
		n = recv(c->fd, c->in + c->len, c->cap - c->len, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return err_set(e, -ETIMEDOUT, "baroscoped at %s did not answer within %d s; see its log", c->path,
			       CTL_TIMEOUT_S);
	if (n < 0)
		return err_errno(e, -errno, "cannot read the answer of baroscoped at %s", c->path);
	if (!n)
		return err_set(e, -ECONNRESET,
			       "baroscoped at %s ended the connection without a whole answer; see its log", c->path);
	c->len += (size_t)n;
	return 0;
}

static const char *last_part(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? dot + 1 : name;
}

static int fail_error(const struct ctl_client *c, const char *error, const json_t *p, struct err *e)
{
	const char *text = json_string_value(json_object_get(p, "message"));

	if (!text)
		text = json_string_value(json_object_get(p, "what"));
	if (text)
		return err_set(e, -EREMOTEIO, "%s", text);
	if (!strcmp(error, INTERFACE ".PermissionDenied"))
		return err_set(e, -EREMOTEIO,
			       "baroscoped at %s refuses uid %" JSON_INTEGER_FORMAT
			       "; run as root or join the group baroscope",
			       c->path, json_integer_value(json_object_get(p, "uid")));
	text = json_string_value(json_object_get(p, "parameter"));
	if (text)
		return err_set(e, -EREMOTEIO, "baroscoped does not take this value of \"%s\"; see baroctl VERB --help",
			       text);
	if (!strcmp(last_part(error), "MethodNotFound") || !strcmp(last_part(error), "InterfaceNotFound"))
		return err_set(e, -EREMOTEIO, "baroscoped at %s does not know this request; is it an older version?",
			       c->path);
	return err_set(e, -EREMOTEIO, "baroscoped answered with the error %s", error);
}

int ctl_client_reply(struct ctl_client *c, json_t **ret_parameters, bool *ret_continues, struct err *e)
{
	json_error_t why;
	json_t *reply, *parameters;
	size_t searched = 0;
	char *end = NULL;
	int r;

	for (;;) {
		if (c->len - c->taken > searched)
			end = memchr(c->in + c->taken + searched, 0, c->len - c->taken - searched);
		if (end)
			break;
		searched = c->len - c->taken;
		r = receive_more(c, e);
		if (r < 0)
			return r;
	}
	reply = json_loadb(c->in + c->taken, (size_t)(end - (c->in + c->taken)), 0, &why);
	c->taken = (size_t)(end - c->in) + 1;
	parameters = json_object_get(reply, "parameters");
	if (!reply || (parameters && !json_is_object(parameters))) {
		json_decref(reply);
		return err_set(e, -EBADMSG, "baroscoped at %s answered something that is no reply", c->path);
	}
	if (json_is_string(json_object_get(reply, "error"))) {
		r = fail_error(c, json_string_value(json_object_get(reply, "error")), parameters, e);
		json_decref(reply);
		return r;
	}
	*ret_continues = json_is_true(json_object_get(reply, "continues"));
	*ret_parameters = parameters ? json_incref(parameters) : json_object();
	json_decref(reply);
	return 0;
}

int ctl_ask(const char *path, const char *method, json_t *parameters, json_t **ret_parameters, struct err *e)
{
	struct ctl_client c;
	bool continues;
	int r;

	r = ctl_client_init(&c, path, e);
	if (r < 0) {
		json_decref(parameters);
		return r;
	}
	r = ctl_client_call(&c, method, parameters, false, e);
	if (r >= 0)
		r = ctl_client_reply(&c, ret_parameters, &continues, e);
	ctl_client_deinit(&c);
	return r;
}
