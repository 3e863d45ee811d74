/* The unwinder: from a user task's {pc, sp, bp} to normalised frames, by the tables of unwind_abi.h.
 *
 * Included by every profiler, and compiled for user space by the tests. One frame is one call of unwind_step, a global
 * function with scalars only, so that the verifier checks it once and not at every turn of a loop. A program walks
 * UNWIND_FRAMES_A_PROGRAM frames and calls itself as a tail call, at most UNWIND_PROGRAMS times:
 *
 *	begin:     unwind_begin(scratch, registers.., range.., UNWIND_MAX_FRAMES, time); unwind_next(ctx, set,
 *programs); program:   if (!unwind_run(set)) unwind_next(ctx, set, programs); unwind_end(scratch)
 *
 * unwind_next comes back only if the walk is over. Frames are written behind the kernel's in scratch.frames and hashed
 * on the way. The state of a walk is its scratch set's: sets are never shared by two contexts, see scratch.h. User
 * memory is read with a helper that does not fault pages in. */
#ifndef BAROSCOPE_UNWIND_H
#define BAROSCOPE_UNWIND_H

#include "bpf/stack.h"
#include "bpf/unwind_maps.h"

#define UNWIND_CONTINUE (-1)
#define UNWIND_FRAME_POINTER_MAX (16u << 20) /* a larger frame is not believed without a table */
#define UNWIND_CHAIN_MAX (1u << 20)	     /* nor, without a call before its return address, one larger than this */
/* So many frames may take their CFA from a register that calls need not keep: the interrupted one, and in hand-written
 * code the one that called it, if what comes out is plausible. */
#define UNWIND_REGISTERS_FRAMES 2
/* What unwind_row returns beside the info's index (bits 0..15): distance from the row (16..31). */
#define UNWIND_ROW_BROKEN (~0ULL)

/* Kernel's rt_sigframe as its return trampoline sees it: sp points to a ucontext. */
#define UNWIND_SIGNAL_BP 120
#define UNWIND_SIGNAL_SP 160
#define UNWIND_SIGNAL_PC 168

static __always_inline struct unwind_state *unwind_state_get(abi_u32 set)
{
	struct scratch *s = scratch_get(set);

	return s ? &s->walk : NULL;
}

static __always_inline void unwind_put(struct scratch *s, abi_u32 at, abi_frame frame)
{
	s->frames[(s->walk.base + at) & (SCRATCH_FRAMES - 1)] = frame;
	s->walk.hash = hash_step(s->walk.hash, frame);
	s->walk.raw |= frame >> 63;
}

static __always_inline struct unwind_segment *unwind_segment_get(abi_u32 segment)
{
	abi_u32 zero = 0;
	void *map = bpf_map_lookup_elem(&unwind_segments, &segment);

	return map ? bpf_map_lookup_elem(map, &zero) : NULL;
}

static __always_inline int unwind_read(void *to, abi_u32 bytes, abi_u64 address)
{
	return bpf_probe_read_user(to, bytes, (const void *)(unsigned long)address) != 0;
}

/* The page entry `index` of a segment. */
__noinline abi_u64 unwind_page(abi_u32 segment, abi_u32 index)
{
	struct unwind_segment *s = unwind_segment_get(segment);

	return s ? s->pages[index & (UNWIND_SEGMENT_WORDS / 2 - 1)] : 0;
}

/* The last of rows [start, start + count) at or below `low`; the first one is at 0. Scalars of unknown range keep the
 * verifier's states of both branches alike, so that they are pruned. */
__noinline abi_u64 unwind_row(abi_u32 segment, abi_u32 start, abi_u32 count, abi_u32 low)
{
	struct unwind_segment *s = unwind_segment_get(segment);
	struct unwind_row row;

	if (!s)
		return UNWIND_ROW_BROKEN;
	for (int i = 0; i < UNWIND_PAGE_BITS; i++) {
		abi_u32 half = count >> 1;

		if (!half)
			break;
		if (s->rows[(start + half) & (UNWIND_SEGMENT_WORDS - 1)].low <= low)
			start += half;
		count -= half;
	}
	row = s->rows[start & (UNWIND_SEGMENT_WORDS - 1)];
	return row.low <= low ? row.info | (abi_u64)(low - row.low) << 16 : UNWIND_ROW_BROKEN;
}

