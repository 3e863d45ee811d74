/* The walker: YAML text to a document, mappings along key tables, and the text forms of numbers with units. Owned by
 * config_load for the time of one call. Fields of the structs filled are released by config_destroy, also when the
 * walk ends half-way. */
#include "daemon/config_walk.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/buf.h"
#include "daemon/util/clock.h"

#define PLAIN_TAGS "tag:yaml.org,2002:"

static void make_printable(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
}

static int fail_at_line(struct walk *w, size_t line, const char *fmt, ...) _printf_(3, 4);
static int fail_at_line(struct walk *w, size_t line, const char *fmt, ...)
{
	char text[400];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	make_printable(text);
	return err_set(w->e, -EINVAL, "%s:%zu: %s", w->file, line, text);
}

int walk_fail(struct walk *w, const yaml_node_t *n, const char *fmt, ...)
{
	char text[400];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return fail_at_line(w, n->start_mark.line + 1, "%s", text);
}

const yaml_node_t *walk_node(struct walk *w, int id)
{
	yaml_node_t *n = yaml_document_get_node(&w->doc, id);

	if (n && ++w->visits > WALK_MAX_NODES) {
		(void)walk_fail(w, n, "the file comes to more than %d values with its aliases written out; write fewer",
				WALK_MAX_NODES);
		return NULL;
	}
	return n;
}

bool walk_is_null(const yaml_node_t *n)
{
	const char *v;

	if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	v = (const char *)n->data.scalar.value;
	return !*v || !strcmp(v, "~") || !strcasecmp(v, "null");
}

/* A tab is no indentation in YAML, and libyaml's sentence about it does not say so. Comments may hold tabs. */
static int refuse_tabs(struct walk *w, const char *text, size_t len)
{
	size_t line = 1;
	bool comment = false;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n') {
			line++;
			comment = false;
		} else if (text[i] == '#' && (!i || strchr(" \t\n", text[i - 1]))) {
			comment = true;
		} else if (text[i] == '\t' && !comment) {
			return fail_at_line(w, line, "a tab; YAML is indented and separated with spaces");
		}
	}
	return 0;
}

static int fail_parser(struct walk *w, const yaml_parser_t *p)
{
	size_t line = p->problem_mark.line + 1;

	if (p->error == YAML_MEMORY_ERROR)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	if (p->error == YAML_READER_ERROR) {
		line = p->mark.line + 1;
		return fail_at_line(w, line, "%s at byte %zu; the file must be UTF-8 text",
				    p->problem ? p->problem : "unreadable", p->problem_offset);
	}
	return fail_at_line(w, line, "not YAML: %s%s%s; see baroscope.yaml(5)",
			    p->problem ? p->problem : "syntax error", p->context ? " " : "",
			    p->context ? p->context : "");
}

int walk_init_bytes(struct walk *w, const char *file, const char *text, size_t len, struct err *e)
{
	yaml_parser_t parser;
	yaml_document_t more;
	int r;

	memset(w, 0, sizeof(*w));
	w->file = file;
	w->e = e;
	if (len > WALK_MAX_FILE_BYTES)
		return err_set(e, -EFBIG, "%s:1: the file is larger than %d KiB; a configuration is far smaller", file,
			       WALK_MAX_FILE_BYTES / 1024);
	r = refuse_tabs(w, text, len);
	if (r < 0)
		return r;
	if (!yaml_parser_initialize(&parser))
		return err_set(e, -ENOMEM, "%s: out of memory", file);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (!yaml_parser_load(&parser, &w->doc)) {
		r = fail_parser(w, &parser);
		goto out;
	}
	w->has_doc = yaml_document_get_root_node(&w->doc) != NULL;
	if (!w->has_doc) {
		yaml_document_delete(&w->doc);
		goto out;
	}
	if (!yaml_parser_load(&parser, &more)) {
		r = fail_parser(w, &parser);
	} else {
		if (yaml_document_get_root_node(&more))
			r = fail_at_line(w, more.start_mark.line + 1,
					 "a second document; the configuration is one document");
		yaml_document_delete(&more);
	}
	if (r < 0)
		walk_deinit(w);
out:
	yaml_parser_delete(&parser);
	return r;
}

