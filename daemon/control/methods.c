/* io.baroscope.Control and org.varlink.service, method by method. A method fills the JSON text of its reply's
 * parameters; errors of the service become varlink errors here, with their sentence. */
#include "daemon/control/methods.h"

#include <errno.h>
#include <string.h>

#include "daemon/control/idl.h"
#include "daemon/util/base64.h"

#define PARAMETERS_MAX 8
#define TOP_LIMIT_MAX 100000

enum parameter_type { PARAMETER_NONE, PARAMETER_TEXT, PARAMETER_COUNT, PARAMETER_BOOL };

struct parameter {
	const char *name;
	enum parameter_type type;
	bool required;
};

struct method {
	const char *interface, *name;
	struct parameter parameters[PARAMETERS_MAX];
	bool waits;
	const char *stream_flag; /* the boolean parameter that asks for a stream, or NULL */
	int (*call)(struct service *s, const json_t *p, struct buf *ret, struct err *e);
};

static void buf_deinitp(struct buf *b)
{
	buf_deinit(b);
}
#define _cleanup_buf_ _cleanup_(buf_deinitp)

static const char *text_of(const json_t *p, const char *name)
{
	return json_string_value(json_object_get(p, name));
}

static struct service_range range_of(const json_t *p)
{
	return (struct service_range){
		.type = text_of(p, "type"),
		.selector = text_of(p, "selector"),
		.since = text_of(p, "since"),
		.from = text_of(p, "from"),
		.until = text_of(p, "until"),
	};
}

static int call_get_info(struct service *s, const json_t *p, struct buf *ret, struct err *e)
{
	struct json_writer w;

	(void)s;
	(void)p;
	(void)e;
	json_writer_init(&w, ret);
	jw_object(&w, NULL);
	jw_string(&w, "vendor", "Baroscope");
	jw_string(&w, "product", "baroscoped");
	jw_string(&w, "version", BAROSCOPE_VERSION);
	jw_string(&w, "url", "");
	jw_array(&w, "interfaces");
	jw_string(&w, NULL, VARLINK_INTERFACE);
	jw_string(&w, NULL, CONTROL_INTERFACE);
	jw_array_end(&w);
	jw_object_end(&w);
	return 0;
}

/* -ESRCH: no such interface; method_answer knows the varlink error. */
static int call_get_description(struct service *s, const json_t *p, struct buf *ret, struct err *e)
{
	const char *interface = text_of(p, "interface"), *text;
	struct json_writer w;

	(void)s;
	if (!strcmp(interface, CONTROL_INTERFACE))
		text = idl_io_baroscope_control;
	else if (!strcmp(interface, VARLINK_INTERFACE))
		text = idl_org_varlink_service;
	else
		return err_set(e, -ESRCH, "%s", interface);
	json_writer_init(&w, ret);
	jw_object(&w, NULL);
	jw_string(&w, "description", text);
	jw_object_end(&w);
	return 0;
}

static int call_status(struct service *s, const json_t *p, struct buf *ret, struct err *e)
{
	struct json_writer w;

	(void)p;
	json_writer_init(&w, ret);
	return service_status(s, &w, e);
}

static int call_top(struct service *s, const json_t *p, struct buf *ret, struct err *e)
{
	_cleanup_buf_ struct buf rows;
	struct service_range range = range_of(p);
	uint64_t limit = (uint64_t)json_integer_value(json_object_get(p, "limit"));
	const char *note = NULL;
	struct json_writer w;
	int r;

	buf_init(&rows);
	json_writer_init(&w, &rows);
	r = service_top(s, &range, text_of(p, "by"), limit, &w, &note, e);
	if (r < 0)
		return r;
	if (rows.failed || !rows.len)
		return err_set(e, -ENOMEM, "out of memory");
	json_writer_init(&w, ret);
	jw_object(&w, NULL);
	jw_raw(&w, "rows", rows.data, rows.len);
	if (note)
		jw_string(&w, "note", note);
	jw_object_end(&w);
	return 0;
}

static int call_export(struct service *s, const json_t *p, struct buf *ret, struct err *e)
{
	_cleanup_buf_ struct buf data, text;
	struct service_range range = range_of(p);
	const char *note = NULL, *format = text_of(p, "format");
	bool binary = false;
	struct json_writer w;
	int r;

	buf_init(&data);
	buf_init(&text);
	if (!format)
		format = "pprof";
	r = service_export(s, &range, format, &data, &binary, &note, e);
	if (r < 0)
		return r;
	if (binary)
		base64_encode(&text, data.data, data.len);
	if (data.failed || text.failed)
		return err_set(e, -ENOMEM, "out of memory");
	json_writer_init(&w, ret);
	jw_object(&w, NULL);
	jw_string(&w, "format", format);
	if (binary)
		jw_string(&w, "encoding", "base64");
	jw_string(&w, "data", binary ? (text.data ? text.data : "") : (data.data ? data.data : ""));
	if (note)
		jw_string(&w, "note", note);
	jw_object_end(&w);
	return 0;
}

