/* The user registers of a task: all that is the architecture's in taking a sample. x86-64.
 *
 * A task that was hit in the kernel has its user registers at the top of its kernel stack. */
#ifndef BAROSCOPE_REGS_H
#define BAROSCOPE_REGS_H

#include <linux/ptrace.h>

#include "bpf/kernel.h"

struct user_regs {
	abi_u64 pc, sp, bp;
};

#define REGS_USER_CS 0x33 /* of a 64-bit program */
#define REGS_COMPAT_CS 0x23
#define REGS_STACK_BYTES 16384 /* of a kernel stack before 5.15; nothing else is asked there */

enum regs_kind { REGS_NONE, REGS_64_BIT, REGS_32_BIT };

static __always_inline int regs_in_user(struct bpf_perf_event_data *ctx)
{
	return (ctx->regs.cs & 3) == 3;
}

/* What the current task's user mode was interrupted with. ctx of a perf event. */
static __always_inline enum regs_kind regs_of_sample(struct bpf_perf_event_data *ctx, struct task_struct *task,
						     struct user_regs *ret)
{
	const struct pt_regs *regs;
	abi_u64 cs = ctx->regs.cs;

	if (regs_in_user(ctx)) {
		ret->pc = ctx->regs.rip;
		ret->sp = ctx->regs.rsp;
		ret->bp = ctx->regs.rbp;
	} else {
		/* dd6e10fbd9fb ("bpf: Add bpf_task_pt_regs() helper", v5.15) */
		if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
			regs = (const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
		else
			regs = (const struct pt_regs *)((char *)BPF_CORE_READ(task, stack) + REGS_STACK_BYTES) - 1;
		if (bpf_probe_read_kernel(&cs, sizeof(cs), &regs->cs) ||
		    bpf_probe_read_kernel(&ret->pc, sizeof(ret->pc), &regs->rip) ||
		    bpf_probe_read_kernel(&ret->sp, sizeof(ret->sp), &regs->rsp) ||
		    bpf_probe_read_kernel(&ret->bp, sizeof(ret->bp), &regs->rbp))
			return REGS_NONE;
	}
	cs &= 0xffff; /* what is above belongs to the kernel */
	return cs == REGS_USER_CS ? REGS_64_BIT : cs == REGS_COMPAT_CS ? REGS_32_BIT : REGS_NONE;
}

#endif