/* Whether a call may end right before the address: where code cannot be read, nothing speaks against it. */
__noinline int unwind_follows_call(abi_u64 address)
{
	abi_u8 code[8] = {};

	if (unwind_read(code, sizeof(code), address - sizeof(code)))
		return 1;
	if (code[3] == 0xe8) /* call rel32 */
		return 1;
	/* call through a register or memory: ff /2, its length by the addressing form */
	if (code[6] == 0xff && ((code[7] & 0xf8) == 0xd0 || (code[7] & 0xf8) == 0x10))
		return 1;
	if (code[5] == 0xff && ((code[6] & 0xf8) == 0x50 || code[6] == 0x14))
		return 1;
	if (code[4] == 0xff && code[5] == 0x54)
		return 1;
	if (code[2] == 0xff && ((code[3] & 0xf8) == 0x90 || code[3] == 0x15))
		return 1;
	return code[1] == 0xff && (code[2] == 0x94 || code[2] == 0x14);
}

/* Whether the address lies in executable memory of the process. */
static __always_inline int unwind_mapped(const struct unwind_state *st, abi_u64 address)
{
	return mapping_at(st->mappings_start, st->mappings_count, address) != NULL;
}

/* Below a signal handler: all registers are those of the interrupted code. */
__noinline int unwind_signal(abi_u32 set)
{
	struct scratch *s = scratch_get(set);
	struct unwind_state *st;
	abi_u64 regs[(UNWIND_SIGNAL_PC - UNWIND_SIGNAL_BP) / 8 + 1] = {};

	if (!s)
		return UNWIND_END_BROKEN_TABLE;
	st = &s->walk;
	/* The trampoline was not called: its address is its first instruction, and one less is another function. */
	if (!st->exact) {
		s->frames[(st->base + st->frame_count - 1) & (SCRATCH_FRAMES - 1)]++;
		st->hash = hash_step(st->hash, 1);
	}
	if (unwind_read(regs, sizeof(regs), st->sp + UNWIND_SIGNAL_BP))
		return UNWIND_END_STACK_READ;
	st->bp = regs[0];
	st->sp = regs[(UNWIND_SIGNAL_SP - UNWIND_SIGNAL_BP) / 8];
	st->pc = regs[(UNWIND_SIGNAL_PC - UNWIND_SIGNAL_BP) / 8];
	st->exact = 1;
	st->bp_lost = 0;
	st->has_registers = 0;
	return UNWIND_CONTINUE;
}

/* Whether the saved frame pointer at `at` goes on to a frame like this one. 0 ends a chain only in code that is known
 * to have no tables: elsewhere a zero on the stack is likelier to be anything else. */
static __always_inline int unwind_chains(abi_u64 at, abi_u64 saved, abi_u32 end)
{
	if (!saved)
		return end == UNWIND_END_FRAME_POINTER;
	return !(saved & 7) && saved > at + 8 && saved - at < UNWIND_CHAIN_MAX;
}

/* Code without a table. What must hold before a frame pointer is believed: it is aligned, not below the stack pointer
 * and not far above it, and the return address beside it lies in executable memory, behind a call, or the chain goes on
 * from there: interpreters return to entries that nobody calls, and a goroutine's first function to one that did not
 * call it. At the place of the interruption the instruction tells whether the frame is being built or is gone already.
 * `end` is the cause if not. */