int walk_init(struct walk *w, const char *file, struct err *e)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len = 0;

	memset(w, 0, sizeof(*w));
	/* O_NONBLOCK: a FIFO in the file's place must not hold the daemon up. */
	fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_errno(e, -errno, "%s: cannot open the configuration", file);
	if (fstat(fd, &st) < 0)
		return err_errno(e, -errno, "%s: cannot read the configuration", file);
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EISDIR, "%s: is a directory; name the configuration file", file);
	text = malloc(WALK_MAX_FILE_BYTES + 1);
	if (!text)
		return err_set(e, -ENOMEM, "%s: out of memory", file);
	while (len < WALK_MAX_FILE_BYTES + 1) {
		ssize_t n = read(fd, text + len, WALK_MAX_FILE_BYTES + 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, -errno, "%s: cannot read the configuration", file);
		if (!n)
			break;
		len += (size_t)n;
	}
	return walk_init_bytes(w, file, text, len, e);
}

void walk_deinit(struct walk *w)
{
	if (w->has_doc)
		yaml_document_delete(&w->doc);
	w->has_doc = false;
}

static size_t edit_distance(const char *a, const char *b)
{
	size_t row[32], la = strlen(a), lb = strlen(b);

	if (la >= ARRAY_SIZE(row) || lb >= ARRAY_SIZE(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

const char *walk_nearest(const char *name, const char *const *names, size_t count)
{
	const char *best = NULL;
	size_t best_distance = strlen(name) < 4 ? 2 : 3; /* a limit: below it only */

	for (size_t i = 0; i < count; i++) {
		size_t d = edit_distance(name, names[i]);

		if (d < best_distance) {
			best_distance = d;
			best = names[i];
		}
	}
	return best;
}

static int fail_unknown_key(struct walk *w, const yaml_node_t *key, const char *what, const struct walk_key *keys,
			    size_t count)
{
	const char *names[32] = {0}, *nearest, *name = (const char *)key->data.scalar.value;
	struct buf known;
	int r;

	for (size_t i = 0; i < count; i++)
		names[i] = keys[i].name;
	nearest = walk_nearest(name, names, count);
	if (nearest)
		return walk_fail(w, key, "unknown key \"%.60s\" in %s; did you mean \"%s\"?", name, what, nearest);
	buf_init(&known);
	for (size_t i = 0; i < count; i++)
		buf_addf(&known, "%s%s", i ? ", " : "", names[i]);
	r = walk_fail(w, key, "unknown key \"%.60s\" in %s; known are: %s", name, what, known.data ? known.data : "");
	buf_deinit(&known);
	return r;
}

int walk_text(struct walk *w, const yaml_node_t *n, const char *what, const char *example, const char **ret)
{
	const char *v;

	if (n->type != YAML_SCALAR_NODE)
		return walk_fail(w, n, "%s is a %s; write %s", what, n->type == YAML_SEQUENCE_NODE ? "list" : "mapping",
				 example);
	v = (const char *)n->data.scalar.value;
	if (walk_is_null(n) || !*v)
		return walk_fail(w, n, "%s is empty; write %s", what, example);
	if (strlen(v) != n->data.scalar.length)
		return walk_fail(w, n, "%s contains a NUL byte; write %s", what, example);
	if (n->tag && strncmp((const char *)n->tag, PLAIN_TAGS, strlen(PLAIN_TAGS)))
		return walk_fail(w, n, "%s has the YAML tag %.40s; write the plain value", what, (const char *)n->tag);
	if (strlen(v) >= 4096)
		return walk_fail(w, n, "%s is longer than 4095 bytes; write %s", what, example);
	*ret = v;
	return 0;
}

/* A key's text: any scalar but an empty one. */
static int read_key(struct walk *w, const yaml_node_t *n, const char *what, const char **ret)
{
	char name[80];

	(void)snprintf(name, sizeof(name), "a key in %s", what);
	return walk_text(w, n, name, "a name", ret);
}

int walk_map(struct walk *w, const yaml_node_t *n, const char *what, const struct walk_key *keys, size_t count,
	     void *base, uint32_t *ret_seen)
{
	uint32_t seen = 0, given = 0;

	if (n->type != YAML_MAPPING_NODE)
		return walk_fail(w, n, "%s is a %s; write a mapping such as {%s: ...}", what,
				 n->type == YAML_SEQUENCE_NODE ? "list" : "single value", keys[0].name);
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
		const yaml_node_t *key = walk_node(w, p->key), *value = key ? walk_node(w, p->value) : NULL;
		const char *name;
		size_t i;
		int r;

		if (!value)
			return -EINVAL;
		r = read_key(w, key, what, &name);
		if (r < 0)
			return r;
		for (i = 0; i < count && strcmp(keys[i].name, name); i++)
			;
		if (i == count)
			return fail_unknown_key(w, key, what, keys, count);
		if (seen & (1u << i))
			return walk_fail(w, key, "the key \"%s\" is in %s twice; keep one", name, what);
		seen |= 1u << i;
		r = keys[i].read(w, &keys[i], value, (char *)base + keys[i].offset);
		if (r < 0)
			return r;
		if (!walk_is_null(value))
			given |= 1u << i;
	}
	*ret_seen = given;
	return 0;
}

/* Digits with at most one decimal point; the rest is the unit. */
static int parse_number(const char *text, const char **ret_rest, double *ret)
{
	char digits[32];
	size_t len = strspn(text, "0123456789."), points = 0;

	for (size_t i = 0; i < len; i++)
		points += text[i] == '.';
	if (!len || len > 20 || points > 1 || text[0] == '.' || text[len - 1] == '.')
		return -EINVAL;
	memcpy(digits, text, len);
	digits[len] = 0;
	*ret = strtod(digits, NULL);
	*ret_rest = text + len;
	return 0;
}

struct unit {
	const char *name;
	double factor;
};

static int parse_unit(const char *text, const struct unit *units, size_t count, uint64_t *ret)
{
	const char *rest;
	double v;
	int r;

	r = parse_number(text, &rest, &v);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(rest, units[i].name))
			continue;
		v *= units[i].factor;
		if (v >= 9.2e18)
			return -ERANGE;
		*ret = (uint64_t)(v + 0.5);
		return 0;
	}
	return -EINVAL;
}

