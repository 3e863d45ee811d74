/* The configuration: good files and what they come to, bad files and the exact sentence with its line. */
#include "daemon/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/buf.h"
#include "daemon/util/clock.h"

static struct config *parse_ok(const char *text)
{
	struct config *c = NULL;
	struct err e = {0};

	if (config_parse("f.yaml", text, strlen(text), &c, &e) < 0)
		fail_msg("refused: %s", e.text);
	return c;
}

static void expect_error(const char *text, const char *message)
{
	struct config *c = NULL;
	struct err e = {0};
	int r = config_parse("f.yaml", text, strlen(text), &c, &e);

	if (r >= 0)
		fail_msg("taken, but should say: %s", message);
	assert_null(c);
	assert_int_equal(e.code, r);
	assert_string_equal(e.text, message);
}

static void config_parse__empty_forms_give_the_defaults(void **state)
{
	static const char *const texts[] = {"",	    "{}",     "# only a comment\n",	"---\n",
					    "\n\n", "null\n", "#\ta tab in a comment\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct config *c = parse_ok(texts[i]);

		assert_string_equal(c->listen, "127.0.0.1:4041");
		assert_int_equal(c->cpu.rate_hz, 100);
		assert_int_equal(c->store.retention_ns, 14 * 86400 * NS_PER_S);
		assert_int_equal(c->store.max_bytes, 2ULL << 30);
		assert_int_equal(c->limits.series, 2000);
		assert_int_equal(c->limits.sessions, 16);
		assert_int_equal(c->limits.triggers_per_hour, 20);
		assert_int_equal(c->limits.tables_mib, 48);
		assert_null(c->debuginfod[0]);
		assert_string_equal(c->targets_allow[0], "/**");
		assert_null(c->targets_allow[1]);
		assert_null(c->targets_deny[0]);
		assert_false(c->triggers_given);
		assert_false(c->http.allow_control);
		config_destroy(c);
	}
}

static const char example[] =
	"listen: 127.0.0.1:4041\n"
	"http: {token_file: F, tls_cert: F, tls_key: F, allow_control: false}\n"
	"labels: {region: eu, env: prod}\n"
	"cpu: {rate_hz: 100}\n"
	"store: {retention: 14d, max_bytes: 2GiB}\n"
	"limits: {series: 2000, sessions: 16, triggers_per_hour: 20}\n"
	"symbols: {debuginfod: []}\n"
	"relabel: [{cgroup: \"/a/*\", comm: \"redis.*\", exe: \"/usr/bin/*\", set: {label: value}}]\n"
	"targets: {allow: [\"/**\"], deny: [\"/secret.slice/**\"]}\n"
	"triggers:\n"
	"  - name: cpu-pressure\n"
	"    source: psi.cpu.some        # psi.{cpu,memory,io}.{some,full}\n"
	"    cgroup: [\"/system.slice/*\"] # globs in the hierarchy\n"
	"    threshold: 20%\n"
	"    window: 2s\n"
	"    start: [cpu, alloc]\n"
	"    for: 60s\n"
	"    budget: 2%\n"
	"    cooldown: 60s\n"
	"    max_per_hour: 6\n"
	"  - name: latency\n"
	"    source: alert\n"
	"    match: {alertname: HighLatency}\n"
	"    target: {service: \"$labels.service\"}\n"
	"    start: [offcpu, lock]\n"
	"    for: 60s\n";

