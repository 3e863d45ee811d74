/* Kernel side of the CPU profiler: one program on a clock event a CPU. Runs in interrupt context. */
#include "bpf/filter.h"
#include "bpf/kernel.h"
#include "bpf/maps.h"
#include "bpf/stack.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, abi_u32);
	__type(value, struct profiler_stats);
} cpu_stats SEC(".maps");

#define PF_KTHREAD 0x00200000

struct task_struct___flags {
	unsigned int flags;
} __core;

static __always_inline void sample(void *ctx, struct profiler_stats *stats, abi_u64 pid_tgid)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	abi_u32 pid = (abi_u32)(pid_tgid >> 32), tid = (abi_u32)pid_tgid;
	struct scratch *s = scratch_get(SCRATCH_INTERRUPT);
	struct cgroup_ref cg = {};
	struct proc_value *proc;
	struct task_struct *leader;
	abi_u32 frames;
	int lost;

	if (!filter_match(task, pid)) {
		stats->filtered++;
		return;
	}
	if (!s) {
		stats->drops[DROP_SCRATCH_BUSY]++;
		return;
	}
	proc = bpf_map_lookup_elem(&procs, &pid);
	s->sample.time_ns = bpf_ktime_get_ns();
	frames = stack_take(ctx, SCRATCH_INTERRUPT, s, proc, pid, s->sample.time_ns,
			    !(BPF_CORE_READ((struct task_struct___flags *)task, flags) & PF_KTHREAD));
	lost = stack_send(s, frames, &stats->seen_full);
	if (lost) {
		stats->drops[DROP_STACK_LOST]++;
		return;
	}
#pragma unroll
	for (int i = 0; i < INCOMPLETE_CAUSE_COUNT; i++)
		if (s->stack.incomplete & (1u << i))
			stats->incomplete[i]++;

	s->sample.head.type = RECORD_SAMPLE;
	s->sample.head.cpu = (abi_u16)bpf_get_smp_processor_id();
	s->sample.head.pid = pid;
	s->sample.tid = tid;
	s->sample.generation = s->stack.generation;
	s->sample.stack_id = s->stack.stack_id;
	cgroup_of_task(task, &cg);
	s->sample.head.hierarchy = (abi_u8)cg.hierarchy;
	s->sample.cgroup_id = cg.id;

	__builtin_memset(s->name.name, 0, COMM_BYTES);
	bpf_get_current_comm(s->name.name, COMM_BYTES);
	s->sample.thread_id = name_send(s);
	s->sample.comm_id = s->sample.thread_id;
	if (pid != tid) {
		leader = BPF_CORE_READ(task, group_leader);
		__builtin_memset(s->name.name, 0, COMM_BYTES);
		BPF_CORE_READ_STR_INTO(&s->name.name, leader, comm);
		s->sample.comm_id = name_send(s);
	}

	if (bpf_ringbuf_output(&ring, &s->sample, sizeof(s->sample), BPF_RB_NO_WAKEUP))
		stats->drops[DROP_RING_FULL]++;
	else
		stats->samples++;
}

SEC("perf_event")
int b_cpu_tick(struct bpf_perf_event_data *ctx)
{
	abi_u64 pid_tgid = bpf_get_current_pid_tgid();
	struct profiler_stats *stats;
	abi_u64 started_ns = 0;
	abi_u32 zero = 0;

	stats = bpf_map_lookup_elem(&cpu_stats, &zero);
	if (!stats)
		return 0;
	if (!(stats->runs++ & 63))
		started_ns = bpf_ktime_get_ns();
	if (!(abi_u32)pid_tgid)
		stats->idle++;
	else
		sample(ctx, stats, pid_tgid);
	if (started_ns) {
		stats->timed_runs++;
		stats->timed_ns += bpf_ktime_get_ns() - started_ns;
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
