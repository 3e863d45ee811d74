/* Scratch memory of the programs, by context, so that a program that interrupts another never writes into its memory:
 * one set a CPU for interrupt context (perf events), one for the scheduler's switch (run queue locked, so not
 * reentrant). Sets of task context, which preemption can share, come with the first profiler that runs there. */
#ifndef BAROSCOPE_SCRATCH_H
#define BAROSCOPE_SCRATCH_H

#include "bpf/kernel.h"
#include "bpf/unwind_abi.h"

enum scratch_set { SCRATCH_INTERRUPT, SCRATCH_SWITCH, SCRATCH_SETS };

/* A power of two above STACK_MAX_FRAMES, so that an index can be masked for the verifier. */
#define SCRATCH_FRAMES 1024
_Static_assert(SCRATCH_FRAMES > STACK_MAX_FRAMES, "frames of a stack");

#define SCRATCH_REGISTERS 32 /* words; a power of two above those of struct pt_regs */

/* A walk up a user stack, see unwind.h. */
struct unwind_state {
	abi_u64 pc, sp, bp;
	abi_u64 hash;				/* of the stack's frames so far */
	abi_u32 mappings_start, mappings_count; /* the process's range of map `mappings` */
	abi_u32 base; /* where the user frames begin in scratch.frames: behind those of the kernel */
	abi_u32 frame_count, max_frames;
	abi_u32 programs;
	abi_u32 now;		 /* as unwind_image.used */
	abi_u8 exact;		 /* pc is where the task was interrupted, not a return address */
	abi_u8 bp_lost;		 /* bp is not that of this frame */
	abi_u8 end;		 /* enum unwind_end */
	abi_u8 by_frame_pointer; /* some frame was walked without a table */
	abi_u8 no_table;	 /* some image was not loaded */
	abi_u8 raw;		 /* some frame is raw */
	abi_u8 has_registers;	 /* scratch.registers are those of the first frame */
	abi_u8 pad;
	abi_u32 image; /* whose table is at hand; IMAGE_NONE: none is */
	struct unwind_image table;
	struct mapping_value last; /* that the frame before was found in */
};

struct scratch {
	struct record_stack stack;
	abi_frame frames[SCRATCH_FRAMES]; /* follows stack: both are sent as one record */
	abi_u64 kernel_ips[STACK_MAX_KERNEL_FRAMES + 1];
	abi_u64 user_ips[STACK_MAX_HELPER_FRAMES + 1];
	struct record_sample sample;
	struct mapping_value last; /* that a frame of this stack was found in */
	struct unwind_state walk;
	abi_u64 registers[SCRATCH_REGISTERS]; /* the interrupted user mode's, as in struct pt_regs */
	abi_u64 started_ns;		      /* 0: this run does not time itself */
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
