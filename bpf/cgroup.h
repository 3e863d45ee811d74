/* The cgroup of a task: hierarchy and id; whether it lies in a subtree. v1, v2 and hybrid hosts. */
#ifndef BAROSCOPE_CGROUP_H
#define BAROSCOPE_CGROUP_H

#include "bpf/kernel.h"

struct cgroup_ref {
	abi_u32 hierarchy; /* enum cgroup_hierarchy */
	abi_u64 id;
};

/* The cgroup of a v1 controller; NULL where the controller is not on a v1 hierarchy. */
static __always_inline struct cgroup *cgroup_of_controller(struct css_set *set, abi_u32 subsys)
{
	struct cgroup_subsys_state *css = NULL;
	struct cgroup *cg;
	abi_u32 offset = bpf_core_field_offset(struct css_set, subsys) + subsys * sizeof(void *);

	if (bpf_probe_read_kernel(&css, sizeof(css), (void *)set + offset) || !css)
		return NULL;
	cg = BPF_CORE_READ(css, cgroup);
	if (!cg || BPF_CORE_READ(cg, root, hierarchy_id) == 0)
		return NULL;
	return cg;
}

static __always_inline struct cgroup *cgroup_in(struct css_set *set, abi_u32 hierarchy)
{
	if (hierarchy == CGROUP_V2)
		return BPF_CORE_READ(set, dfl_cgrp);
	if (hierarchy == CGROUP_V1_MEMORY && bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return cgroup_of_controller(set, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	if (hierarchy == CGROUP_V1_CPU && bpf_core_enum_value_exists(enum cgroup_subsys_id, cpu_cgrp_id))
		return cgroup_of_controller(set, bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id));
	return NULL;
}

/* The cgroup that a sample is filed under: v2, unless that is the root: then v1 memory, else v1 cpu. */
static __always_inline void cgroup_of_task(struct task_struct *task, struct cgroup_ref *ret)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup *v2 = cgroup_in(set, CGROUP_V2), *cg;

	ret->hierarchy = CGROUP_V2;
	ret->id = BPF_CORE_READ(v2, kn, id);
	if (BPF_CORE_READ(v2, level) > 0)
		return;
	cg = cgroup_in(set, CGROUP_V1_MEMORY);
	if (cg && BPF_CORE_READ(cg, level) > 0) {
		ret->hierarchy = CGROUP_V1_MEMORY;
		ret->id = BPF_CORE_READ(cg, kn, id);
		return;
	}
	cg = cgroup_in(set, CGROUP_V1_CPU);
	if (cg && BPF_CORE_READ(cg, level) > 0) {
		ret->hierarchy = CGROUP_V1_CPU;
		ret->id = BPF_CORE_READ(cg, kn, id);
	}
}

/* Is the task's cgroup in this hierarchy the one with this id (which is `level` below the root), or below it? */
static __always_inline int cgroup_has_ancestor(struct task_struct *task, abi_u32 hierarchy, abi_u64 id, abi_u32 level)
{
	struct cgroup *cg = cgroup_in(BPF_CORE_READ(task, cgroups), hierarchy);
	abi_u64 ancestor_id = 0;

	if (!cg || level > 255 || (abi_u32)BPF_CORE_READ(cg, level) < level)
		return 0;
	if (bpf_core_field_exists(((struct cgroup___old *)0)->ancestor_ids)) {
		abi_u32 offset = bpf_core_field_offset(struct cgroup___old, ancestor_ids) + level * sizeof(abi_u64);

		bpf_probe_read_kernel(&ancestor_id, sizeof(ancestor_id), (void *)cg + offset);
	} else {
		abi_u32 offset = bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(void *);
		struct cgroup *ancestor = NULL;

		bpf_probe_read_kernel(&ancestor, sizeof(ancestor), (void *)cg + offset);
		if (ancestor)
			ancestor_id = BPF_CORE_READ(ancestor, kn, id);
	}
	return ancestor_id == id;
}

/* Which of our hierarchies a cgroup is in (for mkdir and rmdir). Agrees with daemon/target/cgroups.c. */
static __always_inline abi_u8 cgroup_hierarchy_of(struct cgroup *cg)
{
	struct cgroup_root *root = BPF_CORE_READ(cg, root);
	unsigned int mask;
	char name[8] = {};

	if (BPF_CORE_READ(root, hierarchy_id) == 0)
		return CGROUP_V2;
	mask = BPF_CORE_READ(root, subsys_mask);
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id) &&
	    (mask & (1u << bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id))))
		return CGROUP_V1_MEMORY;
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, cpu_cgrp_id) &&
	    (mask & (1u << bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id))))
		return CGROUP_V1_CPU;
	BPF_CORE_READ_INTO(&name, root, name);
	if (name[0] == 's' && name[1] == 'y' && name[2] == 's' && name[3] == 't' && name[4] == 'e')
		return CGROUP_V1_SYSTEMD;
	return CGROUP_V1_OTHER;
}

#endif