int walk_parse_duration(const char *text, uint64_t *ret_ns)
{
	static const struct unit units[] = {
		{"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"d", 86400e9},
	};

	return parse_unit(text, units, ARRAY_SIZE(units), ret_ns);
}

int walk_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const struct unit units[] = {
		{"", 1}, {"B", 1}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
	};

	return parse_unit(text, units, ARRAY_SIZE(units), ret_bytes);
}

int walk_parse_percent(const char *text, double *ret_ratio)
{
	const char *rest;
	double v;
	int r;

	r = parse_number(text, &rest, &v);
	if (r < 0)
		return r;
	if (strcmp(rest, "%"))
		return -EINVAL;
	if (v <= 0 || v > 100)
		return -ERANGE;
	*ret_ratio = v / 100;
	return 0;
}

int walk_parse_uint(const char *text, uint64_t *ret)
{
	size_t len = strlen(text);

	if (!len || strspn(text, "0123456789") != len)
		return -EINVAL;
	if (len > 18)
		return -ERANGE;
	*ret = strtoull(text, NULL, 10);
	return 0;
}

static int duplicate(struct walk *w, const char *text, char **field)
{
	char *copy = strdup(text);

	if (!copy)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	free(*field);
	*field = copy;
	return 0;
}

int walk_string(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	const char *text;
	int r;

	r = walk_text(w, n, k->name, "a text", &text);
	return r < 0 ? r : duplicate(w, text, field);
}