static void config_parse__example_is_read_whole(void **state)
{
	struct config *c = parse_ok(example);
	const struct config_trigger *t;

	(void)state;
	assert_string_equal(c->http.token_file, "F");
	assert_int_equal(c->label_count, 2);
	assert_string_equal(c->labels[1].name, "env");
	assert_string_equal(c->labels[1].value, "prod");
	assert_int_equal(c->relabel_count, 1);
	assert_string_equal(c->relabel[0].comm, "redis.*");
	assert_string_equal(c->relabel[0].set[0].value, "value");
	assert_string_equal(c->targets_deny[0], "/secret.slice/**");
	assert_true(c->triggers_given);
	assert_int_equal(c->trigger_count, 2);
	t = &c->triggers[0];
	assert_string_equal(t->name, "cpu-pressure");
	assert_string_equal(t->cgroup[0], "/system.slice/*");
	assert_true(t->threshold_ratio == 0.2);
	assert_int_equal(t->window_ns, 2 * NS_PER_S);
	assert_string_equal(t->start[1], "alloc");
	assert_null(t->start[2]);
	assert_true(t->budget_ratio == 0.02);
	t = &c->triggers[1];
	assert_string_equal(t->match[0].value, "HighLatency");
	assert_string_equal(t->target[0].name, "service");
	assert_string_equal(t->target[0].value, "$labels.service");
	assert_string_equal(t->cgroup[0], "/**");
	assert_int_equal(t->cooldown_ns, 60 * NS_PER_S);
	assert_int_equal(t->max_per_hour, 6);
	config_destroy(c);
}

static void config_parse__units(void **state)
{
	struct config *c;

	(void)state;
	c = parse_ok("cpu: {rate_hz: 49Hz}\nstore: {retention: 36h, max_bytes: 512KiB}\ntriggers: []\n");
	assert_int_equal(c->cpu.rate_hz, 49);
	assert_int_equal(c->store.retention_ns, 36 * 3600 * NS_PER_S);
	assert_int_equal(c->store.max_bytes, 512 * 1024);
	assert_true(c->triggers_given);
	assert_int_equal(c->trigger_count, 0);
	config_destroy(c);
	c = parse_ok("triggers:\n- {name: a, source: v1.pressure, start: [cpu], threshold: critical, for: 1.5m}\n"
		     "- {threshold: 64MiB, name: b, source: memory.high.slope, start: [alloc], window: 500ms}\n"
		     "- {threshold: 3, name: c, source: memory.events.high, start: [alloc]}\n");
	assert_int_equal(c->triggers[0].threshold_value, 3);
	assert_int_equal(c->triggers[0].for_ns, 90 * NS_PER_S);
	assert_int_equal(c->triggers[1].threshold_value, 64 << 20);
	assert_int_equal(c->triggers[1].window_ns, 500 * NS_PER_MS);
	assert_int_equal(c->triggers[2].threshold_value, 3);
	config_destroy(c);
}

#define RULE "triggers:\n- name: a\n  source: psi.cpu.some\n  start: [cpu]\n"

