/* Images (mapped files, the kernel, the vDSO) and frames: from (image, file offset) to function, file and line.
 *
 * The room owns two tables: images by identity, and frames by (image, offset). A new frame is pending; in the
 * background it is sent in batches, with a descriptor from the opener, to the parser: a child process without
 * privileges that reads ELF symbol tables, Go's pclntab and kallsyms, demangles, and answers with names and the
 * image's own address. Either child may die: it is started again, the image in work is marked, counted, and the
 * others go on. An image that failed stays failed (no retry storm) until it is referenced anew by a new process;
 * its frames are nameless but keep their mapping. Its unwind table is tried again also without one, after a pause that
 * doubles: what lacked may have been memory or time, and a process may live for years.
 *
 * No libbpf here. Loop thread only. */
#ifndef BAROSCOPE_IMAGE_IMAGE_H
#define BAROSCOPE_IMAGE_IMAGE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "bpf/abi.h"
#include "daemon/opener/opener.h"
#include "daemon/util/err.h"
#include "daemon/util/intern.h"
#include "daemon/util/json_writer.h"

struct images;

typedef uint32_t image_id; /* enum abi_image or a file's number; fits ABI_FRAME's 23 bits */
typedef uint32_t frame_id; /* index of an interned frame; 0 = none */

/* Frames without an address: IMAGE_SPECIAL with these offsets. Names as shown. */
#define SPECIAL_FRAMES(X)                                                                                              \
	X(NOT_RUN, "[not_run]")                                                                                        \
	X(TRUNCATED, "[truncated]")                                                                                    \
	X(UNKNOWN, "[unknown]")                                                                                        \
	X(KERNEL_UNKNOWN, "[kernel stack unreadable]")

enum special_frame {
#define X(sym, name) SPECIAL_##sym,
	SPECIAL_FRAMES(X)
#undef X
		SPECIAL_NAMED_COUNT,
	/* The outermost frame of a stack whose outer part is missing, by enum incomplete_cause: "[incomplete: jit]". */
	SPECIAL_INCOMPLETE = SPECIAL_NAMED_COUNT,
	SPECIAL_COUNT = SPECIAL_INCOMPLETE + INCOMPLETE_CAUSE_COUNT,
};

struct images_options {
	size_t max_images;	      /* default 16384 */
	size_t max_frames;	      /* default 1048576 */
	uint64_t parse_timeout_ns;    /* one request; default 10 s */
	uint64_t parser_memory_bytes; /* RLIMIT_AS of the parser; default 256 MiB */
	const char *exe;	      /* program started as `exe --internal-parser`; default /proc/self/exe */
	uint64_t table_seed;	      /* of the hash in table keys, secret, the same at each start; 0: random */
	uint64_t table_idle_ns;	      /* a table that no process needs goes after this; default 10 s */
};

/* Identity of a mapped file. inode_generation 0 = not known (the start-up scan). Two keys are the same file when dev
 * and inode agree, and generations agree or one is unknown while the image is referenced. */
struct image_key {
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	uint64_t inode_generation;
	const char *path; /* as mapped, in the process's mount namespace; " (deleted)" cut off */
};

enum image_state { IMAGE_NEW, IMAGE_LOADING, IMAGE_READY, IMAGE_FAILED, IMAGE_STATE_COUNT };

struct image_segment {
	uint64_t vaddr, file_offset, bytes; /* an executable PT_LOAD */
};

struct image {
	image_id id;
	enum image_state state;
	intern_id path;	    /* real file name; "[kernel.kallsyms]", "[vdso]", "[jit]" */
	intern_id build_id; /* hex; empty if none or not yet known */
	intern_id problem;  /* why it failed; empty */
	uint32_t refs;	    /* mappings of living processes */
	bool has_symbols;
	struct image_segment segment; /* of the executable PT_LOAD that holds most of its frames; zeros if unknown */
};

enum frame_state { FRAME_PENDING, FRAME_NAMED, FRAME_NAMELESS };

/* One function at a frame; inlined callees come first (leaf first). */
struct frame_line {
	intern_id function;    /* demangled */
	intern_id system_name; /* as in the symbol table */
	intern_id file;	       /* empty = unknown */
	uint32_t line;	       /* 0 = unknown */
	uint32_t start_line;   /* 0 = unknown */
};

