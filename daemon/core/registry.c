/* The table of profilers: one line each. */
#include <string.h>

#include "bpf/cpu/cpu.h"
#include "daemon/core/profiler.h"

const struct profiler_ops *const profilers[] = {
	&cpu_profiler,
	NULL,
};

const struct profiler_ops *profiler_find(const char *name)
{
	for (size_t i = 0; profilers[i]; i++)
		if (!strcmp(profilers[i]->name, name))
			return profilers[i];
	return NULL;
}