static const struct {
	const char *text, *message;
} bad[] = {
	{"lisen: x\n", "f.yaml:1: unknown key \"lisen\" in the configuration; did you mean \"listen\"?"},
	{"\ncpu: {rate: 1}\n", "f.yaml:2: unknown key \"rate\" in cpu; known are: rate_hz"},
	{"store:\n  retention: 14d\n  colour: red\n",
	 "f.yaml:3: unknown key \"colour\" in store; known are: retention, max_bytes"},
	{"[a, b]\n", "f.yaml:1: the configuration is a list; write a mapping such as {listen: ...}"},
	{"hello\n", "f.yaml:1: the configuration is a single value; write a mapping such as {listen: ...}"},
	{"cpu: 5\n", "f.yaml:1: cpu is a single value; write a mapping such as {rate_hz: ...}"},
	{"cpu:\n\trate_hz: 100\n", "f.yaml:2: a tab; YAML is indented and separated with spaces"},
	{"cpu: {rate_hz:\t100}\n", "f.yaml:1: a tab; YAML is indented and separated with spaces"},
	{"cpu:\n  rate_hz: fast\n", "f.yaml:2: rate_hz is \"fast\"; write a rate from 1 to 10000 such as 100"},
	{"cpu: {rate_hz: 0}\n", "f.yaml:1: rate_hz is \"0\"; write a rate from 1 to 10000 such as 100"},
	{"cpu: {rate_hz: 100s}\n", "f.yaml:1: rate_hz is \"100s\"; write a rate from 1 to 10000 such as 100"},
	{"cpu: {rate_hz: [1]}\n", "f.yaml:1: rate_hz is a list; write a rate from 1 to 10000 such as 100"},
	{"cpu: {rate_hz: 10, rate_hz: 20}\n", "f.yaml:1: the key \"rate_hz\" is in cpu twice; keep one"},
	{"labels: {}\ncpu: {}\nlabels: {}\n", "f.yaml:3: the key \"labels\" is in the configuration twice; keep one"},
	{"store: {retention: 14}\n", "f.yaml:1: retention is \"14\", which is no duration; write a number with its "
				     "unit such as 500ms, 60s, 5m, 2h or "
				     "14d"},
	{"store: {retention: 2w}\n", "f.yaml:1: retention is \"2w\", which is no duration; write a number with its "
				     "unit such as 500ms, 60s, 5m, 2h or "
				     "14d"},
	{"store: {retention: 1s}\n", "f.yaml:1: retention is \"1s\"; it may be from 60000ms to 315360000s"},
	{"store: {max_bytes: 2GB}\n", "f.yaml:1: max_bytes is \"2GB\", which is no size; write bytes or a number with "
				      "KiB, MiB or GiB such as 512MiB or "
				      "2GiB"},
	{"limits: {series: 1.5}\n", "f.yaml:1: series is \"1.5\"; write a whole number from 1 to 1000000"},
	{"limits: {sessions: -1}\n", "f.yaml:1: sessions is \"-1\"; write a whole number from 1 to 1024"},
	{"http: {allow_control: yes}\n", "f.yaml:1: allow_control is \"yes\"; write true or false"},
	{"http:\n  tls_cert: /c\n", "f.yaml:2: http has tls_cert without tls_key; TLS needs both"},
	{"listen:\n", "f.yaml:1: listen is empty; write ADDRESS:PORT such as 127.0.0.1:4041"},
	{"\nlisten: 127.0.0.1\n", "f.yaml:2: the listen address \"127.0.0.1\" has no port; write ADDRESS:PORT such as "
				  "127.0.0.1:4041 or [::1]:4041"},
	{"listen: 127.0.0.1:65536\n",
	 "f.yaml:1: the listen address \"127.0.0.1:65536\" has a bad port; write a number up "
	 "to 65535 such as 127.0.0.1:4041"},
	{"listen: \"::1:4041\"\n", "f.yaml:1: the listen address \"::1:4041\" needs brackets; write [::1]:4041"},
	{"listen: \"[127.0.0.1]:1\"\n", "f.yaml:1: the listen address \"[127.0.0.1]:1\" is no address with port; write "
					"ADDRESS:PORT such as 127.0.0.1:4041 or [::1]:4041"},
	{"labels:\n  region: eu\n  region: us\n", "f.yaml:3: the key \"region\" is in labels twice; keep one"},
	{"labels:\n  region:\n", "f.yaml:2: region in labels is empty; write a text"},
	{"labels: {9x: a}\n",
	 "f.yaml:1: \"9x\" in labels is no label name; use letters, digits and _, no digit first, not "
	 "__ first"},
	{"labels:\n  env: a\n  comm: b\n",
	 "f.yaml:3: the label comm comes from each process; set it with `relabel`, or take another name"},
	{"symbols: {debuginfod: [ftp://x]}\n",
	 "f.yaml:1: debuginfod holds \"ftp://x\"; write an http:// or https:// address"},
	{"targets: {allow: [a/b]}\n",
	 "f.yaml:1: allow holds \"a/b\"; a path glob begins with /, such as \"/system.slice/*\""},
	{"targets: {deny: /x}\n", "f.yaml:1: deny is no list; write a list such as [\"/system.slice/*\"]"},
	{"targets:\n  allow: [/a]\n  deny: [/a]\n", "f.yaml:2: targets allows and denies \"/a\"; keep one of the two"},
	{"targets:\n  deny:\n  - /a\n  - /a\n", "f.yaml:4: deny holds \"/a\" twice; keep one"},
	{"relabel:\n- comm: x\n", "f.yaml:2: a relabel rule without \"set\"; write set: {label: value}"},
	{"relabel:\n- set: {a: b}\n",
	 "f.yaml:2: a relabel rule that matches nothing in particular; give cgroup, comm or "
	 "exe, or use `labels` for all processes"},
	{"relabel:\n- set: {a: b}\n  comm: \"(\"\n",
	 "f.yaml:3: comm is \"(\", which is no regular expression: missing closing parenthesis at character 2"},
	{"a: [\n", "f.yaml:2: not YAML: did not find expected node content while parsing a flow node; see "
		   "baroscope.yaml(5)"},
	{"{}\n---\n{}\n", "f.yaml:2: a second document; the configuration is one document"},
	{"listen: \"a\\0b\"\n", "f.yaml:1: listen contains a NUL byte; write ADDRESS:PORT such as 127.0.0.1:4041"},
	{"listen: !x 127.0.0.1:1\n", "f.yaml:1: listen has the YAML tag !x; write the plain value"},
	{"triggers:\n",
	 "f.yaml:1: triggers is no list; write a list of rules, or [] for none, or leave the key out for the "
	 "default rules"},
	{"triggers:\n- {}\n", "f.yaml:2: a rule has no name; write name: NAME"},
	{"triggers:\n- name: a\n  start: [cpu]\n",
	 "f.yaml:2: the rule \"a\" has no source; write source: psi.cpu.some"},
	{"triggers:\n- name: a\n  source: oom\n", "f.yaml:2: the rule \"a\" has no start; write start: [cpu]"},
	{"triggers:\n- name: a\n  source: psi.cpu.sum\n", "f.yaml:3: unknown source \"psi.cpu.sum\"; did you mean "
							  "\"psi.cpu.some\"?"},
	{"triggers:\n- source: telepathy\n",
	 "f.yaml:2: unknown source \"telepathy\"; known are: psi.{cpu,memory,io}.{some,full}, "
	 "memory.events.{high,max,oom,oom_kill}, memory.high.slope, v1.pressure, v1.usage, oom, alert"},
	{"triggers:\n- start:\n  - cpu\n  - gpu\n",
	 "f.yaml:4: unknown profiler \"gpu\"; did you mean \"cpu\"? known are: cpu, alloc, offcpu, lock"},
	{"triggers:\n- start: []\n", "f.yaml:2: start is empty; name profilers such as [cpu, alloc]"},
	{RULE "  threshold: 101%\n", "f.yaml:5: threshold is \"101%\"; it must be above 0% and at most 100%"},
	{RULE "  threshold: 20\n", "f.yaml:5: threshold is \"20\", which is no percentage; write one such as 20%"},
	{RULE "  budget: 0%\n", "f.yaml:5: budget is \"0%\"; it must be above 0% and at most 100%"},
	{RULE "  for: 60\n",
	 "f.yaml:5: for is \"60\", which is no duration; write a number with its unit such as 500ms, "
	 "60s, 5m, 2h or 14d"},
	{RULE "  match: {a: b}\n",
	 "f.yaml:2: the rule \"a\" has source psi.cpu.some and match; only a rule with source alert has one"},
	{RULE "  cgroup: []\n", "f.yaml:2: the rule \"a\" has an empty cgroup list; write [\"/**\"] for all"},
	{RULE "- name: a\n  source: oom\n  start: [cpu]\n",
	 "f.yaml:5: two rules have the name \"a\"; a name is used once"},
	{"triggers:\n- {name: a, source: oom, start: [cpu], threshold: 5}\n",
	 "f.yaml:2: a rule with source oom has no threshold; leave it out"},
	{"triggers:\n- {name: a, source: memory.events.max, start: [cpu], threshold: 5%}\n",
	 "f.yaml:2: threshold is \"5%\"; memory.events.max counts events, write a whole number above 0 such as 1"},
	{"triggers:\n- {name: a, source: v1.usage, start: [cpu], threshold: 64}\n",
	 "f.yaml:2: threshold is \"64\", which has no unit; write 20% or 64MiB"},
	{"triggers:\n- {name: a, source: alert, start: [cpu], target: {pid: 1}}\n",
	 "f.yaml:2: the rule \"a\" has no match; write match: {alertname: NAME}"},
	{"triggers:\n- {name: a, source: alert, start: [cpu], match: {b: c}}\n",
	 "f.yaml:2: the rule \"a\" has no target; write target: {service: \"$labels.service\"}"},
	{"triggers:\n- {name: a, source: alert, start: [cpu], match: {b: c}, target: {host: x}}\n",
	 "f.yaml:2: unknown key \"host\" in target; write one of pid, cgroup, service"},
	{"triggers:\n- {name: a, source: alert, start: [cpu], match: {b: c}, target: {pid: 1}, window: 2s}\n",
	 "f.yaml:2: the rule \"a\" has source alert and window; an alert names its target, leave window out"},
};

