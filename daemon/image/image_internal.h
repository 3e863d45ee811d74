/* The tables behind image.h, shared by image.c (images, references, frames), image_work.c (opener and parser at work),
 * image_table.c (unwind tables) and image_source.c. Loop thread only. */
#ifndef BAROSCOPE_IMAGE_IMAGE_INTERNAL_H
#define BAROSCOPE_IMAGE_IMAGE_INTERNAL_H

#include <sys/queue.h>

#include "daemon/image/frames.h"
#include "daemon/image/parser_client.h"
#include "daemon/util/log.h"

#define KALLSYMS_MAX_MISSED 4096
#define KALLSYMS_MIN_NS (10 * NS_PER_S)
#define PLACES 2
/* A failed image is tried again for a new process, but not at every start of a process. */
#define RETRY_NS (10 * NS_PER_S)
#define TABLE_RETRY_MAX_NS (600 * NS_PER_S)
#define MAX_PARSER_DEATHS 2

/* Where an image can be opened. */
struct place {
	uint32_t pid;
	uint64_t start, end;
	char *path; /* NULL: none */
};

enum table_state {
	TABLE_NONE,
	TABLE_WANTED,	 /* its key is to be asked of the parser */
	TABLE_FINDING,	 /* the sink looks for it in the cache, or is to be asked to */
	TABLE_COMPILING, /* it is to be asked of the parser */
	TABLE_LOADING,	 /* the sink loads it, or is to be given it */
	TABLE_LOADED,
	TABLE_FAILED,
};

/* An image's unwind table; image_table.c. */
struct entry_table {
	enum table_state state;
	TAILQ_ENTRY(entry) link; /* in table_work or slow_table_work */
	bool queued;
	TAILQ_ENTRY(entry) idle_link; /* in idle_tables: no process needs what there is of it */
	bool idle;
	bool gone;		/* failed because no place had the file */
	bool sink_has;		/* the sink was asked to find or load it, and not to drop it since */
	bool asked;		/* the sink owes an answer */
	bool no_rows;		/* the compiled one: walked by frame pointer */
	bool slow;		/* the parser ran out of time over it: in slow_table_work, not in table_work */
	bool doubtful;		/* loaded, but the file may be another by now: its key is to be compared */
	bool owned_by_root;	/* and nobody else can write to it: what is compiled of it may be kept for others */
	bool losses_told;	/* in the log */
	uint32_t stale_answers; /* it owes these as well, but from before a drop */
	unsigned int deaths;
	uint64_t unref_ns, failed_ns, not_before_ns;
	uint64_t pause_ns;   /* after a failure, until the next try; 0: has not failed since it was last loaded */
	char *key;	     /* from FINDING on, while there is one */
	bool key_changed;    /* the compiled one is not what was to be found */
	struct table *block; /* compiled and not yet given to the sink */
};

struct entry {
	struct image image;
	struct entry_table table;
	TAILQ_ENTRY(entry) link;
	bool queued;
	bool unused_before; /* at the last sweep */
	bool gone;	    /* failed because no place had the file */
	uint32_t dev_major, dev_minor;
	uint64_t inode, generation;
	struct place places[PLACES]; /* newest first */
	unsigned int next_place;
	int open_error;
	unsigned int deaths; /* parsers that died over it */
	uint64_t parser_epoch;
	uint64_t failed_ns;
	size_t frame_count;
	frame_id *pending;
	size_t pending_count, pending_cap;
	struct log_site log_site;
};

struct waiter {
	TAILQ_ENTRY(waiter) link;
	struct images *images;
	images_idle_fn *fn;
	void *user;
	struct event *timeout;
};

enum work_task { TASK_NAMES, TASK_TABLE_FIND, TASK_TABLE_COMPILE };
enum work_state { WORK_IDLE, WORK_OPENING, WORK_PARSING };

