/* The entries of a closed window, packed: about 10 bytes an entry instead of 50.
 *
 * Sorted entries as varints: a group (series, pid, comm, thread, number of entries), then per entry the distance to the
 * node before, count and value. In memory only; the bytes are our own, so reading trusts them. */
#ifndef BAROSCOPE_PROFILE_PACKED_H
#define BAROSCOPE_PROFILE_PACKED_H

#include "daemon/profile/entries.h"

struct packed {
	uint8_t *data;
	size_t bytes, count;
};

/* Sorts the entries. On -ENOMEM they stay, sorted, as they are. */
int packed_create(struct entries *from, struct packed *ret);
void packed_deinit(struct packed *p);

struct packed_reader {
	const uint8_t *at, *end;
	uint64_t left; /* in this group */
	struct profile_entry entry;
};
void packed_reader_init(struct packed_reader *r, const struct packed *p);
/* False at the end; r->entry otherwise. */
bool packed_next(struct packed_reader *r);

#endif
