#include "daemon/util/cpus.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/cleanup.h"

#define MAX_CPUS 8192

static bool online[MAX_CPUS];
static size_t online_count, possible;

int cpus_parse(const char *text, bool *set, size_t count)
{
	const char *p = text;
	unsigned long highest = 0;

	while (*p && *p != '\n') {
		char *end;
		unsigned long first, last;

		if (!isdigit((unsigned char)*p))
			return -EINVAL;
		first = last = strtoul(p, &end, 10);
		if (*end == '-') {
			if (!isdigit((unsigned char)end[1]))
				return -EINVAL;
			last = strtoul(end + 1, &end, 10);
		}
		if (last < first || last >= MAX_CPUS || (*end && *end != ',' && *end != '\n'))
			return -EINVAL;
		for (unsigned long i = first; i <= last && i < count; i++)
			set[i] = true;
		if (last + 1 > highest)
			highest = last + 1;
		p = *end == ',' ? end + 1 : end;
	}
	return (int)highest;
}

static int read_list(const char *path, bool *set, size_t count)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	char text[4096];

	if (!f || !fgets(text, sizeof(text), f))
		return -ENOENT;
	return cpus_parse(text, set, count);
}

size_t cpus_possible(void)
{
	if (!possible) {
		int n = read_list("/sys/devices/system/cpu/possible", NULL, 0);

		if (n <= 0)
			n = (int)sysconf(_SC_NPROCESSORS_CONF);
		possible = n > 0 ? (size_t)n : 1;
	}
	return possible;
}

bool cpus_refresh(void)
{
	static bool fresh[MAX_CPUS];
	bool changed;

	memset(fresh, 0, sizeof(fresh));
	if (read_list("/sys/devices/system/cpu/online", fresh, MAX_CPUS) <= 0)
		for (size_t i = 0; i < cpus_possible(); i++)
			fresh[i] = true;
	changed = memcmp(fresh, online, sizeof(online)) != 0;
	memcpy(online, fresh, sizeof(online));
	online_count = 0;
	for (size_t i = 0; i < MAX_CPUS; i++)
		online_count += online[i];
	return changed;
}

bool cpus_is_online(size_t cpu)
{
	if (!online_count)
		cpus_refresh();
	return cpu < MAX_CPUS && online[cpu];
}

size_t cpus_online(void)
{
	if (!online_count)
		cpus_refresh();
	return online_count;
}
