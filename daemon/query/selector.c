/* Selectors in Prometheus form.
 *
 * Owner: the caller; a selector holds its regular expressions compiled, with a match block of its own, so that one
 * selector is used by one thread at a time. What comes from outside is bounded: length, number of matchers, size of
 * the compiled expressions (by PCRE2), and steps of a match: an expression that takes too long does not match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <errno.h>
#include <pcre2.h>
#include <string.h>

#include "daemon/query/query.h"
#include "daemon/util/buf.h"

#define SELECTOR_MAX_BYTES 4096
#define SELECTOR_MAX_MATCHERS 64
#define MATCH_LIMIT 50000
#define MATCH_DEPTH_LIMIT 2000
#define MATCH_HEAP_LIMIT_KIB 1024

enum matcher_op { OP_EQUAL, OP_NOT_EQUAL, OP_MATCH, OP_NOT_MATCH };

struct matcher {
	enum matcher_op op;
	char *name, *value;
	pcre2_code *regex;
	pcre2_match_data *match;
};

struct selector {
	pcre2_match_context *limits;
	size_t count;
	struct matcher matchers[SELECTOR_MAX_MATCHERS];
};

struct parser {
	const char *text, *at;
	struct err *e;
};

static void selector_destroyp(struct selector **s)
{
	selector_destroy(*s);
}

void selector_destroy(struct selector *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->count; i++) {
		free(s->matchers[i].name);
		free(s->matchers[i].value);
		pcre2_code_free(s->matchers[i].regex);
		pcre2_match_data_free(s->matchers[i].match);
	}
	pcre2_match_context_free(s->limits);
	free(s);
}

static int fail(const struct parser *p, const char *what)
{
	size_t position = (size_t)(p->at - p->text) + 1;

	if (!*p->at)
		return err_set(p->e, -EINVAL, "selector: %s at its end", what);
	return err_set(p->e, -EINVAL, "selector: %s at position %zu, before '%.16s'", what, position, p->at);
}

static void skip_space(struct parser *p)
{
	while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
		p->at++;
}

static bool is_name_start(char c)
{
	return isalpha((unsigned char)c) || c == '_';
}

static bool is_name(char c)
{
	return is_name_start(c) || isdigit((unsigned char)c) || c == '.';
}

static int parse_name(struct parser *p, char **ret)
{
	const char *from = p->at;
	char *name;

	if (!is_name_start(*p->at))
		return fail(p, "a label name such as service_name is expected");
	while (is_name(*p->at))
		p->at++;
	name = strndup(from, (size_t)(p->at - from));
	if (!name)
		return -ENOMEM;
	*ret = name;
	return 0;
}

static int parse_op(struct parser *p, enum matcher_op *ret)
{
	static const struct {
		const char *text;
		enum matcher_op op;
	} ops[] = {
		{"=~", OP_MATCH},
		{"!~", OP_NOT_MATCH},
		{"!=", OP_NOT_EQUAL},
		{"=", OP_EQUAL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (strncmp(p->at, ops[i].text, strlen(ops[i].text)) != 0)
			continue;
		p->at += strlen(ops[i].text);
		*ret = ops[i].op;
		return 0;
	}
	return fail(p, "one of = != =~ !~ is expected");
}

static int parse_escape(struct parser *p, struct buf *out)
{
	static const char from[] = "\\\"'ntr", to[] = "\\\"'\n\t\r";
	const char *found = p->at[1] ? strchr(from, p->at[1]) : NULL;

	if (!found)
		return fail(p, "an unknown escape (write \\\\ for a backslash, or the value in backquotes)");
	buf_add(out, &to[found - from], 1);
	p->at += 2;
	return 0;
}

static int parse_value(struct parser *p, char **ret)
{
	_cleanup_(buf_deinit) struct buf out = {0};
	const char *from = p->at;
	char quote = *p->at;
	size_t len;
	int r;

	if (quote != '"' && quote != '\'' && quote != '`')
		return fail(p, "a value in quotes is expected");
	p->at++;
	while (*p->at != quote) {
		if (!*p->at) {
			p->at = from;
			return fail(p, "a value whose quote is not closed");
		}
		if (*p->at == '\\' && quote != '`') {
			r = parse_escape(p, &out);
			if (r < 0)
				return r;
			continue;
		}
		buf_add(&out, p->at++, 1);
	}
	p->at++;
	return buf_steal(&out, ret, &len);
}

static int compile(struct parser *p, struct matcher *m, const char *from)
{
	PCRE2_SIZE offset;
	PCRE2_UCHAR text[128];
	int code;

	m->regex = pcre2_compile((PCRE2_SPTR)m->value, PCRE2_ZERO_TERMINATED,
				 PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF | PCRE2_MATCH_INVALID_UTF |
					 PCRE2_DOTALL | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C,
				 &code, &offset, NULL);
	if (!m->regex) {
		pcre2_get_error_message(code, text, sizeof(text));
		return err_set(
			p->e, -EINVAL,
			"selector: the regular expression of %s at position %zu is wrong, at its character %zu: %s",
			m->name, (size_t)(from - p->text) + 1, (size_t)offset + 1, (const char *)text);
	}
	m->match = pcre2_match_data_create(1, NULL);
	return m->match ? 0 : -ENOMEM;
}

static int parse_matcher(struct parser *p, struct selector *s)
{
	struct matcher *m = &s->matchers[s->count];
	const char *from;
	int r;

	if (s->count == SELECTOR_MAX_MATCHERS)
		return fail(p, "more than 64 matchers");
	s->count++;
	r = parse_name(p, &m->name);
	if (r < 0)
		return r;
	skip_space(p);
	r = parse_op(p, &m->op);
	if (r < 0)
		return r;
	skip_space(p);
	from = p->at;
	r = parse_value(p, &m->value);
	if (r < 0)
		return r;
	return m->op == OP_MATCH || m->op == OP_NOT_MATCH ? compile(p, m, from) : 0;
}

static int parse_matchers(struct parser *p, struct selector *s)
{
	skip_space(p);
	if (!*p->at)
		return 0;
	if (*p->at != '{')
		return fail(p, "a selector is written {label=\"value\",...}: '{' is expected");
	p->at++;
	for (;;) {
		int r;

		skip_space(p);
		if (*p->at == '}')
			break;
		r = parse_matcher(p, s);
		if (r < 0)
			return r;
		skip_space(p);
		if (*p->at == ',')
			p->at++;
		else if (*p->at != '}')
			return fail(p, "',' or '}' is expected");
	}
	p->at++;
	skip_space(p);
	return *p->at ? fail(p, "something follows the '}'") : 0;
}

int selector_parse(const char *text, struct selector **ret, struct err *e)
{
	_cleanup_(selector_destroyp) struct selector *s = NULL;
	struct parser p = {.text = text, .at = text, .e = e};
	int r;

	if (strlen(text) > SELECTOR_MAX_BYTES)
		return err_set(e, -EINVAL, "selector: longer than %d bytes", SELECTOR_MAX_BYTES);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "selector: out of memory");
	s->limits = pcre2_match_context_create(NULL);
	if (!s->limits)
		return err_set(e, -ENOMEM, "selector: out of memory");
	pcre2_set_match_limit(s->limits, MATCH_LIMIT);
	pcre2_set_depth_limit(s->limits, MATCH_DEPTH_LIMIT);
	pcre2_set_heap_limit(s->limits, MATCH_HEAP_LIMIT_KIB);
	r = parse_matchers(&p, s);
	if (r == -ENOMEM)
		return err_set(e, -ENOMEM, "selector: out of memory");
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

static bool matcher_match(const struct selector *s, const struct matcher *m, const char *value)
{
	int r;

	if (m->op == OP_EQUAL || m->op == OP_NOT_EQUAL)
		return (strcmp(value, m->value) == 0) == (m->op == OP_EQUAL);
	r = pcre2_match(m->regex, (PCRE2_SPTR)value, strlen(value), 0, 0, m->match, s->limits);
	if (r >= 0)
		return m->op == OP_MATCH;
	/* Any error but "no match" is a limit: neither =~ nor !~ selects what could not be decided. */
	return r == PCRE2_ERROR_NOMATCH && m->op == OP_NOT_MATCH;
}

bool selector_match(const struct selector *s, const struct labels *labels, series_id series)
{
	for (size_t i = 0; i < s->count; i++)
		if (!matcher_match(s, &s->matchers[i], labels_value(labels, series, s->matchers[i].name)))
			return false;
	return true;
}
