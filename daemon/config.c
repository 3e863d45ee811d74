/* The configuration file's keys, their defaults and what they mean together; the listen check. The walk along YAML is
 * in config_walk.c, the trigger rules in config_triggers.c. A struct config is complete or not there at all: a reload
 * that fails leaves the running one alone. */
#include "daemon/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "daemon/config_walk.h"
#include "daemon/util/clock.h"

#define DAY_NS (86400 * NS_PER_S)
#define LABELS_MAX 16
#define RELABEL_MAX 256

static walk_read_fn read_listen, read_http, read_labels, read_cpu, read_store, read_limits, read_symbols, read_relabel,
	read_targets, read_triggers, read_rate, read_path_glob, read_regex;

/* Sections fill struct config itself, so every offset is one in it. */
#define CONFIG_AT(field) offsetof(struct config, field)

static const struct walk_key root_keys[] = {
	{"listen", read_listen, 0, 0, 0},     {"http", read_http, 0, 0, 0},	  {"labels", read_labels, 0, 0, 0},
	{"cpu", read_cpu, 0, 0, 0},	      {"store", read_store, 0, 0, 0},	  {"limits", read_limits, 0, 0, 0},
	{"symbols", read_symbols, 0, 0, 0},   {"relabel", read_relabel, 0, 0, 0}, {"targets", read_targets, 0, 0, 0},
	{"triggers", read_triggers, 0, 0, 0},
};

static const struct walk_key http_keys[] = {
	{"token_file", walk_string, CONFIG_AT(http.token_file), 0, 0},
	{"tls_cert", walk_string, CONFIG_AT(http.tls_cert), 0, 0},
	{"tls_key", walk_string, CONFIG_AT(http.tls_key), 0, 0},
	{"allow_control", walk_bool, CONFIG_AT(http.allow_control), 0, 0},
};

static const struct walk_key cpu_keys[] = {
	{"rate_hz", read_rate, CONFIG_AT(cpu.rate_hz), 1, 10000},
};

static const struct walk_key store_keys[] = {
	{"retention", walk_duration, CONFIG_AT(store.retention_ns), 60 * NS_PER_S, 3650 * DAY_NS},
	{"max_bytes", walk_size, CONFIG_AT(store.max_bytes), 64 * 1024, 1024ULL << 30},
};

static const struct walk_key limits_keys[] = {
	{"series", walk_u32, CONFIG_AT(limits.series), 1, 1000000},
	{"sessions", walk_u32, CONFIG_AT(limits.sessions), 1, 1024},
	{"triggers_per_hour", walk_u32, CONFIG_AT(limits.triggers_per_hour), 0, 3600},
	{"tables_mib", walk_u32, CONFIG_AT(limits.tables_mib), 1, 1024},
};

static const struct walk_key symbols_keys[] = {
	{"debuginfod", walk_string_list, CONFIG_AT(debuginfod), 0, 0},
};

static const struct walk_key targets_keys[] = {
	{"allow", walk_glob_list, CONFIG_AT(targets_allow), 0, 0},
	{"deny", walk_glob_list, CONFIG_AT(targets_deny), 0, 0},
};

static const struct walk_key relabel_keys[] = {
	{"cgroup", read_path_glob, offsetof(struct config_relabel, cgroup), 0, 0},
	{"comm", read_regex, offsetof(struct config_relabel, comm), 0, 0},
	{"exe", read_path_glob, offsetof(struct config_relabel, exe), 0, 0},
	{"set", walk_label_map, offsetof(struct config_relabel, set), 0, LABELS_MAX},
};
#define RELABEL_SET (1u << 3)

/* walk_label_map takes the pointer and the count that follows it. */
_Static_assert(offsetof(struct config_relabel, set_count) == offsetof(struct config_relabel, set) + sizeof(void *), "");
_Static_assert(CONFIG_AT(label_count) == CONFIG_AT(labels) + sizeof(void *), "");

static int section(struct walk *w, const yaml_node_t *n, const char *what, const struct walk_key *keys, size_t count,
		   void *config)
{
	uint32_t seen;

	return walk_is_null(n) ? 0 : walk_map(w, n, what, keys, count, config, &seen);
}

static int read_listen(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	struct config *c = config;
	const char *text;
	char *copy;
	int r;

	r = walk_text(w, n, k->name, "ADDRESS:PORT such as 127.0.0.1:4041", &text);
	if (r < 0)
		return r;
	copy = strdup(text);
	if (!copy)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	free(c->listen_in_file);
	c->listen_in_file = copy;
	c->listen_line = n->start_mark.line + 1;
	copy = strdup(text);
	if (!copy)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	free(c->listen);
	c->listen = copy;
	return 0;
}