__noinline int unwind_by_frame_pointer(abi_u32 set, abi_u32 end)
{
	struct unwind_state *st = unwind_state_get(set);
	abi_u64 code = 0, frame[2] = {}, at;

	if (!st)
		return UNWIND_END_BROKEN_TABLE;
	if (!unwind_read(&code, sizeof(code), st->pc)) {
		/* mov $15 (rt_sigreturn), %rax: a signal trampoline without a table */
		if ((code & 0xffffffffffffffULL) == 0x0000000fc0c748ULL)
			return unwind_signal(set);
		if (st->exact) {
			if ((code & 0xffffffff) == 0xfa1e0ff3) /* endbr64 */
				code >>= 32;
			if ((code & 0xff) == 0x55 || (code & 0xff) == 0xc3 || (code & 0xffff) == 0xc3f3) {
				/* push %rbp; ret: the return address is on top */
				if (unwind_read(&frame[1], 8, st->sp))
					return UNWIND_END_STACK_READ;
				if (unwind_mapped(st, frame[1]) && unwind_follows_call(frame[1])) {
					st->pc = frame[1];
					st->sp += 8;
					st->exact = 0;
					st->by_frame_pointer = 1;
					return UNWIND_CONTINUE;
				}
			} else if ((code & 0xffffff) == 0xe58948 || (code & 0xffffff) == 0xec8b48) {
				/* mov %rsp, %rbp: the caller's bp is on top */
				st->bp = st->sp;
				st->bp_lost = 0;
			}
		}
	}
	if (st->bp_lost)
		return (int)end;
	at = st->bp;
	/* No thread begins in generated code, and where code was interrupted it may use the register for anything. */
	if (!at)
		return end == UNWIND_END_JIT || st->exact ? (int)end : UNWIND_END_BP_ZERO;
	if ((at & 7) || at < st->sp || at - st->sp > UNWIND_FRAME_POINTER_MAX)
		return (int)end;
	if (unwind_read(frame, sizeof(frame), at))
		return (int)end;
	if (!frame[1])
		return end == UNWIND_END_JIT || st->exact || (frame[0] && end != UNWIND_END_FRAME_POINTER)
			       ? (int)end
			       : UNWIND_END_RETURN_ZERO;
	if (!unwind_mapped(st, frame[1] - 1) || (!unwind_chains(at, frame[0], end) && !unwind_follows_call(frame[1])))
		return (int)end;
	st->bp = frame[0];
	st->pc = frame[1];
	st->sp = at + 16;
	st->exact = 0;
	st->by_frame_pointer = 1;
	return UNWIND_CONTINUE;
}

/* Goes to the caller by info `index`, found `distance` bytes behind its row. */
__noinline int unwind_apply(abi_u32 set, abi_u32 index, abi_u32 distance)
{
	struct scratch *s = scratch_get(set);
	struct unwind_state *st;
	struct unwind_info *found, info;
	abi_u64 cfa, frame[2] = {}, bp;
	abi_u32 cfa_rule, bp_rule;
	long long offset;
	int has_both = 1;

	if (!s)
		return UNWIND_END_BROKEN_TABLE;
	st = &s->walk;
	found = bpf_map_lookup_elem(&unwind_infos, &index);
	if (!found)
		return UNWIND_END_BROKEN_TABLE;
	info = *found;
	offset = info.offset;
	cfa_rule = info.rules & 15;
	bp_rule = info.rules >> 4;
	if (info.merge && distance >= (info.merge & UNWIND_MERGE_BYTES))
		offset += info.merge & UNWIND_MERGE_LESS ? -8 : 8;

	if (cfa_rule == UNWIND_CFA_SIGNAL)
		return unwind_signal(set);
	if (cfa_rule == UNWIND_CFA_NONE)
		return unwind_by_frame_pointer(set, UNWIND_END_GAP);
	if (cfa_rule == UNWIND_CFA_END)
		return UNWIND_END_OUTERMOST;
	if (st->bp_lost && (cfa_rule == UNWIND_CFA_BP || cfa_rule == UNWIND_CFA_BP_DEREF))
		return UNWIND_END_NO_BP;
	if (cfa_rule == UNWIND_CFA_SP) {
		cfa = st->sp + (abi_u64)offset;
	} else if (cfa_rule == UNWIND_CFA_BP) {
		cfa = st->bp + (abi_u64)offset;
	} else if (cfa_rule == UNWIND_CFA_SP_DEREF || cfa_rule == UNWIND_CFA_BP_DEREF) {
		cfa = cfa_rule == UNWIND_CFA_SP_DEREF ? st->sp : st->bp;
		if (unwind_read(&cfa, sizeof(cfa), cfa + (abi_u64)(offset >> 8)))
			return UNWIND_END_STACK_READ;
		cfa += (abi_u64)(offset & 255);
	} else if (cfa_rule == UNWIND_CFA_PLT) {
		cfa = st->sp + 8 + ((st->pc & 15) >= (abi_u64)offset ? 8 : 0);
	} else if (cfa_rule == UNWIND_CFA_REGISTER && st->has_registers && st->frame_count <= UNWIND_REGISTERS_FRAMES) {
		cfa = s->registers[offset & (SCRATCH_REGISTERS - 1)] + (abi_u64)(offset >> 5);
		if (cfa - st->sp > UNWIND_CHAIN_MAX)
			return UNWIND_END_UNSUPPORTED;
	} else {
		return UNWIND_END_UNSUPPORTED;
	}
	if (cfa <= st->sp)
		return UNWIND_END_NO_PROGRESS;
	/* Both words at once; the lower one may lie in a page that is not there. */
	if (unwind_read(frame, sizeof(frame), cfa - 16)) {
		if (unwind_read(&frame[1], 8, cfa - 8))
			return UNWIND_END_STACK_READ;
		has_both = 0;
	}
	if (bp_rule == UNWIND_BP_AT_CFA || bp_rule == UNWIND_BP_AT_BP) {
		abi_u64 from = (bp_rule == UNWIND_BP_AT_CFA ? cfa : st->bp) + (abi_u64)(long long)info.bp_offset;

		if (bp_rule == UNWIND_BP_AT_BP && st->bp_lost)
			return UNWIND_END_NO_BP;
		bp = frame[0];
		if ((from != cfa - 16 || !has_both) && unwind_read(&bp, sizeof(bp), from))
			return UNWIND_END_STACK_READ;
		st->bp = bp;
		st->bp_lost = 0;
	} else if (bp_rule == UNWIND_BP_UNDEFINED) {
		st->bp_lost = 1;
	}
	/* Where a table describes the frame, a stack ends by its word alone. */
	if (!frame[1])
		return UNWIND_END_UNMAPPED;
	if (cfa_rule == UNWIND_CFA_REGISTER && st->frame_count > 1 &&
	    (!unwind_mapped(st, frame[1] - 1) || !unwind_follows_call(frame[1])))
		return UNWIND_END_UNSUPPORTED;
	st->pc = frame[1];
	st->sp = cfa;
	st->exact = 0;
	return UNWIND_CONTINUE;
}

