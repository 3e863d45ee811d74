/* Varlink's wire form. The only reader of a client's bytes, so kept small and fuzzed. */
#include "daemon/control/message.h"

#include <errno.h>
#include <string.h>

#include "daemon/util/json_writer.h"

static int read_flag(const json_t *root, const char *name, bool *ret, struct err *e)
{
	const json_t *v = json_object_get(root, name);

	if (v && !json_is_boolean(v) && !json_is_null(v))
		return err_set(e, -EINVAL, "\"%s\" is no boolean", name);
	*ret = json_is_true(v);
	return 0;
}

int message_decode(const char *text, size_t len, struct message *ret, struct err *e)
{
	struct message m = {0};
	json_error_t why;
	json_t *v;
	int r;

	m.root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!m.root) {
		if (json_error_code(&why) == json_error_out_of_memory)
			return err_set(e, -ENOMEM, "out of memory");
		return err_set(e, -EINVAL, "the message is no JSON: %s at byte %d", why.text, why.position);
	}
	r = -EINVAL;
	if (!json_is_object(m.root)) {
		(void)err_set(e, r, "the message is no JSON object");
		goto fail;
	}
	v = json_object_get(m.root, "method");
	if (!json_is_string(v)) {
		(void)err_set(e, r, "the message has no \"method\"");
		goto fail;
	}
	m.method = json_string_value(v);
	v = json_object_get(m.root, "parameters");
	if (v && !json_is_object(v) && !json_is_null(v)) {
		(void)err_set(e, r, "\"parameters\" is no object");
		goto fail;
	}
	m.parameters = json_is_object(v) ? v : NULL;
	r = read_flag(m.root, "more", &m.more, e);
	if (r >= 0)
		r = read_flag(m.root, "oneway", &m.oneway, e);
	if (r < 0)
		goto fail;
	*ret = m;
	return 0;
fail:
	json_decref(m.root);
	return r;
}

void message_deinit(struct message *m)
{
	json_decref(m->root);
	memset(m, 0, sizeof(*m));
}

void message_reply(struct buf *out, const char *parameters, size_t len, bool continues)
{
	struct json_writer w;

	json_writer_init(&w, out);
	jw_object(&w, NULL);
	jw_raw(&w, "parameters", parameters, len);
	if (continues)
		jw_bool(&w, "continues", true);
	jw_object_end(&w);
	buf_add(out, "", 1);
}

static void error_head(struct json_writer *w, struct buf *out, const char *error)
{
	json_writer_init(w, out);
	jw_object(w, NULL);
	jw_string(w, "error", error);
	jw_object(w, "parameters");
}

static void error_tail(struct json_writer *w, struct buf *out)
{
	jw_object_end(w);
	jw_object_end(w);
	buf_add(out, "", 1);
}

void message_error(struct buf *out, const char *error, const char *parameter, const char *value)
{
	struct json_writer w;

	error_head(&w, out, error);
	jw_string(&w, parameter, value);
	error_tail(&w, out);
}

void message_denied(struct buf *out, uid_t uid)
{
	struct json_writer w;

	error_head(&w, out, CONTROL_INTERFACE ".PermissionDenied");
	jw_uint(&w, "uid", uid);
	error_tail(&w, out);
}
