/* What kernel and user space share: the records of the ring, the values of the shared maps, the counters.
 *
 * Included by BPF programs (clang -target bpf) and by user space. Fixed-width types, explicit padding, no
 * pointers. Enums that reach the ring may be renumbered freely (both sides are built together); those that are
 * shown by name (drop causes) only grow. */
#ifndef BAROSCOPE_ABI_H
#define BAROSCOPE_ABI_H

#ifndef __bpf__
#include <stdint.h>
typedef uint64_t abi_u64;
typedef uint32_t abi_u32;
typedef uint16_t abi_u16;
typedef uint8_t abi_u8;
#else
typedef unsigned long long abi_u64;
typedef unsigned int abi_u32;
typedef unsigned short abi_u16;
typedef unsigned char abi_u8;
#endif

/* Why a sample that was due is not in a profile: reported + idle + sum(lost by cause) = ticks.
 * X(symbol, name as shown, one line for docs and metrics help). */
#define DROP_CAUSES(X)                                                                                                 \
	X(NOT_RUN, "not_run",                                                                                          \
	  "the sampling program did not run at a tick: another BPF program held the CPU, or the CPU was late")         \
	X(RING_FULL, "ring_full", "no room in the ring buffer for the sample")                                         \
	X(STACK_LOST, "stack_lost", "no room in the ring buffer for a new stack; it is sent again at its next hit")    \
	X(STACK_UNKNOWN, "stack_unknown",                                                                              \
	  "the sample's stack was not known to the daemon; it is sent again at its next hit")                          \
	X(SCRATCH_BUSY, "scratch_busy", "no scratch memory was free for the program")                                  \
	X(PENDING_FULL, "pending_full", "too many samples waited for the labels of their process")                     \
	X(TRIE_FULL, "trie_full", "the limit of stack nodes or frames in memory was reached")                          \
	X(WINDOW_FULL, "window_full", "the limit of profile memory was reached")                                       \
	X(SERIES_FULL, "series_full", "the limit of label sets was reached")                                           \
	X(LATE, "late", "the sample arrived after its window was closed")                                              \
	X(DENIED, "denied", "the cgroup is excluded by targets.allow or targets.deny")                                 \
	X(MALFORMED, "malformed", "a record that could not be decoded")

enum drop_cause {
#define X(sym, name, help) DROP_##sym,
	DROP_CAUSES(X)
#undef X
		DROP_CAUSE_COUNT,
};

/* Why a stack that was reported is not whole. The sample counts all the same. */
#define INCOMPLETE_CAUSES(X)                                                                                           \
	X(KERNEL_STACK, "kernel_stack", "the kernel stack could not be read")                                          \
	X(USER_STACK, "user_stack", "the user stack could not be read")                                                \
	X(DEPTH, "depth", "the stack is deeper than the walker goes")                                                  \
	X(UNMAPPED, "unmapped", "an address lies in no mapping known for its process")                                 \
	X(NO_MAPPINGS, "no_mappings",                                                                                  \
	  "walked by frame pointer because the mappings of the process were not known yet, or it is a 32-bit process") \
	X(NO_TABLE, "no_table", "an image on the way had no unwind table, or not yet")                                 \
	X(GAP, "gap", "the image's unwind table does not cover the address, and its frame pointer is not plausible")   \
	X(UNSUPPORTED, "unsupported", "the unwind table has a rule that the walker does not know")                     \
	X(FRAME_POINTER, "frame_pointer", "code without unwind tables whose frame pointer is not plausible")           \
	X(JIT, "jit", "generated code whose frame pointer is not plausible")                                           \
	X(STACK_READ, "stack_read", "stack memory could not be read")                                                  \
	X(NO_PROGRESS, "no_progress", "the next frame would not lie above this one")                                   \
	X(NO_BP, "no_bp", "a rule needs the frame pointer, and a frame before has lost it")                            \
	X(BROKEN_TABLE, "broken_table", "an unwind table entry points outside of its segment")                         \
	X(TAIL_CALL, "tail_call", "the walker could not go on in the next program")