/* The rule for an offset of an image's file. */
__noinline int unwind_by_table(abi_u32 set, abi_u32 image, abi_u64 offset)
{
	struct unwind_state *st = unwind_state_get(set);
	abi_u64 page, row;
	abi_u32 index;

	if (!st)
		return UNWIND_END_BROKEN_TABLE;
	/* Neighbouring frames are often of one image. */
	if (st->image != image) {
		struct unwind_image *found = bpf_map_lookup_elem(&unwind_images, &image);

		if (found)
			st->table = *found;
		/* The element may have become another image's meanwhile. */
		if (!found || UNWIND_IMAGE_ID(st->table.flags) != image) {
			/* Without its table nobody knows whether it keeps a frame pointer: what comes is a guess. */
			st->no_table = 1;
			st->image = IMAGE_NONE;
			return unwind_by_frame_pointer(set, UNWIND_END_NO_TABLE);
		}
		if (st->table.used != st->now)
			found->used = st->now;
		st->image = image;
	}
	if (st->table.flags & UNWIND_IMAGE_FRAME_POINTER)
		return unwind_by_frame_pointer(set, UNWIND_END_FRAME_POINTER);
	index = (abi_u32)(offset >> UNWIND_PAGE_BITS) - st->table.first_page;
	if (offset >> 32 || index >= st->table.page_count)
		return unwind_by_frame_pointer(set, UNWIND_END_GAP);
	page = unwind_page(st->table.segment, st->table.start + index);
	if (!UNWIND_PAGE_COUNT(page))
		return unwind_by_frame_pointer(set, UNWIND_END_GAP);
	row = unwind_row(UNWIND_PAGE_SEGMENT(page), UNWIND_PAGE_START(page), UNWIND_PAGE_COUNT(page),
			 (abi_u32)offset & UNWIND_PAGE_MASK);
	if (row == UNWIND_ROW_BROKEN)
		return UNWIND_END_BROKEN_TABLE;
	return unwind_apply(set, (abi_u32)row & 0xffff, (abi_u32)(row >> 16));
}

