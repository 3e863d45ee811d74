/* Entries folded by node. Pure. */
#include "daemon/query/nodes.h"

#include <errno.h>
#include <stdlib.h>

static int by_node(const void *a, const void *b)
{
	const struct node_value *x = a, *y = b;

	return x->node < y->node ? -1 : x->node > y->node;
}

int nodes_of_profile(const struct profile *p, struct node_value **ret, size_t *ret_count)
{
	struct node_value *list = NULL;
	size_t count = 0;

	if (p->entry_count) {
		list = calloc(p->entry_count, sizeof(*list));
		if (!list)
			return -ENOMEM;
		for (size_t i = 0; i < p->entry_count; i++) {
			const struct profile_entry *e = &p->entries[i];

			list[i] = (struct node_value){.node = e->node, .count = e->count, .value = e->value};
		}
		qsort(list, p->entry_count, sizeof(*list), by_node);
	}
	for (size_t i = 0; i < p->entry_count; i++) {
		if (count && list[count - 1].node == list[i].node) {
			list[count - 1].count += list[i].count;
			list[count - 1].value += list[i].value;
		} else {
			list[count++] = list[i];
		}
	}
	*ret = list;
	*ret_count = count;
	return 0;
}
