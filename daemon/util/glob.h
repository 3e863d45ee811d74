/* Globs of cgroup paths and file paths, as the configuration has them. Pure functions. */
#ifndef BAROSCOPE_UTIL_GLOB_H
#define BAROSCOPE_UTIL_GLOB_H

#include <stdbool.h>

/* Whole path: `*` matches within one component, `**` across components; every other character is itself. A leading or
 * inner `/` + `**` + `/` also stands for a single `/`, and a final `/` + `**` also matches the directory itself: what
 * denies "/secret.slice/" + `**` must not let the processes right in secret.slice through. */
bool glob_match(const char *pattern, const char *path);

#endif
