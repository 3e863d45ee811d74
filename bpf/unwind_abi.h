/* The unwind tables as kernel and user space share them.
 *
 * A table row is 4 bytes: the low 16 bits of a file offset and the index of a rule ("info"). Rows are sorted within a
 * page of 64 KiB; a page's first row is always at 0, so every page is searched on its own. Infos are deduplicated over
 * the host. Rows and page indexes live in segments: equal memory-mappable arrays of one 1 MiB value each, in an array
 * of maps. A range of rows never crosses a segment.
 *
 *	(image, offset) -> unwind_image  -> page entry          -> row             -> info
 *	                   (hash)           (word in a segment)    (binary search)    (array)
 */
#ifndef BAROSCOPE_UNWIND_ABI_H
#define BAROSCOPE_UNWIND_ABI_H

#include "bpf/abi.h"

#ifndef __bpf__
typedef int32_t abi_s32;
typedef int16_t abi_s16;
#else
typedef int abi_s32;
typedef short abi_s16;
#endif

#define UNWIND_PAGE_BITS 16
#define UNWIND_PAGE_MASK ((1u << UNWIND_PAGE_BITS) - 1)
#define UNWIND_MAX_PAGES 65536u /* file offsets below 4 GiB */

/* How the caller's stack pointer (the CFA) is found. */
enum unwind_cfa {
	UNWIND_CFA_NONE = 0,	 /* no table says anything about this place: frame pointer, if plausible */
	UNWIND_CFA_INVALID = 1,	 /* the table says something that rows cannot express */
	UNWIND_CFA_END = 2,	 /* the return address is undefined: the outermost frame */
	UNWIND_CFA_SP = 3,	 /* sp + offset */
	UNWIND_CFA_BP = 4,	 /* bp + offset */
	UNWIND_CFA_SP_DEREF = 5, /* *(sp + (offset >> 8)) + (offset & 255) */
	UNWIND_CFA_BP_DEREF = 6, /* *(bp + (offset >> 8)) + (offset & 255) */
	UNWIND_CFA_PLT = 7,	 /* sp + 8, and 8 more from byte `offset` of a 16-byte entry on */
	UNWIND_CFA_SIGNAL = 8,	 /* sp points to the kernel's signal frame */
	UNWIND_CFA_REGISTER = 9, /* word (offset & 31) of struct pt_regs + (offset >> 5); the first frames only */
};

/* Where the caller's bp is. */
enum unwind_bp {
	UNWIND_BP_SAME = 0,
	UNWIND_BP_AT_CFA = 1, /* at CFA + bp_offset */
	UNWIND_BP_AT_BP = 2,  /* at bp + bp_offset */
	UNWIND_BP_UNDEFINED = 3,
};

struct unwind_row {
	abi_u16 low;  /* of the file offset, within its page */
	abi_u16 info; /* index in map unwind_infos */
};
_Static_assert(sizeof(struct unwind_row) == 4, "unwind_row");

struct unwind_info {
	abi_s32 offset;
	abi_s16 bp_offset;
	abi_u8 rules; /* enum unwind_cfa | enum unwind_bp << 4 */
	abi_u8 merge; /* not 0: from this many bytes (low 7 bits) behind the row on, offset is 8 more; bit 7: 8 less */
};
_Static_assert(sizeof(struct unwind_info) == 8, "unwind_info");
#define UNWIND_RULES(cfa, bp) ((abi_u8)((cfa) | (bp) << 4))
#define UNWIND_MERGE_LESS 0x80
#define UNWIND_MERGE_BYTES 0x7f

/* Infos that every host has. */
#define UNWIND_INFO_NONE 0
#define UNWIND_INFO_INVALID 1
#define UNWIND_MAX_INFOS 65536u

/* Segments. One value of 1 MiB, so that a search is plain loads after one look-up. */
#define UNWIND_SEGMENT_WORDS 262144u /* rows, or halves of page entries */
#define UNWIND_MAX_SEGMENTS 1024u
struct unwind_segment {
	union {
		struct unwind_row rows[UNWIND_SEGMENT_WORDS];
		abi_u64 pages[UNWIND_SEGMENT_WORDS / 2];
	};
};
_Static_assert(sizeof(struct unwind_segment) == 1 << 20, "unwind_segment");

/* A page entry: its rows are [start, start + count) of the segment; 0 = the page has none. */
#define UNWIND_PAGE(segment, start, count) ((abi_u64)(segment) << 40 | (abi_u64)(start) << 20 | (abi_u64)(count))
#define UNWIND_PAGE_SEGMENT(page) ((abi_u32)((page) >> 40))
#define UNWIND_PAGE_START(page) ((abi_u32)((page) >> 20) & 0xfffffu)
#define UNWIND_PAGE_COUNT(page) ((abi_u32)(page)&0xfffffu)
_Static_assert(UNWIND_SEGMENT_WORDS <= 0xfffff, "start and count of a page entry have 20 bits");

/* Value of map unwind_images, key: image (u32). */
struct unwind_image {
	abi_u32 flags; /* UNWIND_IMAGE_*, and its key above them */
	abi_u32 first_page;
	abi_u32 page_count;
	abi_u32 segment; /* of the page entries */
	abi_u32 start;	 /* index in unwind_segment.pages */
	abi_u32 used;	 /* time of the last hit in ns >> 30, written by the walker: the oldest leaves first */
};
_Static_assert(sizeof(struct unwind_image) == 24, "unwind_image");
#define UNWIND_IMAGE_FRAME_POINTER 1u /* all of it is walked by frame pointer */
#define UNWIND_IMAGE_FLAGS(image, flags) ((image) << 8 | (flags))
#define UNWIND_IMAGE_ID(flags) ((flags) >> 8)

/* How a walk ended: with a whole stack, X(symbol, name as shown, one line for docs and metrics help), or for one of the
 * causes of abi.h. */
#define UNWIND_WHOLE_ENDS(X)                                                                                           \
	X(OUTERMOST, "outermost", "a table says that the return address is undefined")                                 \
	X(BP_ZERO, "bp_zero", "the frame pointer is 0, as the ABI has it in the outermost frame")                      \
	X(RETURN_ZERO, "return_zero", "the return address is 0, as below a thread's first function")

enum unwind_end {
	UNWIND_END_RUNNING,
#define X(sym, name, help) UNWIND_END_##sym,
	UNWIND_WHOLE_ENDS(X)
#undef X
		UNWIND_END_WHOLE_COUNT,
	UNWIND_END_BEFORE_CAUSES = UNWIND_END_WHOLE_COUNT - 1,
#define X(sym, name, help) UNWIND_END_##sym,
	INCOMPLETE_CAUSES(X)
#undef X
		UNWIND_END_COUNT,
};
_Static_assert(UNWIND_END_WHOLE_COUNT <= PROFILER_WHOLE_ENDS, "profiler_stats.whole");
#define UNWIND_END_CAUSE(end) ((end)-UNWIND_END_WHOLE_COUNT) /* enum incomplete_cause */

#define UNWIND_FRAMES_A_PROGRAM 16
#define UNWIND_PROGRAMS 33
#define UNWIND_MAX_FRAMES (UNWIND_FRAMES_A_PROGRAM * UNWIND_PROGRAMS)

#endif
