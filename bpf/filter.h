/* Which tasks a profiler looks at: all, a cgroup's subtree, or a set of processes. Each profiler has its own. */
#ifndef BAROSCOPE_FILTER_H
#define BAROSCOPE_FILTER_H

#include "bpf/cgroup.h"
#include "bpf/filter_abi.h"

/* Set by user space before the programs are attached. */
struct filter_config filter = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILTER_MAX_PIDS);
	__type(key, abi_u32);
	__type(value, abi_u32);
} filter_pids SEC(".maps");

static __always_inline int filter_match(struct task_struct *task, abi_u32 pid)
{
	if (filter.mode == FILTER_ALL)
		return 1;
	if (filter.mode == FILTER_PIDS)
		return bpf_map_lookup_elem(&filter_pids, &pid) != NULL;
	return cgroup_has_ancestor(task, filter.hierarchy, filter.cgroup_id, filter.cgroup_level);
}

#endif