int walk_bool(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	const char *text;
	int r;

	r = walk_text(w, n, k->name, "true or false", &text);
	if (r < 0)
		return r;
	if (n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || (strcmp(text, "true") && strcmp(text, "false")))
		return walk_fail(w, n, "%s is \"%.60s\"; write true or false", k->name, text);
	*(bool *)field = !strcmp(text, "true");
	return 0;
}

int walk_u32(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	char example[80];
	const char *text;
	uint64_t v;
	int r;

	(void)snprintf(example, sizeof(example), "a whole number from %" PRIu64 " to %" PRIu64, k->min, k->max);
	r = walk_text(w, n, k->name, example, &text);
	if (r < 0)
		return r;
	r = walk_parse_uint(text, &v);
	if (r < 0 || v < k->min || v > k->max)
		return walk_fail(w, n, "%s is \"%.60s\"; write %s", k->name, text, example);
	*(uint32_t *)field = (uint32_t)v;
	return 0;
}

int walk_duration(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	static const char example[] = "a number with its unit such as 500ms, 60s, 5m, 2h or 14d";
	const char *text;
	uint64_t ns;
	int r;

	r = walk_text(w, n, k->name, example, &text);
	if (r < 0)
		return r;
	r = walk_parse_duration(text, &ns);
	if (r < 0)
		return walk_fail(w, n, "%s is \"%.60s\", which is no duration; write %s", k->name, text, example);
	if (ns < k->min || ns > k->max)
		return walk_fail(w, n, "%s is \"%.60s\"; it may be from %" PRIu64 "ms to %" PRIu64 "s", k->name, text,
				 (uint64_t)(k->min / NS_PER_MS), (uint64_t)(k->max / NS_PER_S));
	*(uint64_t *)field = ns;
	return 0;
}

int walk_size(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	static const char example[] = "bytes or a number with KiB, MiB or GiB such as 512MiB or 2GiB";
	const char *text;
	uint64_t bytes;
	int r;

	r = walk_text(w, n, k->name, example, &text);
	if (r < 0)
		return r;
	r = walk_parse_size(text, &bytes);
	if (r < 0)
		return walk_fail(w, n, "%s is \"%.60s\", which is no size; write %s", k->name, text, example);
	if (bytes < k->min || bytes > k->max)
		return walk_fail(w, n, "%s is \"%.60s\"; it may be from %" PRIu64 "KiB to %" PRIu64 "GiB", k->name,
				 text, k->min >> 10, k->max >> 30);
	*(uint64_t *)field = bytes;
	return 0;
}

int walk_percent(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	double ratio;
	const char *text;
	int r;

	r = walk_text(w, n, k->name, "a percentage such as 2%", &text);
	if (r < 0)
		return r;
	r = walk_parse_percent(text, &ratio);
	if (r == -ERANGE)
		return walk_fail(w, n, "%s is \"%.60s\"; it must be above 0%% and at most 100%%", k->name, text);
	if (r < 0)
		return walk_fail(w, n, "%s is \"%.60s\", which is no percentage; write one such as 2%%", k->name, text);
	*(double *)field = ratio;
	return 0;
}

