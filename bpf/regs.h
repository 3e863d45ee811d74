/* The user registers of a task: all that is the architecture's in taking a sample. x86-64.
 *
 * A task that was hit in the kernel has its user registers at the top of its kernel stack. */
#ifndef BAROSCOPE_REGS_H
#define BAROSCOPE_REGS_H

#include <linux/ptrace.h>

#include "bpf/scratch.h"

/* Words of struct pt_regs, as scratch.registers has them. */
#define REGS_BP 4
#define REGS_PC 16
#define REGS_CS 17
#define REGS_SP 19
_Static_assert(__builtin_offsetof(struct pt_regs, rbp) == REGS_BP * 8 &&
		       __builtin_offsetof(struct pt_regs, rip) == REGS_PC * 8 &&
		       __builtin_offsetof(struct pt_regs, cs) == REGS_CS * 8 &&
		       __builtin_offsetof(struct pt_regs, rsp) == REGS_SP * 8 &&
		       sizeof(struct pt_regs) <= SCRATCH_REGISTERS * 8,
	       "struct pt_regs");

#define REGS_USER_CS 0x33 /* of a 64-bit program */
#define REGS_COMPAT_CS 0x23
#define REGS_STACK_BYTES 16384 /* of a kernel stack before 5.15; nothing else is asked there */

/* REGS_KERNEL: a worker of io_uring or vhost, which has a user's memory and never was in user mode. */
enum regs_kind { REGS_NONE, REGS_KERNEL, REGS_64_BIT, REGS_32_BIT };

static __always_inline int regs_in_user(struct bpf_perf_event_data *ctx)
{
	return (ctx->regs.cs & 3) == 3;
}

/* Fills s->registers with what the current task's user mode was interrupted with. ctx of a perf event. */
static __always_inline enum regs_kind regs_of_sample(struct bpf_perf_event_data *ctx, struct task_struct *task,
						     struct scratch *s)
{
	struct pt_regs *to = (struct pt_regs *)s->registers;
	const void *from;
	abi_u64 cs;

	if (regs_in_user(ctx)) {
#define REGS_COPY(name) to->name = ctx->regs.name
		REGS_COPY(r15), REGS_COPY(r14), REGS_COPY(r13), REGS_COPY(r12), REGS_COPY(rbp), REGS_COPY(rbx);
		REGS_COPY(r11), REGS_COPY(r10), REGS_COPY(r9), REGS_COPY(r8), REGS_COPY(rax), REGS_COPY(rcx);
		REGS_COPY(rdx), REGS_COPY(rsi), REGS_COPY(rdi), REGS_COPY(rip), REGS_COPY(cs), REGS_COPY(rsp);
#undef REGS_COPY
	} else {
		/* dd6e10fbd9fb ("bpf: Add bpf_task_pt_regs() helper", v5.15) */
		if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
			from = (const void *)bpf_task_pt_regs(bpf_get_current_task_btf());
		else
			from = (char *)BPF_CORE_READ(task, stack) + REGS_STACK_BYTES - sizeof(*to);
		if (bpf_probe_read_kernel(to, sizeof(*to), from))
			return REGS_NONE;
		if (!s->registers[REGS_PC] && !s->registers[REGS_SP])
			return REGS_KERNEL;
	}
	cs = s->registers[REGS_CS] & 0xffff; /* what is above belongs to the kernel */
	return cs == REGS_USER_CS ? REGS_64_BIT : cs == REGS_COMPAT_CS ? REGS_32_BIT : REGS_NONE;
}

#endif