struct images {
	struct opener *opener;
	struct intern *strings;
	struct event_base *base;
	size_t max_images;
	uint64_t seed;
	struct frames frames;
	struct entry **entries;
	size_t entry_count, entry_cap;
	struct index by_id, by_file; /* of places in entries */
	image_id next_id;
	TAILQ_HEAD(entry_queue, entry) work;
	struct entry_queue table_work, slow_table_work; /* before names, after names */
	struct entry_queue idle_tables;			/* by time */
	struct table_sink sink;
	uint64_t table_idle_ns;
	uint64_t found_ns;     /* when the sink was last asked to find */
	size_t tables_finding; /* answers to that it owes */
	size_t tables_waiting;
	uint64_t tables_compiled, tables_cached, tables_none, tables_failed, tables_dropped;
	uint64_t table_losses;
	struct parser_client *parser;
	uint64_t first_epoch;
	enum work_state state;
	struct entry *current;
	enum work_task task;
	bool task_void;	     /* nobody wants its outcome any more */
	bool fresh;	     /* the task went out with a descriptor */
	image_id held_image; /* the parser has its file open, if it is still this one */
	uint64_t held_epoch;
	frame_id batch[PARSER_BATCH_MAX];
	uint64_t offsets[PARSER_BATCH_MAX];
	uint32_t batch_count;
	uint32_t batch_named;
	struct event *idle, *kernel_retry;
	TAILQ_HEAD(, waiter) waiters;
	size_t waiter_count;
	uint64_t kallsyms_ns, kallsyms_interval_ns;
	frame_id missed[KALLSYMS_MAX_MISSED];
	size_t missed_count;
	uint64_t parse_timeouts, images_full, frames_full;
	uint64_t failures_since_ns;
	unsigned int failures_logged;
	bool destroying;
};

/* image.c */
struct entry *image_find(const struct images *t, image_id id);
bool image_is_file(const struct entry *y);

/* image_work.c */
int image_work_init(struct images *t, const struct images_options *options, struct err *e);
void image_work_deinit(struct images *t);
/* Starts what can be started. */
void image_pump(struct images *t);
int image_push_pending(struct images *t, struct entry *y, frame_id id);
void image_set_nameless(struct images *t, frame_id id);
void image_check_idle(struct images *t);
/* event: what the problem means for the image; quiet: it is no one's fault (the file's process ended before), or was
 * told already. */
void image_log_problem(struct images *t, struct entry *y, bool quiet, const char *event, const char *problem);

/* image_table.c */
/* The next task about a table, slow: of those that took too long before; NULL: there is none, or the sink has no room
 * for what is ready. Asks the sink on the way. */
struct entry *image_table_next(struct images *t, bool slow, enum work_task *ret);
/* The file for a task about a table was opened. */
void image_table_opened(struct entry *y, const struct stat *st);
/* The task could not be started now. */
void image_table_again(struct images *t, struct entry *y);
/* The parser's answer to the task, as of parser_client_ops.done. */
void image_table_done(struct images *t, struct entry *y, enum work_task task, int error,
		      const struct parser_response *response);
void image_table_fail(struct images *t, struct entry *y, bool gone, const char *problem);
/* Names have to wait: a table is about to be found, and its compilation would wait for them. */
bool image_table_holds_names(const struct images *t);
/* A new process maps the image, of which another try may be due. */
void image_table_retry(struct entry *y);
/* The image got its first mapping, lost its last one. */
void image_table_ref(struct images *t, struct entry *y);
void image_table_unref(struct images *t, struct entry *y);
/* The file may have been written anew: a loaded table stays until the next stack has it compared. */
void image_table_doubt(struct images *t, struct entry *y);
/* The table is of no use any more. */
void image_table_drop(struct images *t, struct entry *y);
void image_table_drop_idle(struct images *t);

/* image_source.c */
/* A memory file with our own vDSO. */
int image_copy_vdso(int *ret);
/* Why an image could not be opened, for people. */
const char *image_explain_open(int error, char *text, size_t size);

#endif
