/* The tables behind image.h, shared by image.c and image_source.c. Loop thread only. */
#ifndef BAROSCOPE_IMAGE_IMAGE_INTERNAL_H
#define BAROSCOPE_IMAGE_IMAGE_INTERNAL_H

#include <sys/queue.h>

#include "daemon/image/frames.h"
#include "daemon/image/parser_client.h"
#include "daemon/util/log.h"

#define KALLSYMS_MAX_MISSED 4096
#define PLACES 2

/* Where an image can be opened. */
struct place {
	uint32_t pid;
	uint64_t start, end;
	char *path; /* NULL: none */
};

struct entry {
	struct image image;
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
	TAILQ_HEAD(, entry) work;
	struct parser_client *parser;
	uint64_t first_epoch;
	enum work_state state;
	struct entry *current;
	bool fresh; /* the batch went out with a descriptor */
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

/* image_source.c */
/* A memory file with our own vDSO. */
int image_copy_vdso(int *ret);
/* Why an image could not be opened, for people. */
const char *image_explain_open(int error, char *text, size_t size);

#endif
