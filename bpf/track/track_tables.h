/* Unwind tables in the kernel: packs the rows of images into segments, shares their rules over the host, and throws out
 * what was used least lately when the budget is full.
 *
 * Invariants: an image's rows, pages and infos are whole before unwind_images names it; what unwind_images named is
 * rewritten no earlier than the grace time after it was taken out; a page's rows never cross a segment. One thread at a
 * time, and not the loop: adding a segment waits for the kernel (about 11 ms). */
#ifndef BAROSCOPE_BPF_TRACK_TABLES_H
#define BAROSCOPE_BPF_TRACK_TABLES_H

#include <stdint.h>

#include "daemon/image/image.h"
#include "daemon/image/table.h"
#include "daemon/util/err.h"

struct tables;

struct tables_options {
	int images_fd, infos_fd, segments_fd; /* maps unwind_images, unwind_infos, unwind_segments; borrowed */
	uint64_t budget_bytes;		      /* of segments; default 48 MiB */
	uint64_t grace_ns;		      /* default 2 s */
};

int tables_create(const struct tables_options *options, struct tables **ret, struct err *e);
void tables_destroy(struct tables *t);

/* Loads a checked table (table_check), evicting others if need be; `evicted` is called for each of them. An image that
 * is loaded already is replaced. -ENOSPC: no room now, but what was thrown out leaves some once the grace time is over;
 * -EFBIG: more than there ever is; -ENOMEM, or what the kernel said. An image that could not be loaded has no table.
 */
typedef void tables_evicted_fn(void *user, image_id image);
int tables_load(struct tables *t, image_id image, const struct table *table, uint64_t now_ns,
		tables_evicted_fn *evicted, void *user);
void tables_drop(struct tables *t, image_id image, uint64_t now_ns);
/* Now and then (about each second): frees what has rested, and gives empty segments back to the kernel. */
void tables_tick(struct tables *t, uint64_t now_ns);

struct tables_stats {
	uint64_t images, rows, infos, segments; /* there now; infos with the two fixed ones */
	uint64_t used_bytes;			/* rows and page entries of loaded images */
	uint64_t budget_bytes;			/* segments may have this much */
	uint64_t evictions;
	uint64_t infos_full; /* loads refused because there were too many different infos */
	uint64_t no_room;    /* loads refused because there was no room for rows, now or ever */
};
void tables_get_stats(const struct tables *t, struct tables_stats *ret);

#endif
