/* The filter's settings, shared with user space (a profiler's skeleton has them as `filter` in .bss or .data). */
#ifndef BAROSCOPE_FILTER_ABI_H
#define BAROSCOPE_FILTER_ABI_H

#include "bpf/abi.h"

#define FILTER_MAX_PIDS 1024

enum filter_mode { FILTER_ALL, FILTER_CGROUP, FILTER_PIDS };

struct filter_config {
	abi_u32 mode;	   /* enum filter_mode */
	abi_u32 hierarchy; /* enum cgroup_hierarchy; v2, v1 memory or v1 cpu */
	abi_u64 cgroup_id;
	abi_u32 cgroup_level; /* path components below the hierarchy's root */
	abi_u32 pad;
};
_Static_assert(sizeof(struct filter_config) == 24, "filter_config");

#endif
