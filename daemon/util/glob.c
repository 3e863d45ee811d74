/* Globs of paths: the pattern is walked once, beside it the set of positions of the path that it can have reached. So
 * the time is pattern length x path length whatever the pattern is; there is no backtracking. Pure functions. */
#include "daemon/util/glob.h"

#include <limits.h>
#include <string.h>

/* Each step maps the set `at` of reached positions 0..n to the next one, in place. */
static void step_literal(bool *at, const char *path, size_t n, char c)
{
	for (size_t i = n; i > 0; i--)
		at[i] = at[i - 1] && path[i - 1] == c;
	at[0] = false;
}

static void step_star(bool *at, const char *path, size_t n)
{
	for (size_t i = 1; i <= n; i++)
		at[i] = at[i] || (at[i - 1] && path[i - 1] != '/');
}

static void step_double_star(bool *at, size_t n)
{
	for (size_t i = 1; i <= n; i++)
		at[i] = at[i] || at[i - 1];
}

/* A slash, or a slash, anything and a slash. */
static void step_directories(bool *at, const char *path, size_t n)
{
	bool open = false, was = at[0];

	at[0] = false;
	for (size_t i = 0; i < n; i++) {
		bool next = at[i + 1];

		open = open || (was && path[i] == '/');
		at[i + 1] = open && path[i] == '/';
		was = next;
	}
}

/* The end, or a slash and anything. */
static bool ends_in_subtree(const bool *at, const char *path, size_t n)
{
	if (at[n])
		return true;
	for (size_t i = 0; i < n; i++)
		if (at[i] && path[i] == '/')
			return true;
	return false;
}

bool glob_match(const char *pattern, const char *path)
{
	bool at[PATH_MAX + 1] = {true};
	size_t n = strlen(path);

	if (n > PATH_MAX)
		return false;
	while (*pattern) {
		size_t stars;

		if (strcmp(pattern, "/**") == 0)
			return ends_in_subtree(at, path, n);
		if (strncmp(pattern, "/**/", 4) == 0) {
			step_directories(at, path, n);
			pattern += 4;
			continue;
		}
		stars = strspn(pattern, "*");
		if (stars >= 2)
			step_double_star(at, n);
		else if (stars == 1)
			step_star(at, path, n);
		else
			step_literal(at, path, n, *pattern);
		pattern += stars ? stars : 1;
	}
	return at[n];
}