enum incomplete_cause {
#define X(sym, name, help) INCOMPLETE_##sym,
	INCOMPLETE_CAUSES(X)
#undef X
		INCOMPLETE_CAUSE_COUNT,
};

/* A frame on the ring: bit 63 is the raw flag; normalised frames have the image in bits 62..40 and the file offset (for
 * IMAGE_KERNEL: the low 40 bits of the address) in bits 39..0. A raw frame holds a user virtual address, to be
 * resolved against the process's mappings. */
typedef abi_u64 abi_frame;
#define ABI_FRAME_RAW (1ULL << 63)
#define ABI_FRAME_OFFSET_BITS 40
#define ABI_FRAME_OFFSET_MASK ((1ULL << ABI_FRAME_OFFSET_BITS) - 1)
#define ABI_FRAME(image, offset) (((abi_u64)(image) << ABI_FRAME_OFFSET_BITS) | ((offset)&ABI_FRAME_OFFSET_MASK))
#define ABI_FRAME_IMAGE(frame) ((abi_u32)(((frame) & ~ABI_FRAME_RAW) >> ABI_FRAME_OFFSET_BITS))
#define ABI_FRAME_OFFSET(frame) ((frame)&ABI_FRAME_OFFSET_MASK)

/* Images that are no file. Files are numbered from IMAGE_FIRST_FILE on. */
enum abi_image {
	IMAGE_NONE = 0,
	IMAGE_KERNEL = 1,  /* offset: low 40 bits of the address, upper bits all ones */
	IMAGE_VDSO = 2,	   /* offset in the vDSO's ELF image */
	IMAGE_JIT = 3,	   /* anonymous executable memory; never on the ring, such frames are raw */
	IMAGE_SPECIAL = 4, /* offset: enum special_frame */
	IMAGE_FIRST_FILE = 16,
};
#define IMAGE_MAX ((1u << 23) - 1)

#define STACK_MAX_KERNEL_FRAMES 127
#define STACK_MAX_USER_FRAMES 528   /* 16 frames a program, 33 programs */
#define STACK_MAX_HELPER_FRAMES 127 /* of a user stack taken by the kernel's helper */
#define STACK_MAX_FRAMES (STACK_MAX_KERNEL_FRAMES + STACK_MAX_USER_FRAMES)
#define COMM_BYTES 16
#define CGROUP_PATH_BYTES 512

enum record_type {
	RECORD_SAMPLE = 1,
	RECORD_STACK,
	RECORD_FORK,
	RECORD_EXEC,
	RECORD_EXIT,
	RECORD_CGROUP_MKDIR,
	RECORD_CGROUP_RMDIR,
	RECORD_CGROUP_RENAME,
};

/* Which hierarchy a cgroup id belongs to (ids of different hierarchies may be equal). */
enum cgroup_hierarchy {
	CGROUP_V2 = 0,
	CGROUP_V1_MEMORY = 1,
	CGROUP_V1_CPU = 2,
	CGROUP_V1_SYSTEMD = 3, /* name=systemd; no controller, never seen in a sample */
	CGROUP_V1_OTHER = 4,
};

/* First bytes of every record. */
struct record_head {
	abi_u8 type;	  /* enum record_type */
	abi_u8 hierarchy; /* enum cgroup_hierarchy of the record's cgroup_id */
	abi_u16 cpu;
	abi_u32 pid; /* thread group id; 0 = none */
};
_Static_assert(sizeof(struct record_head) == 8, "record_head");

/* A process generation tells two processes (or two programs of one process, before and after exec) with one pid
 * apart: the monotonic time of its fork or exec in ns >> 10, low 32 bits, never 0. Processes found by the start-up
 * scan have GENERATION_SCANNED. */
#define GENERATION_SCANNED 1u
#define GENERATION_OF(time_ns) ((abi_u32)((time_ns) >> 10) | 2u)