static void config_parse__bad_files_name_line_and_remedy(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		expect_error(bad[i].text, bad[i].message);
}

static void config_parse__cut_anywhere_neither_leaks_nor_crashes(void **state)
{
	(void)state;
	for (size_t len = 0; len < strlen(example); len++) {
		struct config *c = NULL;
		struct err e = {0};

		if (config_parse("f.yaml", example, len, &c, &e) < 0)
			assert_memory_equal(e.text, "f.yaml:", 7);
		config_destroy(c);
	}
}

static void config_parse__too_large(void **state)
{
	size_t len = 1024 * 1024 + 1;
	char *text = malloc(len);
	struct config *c = NULL;
	struct err e = {0};

	(void)state;
	assert_non_null(text);
	memset(text, '\n', len);
	assert_int_equal(config_parse("f.yaml", text, len, &c, &e), -EFBIG);
	assert_string_equal(e.text, "f.yaml:1: the file is larger than 1024 KiB; a configuration is far smaller");
	assert_int_equal(config_parse("f.yaml", text, len - 1, &c, &e), 0);
	config_destroy(c);
	free(text);
}

static void config_parse__alias_bomb(void **state)
{
	struct buf b;
	struct config *c = NULL;
	struct err e = {0};

	(void)state;
	buf_init(&b);
	buf_adds(&b, "targets:\n  allow: &a [");
	for (int i = 0; i < 1000; i++)
		buf_addf(&b, "/a%d, ", i);
	buf_adds(&b, "]\ntriggers:\n");
	for (int i = 0; i < 200; i++)
		buf_addf(&b, "- {name: r%d, source: oom, start: [cpu], cgroup: *a}\n", i);
	assert_true(config_parse("f.yaml", b.data, b.len, &c, &e) < 0);
	assert_non_null(strstr(e.text, "with its aliases written out"));
	assert_null(c);
	buf_deinit(&b);
	expect_error("&a [*a]\n", "f.yaml:1: the configuration is a list; write a mapping such as {listen: ...}");
}

