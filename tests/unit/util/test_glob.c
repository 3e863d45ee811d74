/* Globs: what they match and what not. */
#include "daemon/util/glob.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *pattern, *path;
	bool match;
} cases[] = {
	{"/a", "/a", true},
	{"/a", "/ab", false},
	{"/a", "/", false},
	{"", "", true},
	{"", "/", false},
	{"/**", "/", true},
	{"/**", "/a", true},
	{"/**", "/a/b/c", true},
	{"/*", "/a", true},
	{"/*", "/a/b", false},
	{"/*", "/", true},
	{"/system.slice/*", "/system.slice/nginx.service", true},
	{"/system.slice/*", "/system.slice/a.slice/nginx.service", false},
	{"/system.slice/*", "/system.slice", false},
	{"/system.slice/*.service", "/system.slice/nginx.service", true},
	{"/system.slice/*.service", "/system.slice/nginx.scope", false},
	{"/system.slice/*.service", "/system.slice/a/b.service", false},
	{"/secret.slice/**", "/secret.slice", true},
	{"/secret.slice/**", "/secret.slice/x/y", true},
	{"/secret.slice/**", "/secret.slice2", false},
	{"/secret.slice/**", "/other/secret.slice", false},
	{"/a/**/z", "/a/z", true},
	{"/a/**/z", "/a/b/z", true},
	{"/a/**/z", "/a/b/c/z", true},
	{"/a/**/z", "/az", false},
	{"/a/**/z", "/a/b/cz", false},
	{"/a/**/z", "/a/b/z/y", false},
	{"/**/x.service", "/x.service", true},
	{"/**/x.service", "/a/b/x.service", true},
	{"/**/x.service", "/a/b/yx.service", false},
	{"/**.service", "/a/b/yx.service", true},
	{"**", "/a/b", true},
	{"/a**z", "/ab/cz", true},
	{"/a***z", "/ab/cz", true},
	{"/a*z", "/ab/cz", false},
	{"/*a*b", "/xaxab", true},
	{"/*a*b", "/xaxabc", false},
	{"/x*/y*z", "/x1/y2z", true},
	{"/x*/y*z", "/x1/2/y2z", false},
	{"/a?c", "/abc", false},
	{"/a?c", "/a?c", true},
	{"/a[b]", "/ab", false},
	{"/**/a/**/b/**", "/q/a/r/b", true},
	{"/**/a/**/b/**", "/a/b/c", true},
	{"/**/a/**/b/**", "/b/a", false},
};

static void glob_match__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (glob_match(cases[i].pattern, cases[i].path) != cases[i].match)
			fail_msg("pattern %s, path %s: want %d", cases[i].pattern, cases[i].path, cases[i].match);
}

/* A pattern that makes a backtracking matcher take exponential time. */
static void glob_match__hostile_pattern(void **state)
{
	char pattern[401], path[3001];

	(void)state;
	for (size_t i = 0; i < 400; i += 4)
		memcpy(pattern + i, "**a*", 4);
	pattern[400] = '\0';
	memset(path, 'a', 3000);
	path[3000] = '\0';
	path[2999] = 'b';
	assert_true(glob_match(pattern, path));
	pattern[399] = 'c';
	assert_false(glob_match(pattern, path));
}

static void glob_match__longer_than_any_path(void **state)
{
	static char path[5000];

	(void)state;
	memset(path, 'a', sizeof(path) - 1);
	assert_false(glob_match("**", path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(glob_match__table),
		cmocka_unit_test(glob_match__hostile_pattern),
		cmocka_unit_test(glob_match__longer_than_any_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