static int read_http(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	struct config *c = config;
	int r;

	r = section(w, n, k->name, http_keys, ARRAY_SIZE(http_keys), config);
	if (r < 0)
		return r;
	if (!c->http.tls_cert != !c->http.tls_key)
		return walk_fail(w, n, "http has %s without %s; TLS needs both",
				 c->http.tls_cert ? "tls_cert" : "tls_key", c->http.tls_cert ? "tls_key" : "tls_cert");
	return 0;
}

static int read_labels(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	/* What a process says about itself can't be the same for all of them. */
	static const char *const reserved[] = {"service_name", "service_version", "comm", "cgroup", "container",
					       "pod",	       "pod_uid",	  "pid"};
	const struct walk_key labels = {k->name, walk_label_map, 0, 0, LABELS_MAX};
	struct config *c = config;
	int r;

	r = walk_label_map(w, &labels, n, &c->labels);
	if (r < 0)
		return r;
	for (size_t i = 0; i < c->label_count; i++) {
		for (size_t j = 0; j < ARRAY_SIZE(reserved); j++) {
			const yaml_node_t *at;

			if (strcmp(c->labels[i].name, reserved[j]))
				continue;
			at = walk_node(w, n->data.mapping.pairs.start[i].key);
			return walk_fail(
				w, at ? at : n,
				"the label %s comes from each process; set it with `relabel`, or take another name",
				reserved[j]);
		}
	}
	return 0;
}

static int read_cpu(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	return section(w, n, k->name, cpu_keys, ARRAY_SIZE(cpu_keys), config);
}

/* The key names the unit; 100Hz, as the command line has it, means the same. */
static int read_rate(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	char digits[16] = "";
	const char *text;
	size_t len;
	uint64_t v;
	int r;

	r = walk_text(w, n, k->name, "a rate from 1 to 10000 such as 100", &text);
	if (r < 0)
		return r;
	len = strlen(text);
	if (len > 2 && !strcmp(text + len - 2, "Hz"))
		len -= 2;
	if (len < sizeof(digits))
		memcpy(digits, text, len);
	r = walk_parse_uint(digits, &v);
	if (r < 0 || v < k->min || v > k->max)
		return walk_fail(w, n, "%s is \"%.60s\"; write a rate from 1 to 10000 such as 100", k->name, text);
	*(uint32_t *)field = (uint32_t)v;
	return 0;
}

static int read_store(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	return section(w, n, k->name, store_keys, ARRAY_SIZE(store_keys), config);
}

static int read_limits(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	return section(w, n, k->name, limits_keys, ARRAY_SIZE(limits_keys), config);
}

static int read_symbols(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	struct config *c = config;
	int r;

	r = section(w, n, k->name, symbols_keys, ARRAY_SIZE(symbols_keys), config);
	if (r < 0)
		return r;
	for (char **url = c->debuginfod; *url; url++)
		if (strncmp(*url, "http://", 7) && strncmp(*url, "https://", 8))
			return walk_fail(w, n, "debuginfod holds \"%.60s\"; write an http:// or https:// address",
					 *url);
	return 0;
}

static int read_targets(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	struct config *c = config;
	int r;

	r = section(w, n, k->name, targets_keys, ARRAY_SIZE(targets_keys), config);
	if (r < 0)
		return r;
	for (char **a = c->targets_allow; *a; a++)
		for (char **d = c->targets_deny; *d; d++)
			if (!strcmp(*a, *d))
				return walk_fail(w, n, "targets allows and denies \"%.60s\"; keep one of the two", *a);
	return 0;
}

static int read_path_glob(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	const char *text;
	int r;

	r = walk_text(w, n, k->name, "a path glob such as \"/system.slice/*\"", &text);
	if (r < 0)
		return r;
	if (text[0] != '/')
		return walk_fail(w, n, "%s is \"%.60s\"; a path glob begins with /, such as \"/system.slice/*\"",
				 k->name, text);
	return walk_string(w, k, n, field);
}