static int read_list(struct walk *w, const struct walk_key *k, const yaml_node_t *n, const char *example, bool globs,
		     char ***field)
{
	size_t count, i = 0;
	char **v;
	int r;

	if (walk_is_null(n))
		return 0;
	if (n->type != YAML_SEQUENCE_NODE)
		return walk_fail(w, n, "%s is no list; write %s", k->name, example);
	count = (size_t)(n->data.sequence.items.top - n->data.sequence.items.start);
	if (count > WALK_MAX_LIST)
		return walk_fail(w, n, "%s has %zu entries; at most %d are allowed", k->name, count, WALK_MAX_LIST);
	v = calloc(count + 1, sizeof(*v));
	if (!v)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	for (yaml_node_item_t *item = n->data.sequence.items.start; item < n->data.sequence.items.top; item++) {
		const yaml_node_t *entry = walk_node(w, *item);
		const char *text;

		r = entry ? walk_text(w, entry, k->name, example, &text) : -EINVAL;
		if (r < 0)
			goto fail;
		if (globs && text[0] != '/') {
			r = walk_fail(w, entry,
				      "%s holds \"%.60s\"; a path glob begins with /, such as \"/system.slice/*\"",
				      k->name, text);
			goto fail;
		}
		for (size_t j = 0; j < i; j++) {
			if (strcmp(v[j], text))
				continue;
			r = walk_fail(w, entry, "%s holds \"%.60s\" twice; keep one", k->name, text);
			goto fail;
		}
		r = duplicate(w, text, &v[i]);
		if (r < 0)
			goto fail;
		i++;
	}
	config_strv_free(*field);
	*field = v;
	return 0;
fail:
	config_strv_free(v);
	return r;
}

int walk_string_list(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	return read_list(w, k, n, "a list such as [a, b]", false, field);
}

int walk_glob_list(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	return read_list(w, k, n, "a list such as [\"/system.slice/*\"]", true, field);
}

static bool label_name_ok(const char *name)
{
	if (!isalpha((unsigned char)name[0]) && name[0] != '_')
		return false;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '_')
			return false;
	return strncmp(name, "__", 2) != 0;
}

int walk_label_map(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	struct map_field {
		struct config_label *labels;
		size_t count;
	} *out = field;
	struct config_label *labels;
	size_t count, i = 0;
	int r;

	if (walk_is_null(n))
		return 0;
	if (n->type != YAML_MAPPING_NODE)
		return walk_fail(w, n, "%s is no mapping; write one such as {region: eu}", k->name);
	count = (size_t)(n->data.mapping.pairs.top - n->data.mapping.pairs.start);
	if (count > k->max)
		return walk_fail(w, n, "%s has %zu entries; at most %" PRIu64 " are allowed", k->name, count, k->max);
	labels = calloc(count + 1, sizeof(*labels));
	if (!labels)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
		const yaml_node_t *key = walk_node(w, p->key), *value = key ? walk_node(w, p->value) : NULL;
		const char *name, *text;
		char what[120];

		r = value ? read_key(w, key, k->name, &name) : -EINVAL;
		if (r < 0)
			goto fail;
		if (!label_name_ok(name)) {
			r = walk_fail(w, key,
				      "\"%.60s\" in %s is no label name; use letters, digits and _, no digit first, "
				      "not __ first",
				      name, k->name);
			goto fail;
		}
		for (size_t j = 0; j < i; j++) {
			if (strcmp(labels[j].name, name))
				continue;
			r = walk_fail(w, key, "the key \"%.60s\" is in %s twice; keep one", name, k->name);
			goto fail;
		}
		(void)snprintf(what, sizeof(what), "%.80s in %s", name, k->name);
		r = walk_text(w, value, what, "a text", &text);
		if (r >= 0)
			r = duplicate(w, name, &labels[i].name);
		if (r >= 0)
			r = duplicate(w, text, &labels[i].value);
		i++;
		if (r < 0)
			goto fail;
	}
	config_labels_free(out->labels, out->count);
	out->labels = labels;
	out->count = count;
	return 0;
fail:
	config_labels_free(labels, i);
	return r;
}

void config_strv_free(char **v)
{
	for (char **s = v; s && *s; s++)
		free(*s);
	free(v);
}

void config_labels_free(struct config_label *labels, size_t count)
{
	for (size_t i = 0; labels && i < count; i++) {
		free(labels[i].name);
		free(labels[i].value);
	}
	free(labels);
}
