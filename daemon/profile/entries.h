/* Profile entries, added up by key (series, node, pid, comm, thread): how an open window and a merge accumulate. */
#ifndef BAROSCOPE_PROFILE_ENTRIES_H
#define BAROSCOPE_PROFILE_ENTRIES_H

#include "daemon/profile/profile.h"
#include "daemon/util/index.h"

struct entries {
	struct profile_entry *list;
	size_t count, cap;
	struct index index;
};

void entries_deinit(struct entries *t);
/* True when e's key is there: its count and value were added. */
bool entries_fold(struct entries *t, const struct profile_entry *e);
/* e's key must not be there. -ENOMEM. */
int entries_append(struct entries *t, const struct profile_entry *e);
size_t entries_bytes(const struct entries *t);
/* By how much entries_bytes grows with the next append. */
size_t entries_growth(const struct entries *t);
/* By series, pid, comm, thread, node. Afterwards neither fold nor append may be called. */
void entries_sort(struct entries *t);

#endif
