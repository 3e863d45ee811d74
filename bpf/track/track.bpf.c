/* Kernel side of the tracker: processes come, exec and go; cgroups are made, renamed and removed.
 *
 * Raw tracepoints of rare events only. The generation in `procs` is set here, at the event itself, so that a sample
 * names the right process even when user space has not heard of it yet. */
#include "bpf/cgroup.h"
#include "bpf/maps.h"
#include "bpf/unwind_maps.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, abi_u32);
	__type(value, struct track_stats);
} track_stats SEC(".maps");

/* Counts the event; every 64th times itself. */
static __always_inline struct track_stats *begin(abi_u64 *ret_started_ns)
{
	struct track_stats *stats;
	abi_u32 zero = 0;

	stats = bpf_map_lookup_elem(&track_stats, &zero);
	*ret_started_ns = 0;
	if (stats && !(stats->events++ & 63))
		*ret_started_ns = bpf_ktime_get_ns();
	return stats;
}

static __always_inline void end(struct track_stats *stats, abi_u64 started_ns)
{
	if (stats && started_ns) {
		stats->timed_runs++;
		stats->timed_ns += bpf_ktime_get_ns() - started_ns;
	}
}

static __always_inline void send_process(struct track_stats *stats, struct record_process *r)
{
	if (bpf_ringbuf_output(&ring, r, sizeof(*r), BPF_RB_NO_WAKEUP) && stats)
		stats->events_lost++;
}

static __always_inline abi_u32 generation_of(abi_u32 pid)
{
	struct proc_value *p = bpf_map_lookup_elem(&procs, &pid);

	return p ? p->generation : 0;
}

static __always_inline void enter(struct track_stats *stats, abi_u32 pid, abi_u32 generation)
{
	struct proc_value value = {.generation = generation};

	if (bpf_map_update_elem(&procs, &pid, &value, BPF_ANY) && stats)
		stats->procs_full++;
}

/* A child has its parent's mappings until user space says otherwise, so its first sample can be walked. */
static __always_inline void inherit_range(const struct record_process *r)
{
	struct range_value *range = bpf_map_lookup_elem(&proc_ranges, &r->parent_pid), copy;

	if (!range)
		return;
	copy = *range;
	if (copy.pid != r->parent_pid || copy.generation != r->parent_generation)
		return;
	copy.pid = r->head.pid;
	copy.generation = r->generation;
	/* Full: the child is published at its first sample, like any other. */
	bpf_map_update_elem(&proc_ranges, &r->head.pid, &copy, BPF_ANY);
}

SEC("raw_tp/sched_process_fork")
int b_track_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx->args[0];
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	struct record_process r = {};
	struct track_stats *stats;
	abi_u64 started_ns;

	r.head.pid = BPF_CORE_READ(child, tgid);
	if (r.head.pid != (abi_u32)BPF_CORE_READ(child, pid))
		return 0; /* a thread */
	stats = begin(&started_ns);
	r.head.type = RECORD_FORK;
	r.time_ns = bpf_ktime_get_ns();
	r.generation = GENERATION_OF(r.time_ns);
	r.parent_pid = BPF_CORE_READ(parent, tgid);
	r.parent_generation = generation_of(r.parent_pid);
	BPF_CORE_READ_STR_INTO(&r.comm, child, comm);
	enter(stats, r.head.pid, r.generation);
	inherit_range(&r);
	send_process(stats, &r);
	end(stats, started_ns);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int b_track_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct record_process r = {};
	struct track_stats *stats;
	abi_u64 started_ns;

	stats = begin(&started_ns);
	r.head.type = RECORD_EXEC;
	r.head.pid = BPF_CORE_READ(task, tgid);
	r.time_ns = bpf_ktime_get_ns();
	r.parent_generation = generation_of(r.head.pid);
	r.generation = GENERATION_OF(r.time_ns);
	BPF_CORE_READ_STR_INTO(&r.comm, task, comm);
	enter(stats, r.head.pid, r.generation);
	send_process(stats, &r);
	end(stats, started_ns);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int b_track_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct record_process r = {};
	struct track_stats *stats;
	abi_u64 started_ns;

	/* The kernel has counted this thread off already: 0 = the last one goes, leader or not. */
	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		return 0;
	stats = begin(&started_ns);
	r.head.type = RECORD_EXIT;
	r.head.pid = BPF_CORE_READ(task, tgid);
	r.time_ns = bpf_ktime_get_ns();
	r.generation = generation_of(r.head.pid);
	bpf_map_delete_elem(&procs, &r.head.pid);
	/* Also what user space never hears of: its memory is gone. */
	bpf_map_delete_elem(&proc_ranges, &r.head.pid);
	send_process(stats, &r);
	end(stats, started_ns);
	return 0;
}

/* A path is too long for the stack, and these programs may preempt each other: the record is written in the ring
 * itself. */
static __always_inline int cgroup_event(struct bpf_raw_tracepoint_args *ctx, abi_u8 type)
{
	struct cgroup *cg = (struct cgroup *)ctx->args[0];
	struct record_cgroup *r;
	struct track_stats *stats;
	abi_u64 started_ns;

	stats = begin(&started_ns);
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r) {
		if (stats)
			stats->events_lost++;
		return 0;
	}
	__builtin_memset(&r->head, 0, sizeof(r->head));
	r->head.type = type;
	r->head.hierarchy = cgroup_hierarchy_of(cg);
	r->time_ns = bpf_ktime_get_ns();
	r->cgroup_id = BPF_CORE_READ(cg, kn, id);
	r->path[0] = '\0';
	bpf_probe_read_kernel_str(r->path, sizeof(r->path), (const void *)ctx->args[1]);
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	end(stats, started_ns);
	return 0;
}

SEC("raw_tp/cgroup_mkdir")
int b_track_cgmk(struct bpf_raw_tracepoint_args *ctx)
{
	return cgroup_event(ctx, RECORD_CGROUP_MKDIR);
}

SEC("raw_tp/cgroup_rmdir")
int b_track_cgrm(struct bpf_raw_tracepoint_args *ctx)
{
	return cgroup_event(ctx, RECORD_CGROUP_RMDIR);
}

SEC("raw_tp/cgroup_rename")
int b_track_cgmv(struct bpf_raw_tracepoint_args *ctx)
{
	return cgroup_event(ctx, RECORD_CGROUP_RENAME);
}

char LICENSE[] SEC("license") = "GPL";
