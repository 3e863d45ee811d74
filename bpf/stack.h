/* From a task's instruction pointers to a record: normalised frames, a hash as id, sent once.
 *
 * The kernel stack is taken by the kernel's helper; the user stack by the walker of unwind.h, or by the helper (by
 * frame pointer) where the process's mappings are not known. Works on one scratch set; the functions are global
 * (__noinline, scalars only) so that the verifier checks each once and on its own. */
#ifndef BAROSCOPE_STACK_H
#define BAROSCOPE_STACK_H

#include "bpf/maps.h"
#include "bpf/scratch.h"

#define MAPPING_SEARCH_STEPS 15 /* 2^14 mappings a process, as user space limits them */

/* Index of the last entry in [start, start + count) that begins at or below address; -1 = none. Whether it reaches that
 * far is the caller's to check. One branch a step, so that the verifier's states stay few. */
__noinline int find_mapping(abi_u32 start, abi_u32 count, abi_u64 address)
{
	abi_u32 low = start, high = start + count;

	for (int i = 0; i < MAPPING_SEARCH_STEPS; i++) {
		abi_u32 middle = low + ((high - low) >> 1);
		struct mapping_value *m;

		if (low >= high)
			break;
		m = bpf_map_lookup_elem(&mappings, &middle);
		if (!m)
			return -1;
		if (m->start <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low == start ? -1 : (int)(low - 1);
}

/* The mapping that holds the address; NULL: none does. */
static __always_inline struct mapping_value *mapping_at(abi_u32 start, abi_u32 count, abi_u64 address)
{
	int index = find_mapping(start, count, address);
	abi_u32 key = (abi_u32)index;
	struct mapping_value *m = index < 0 ? NULL : bpf_map_lookup_elem(&mappings, &key);

	return m && address - m->start < (abi_u64)m->pages << 12 ? m : NULL;
}

/* Set by user space, the same for all profilers that share the maps. */
const volatile abi_u64 hash_seed = 0;

static __always_inline abi_u64 hash_step(abi_u64 h, abi_u64 v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 29);
}

/* Fills frames from kernel_ips. A return address is moved back by one, into the call. */
__noinline int normalise_kernel(abi_u32 set, abi_u32 count)
{
	struct scratch *s = scratch_get(set);
	abi_u64 h = hash_step(hash_seed, count);

	if (!s)
		return -1;
	for (abi_u32 i = 0; i < STACK_MAX_KERNEL_FRAMES; i++) {
		abi_frame frame;

		if (i >= count)
			break;
		frame = ABI_FRAME(IMAGE_KERNEL, s->kernel_ips[i] - (i != 0));
		s->frames[i] = frame;
		h = hash_step(h, frame);
	}
	s->stack.stack_id = h;
	return 0;
}

/* The frame of a user address, by the range (start, count) of its process; consecutive frames of one mapping search
 * once. A function of its own, checked by the verifier once and not at each turn of the loop. */
__noinline abi_u64 normalise_address(abi_u32 set, abi_u32 start, abi_u32 count, abi_u64 address)
{
	struct scratch *s = scratch_get(set);
	struct mapping_value *m;

	if (!s)
		return ABI_FRAME_RAW | address;
	if (address - s->last.start < (abi_u64)s->last.pages << 12)
		return ABI_FRAME(s->last.image, address - s->last.start + s->last.offset);
	m = mapping_at(start, count, address);
	if (!m || m->image == IMAGE_JIT)
		return ABI_FRAME_RAW | address;
	s->last = *m;
	return ABI_FRAME(m->image, address - m->start + m->offset);
}

/* Appends frames from user_ips behind `at` kernel frames; (start, count) is the process's range of mappings.
 * Returns whether raw frames are among them. */
__noinline int normalise_user(abi_u32 set, abi_u32 at, abi_u32 frames, abi_u32 start, abi_u32 count)
{
	struct scratch *s = scratch_get(set);
	abi_u64 h, any = 0;

	if (!s)
		return 0;
	s->last.pages = 0;
	h = s->stack.stack_id;
	for (abi_u32 i = 0; i < STACK_MAX_HELPER_FRAMES; i++) {
		abi_frame frame;

		if (i >= frames)
			break;
		frame = normalise_address(set, start, count, s->user_ips[i] - (i != 0));
		any |= frame;
		s->frames[(at + i) & (SCRATCH_FRAMES - 1)] = frame;
		h = hash_step(h, frame);
	}
	s->stack.stack_id = h;
	return (any & ABI_FRAME_RAW) != 0;
}

/* The kernel stack of the current task, if it is in the kernel; begins s->stack. */
static __always_inline void stack_kernel(void *ctx, abi_u32 set, struct scratch *s, const struct proc_value *proc,
					 abi_u32 pid, abi_u64 time_ns, int in_kernel)
{
	abi_u32 frames = 0, incomplete = 0;
	long bytes = 0;

	if (in_kernel)
		bytes = bpf_get_stack(ctx, s->kernel_ips, STACK_MAX_KERNEL_FRAMES * sizeof(abi_u64), 0);
	if (bytes > 0)
		frames = (abi_u32)bytes / sizeof(abi_u64);
	/* -EFAULT: there is none. */
	else if (bytes < 0 && bytes != -14)
		incomplete |= 1u << INCOMPLETE_KERNEL_STACK;
	if (frames >= STACK_MAX_KERNEL_FRAMES) {
		frames = STACK_MAX_KERNEL_FRAMES;
		incomplete |= 1u << INCOMPLETE_DEPTH;
	}
	s->stack.head.pid = pid;
	s->stack.time_ns = time_ns;
	s->stack.generation = proc ? proc->generation : 0;
	s->stack.kernel_frames = (abi_u16)frames;
	s->stack.user_frames = 0;
	s->stack.incomplete = incomplete;
	s->stack.stack_id = hash_seed;
	if (frames)
		normalise_kernel(set, frames);
}

/* The range of the process's mappings. 0: they are not known, or only those of another generation. */
static __always_inline int stack_range(const struct proc_value *proc, abi_u32 pid, struct range_value *ret)
{
	struct range_value *range = bpf_map_lookup_elem(&proc_ranges, &pid);

	if (range && proc) {
		*ret = *range;
		if (ret->pid == pid && ret->generation == proc->generation)
			return 1;
	}
	*ret = (struct range_value){};
	return 0;
}

/* What is not in the frames but tells two stacks apart. Last of all. */
static __always_inline void stack_seal(struct scratch *s, int raw)
{
	/* Raw addresses mean something in their process only. */
	if (raw)
		s->stack.stack_id =
			hash_step(s->stack.stack_id, ((abi_u64)s->stack.generation << 32) | s->stack.head.pid);
	if (s->stack.incomplete)
		s->stack.stack_id = hash_step(s->stack.stack_id, s->stack.incomplete);
}

/* The user stack by frame pointer, unseen by whom it was built: a guess, unless all code keeps it. */
static __always_inline void stack_user_helper(void *ctx, abi_u32 set, struct scratch *s,
					      const struct range_value *range)
{
	abi_u32 frames = 0;
	long bytes = bpf_get_stack(ctx, s->user_ips, STACK_MAX_HELPER_FRAMES * sizeof(abi_u64), BPF_F_USER_STACK);
	int raw = 0;

	s->stack.incomplete |= 1u << INCOMPLETE_NO_MAPPINGS;
	if (bytes > 0)
		frames = (abi_u32)bytes / sizeof(abi_u64);
	else
		s->stack.incomplete |= 1u << INCOMPLETE_USER_STACK;
	if (frames >= STACK_MAX_HELPER_FRAMES) {
		frames = STACK_MAX_HELPER_FRAMES;
		s->stack.incomplete |= 1u << INCOMPLETE_DEPTH;
	}
	s->stack.user_frames = (abi_u16)frames;
	if (frames)
		raw = normalise_user(set, s->stack.kernel_frames, frames, range->start, range->count);
	stack_seal(s, raw);
}

/* Sends the stack of the scratch set unless user space has it. 0, or the drop cause + 1. */
static __always_inline int stack_send(struct scratch *s, abi_u64 *seen_full)
{
	abi_u32 frames = (abi_u32)s->stack.kernel_frames + s->stack.user_frames;
	abi_u64 id = s->stack.stack_id;
	abi_u32 one = 1;

	if (bpf_map_lookup_elem(&stacks, &id))
		return 0;
	if (frames > STACK_MAX_FRAMES)
		frames = STACK_MAX_FRAMES;
	s->stack.head.type = RECORD_STACK;
	if (bpf_ringbuf_output(&ring, &s->stack, sizeof(s->stack) + frames * sizeof(abi_frame), BPF_RB_NO_WAKEUP))
		return DROP_STACK_LOST + 1;
	if (bpf_map_update_elem(&stacks, &id, &one, BPF_ANY))
		(*seen_full)++;
	return 0;
}

#endif
