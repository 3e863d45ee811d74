/* The thread `bpfsys`: everything about unwind tables that waits for the kernel or a disk. It owns the loader
 * (bpf/track/track_tables.h) and the cache (daemon/image/table_cache.h); the loop hands it jobs through a bounded queue
 * and gets answers from it through another, woken by an eventfd. A message has one owner; nothing else is shared.
 *
 * All functions: loop thread. */
#ifndef BAROSCOPE_CORE_TABLE_WORKER_H
#define BAROSCOPE_CORE_TABLE_WORKER_H

#include <event2/event.h>

#include "bpf/track/track_tables.h"
#include "daemon/image/image.h"
#include "daemon/util/err.h"

struct table_worker;

struct table_worker_options {
	struct tables_options tables;
	const char *cache_dir;	  /* made if need be; NULL: no cache */
	uint64_t cache_max_bytes; /* default 256 MiB; the oldest files leave first */
};

/* Starts the thread. Answers go to images_table_answer and images_table_evicted of `images`, from the loop only. A
 * cache directory that cannot be used is tried again each minute, and counts as a write error each time. */
int table_worker_create(struct event_base *base, struct images *images, const struct table_worker_options *options,
			struct table_worker **ret, struct err *e);
/* Ends the thread after the job in hand; jobs and answers that wait are dropped. The sink must not be called any more.
 * Accepts NULL. */
void table_worker_destroy(struct table_worker *w);
/* For images_set_table_sink. A table handed to it is as long as its head says. */
struct table_sink table_worker_sink(struct table_worker *w);

struct table_worker_stats {
	struct tables_stats tables; /* as of the last job; there is one a second at least */
	uint64_t cache_hits, cache_misses, cache_broken, cache_write_errors, cache_bytes;
	uint64_t queue_full; /* jobs refused, and drops put off */
};
void table_worker_get_stats(const struct table_worker *w, struct table_worker_stats *ret);

#endif
