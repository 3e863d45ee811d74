/* Kernel side of the CPU profiler: one program on a clock event a CPU, and the program that walks. Interrupt context.
 *
 *	b_cpu_tick --(user stack to walk)--> b_cpu_walk --(16 frames)--> b_cpu_walk ...
 *
 * Whichever program is the last of a run gives it its one outcome. */
#include "bpf/filter.h"
#include "bpf/kernel.h"
#include "bpf/maps.h"
#include "bpf/regs.h"
#include "bpf/unwind.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, abi_u32);
	__type(value, struct profiler_stats);
} cpu_stats SEC(".maps");

int b_cpu_walk(struct bpf_perf_event_data *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(abi_u32));
	__array(values, int(void *));
} cpu_programs SEC(".maps") = {.values = {(void *)&b_cpu_walk}};

#define PF_KTHREAD 0x00200000

static __always_inline struct profiler_stats *stats_get(void)
{
	abi_u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_stats, &zero);
}

/* Sends what the scratch set holds: the stack if it is new, and the sample. The run's outcome. */
__noinline int cpu_send(abi_u32 set, abi_u32 is_walked)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct profiler_stats *stats = stats_get();
	struct scratch *s = scratch_get(set);
	struct cgroup_ref cg = {};

	if (!stats || !s)
		return 0;
	if (stack_send(s, &stats->seen_full)) {
		stats->drops[DROP_STACK_LOST]++;
		return 0;
	}
	if (s->stack.incomplete)
#pragma unroll
		for (int i = 0; i < INCOMPLETE_CAUSE_COUNT; i++)
			if (s->stack.incomplete & (1u << i))
				stats->incomplete[i]++;

	s->sample.head.type = RECORD_SAMPLE;
	s->sample.head.cpu = (abi_u16)bpf_get_smp_processor_id();
	s->sample.head.pid = s->stack.head.pid;
	s->sample.generation = s->stack.generation;
	s->sample.stack_id = s->stack.stack_id;
	cgroup_of_task(task, &cg);
	s->sample.head.hierarchy = (abi_u8)cg.hierarchy;
	s->sample.cgroup_id = cg.id;

	bpf_get_current_comm(s->sample.thread, COMM_BYTES);
	if (s->stack.head.pid == s->sample.tid) {
		__builtin_memcpy(s->sample.comm, s->sample.thread, COMM_BYTES);
	} else {
		struct task_struct *leader = BPF_CORE_READ(task, group_leader);

		__builtin_memset(s->sample.comm, 0, COMM_BYTES);
		BPF_CORE_READ_STR_INTO(&s->sample.comm, leader, comm);
	}

	if (bpf_ringbuf_output(&ring, &s->sample, sizeof(s->sample), BPF_RB_NO_WAKEUP)) {
		stats->drops[DROP_RING_FULL]++;
		return 0;
	}
	stats->samples++;
	if (is_walked) {
		stats->frames += s->walk.frame_count;
		if (s->walk.end < UNWIND_END_WHOLE_COUNT && !s->stack.incomplete)
			stats->whole[s->walk.end & (PROFILER_WHOLE_ENDS - 1)]++;
	}
	return 0;
}

static __always_inline void stop_clock(struct profiler_stats *stats, abi_u64 started_ns)
{
	if (started_ns) {
		stats->timed_runs++;
		stats->timed_ns += bpf_ktime_get_ns() - started_ns;
	}
}

/* The end of a walk. */
static __always_inline void finish_walk(struct profiler_stats *stats, struct scratch *s)
{
	unwind_end(s);
	cpu_send(SCRATCH_INTERRUPT, 1);
	stop_clock(stats, s->started_ns);
}

SEC("perf_event")
int b_cpu_walk(struct bpf_perf_event_data *ctx)
{
	struct profiler_stats *stats;
	struct scratch *s;

	if (!unwind_run(SCRATCH_INTERRUPT))
		unwind_next(ctx, SCRATCH_INTERRUPT, &cpu_programs);
	stats = stats_get();
	s = scratch_get(SCRATCH_INTERRUPT);
	if (stats && s)
		finish_walk(stats, s);
	return 0;
}

/* 1: there is a user stack to walk; 0: the run has its outcome. */
static __always_inline int sample(struct bpf_perf_event_data *ctx, struct profiler_stats *stats, struct scratch *s,
				  abi_u64 pid_tgid)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	abi_u32 pid = (abi_u32)(pid_tgid >> 32);
	enum regs_kind kind = REGS_NONE;
	struct range_value range;
	struct proc_value *proc;
	int is_user;

	if (!filter_match(task, pid)) {
		stats->filtered++;
		return 0;
	}
	if (!s) {
		stats->drops[DROP_SCRATCH_BUSY]++;
		return 0;
	}
	proc = bpf_map_lookup_elem(&procs, &pid);
	s->sample.tid = (abi_u32)pid_tgid;
	s->sample.time_ns = bpf_ktime_get_ns();
	stack_kernel(ctx, SCRATCH_INTERRUPT, s, proc, pid, s->sample.time_ns, !regs_in_user(ctx));
	is_user = !(BPF_CORE_READ(task, flags) & PF_KTHREAD) && BPF_CORE_READ(task, mm);
	if (is_user)
		kind = regs_of_sample(ctx, task, s);
	if (kind == REGS_64_BIT || kind == REGS_32_BIT) {
		int is_known = stack_range(proc, pid, &range);

		if (is_known && kind == REGS_64_BIT) {
			unwind_begin(s, s->registers[REGS_PC], s->registers[REGS_SP], s->registers[REGS_BP],
				     range.start, range.count, UNWIND_MAX_FRAMES, s->sample.time_ns);
			s->walk.has_registers = 1;
			return 1;
		}
		stack_user_helper(ctx, SCRATCH_INTERRUPT, s, &range);
	} else {
		if (is_user && kind == REGS_NONE)
			s->stack.incomplete |= 1u << INCOMPLETE_USER_STACK;
		stack_seal(s, 0);
	}
	cpu_send(SCRATCH_INTERRUPT, 0);
	return 0;
}

SEC("perf_event")
int b_cpu_tick(struct bpf_perf_event_data *ctx)
{
	struct scratch *s = scratch_get(SCRATCH_INTERRUPT);
	abi_u64 pid_tgid = bpf_get_current_pid_tgid();
	struct profiler_stats *stats = stats_get();
	abi_u64 started_ns = 0;

	if (!stats)
		return 0;
	if (!(stats->runs++ & 63))
		started_ns = bpf_ktime_get_ns();
	if (!(abi_u32)pid_tgid) {
		stats->idle++;
	} else if (sample(ctx, stats, s, pid_tgid) && s) {
		s->started_ns = started_ns;
		unwind_next(ctx, SCRATCH_INTERRUPT, &cpu_programs);
		finish_walk(stats, s);
		return 0;
	}
	stop_clock(stats, started_ns);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
