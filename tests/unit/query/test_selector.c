/* Selectors: what they match, what is refused and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "daemon/query/query.h"

static struct intern *strings;
static struct labels *labels;
static series_id redis;

static int setup(void **state)
{
	struct label_set set = {0};

	(void)state;
	assert_int_equal(intern_create(1 << 20, &strings), 0);
	assert_int_equal(labels_create(strings, 100, &labels), 0);
	label_set_put(&set, strings, "service_name", "redis");
	label_set_put(&set, strings, "comm", "redis-server");
	label_set_put(&set, strings, "cgroup", "/system.slice/a\"b\\c");
	label_set_put(&set, strings, "long", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
	return labels_put(labels, &set, &redis);
}

static int teardown(void **state)
{
	(void)state;
	labels_destroy(labels);
	intern_destroy(strings);
	return 0;
}

static void match__table(void **state)
{
	static const struct {
		const char *text;
		bool matches;
	} cases[] = {
		{"", true},
		{" { } ", true},
		{"{service_name=\"redis\"}", true},
		{"{service_name='redis',}", true},
		{"{service_name=`redis`, comm=~\"redis.*\"}", true},
		{"{service_name=\"redi\"}", false},
		{"{service_name!=\"redis\"}", false},
		{"{service_name!=\"nginx\"}", true},
		{"{comm=~\"redis\"}", false},
		{"{comm=~\"server\"}", false},
		{"{comm=~\"redis|redis-server\"}", true},
		{"{comm!~\"redis\"}", true},
		{"{comm!~\"redis.*\"}", false},
		{"{absent=\"\"}", true},
		{"{absent!=\"\"}", false},
		{"{absent=~\".*\"}", true},
		{"{absent=~\".+\"}", false},
		{"{cgroup=\"/system.slice/a\\\"b\\\\c\"}", true},
		{"{cgroup=`/system.slice/a\"b\\c`}", true},
		{"{service_name=\"redis\",comm=\"nginx\"}", false},
		{"{service_name=~\"re\\\\wis\"}", true},
		{"{service_name = \"redis\" , comm != \"x\" }", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct selector *s;
		struct err e = {0};

		if (selector_parse(cases[i].text, &s, &e) < 0)
			fail_msg("%s: %s", cases[i].text, e.text);
		if (selector_match(s, labels, redis) != cases[i].matches)
			fail_msg("%s: expected %d", cases[i].text, cases[i].matches);
		selector_destroy(s);
	}
}

static void parse__errors_say_what_and_where(void **state)
{
	static const struct {
		const char *text, *say;
	} cases[] = {
		{"service_name=\"x\"", "'{' is expected at position 1"},
		{"{", "a label name"},
		{"{a}", "one of = != =~ !~ is expected at position 3"},
		{"{a==\"x\"}", "a value in quotes is expected at position 4"},
		{"{a=x}", "a value in quotes"},
		{"{a=\"x}", "not closed at position 4"},
		{"{a=\"x\" b=\"y\"}", "',' or '}' is expected at position 8"},
		{"{a=\"x\"", "',' or '}' is expected at its end"},
		{"{a=\"x\"} x", "something follows"},
		{"{,}", "a label name"},
		{"{1a=\"x\"}", "a label name"},
		{"{a-b=\"x\"}", "one of ="},
		{"{a=\"\\d\"}", "unknown escape"},
		{"{a=~\"(\"}", "regular expression of a at position 5"},
		{"{a=~\"(((x{1000}){1000}){1000})\"}", "regular expression of a"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct selector *s = NULL;
		struct err e = {0};

		assert_int_equal(selector_parse(cases[i].text, &s, &e), -EINVAL);
		assert_null(s);
		if (!strstr(e.text, cases[i].say))
			fail_msg("%s: '%s' lacks '%s'", cases[i].text, e.text, cases[i].say);
	}
}

static void parse__bounds(void **state)
{
	struct selector *s = NULL;
	struct err e = {0};
	char text[5000] = "{";

	(void)state;
	for (int i = 0; i < 64; i++)
		strcat(text, "a=\"\",");
	text[strlen(text) - 1] = '\0';
	strcat(text, "}");
	assert_int_equal(selector_parse(text, &s, &e), 0);
	selector_destroy(s);
	text[strlen(text) - 1] = '\0';
	strcat(text, ",a=\"\"}");
	assert_int_equal(selector_parse(text, &s, &e), -EINVAL);
	assert_non_null(strstr(e.text, "64"));
	memset(text, ' ', 4097);
	text[4097] = '\0';
	assert_int_equal(selector_parse(text, &s, &e), -EINVAL);
	assert_non_null(strstr(e.text, "4096"));
}

static void match__expression_that_takes_too_long_selects_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const char *const slow[] = {"{long=~\"(a|aa|aaa)*(a|aa)*(a|aaa)*[bc]\"}",
					    "{long!~\"(a|aa|aaa)*(a|aa)*(a|aaa)*[bc]\"}"};
		struct selector *s;
		struct err e = {0};

		assert_int_equal(selector_parse(slow[i], &s, &e), 0);
		assert_false(selector_match(s, labels, redis));
		selector_destroy(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(match__table),
		cmocka_unit_test(parse__errors_say_what_and_where),
		cmocka_unit_test(parse__bounds),
		cmocka_unit_test(match__expression_that_takes_too_long_selects_nothing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