static int read_regex(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	PCRE2_UCHAR why[120] = "";
	pcre2_code *code;
	const char *text;
	PCRE2_SIZE at;
	int r, cause;

	r = walk_text(w, n, k->name, "a regular expression such as \"redis.*\"", &text);
	if (r < 0)
		return r;
	code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, &cause, &at, NULL);
	if (!code) {
		(void)pcre2_get_error_message(cause, why, ARRAY_SIZE(why));
		return walk_fail(w, n, "%s is \"%.60s\", which is no regular expression: %s at character %zu", k->name,
				 text, (const char *)why, (size_t)at + 1);
	}
	pcre2_code_free(code);
	return walk_string(w, k, n, field);
}

static int read_relabel(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	struct config *c = config;
	size_t count;

	if (walk_is_null(n))
		return 0;
	if (n->type != YAML_SEQUENCE_NODE)
		return walk_fail(w, n, "%s is no list; write [{comm: REGEX, set: {label: value}}]", k->name);
	count = (size_t)(n->data.sequence.items.top - n->data.sequence.items.start);
	if (count > RELABEL_MAX)
		return walk_fail(w, n, "relabel has %zu rules; at most %d are allowed", count, RELABEL_MAX);
	c->relabel = calloc(count + 1, sizeof(*c->relabel));
	if (!c->relabel)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	for (size_t i = 0; i < count; i++) {
		const yaml_node_t *rule = walk_node(w, n->data.sequence.items.start[i]);
		uint32_t seen;
		int r;

		if (!rule)
			return -EINVAL;
		c->relabel_count = i + 1;
		r = walk_map(w, rule, "a relabel rule", relabel_keys, ARRAY_SIZE(relabel_keys), &c->relabel[i], &seen);
		if (r < 0)
			return r;
		if (!(seen & RELABEL_SET))
			return walk_fail(w, rule, "a relabel rule without \"set\"; write set: {label: value}");
		if (!(seen & ~RELABEL_SET))
			return walk_fail(w, rule,
					 "a relabel rule that matches nothing in particular; give cgroup, comm "
					 "or exe, or use `labels` for all processes");
	}
	return 0;
}

static int read_triggers(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *config)
{
	(void)k;
	return config_read_triggers(w, n, config);
}

