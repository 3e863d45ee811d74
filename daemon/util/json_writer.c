/* JSON in one pass. Owner: the caller; failures stay in the buf (buf_steal tells). */
#include "daemon/util/json_writer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "daemon/util/utf8.h"

void json_writer_init(struct json_writer *w, struct buf *out)
{
	*w = (struct json_writer){.out = out};
}

static void add_text(struct buf *out, const char *s)
{
	size_t len = strlen(s), from = 0, i = 0;

	buf_add(out, "\"", 1);
	while (i < len) {
		unsigned char c = (unsigned char)s[i];
		size_t n = utf8_sequence(s + i, len - i);

		if (n && c >= 0x20 && c != '"' && c != '\\') {
			i += n;
			continue;
		}
		buf_add(out, s + from, i - from);
		if (!n)
			buf_adds(out, UTF8_REPLACEMENT);
		else if (c == '"' || c == '\\')
			buf_addf(out, "\\%c", c);
		else if (c == '\n')
			buf_adds(out, "\\n");
		else
			buf_addf(out, "\\u%04x", c);
		from = ++i;
	}
	buf_add(out, s + from, len - from);
	buf_add(out, "\"", 1);
}

static void element(struct json_writer *w, const char *key)
{
	if (w->comma)
		buf_add(w->out, ",", 1);
	if (key) {
		add_text(w->out, key);
		buf_add(w->out, ":", 1);
	}
	w->comma = true;
}

static void open_bracket(struct json_writer *w, const char *key, const char *bracket)
{
	element(w, key);
	buf_add(w->out, bracket, 1);
	w->comma = false;
}

static void close_bracket(struct json_writer *w, const char *bracket)
{
	buf_add(w->out, bracket, 1);
	w->comma = true;
}

void jw_object(struct json_writer *w, const char *key)
{
	open_bracket(w, key, "{");
}

void jw_object_end(struct json_writer *w)
{
	close_bracket(w, "}");
}

void jw_array(struct json_writer *w, const char *key)
{
	open_bracket(w, key, "[");
}

void jw_array_end(struct json_writer *w)
{
	close_bracket(w, "]");
}

void jw_string(struct json_writer *w, const char *key, const char *value)
{
	element(w, key);
	add_text(w->out, value);
}

void jw_uint(struct json_writer *w, const char *key, uint64_t value)
{
	element(w, key);
	buf_addf(w->out, "%" PRIu64, value);
}

void jw_int(struct json_writer *w, const char *key, int64_t value)
{
	element(w, key);
	buf_addf(w->out, "%" PRId64, value);
}

void jw_double(struct json_writer *w, const char *key, double value)
{
	if (!isfinite(value)) {
		jw_null(w, key);
		return;
	}
	element(w, key);
	buf_addf(w->out, "%.15g", value);
}

void jw_bool(struct json_writer *w, const char *key, bool value)
{
	element(w, key);
	buf_adds(w->out, value ? "true" : "false");
}

void jw_null(struct json_writer *w, const char *key)
{
	element(w, key);
	buf_adds(w->out, "null");
}

void jw_raw(struct json_writer *w, const char *key, const char *text, size_t len)
{
	element(w, key);
	buf_add(w->out, text, len);
}