struct frame {
	image_id image;
	uint64_t offset;  /* in the file; IMAGE_KERNEL: full address */
	uint64_t address; /* the image's own (symbol-table) address; = offset while pending or if unknown */
	enum frame_state state;
	uint32_t line_count; /* 0 when nameless */
	const struct frame_line *lines;
};

int images_create(struct event_base *base, struct opener *opener, struct intern *strings,
		  const struct images_options *options, struct images **ret, struct err *e);
void images_destroy(struct images *t);

/* A mapping of this file came (went). `file` tells where it can be opened (pid, range); it is copied and used when the
 * first frame of the image is to be named; later references replace it when the earlier process is gone.
 * -ENOSPC at the limit: the caller maps to IMAGE_NONE and counts. */
int images_ref(struct images *t, const struct image_key *key, const struct opener_file *file, image_id *ret);
/* One more mapping of a known image (fork). */
void images_ref_again(struct images *t, image_id id);
void images_unref(struct images *t, image_id id);

/* Interns a frame and queues it for naming if it is new. offset as in struct frame. -ENOSPC at the limit. */
int images_frame(struct images *t, image_id image, uint64_t offset, frame_id *ret);
int images_special_frame(struct images *t, enum special_frame which, frame_id *ret);
/* Borrowed; lines stay valid until the frame is swept or renamed. Never NULL for ids given out and not swept. */
const struct frame *images_get_frame(const struct images *t, frame_id id);
const struct image *images_get(const struct images *t, image_id id);
/* How a frame is shown when it has no name: "[libfoo.so.1]" for a file, "[kernel]", "[jit]", "[vdso]". Writes into
 * text. */
const char *images_nameless(const struct images *t, const struct frame *f, char *text, size_t size);

/* Unwind tables. The sink (daemon/core/table_worker.h) loads them into the kernel and keeps the cache on disk; it works
 * on a thread of its own and answers from the loop with images_table_answer. Its functions return 0, or -errno when
 * there will be no answer (-EAGAIN: its queue is full). */
struct table;
struct table_sink {
	/* Load it from the cache if it is there. */
	int (*find)(void *user, image_id image, const char *key);
	/* Load this one, and put it into the cache under its key (NULL: don't). Takes over the block on success. */
	int (*load)(void *user, image_id image, const char *key, struct table *table);
	/* No process maps the image any more. No answer. */
	void (*drop)(void *user, image_id image);
	void *user;
};
void images_set_table_sink(struct images *t, const struct table_sink *sink);
/* Whether any table is on its way. */
bool images_tables_pending(const struct images *t);
/* A stack went through this image: its table is wanted. Cheap when it is there, on its way or failed not long ago. */
void images_want_table(struct images *t, image_id id);
/* 0: it is loaded; -ENOENT: the cache has none (after find); -ENOSPC: no room; else: it cannot be used. */
void images_table_answer(struct images *t, image_id id, int result);
/* It was thrown out to make room; wanted again at its next hit. */
void images_table_evicted(struct images *t, image_id id);

/* Sends what is pending to the parser now (called at each drain). */
void images_kick(struct images *t);
/* Calls fn from the loop as soon as nothing is pending, or after timeout_ns (idle = false). Returns -EAGAIN when too
 * many wait. images_cancel_idle(t, user) forgets those with this user pointer. */
typedef void images_idle_fn(void *user, bool idle);
int images_when_idle(struct images *t, uint64_t timeout_ns, images_idle_fn *fn, void *user);
void images_cancel_idle(struct images *t, void *user);

/* Mark and sweep with the profile windows as holders; images without references and without frames are dropped. */
void images_begin_mark(struct images *t);
void images_mark_frame(struct images *t, frame_id id);
void images_sweep(struct images *t); /* also intern_marks the strings that stay */

struct images_stats {
	uint64_t by_state[IMAGE_STATE_COUNT];
	uint64_t frames, frames_pending, frames_nameless;
	uint64_t parser_restarts, opener_restarts, parse_timeouts, images_full, frames_full;
	/* Tables asked for so far, by outcome; waiting: asked for and not answered. */
	uint64_t tables_waiting, tables_compiled, tables_cached, tables_none, tables_failed, tables_dropped;
	uint64_t table_losses; /* entries, rows and sections that the compiled ones leave out */
	int parser_pid;	       /* -1 while restarting */
};
void images_get_stats(const struct images *t, struct images_stats *ret);

/* The parser child's main(), for `--internal-parser`; fd 3 is the socket. */
int parser_child_main(void);

#endif