int config_create(struct config **ret)
{
	struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->cpu.rate_hz = 100;
	c->store.retention_ns = 14 * DAY_NS;
	c->store.max_bytes = 2ULL << 30;
	c->limits.series = 2000;
	c->limits.sessions = 16;
	c->limits.triggers_per_hour = 20;
	c->limits.tables_mib = 48;
	c->listen = strdup(CONFIG_DEFAULT_LISTEN);
	c->debuginfod = calloc(1, sizeof(char *));
	c->targets_allow = calloc(2, sizeof(char *));
	c->targets_deny = calloc(1, sizeof(char *));
	if (c->targets_allow)
		c->targets_allow[0] = strdup("/**");
	if (!c->listen || !c->debuginfod || !c->targets_allow || !c->targets_allow[0] || !c->targets_deny) {
		config_destroy(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

/* "ADDRESS:PORT" or "[ADDRESS]:PORT". A port of 0 asks the kernel for a free one. */
static int parse_listen(const char *listen, bool *ret_loopback, struct err *e)
{
	char host[64];
	const char *colon = strrchr(listen, ':'), *end;
	struct in6_addr v6;
	struct in_addr v4;
	uint64_t port;
	bool brackets = listen[0] == '[';
	size_t len;

	if (!colon)
		return err_set(e, -EINVAL,
			       "the listen address \"%.80s\" has no port; write ADDRESS:PORT such as %s or [::1]:4041",
			       listen, CONFIG_DEFAULT_LISTEN);
	if (walk_parse_uint(colon + 1, &port) < 0 || port > 65535)
		return err_set(e, -EINVAL,
			       "the listen address \"%.80s\" has a bad port; write a number up to 65535 such as %s",
			       listen, CONFIG_DEFAULT_LISTEN);
	end = brackets ? strchr(listen, ']') : colon;
	if (!end || (brackets && end + 1 != colon))
		goto bad;
	len = (size_t)(end - listen) - brackets;
	if (len >= sizeof(host))
		goto bad;
	memcpy(host, listen + brackets, len);
	host[len] = 0;
	if (brackets) {
		if (inet_pton(AF_INET6, host, &v6) != 1)
			goto bad;
		*ret_loopback = IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
		return 0;
	}
	if (!strcmp(host, "localhost")) {
		*ret_loopback = true;
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return err_set(e, -EINVAL, "the listen address \"%.80s\" needs brackets; write [%s]:%s", listen, host,
			       colon + 1);
	if (inet_pton(AF_INET, host, &v4) != 1)
		goto bad;
	*ret_loopback = (ntohl(v4.s_addr) >> 24) == 127;
	return 0;
bad:
	return err_set(
		e, -EINVAL,
		"the listen address \"%.80s\" is no address with port; write ADDRESS:PORT such as %s or [::1]:4041",
		listen, CONFIG_DEFAULT_LISTEN);
}

static int check_listen(const struct config *c, struct err *e)
{
	bool loopback;
	int r;

	r = parse_listen(c->listen, &loopback, e);
	if (r < 0 || loopback)
		return r;
	if (!c->http.token_file)
		return err_set(e, -EINVAL,
			       "listening on %.80s, which is not loopback, needs a token; set http.token_file, or "
			       "listen on %s",
			       c->listen, CONFIG_DEFAULT_LISTEN);
	if (!c->http.tls_cert && !c->insecure)
		return err_set(
			e, -EINVAL,
			"listening on %.80s, which is not loopback, needs TLS; set http.tls_cert and http.tls_key, "
			"or pass --insecure",
			c->listen);
	return 0;
}

int config_check_listen(const struct config *c, struct err *e)
{
	struct err inner = {0};
	int r;

	r = check_listen(c, &inner);
	if (r >= 0)
		return 0;
	if (c->file && c->listen_in_file && !strcmp(c->listen, c->listen_in_file))
		return err_set(e, r, "%s:%zu: %s", c->file, c->listen_line, inner.text);
	return err_set(e, r, "%s", inner.text);
}

static int parse_walk(struct walk *w, struct config **ret, struct err *e)
{
	struct config *c;
	const yaml_node_t *root;
	bool loopback;
	uint32_t seen;
	int r;

	r = config_create(&c);
	if (r < 0)
		return err_set(e, r, "%s: out of memory", w->file);
	c->file = strdup(w->file);
	if (!c->file) {
		r = err_set(e, -ENOMEM, "%s: out of memory", w->file);
		goto fail;
	}
	root = w->has_doc ? yaml_document_get_root_node(&w->doc) : NULL;
	if (root && !walk_is_null(root)) {
		r = walk_map(w, root, "the configuration", root_keys, ARRAY_SIZE(root_keys), c, &seen);
		if (r < 0)
			goto fail;
	}
	if (c->listen_in_file) {
		struct err inner = {0};

		/* The form only: whether it may be listened on depends on flags, see config_check_listen. */
		r = parse_listen(c->listen, &loopback, &inner);
		if (r < 0) {
			r = err_set(e, r, "%s:%zu: %s", c->file, c->listen_line, inner.text);
			goto fail;
		}
	}
	*ret = c;
	return 0;
fail:
	config_destroy(c);
	return r;
}

int config_parse(const char *file, const char *text, size_t len, struct config **ret, struct err *e)
{
	struct walk w;
	int r;

	r = walk_init_bytes(&w, file, text, len, e);
	if (r < 0)
		return r;
	r = parse_walk(&w, ret, e);
	walk_deinit(&w);
	return r;
}

int config_load(const char *path, struct config **ret, struct err *e)
{
	struct err inner = {0};
	struct walk w;
	int r;

	r = walk_init(&w, path ? path : CONFIG_DEFAULT_FILE, &inner);
	if (r == -ENOENT && !path)
		return config_parse(CONFIG_DEFAULT_FILE, "", 0, ret, e);
	if (r < 0)
		return err_set(e, r, "%s", inner.text);
	w.e = e;
	r = parse_walk(&w, ret, e);
	walk_deinit(&w);
	return r;
}

void config_destroy(struct config *c)
{
	if (!c)
		return;
	free(c->listen);
	free(c->listen_in_file);
	free(c->file);
	free(c->http.token_file);
	free(c->http.tls_cert);
	free(c->http.tls_key);
	config_labels_free(c->labels, c->label_count);
	config_strv_free(c->debuginfod);
	for (size_t i = 0; i < c->relabel_count; i++) {
		free(c->relabel[i].cgroup);
		free(c->relabel[i].comm);
		free(c->relabel[i].exe);
		config_labels_free(c->relabel[i].set, c->relabel[i].set_count);
	}
	free(c->relabel);
	config_strv_free(c->targets_allow);
	config_strv_free(c->targets_deny);
	config_triggers_free(c->triggers, c->trigger_count);
	free(c);
}