static void config_load__missing_file(void **state)
{
	struct config *c = NULL;
	struct err e = {0};

	(void)state;
	assert_int_equal(config_load("/nonexistent/baroscope.yaml", &c, &e), -ENOENT);
	assert_null(c);
	assert_string_equal(e.text,
			    "/nonexistent/baroscope.yaml: cannot open the configuration: No such file or directory");
	if (access(CONFIG_DEFAULT_FILE, F_OK) < 0) {
		assert_int_equal(config_load(NULL, &c, &e), 0);
		assert_string_equal(c->listen, CONFIG_DEFAULT_LISTEN);
		config_destroy(c);
	}
}

static void config_load__a_file_a_directory_and_a_fifo(void **state)
{
	char dir[] = "/tmp/baroscope-config-XXXXXX", file[64], fifo[64];
	struct config *c = NULL;
	struct err e = {0};
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(file, sizeof(file), "%s/c.yaml", dir);
	(void)snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	f = fopen(file, "w");
	assert_non_null(f);
	(void)fputs("cpu: {rate_hz: 20}\n", f);
	fclose(f);
	assert_int_equal(config_load(file, &c, &e), 0);
	assert_int_equal(c->cpu.rate_hz, 20);
	config_destroy(c);
	assert_int_equal(config_load(dir, &c, &e), -EISDIR);
	/* Without a writer it reads as empty; what matters is that it does not block. */
	assert_int_equal(config_load(fifo, &c, &e), 0);
	config_destroy(c);
	(void)unlink(file);
	(void)unlink(fifo);
	(void)rmdir(dir);
}

