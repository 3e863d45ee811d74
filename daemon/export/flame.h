/* A profile as a tree of names: stacks that read the same are one, whichever binary or address they come from. What
 * folded, JSON (and later the flame graphs) write. */
#ifndef BAROSCOPE_EXPORT_FLAME_H
#define BAROSCOPE_EXPORT_FLAME_H

#include "daemon/export/export.h"
#include "daemon/query/names.h"
#include "daemon/util/index.h"

#define FLAME_NONE UINT32_MAX
#define FLAME_MAX_NODES ((size_t)4 << 20)

struct flame_node {
	uint32_t parent; /* FLAME_NONE for a root; always smaller than the node's own number */
	name_id name;
	uint64_t self, total, count; /* count: samples of total */
};

struct flame {
	struct flame_node *nodes;
	size_t count, cap;
	struct names names;
	struct index index;
};

/* folded: names as fit for the folded form. -ENOSPC above FLAME_MAX_NODES. */
int flame_create(const struct export_context *c, bool folded, struct flame **ret, struct err *e);
void flame_destroy(struct flame *f);

#endif
