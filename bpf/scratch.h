/* Scratch memory of the programs, by context, so that a program that interrupts another never writes into its memory:
 * one set a CPU for interrupt context (perf events), one for the scheduler's switch (run queue locked, so not
 * reentrant). Sets of task context, which preemption can share, come with the first profiler that runs there. */
#ifndef BAROSCOPE_SCRATCH_H
#define BAROSCOPE_SCRATCH_H

#include "bpf/kernel.h"

enum scratch_set { SCRATCH_INTERRUPT, SCRATCH_SWITCH, SCRATCH_SETS };

/* A power of two above STACK_MAX_FRAMES, so that an index can be masked for the verifier. */
#define SCRATCH_FRAMES 256

struct scratch {
	struct record_stack stack;
	abi_frame frames[SCRATCH_FRAMES]; /* follows stack: both are sent as one record */
	abi_u64 kernel_ips[STACK_MAX_KERNEL_FRAMES + 1];
	abi_u64 user_ips[STACK_MAX_USER_FRAMES + 1];
	struct record_sample sample;
	struct record_name name;
	struct mapping_value last; /* that a frame of this stack was found in */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SETS);
	__type(key, abi_u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_get(abi_u32 set)
{
	return bpf_map_lookup_elem(&scratch, &set);
}

#endif