#define RANGE_PARAMETERS                                                                                               \
	{"type", PARAMETER_TEXT, true}, {"selector", PARAMETER_TEXT, false}, {"since", PARAMETER_TEXT, false},         \
		{"from", PARAMETER_TEXT, false},                                                                       \
	{                                                                                                              \
		"until", PARAMETER_TEXT, false                                                                         \
	}

static const struct method methods[] = {
	{VARLINK_INTERFACE, "GetInfo", {{0}}, false, NULL, call_get_info},
	{VARLINK_INTERFACE,
	 "GetInterfaceDescription",
	 {{"interface", PARAMETER_TEXT, true}},
	 false,
	 NULL,
	 call_get_description},
	{CONTROL_INTERFACE, "Status", {{"watch", PARAMETER_BOOL, false}}, false, "watch", call_status},
	{CONTROL_INTERFACE,
	 "Top",
	 {RANGE_PARAMETERS, {"limit", PARAMETER_COUNT, false}, {"by", PARAMETER_TEXT, false}},
	 true,
	 NULL,
	 call_top},
	{CONTROL_INTERFACE, "Export", {RANGE_PARAMETERS, {"format", PARAMETER_TEXT, false}}, true, NULL, call_export},
};

static int fail(struct buf *out, const char *error, const char *parameter, const char *value)
{
	message_error(out, error, parameter, value);
	return -EINVAL;
}

static bool type_ok(enum parameter_type type, const json_t *v)
{
	switch (type) {
	case PARAMETER_TEXT:
		/* jansson refuses "\u0000" unless asked to allow it, so the text is what strlen sees. */
		return json_is_string(v);
	case PARAMETER_BOOL:
		return json_is_boolean(v);
	case PARAMETER_COUNT:
		return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= TOP_LIMIT_MAX;
	case PARAMETER_NONE:
		break;
	}
	return false;
}

static int check_parameters(const struct method *method, const json_t *parameters, struct buf *out)
{
	const struct parameter *known = method->parameters;
	const char *name;
	const json_t *v;
	void *it;

	for (it = json_object_iter((json_t *)parameters); it; it = json_object_iter_next((json_t *)parameters, it)) {
		size_t i;

		name = json_object_iter_key(it);
		v = json_object_iter_value(it);
		for (i = 0; i < PARAMETERS_MAX && known[i].name && strcmp(known[i].name, name); i++)
			;
		if (i == PARAMETERS_MAX || !known[i].name || (!json_is_null(v) && !type_ok(known[i].type, v)))
			return fail(out, VARLINK_INTERFACE ".InvalidParameter", "parameter", name);
	}
	for (size_t i = 0; i < PARAMETERS_MAX && known[i].name; i++) {
		v = json_object_get(parameters, known[i].name);
		if (known[i].required && (!v || json_is_null(v)))
			return fail(out, VARLINK_INTERFACE ".InvalidParameter", "parameter", known[i].name);
	}
	return 0;
}

int method_find(const struct message *m, const struct method **ret, struct buf *out)
{
	const char *dot = strrchr(m->method, '.');
	size_t len = dot ? (size_t)(dot - m->method) : 0;
	bool interface_known = false;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		if (strlen(methods[i].interface) != len || memcmp(methods[i].interface, m->method, len))
			continue;
		interface_known = true;
		if (strcmp(methods[i].name, dot + 1))
			continue;
		r = check_parameters(&methods[i], m->parameters, out);
		if (r >= 0)
			*ret = &methods[i];
		return r;
	}
	if (dot && !interface_known) {
		_cleanup_free_ char *interface = strndup(m->method, len);

		return fail(out, VARLINK_INTERFACE ".InterfaceNotFound", "interface", interface ? interface : "");
	}
	return fail(out, VARLINK_INTERFACE ".MethodNotFound", "method", m->method);
}

bool method_waits(const struct method *m)
{
	return m->waits;
}

bool method_streams(const struct method *m, const struct message *call)
{
	return m->stream_flag && call->more && json_is_true(json_object_get(call->parameters, m->stream_flag));
}

void method_answer(const struct method *m, struct service *service, const json_t *parameters, bool continues,
		   struct buf *out)
{
	_cleanup_buf_ struct buf reply;
	struct err e = {0};
	int r;

	buf_init(&reply);
	r = m->call(service, parameters, &reply, &e);
	if (r >= 0 && (reply.failed || !reply.len))
		r = err_set(&e, -ENOMEM, "out of memory");
	if (r >= 0) {
		message_reply(out, reply.data, reply.len, continues);
		return;
	}
	if (!e.text[0])
		(void)err_errno(&e, r, "%s failed", m->name);
	if (r == -ESRCH)
		message_error(out, VARLINK_INTERFACE ".InterfaceNotFound", "interface", e.text);
	else if (r == -ENOENT)
		message_error(out, CONTROL_INTERFACE ".NotFound", "what", e.text);
	else if (r == -EAGAIN || r == -EBUSY)
		message_error(out, CONTROL_INTERFACE ".Busy", "message", e.text);
	else
		message_error(out, CONTROL_INTERFACE ".Failed", "message", e.text);
}
