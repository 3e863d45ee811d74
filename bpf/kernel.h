/* The kernel fields that our programs read, as own CO-RE structs: only names and nesting matter, offsets come from the
 * running kernel's BTF at load time. A `___old` flavour names the kernel commit that made it old. No vmlinux.h, so that
 * a build does not depend on its host. */
#ifndef BAROSCOPE_KERNEL_H
#define BAROSCOPE_KERNEL_H

#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi.h"

#ifndef __core /* the user-space build of the tests has none */
#define __core __attribute__((preserve_access_index))
#endif

struct atomic_int {
	int counter;
} __core;

struct kernfs_node {
	abi_u64 id;
} __core;

struct cgroup_root {
	int hierarchy_id; /* 0: the default (v2) hierarchy */
	unsigned int subsys_mask;
	char name[64];
} __core;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
} __core;

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup *ancestors[1];
} __core;

/* Until 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]", v6.1). */
struct cgroup___old {
	abi_u64 ancestor_ids[1];
} __core;

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
} __core;

/* The numbers depend on the kernel's configuration: read with bpf_core_enum_value. */
enum cgroup_subsys_id {
	cpu_cgrp_id = 1,
	memory_cgrp_id = 4,
};

struct signal_struct {
	struct atomic_int live; /* threads that have not begun to exit */
} __core;

struct task_struct {
	int pid;
	int tgid;
	char comm[COMM_BYTES];
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct css_set *cgroups;
	unsigned int flags;
	void *mm; /* NULL: a kernel thread, or one that has ended its user mode */
	void *stack;
} __core;

#endif
