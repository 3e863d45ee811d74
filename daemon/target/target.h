/* Who was it: processes (with generations), their executable mappings, cgroups, and the labels of a sample.
 *
 * Fed in time order by the pipeline with events of the kernel (bpf/track), and once by the start-up scan. Owns the
 * processes and their address spaces; forks share an address space until one of them execs or maps. A process that
 * ended is kept for a grace time so that samples still under way find it.
 *
 * Labels are resolved lazily at a process's first sample: its environ and cgroup are read through the opener;
 * meanwhile target_label says -EAGAIN. No libbpf here. Loop thread only. */
#ifndef BAROSCOPE_TARGET_TARGET_H
#define BAROSCOPE_TARGET_TARGET_H

#include "bpf/abi.h"
#include "daemon/image/image.h"
#include "daemon/opener/opener.h"
#include "daemon/util/labels.h"

struct targets;
struct process;

/* An executable mapping. Sorted by start within an address space, no overlaps. */
struct mapping {
	uint64_t start, end;
	uint64_t offset; /* in the file */
	image_id image;	 /* IMAGE_JIT for anonymous, IMAGE_VDSO, IMAGE_NONE when the image table is full */
};

/* Where published mappings go (bpf/track). generation: of the process they hold for. 0 or -errno (-ENOSPC: the table is
 * full; the process then stays unpublished and is counted). */
struct mapping_sink {
	int (*publish)(void *user, uint32_t pid, uint32_t generation, const struct mapping *mappings, size_t count);
	/* The child of a published process has its parent's mappings. 0, or -ENOENT: it is to be published. May be
	 * NULL. */
	int (*inherit)(void *user, uint32_t pid, uint32_t generation, uint32_t parent_pid, uint32_t parent_generation);
	/* Also for a child that was not inherited: whatever the kernel side gave it is taken away. */
	void (*retire)(void *user, uint32_t pid, uint32_t generation);
	void *user;
};

struct targets_options {
	const char *host;			/* label host; default: gethostname() */
	const struct label_set *static_labels;	/* from the config; copied */
	const char *proc_root;			/* default "/proc" (tests) */
	const char *const *allow, *const *deny; /* cgroup globs, NULL-terminated; NULL = all, none */
	uint64_t exit_grace_ns;			/* default 5 s */
	size_t max_processes;			/* default 65536 */
};

int targets_create(struct opener *opener, struct images *images, struct labels *labels, const struct mapping_sink *sink,
		   const struct targets_options *options, struct targets **ret, struct err *e);
void targets_destroy(struct targets *t);
/* New static labels and allow/deny globs after a reload: labels are built anew for later samples. */
int targets_reconfigure(struct targets *t, const struct targets_options *options, struct err *e);

/* Start-up, before the loop runs: every process of /proc with its mappings; processes known and unchanged keep their
 * identity. `enter` is called for each process found so that the kernel side knows it
 * (bpf_map_update BPF_NOEXIST with GENERATION_SCANNED); it returns the generation that is in force. */
typedef int targets_enter_fn(void *user, uint32_t pid, uint32_t *ret_generation);
int targets_scan(struct targets *t, targets_enter_fn *enter, void *user, struct err *e);
/* The same and the cgroups, after kernel events were lost; from within the loop, in the background. One at a time, and
 * one in 5 s: what is asked for meanwhile is done then. */
int targets_rescan(struct targets *t, targets_enter_fn *enter, void *user, struct err *e);
/* Mount points of all hierarchies from mountinfo, then id -> path for every directory. */
int targets_scan_cgroups(struct targets *t, struct err *e);

/* Kernel events, in time order (CLOCK_MONOTONIC). */
struct mmap_event {
	uint64_t time_ns;
	uint32_t pid;
	uint64_t start, bytes, file_offset;
	uint32_t dev_major, dev_minor;
	uint64_t inode, inode_generation;
	const char *path; /* borrowed; "//anon", "[vdso]" as perf gives them */
};
void targets_on_fork(struct targets *t, const struct record_process *r);
/* Perf's exec event, which comes before the new program's mappings, while the exec record comes after them. Optional:
 * without it the mappings of the last second before the record are taken for the new program's. */
void targets_on_exec_begin(struct targets *t, uint32_t pid, uint64_t time_ns);
void targets_on_exec(struct targets *t, const struct record_process *r);
void targets_on_exit(struct targets *t, const struct record_process *r);
void targets_on_mmap(struct targets *t, const struct mmap_event *m);
void targets_on_cgroup(struct targets *t, const struct record_cgroup *r); /* by r->head.type */

/* The process that had this pid and generation (generation 0: whoever had the pid at time_ns). Never NULL except when
 * out of memory: an unknown one is entered as a placeholder, its maps read through the opener. Borrowed; valid until
 * the exit grace is over: hold no pointer across drains except through targets_hold/targets_release. */
struct process *targets_get(struct targets *t, uint32_t pid, uint32_t generation, uint64_t time_ns);
struct process *targets_hold(struct process *p);
void targets_release(struct targets *t, struct process *p);

/* 0; -ENOENT: in no mapping; -EAGAIN: the mappings are still being read. */
int process_find_mapping(const struct process *p, uint64_t address, struct mapping *ret);
/* The process is worth publishing (it has samples): done at the next targets_tick. */
void targets_want_published(struct targets *t, struct process *p);

/* The series of a sample: 0; -EAGAIN: being read, ask again at the next drain (for at most 1 s, then it answers with
 * what is known; at once when this is the last time, `final`); -EACCES: excluded by allow/deny; -ENOSPC: the limit of
 * series is reached. comm is the name of the group leader at the sample. */
int target_label(struct targets *t, struct process *p, enum cgroup_hierarchy hierarchy, uint64_t cgroup_id,
		 intern_id comm, uint64_t now_ns, bool final, series_id *ret);
/* The series that has `host` and the static labels only... of what is no process's ([not_run]): host alone. */
int targets_host_series(struct targets *t, series_id *ret);

/* Once a drain: publishes, expires ended processes and removed cgroups. */
void targets_tick(struct targets *t, uint64_t now_ns);

struct targets_stats {
	uint64_t processes, address_spaces, mappings, cgroups;
	uint64_t processes_full, publish_full, rescans;
	uint64_t mappings_full; /* mappings beyond the limit of one process */
	uint64_t cgroups_full;
	uint64_t reads_failed; /* of a process's maps, environ or cgroup */
};
void targets_get_stats(const struct targets *t, struct targets_stats *ret);
void targets_mark_strings(struct targets *t, struct intern *strings);

#endif
