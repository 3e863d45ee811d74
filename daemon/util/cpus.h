/* Which CPUs there are. */
#ifndef BAROSCOPE_UTIL_CPUS_H
#define BAROSCOPE_UTIL_CPUS_H

#include <stdbool.h>
#include <stddef.h>

/* Highest possible CPU number + 1; at least 1. Does not change while the kernel runs. */
size_t cpus_possible(void);
/* As of the last cpus_refresh (the first call refreshes). */
bool cpus_is_online(size_t cpu);
size_t cpus_online(void);
/* Reads what is online anew; true if it changed. */
bool cpus_refresh(void);
/* Parses the kernel's list form ("0-3,7"); sets set[i] for i < count; returns highest + 1, or -EINVAL. For tests too.
 */
int cpus_parse(const char *text, bool *set, size_t count);

#endif
