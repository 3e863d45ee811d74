/* A profile's values by stack alone: what flame graphs and tables start from. */
#ifndef BAROSCOPE_QUERY_NODES_H
#define BAROSCOPE_QUERY_NODES_H

#include "daemon/profile/profile.h"

struct node_value {
	node_id node;
	uint64_t count, value;
};

/* Sorted by node, each once. Free with free(). *ret may be NULL when the count is 0. */
int nodes_of_profile(const struct profile *p, struct node_value **ret, size_t *ret_count);

#endif