static void config_check_listen__loopback_or_token_and_tls(void **state)
{
	static const struct {
		const char *text;
		bool insecure;
		const char *message; /* NULL = fine */
	} cases[] = {
		{"listen: 127.0.0.1:4041", false, NULL},
		{"listen: 127.9.9.9:1", false, NULL},
		{"listen: \"[::1]:4041\"", false, NULL},
		{"listen: localhost:4041", false, NULL},
		{"listen: 0.0.0.0:4041", false,
		 "f.yaml:1: listening on 0.0.0.0:4041, which is not loopback, needs a token; set http.token_file, or "
		 "listen "
		 "on 127.0.0.1:4041"},
		{"listen: \"[::]:4041\"", true,
		 "f.yaml:1: listening on [::]:4041, which is not loopback, needs a token; set http.token_file, or "
		 "listen on "
		 "127.0.0.1:4041"},
		{"http: {token_file: /t}\nlisten: 10.0.0.1:4041", false,
		 "f.yaml:2: listening on 10.0.0.1:4041, which is not loopback, needs TLS; set http.tls_cert and "
		 "http.tls_key, or pass --insecure"},
		{"http: {token_file: /t}\nlisten: 10.0.0.1:4041", true, NULL},
		{"http: {token_file: /t, tls_cert: /c, tls_key: /k}\nlisten: 10.0.0.1:4041", false, NULL},
		{"http: {tls_cert: /c, tls_key: /k}\nlisten: 10.0.0.1:4041", true,
		 "f.yaml:2: listening on 10.0.0.1:4041, which is not loopback, needs a token; set http.token_file, or "
		 "listen "
		 "on 127.0.0.1:4041"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *c = parse_ok(cases[i].text);
		struct err e = {0};
		int r;

		c->insecure = cases[i].insecure;
		r = config_check_listen(c, &e);
		assert_string_equal(e.text, cases[i].message ? cases[i].message : "");
		assert_int_equal(r, cases[i].message ? -EINVAL : 0);
		config_destroy(c);
	}
}

static void config_check_listen__flag_has_no_line(void **state)
{
	struct config *c = parse_ok("listen: 127.0.0.1:4041");
	struct err e = {0};

	(void)state;
	free(c->listen);
	c->listen = strdup("0.0.0.0:1");
	assert_int_equal(config_check_listen(c, &e), -EINVAL);
	assert_memory_equal(e.text, "listening on 0.0.0.0:1", 22);
	config_destroy(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_parse__empty_forms_give_the_defaults),
		cmocka_unit_test(config_parse__example_is_read_whole),
		cmocka_unit_test(config_parse__units),
		cmocka_unit_test(config_parse__bad_files_name_line_and_remedy),
		cmocka_unit_test(config_parse__cut_anywhere_neither_leaks_nor_crashes),
		cmocka_unit_test(config_parse__too_large),
		cmocka_unit_test(config_parse__alias_bomb),
		cmocka_unit_test(config_load__missing_file),
		cmocka_unit_test(config_load__a_file_a_directory_and_a_fifo),
		cmocka_unit_test(config_check_listen__loopback_or_token_and_tls),
		cmocka_unit_test(config_check_listen__flag_has_no_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