/* One CPU sample. */
struct record_sample {
	struct record_head head;
	abi_u32 tid;
	abi_u32 generation; /* 0: the kernel side does not know the process */
	abi_u64 time_ns;    /* CLOCK_MONOTONIC */
	abi_u64 stack_id;
	abi_u64 cgroup_id;
	char comm[COMM_BYTES];	 /* of the thread group's leader; NUL-padded */
	char thread[COMM_BYTES]; /* of the thread */
};
_Static_assert(sizeof(struct record_sample) == 72, "record_sample");

/* A stack, sent once; abi_frame[kernel_frames + user_frames] follow: leaf first, kernel before user. */
struct record_stack {
	struct record_head head;
	abi_u64 stack_id;
	abi_u64 time_ns;
	abi_u32 generation; /* of head.pid; raw frames are to be resolved against this one */
	abi_u16 kernel_frames;
	abi_u16 user_frames;
	abi_u32 incomplete; /* bit set of enum incomplete_cause */
	abi_u32 pad;
};
_Static_assert(sizeof(struct record_stack) == 40, "record_stack");

/* A new process, a new program in a process, the end of a process. */
struct record_process {
	struct record_head head;
	abi_u64 time_ns;
	abi_u32 generation;	   /* exit: of the process that ended */
	abi_u32 parent_pid;	   /* fork only */
	abi_u32 parent_generation; /* fork: the parent's; exec: the one before exec; 0 = not known */
	abi_u32 pad;
	char comm[COMM_BYTES];
};
_Static_assert(sizeof(struct record_process) == 48, "record_process");

/* A cgroup was made, removed or renamed. */
struct record_cgroup {
	struct record_head head;
	abi_u64 time_ns;
	abi_u64 cgroup_id;
	char path[CGROUP_PATH_BYTES]; /* in its hierarchy, NUL-terminated */
};
_Static_assert(sizeof(struct record_cgroup) == 24 + CGROUP_PATH_BYTES, "record_cgroup");

/* Value of map `procs`, key: pid (u32). Written by the tracker's programs, entered by user space for processes older
 * than the daemon. */
struct proc_value {
	abi_u32 generation;
};
_Static_assert(sizeof(struct proc_value) == 4, "proc_value");

/* Value of map `proc_ranges`, key: pid (u32). Written by user space, and by the tracker for a child at its fork, before
 * user space knows of it, and deleted by it at an exit: the entries [start, start + count) of map `mappings`, sorted by
 * address, are the mappings of the process with this generation. A map of its own, so that neither side can overwrite
 * what the other has just written. */
struct range_value {
	abi_u32 generation;
	abi_u32 start;
	abi_u32 count;
	abi_u32 pid; /* its key: an element may have become another's between look-up and use */
};
_Static_assert(sizeof(struct range_value) == 16, "range_value");

/* One executable mapping of a process: [start, start + bytes) is `image` from file offset `offset` on. */
struct mapping_value {
	abi_u64 start;
	abi_u64 offset;
	abi_u32 pages; /* 4 KiB */
	abi_u32 image;
};
_Static_assert(sizeof(struct mapping_value) == 24, "mapping_value");

#define PROFILER_WHOLE_ENDS 4 /* a power of two, at least UNWIND_END_WHOLE_COUNT */

/* Counters of a profiler, per CPU. Monotonic. */
struct profiler_stats {
	abi_u64 runs;
	abi_u64 idle;
	abi_u64 filtered; /* outside the target */
	abi_u64 samples;  /* records put into the ring */
	abi_u64 frames;	  /* user frames walked */
	abi_u64 drops[DROP_CAUSE_COUNT];
	abi_u64 incomplete[INCOMPLETE_CAUSE_COUNT];
	abi_u64 whole[PROFILER_WHOLE_ENDS]; /* samples with a whole user stack, by enum unwind_end */
	abi_u64 seen_full;		    /* a stack could not be remembered and will be sent again */
	abi_u64 timed_runs;		    /* every 64th run times itself */
	abi_u64 timed_ns;
};

/* Counters of the tracker, per CPU. */
struct track_stats {
	abi_u64 events;
	abi_u64 events_lost; /* no room in the ring: user space scans again */
	abi_u64 procs_full;  /* a process could not be entered */
	abi_u64 timed_runs;
	abi_u64 timed_ns;
};

#endif