/* Writes the frame of the state's pc and goes to its caller. UNWIND_CONTINUE, or enum unwind_end. */
__noinline int unwind_step(abi_u32 set)
{
	struct scratch *s = scratch_get(set);
	struct unwind_state *st;
	abi_u64 pc, in;
	abi_u32 at;

	if (!s)
		return UNWIND_END_BROKEN_TABLE;
	st = &s->walk;
	at = st->frame_count;
	if (at >= UNWIND_MAX_FRAMES || at >= st->max_frames)
		return UNWIND_END_DEPTH;
	/* A return address is moved back into the call, which may be its function's last instruction. */
	pc = st->pc - !st->exact;
	if (pc - st->last.start >= (abi_u64)st->last.pages << 12) {
		struct mapping_value *m = mapping_at(st->mappings_start, st->mappings_count, pc);

		if (!m) {
			unwind_put(s, at, ABI_FRAME_RAW | pc);
			st->frame_count = at + 1;
			return UNWIND_END_UNMAPPED;
		}
		st->last = *m;
	}
	st->frame_count = at + 1;
	if (st->last.image == IMAGE_JIT) {
		unwind_put(s, at, ABI_FRAME_RAW | pc);
		return unwind_by_frame_pointer(set, UNWIND_END_JIT);
	}
	in = pc - st->last.start + st->last.offset;
	unwind_put(s, at, ABI_FRAME(st->last.image, in));
	return unwind_by_table(set, st->last.image, in);
}

/* Begins behind the kernel's frames in s->stack. (start, count) is the process's range of map `mappings`. Who has
 * filled s->registers sets walk.has_registers then. */
static __always_inline void unwind_begin(struct scratch *s, abi_u64 pc, abi_u64 sp, abi_u64 bp, abi_u32 start,
					 abi_u32 count, abi_u32 max_frames, abi_u64 time_ns)
{
	struct unwind_state *st = &s->walk;

	st->pc = pc;
	st->sp = sp;
	st->bp = bp;
	st->hash = s->stack.stack_id;
	st->base = s->stack.kernel_frames;
	st->mappings_start = start;
	st->mappings_count = count;
	st->frame_count = 0;
	st->max_frames = max_frames;
	st->programs = 0;
	st->now = (abi_u32)(time_ns >> 30);
	st->exact = 1;
	st->bp_lost = 0;
	st->by_frame_pointer = 0;
	st->no_table = 0;
	st->raw = 0;
	st->has_registers = 0;
	st->end = UNWIND_END_RUNNING;
	st->last.start = 0;
	st->last.pages = 0;
	st->image = IMAGE_NONE;
}

/* After the walk: what it found becomes part of s->stack. */
static __always_inline void unwind_end(struct scratch *s)
{
	struct unwind_state *st = &s->walk;

	s->stack.user_frames = (abi_u16)st->frame_count;
	s->stack.stack_id = st->hash;
	if (st->end >= UNWIND_END_WHOLE_COUNT)
		s->stack.incomplete |= 1u << (UNWIND_END_CAUSE(st->end) & 31);
	if (st->no_table)
		s->stack.incomplete |= 1u << INCOMPLETE_NO_TABLE;
	stack_seal(s, st->raw);
}

/* One program's share of frames. Whether the walk is over; why is in the state then. */
static __always_inline int unwind_run(abi_u32 set)
{
	struct unwind_state *st;
	int end = UNWIND_CONTINUE;

	for (int i = 0; i < UNWIND_FRAMES_A_PROGRAM; i++) {
		end = unwind_step(set);
		if (end != UNWIND_CONTINUE)
			break;
	}
	if (end == UNWIND_CONTINUE)
		return 0;
	st = unwind_state_get(set);
	if (st)
		st->end = (abi_u8)end;
	return 1;
}

/* Goes on in the walking program, the only one in the profiler's map `programs`; returns only if that is not possible,
 * and the walk is over then. */
static __always_inline void unwind_next(void *ctx, abi_u32 set, void *programs)
{
	struct unwind_state *st = unwind_state_get(set);

	if (!st)
		return;
	if (st->programs >= UNWIND_PROGRAMS) {
		st->end = UNWIND_END_DEPTH;
		return;
	}
	st->programs++;
	bpf_tail_call(ctx, programs, 0);
	st->end = UNWIND_END_TAIL_CALL;
}

#endif
