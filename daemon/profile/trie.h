/* Stacks as a trie: a node is (parent, frame); node 0 is the root, above the outermost frame. Merge = add by node.
 * Nodes live until a sweep; parents always have smaller... no order is promised: use trie_parent. Loop thread only. */
#ifndef BAROSCOPE_PROFILE_TRIE_H
#define BAROSCOPE_PROFILE_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/image/image.h"

typedef uint32_t node_id;
#define NODE_ROOT 0u

struct trie;

int trie_create(size_t max_nodes, struct trie **ret);
void trie_destroy(struct trie *t);
/* The child of parent with this frame, made if need be. -ENOSPC at the limit, -ENOMEM. */
int trie_child(struct trie *t, node_id parent, frame_id frame, node_id *ret);
/* frames: root first. */
int trie_stack(struct trie *t, const frame_id *frames, size_t count, node_id *ret);
node_id trie_parent(const struct trie *t, node_id n);
frame_id trie_frame(const struct trie *t, node_id n);
size_t trie_count(const struct trie *t);
size_t trie_bytes(const struct trie *t);

/* Mark and sweep: trie_mark marks a node and its ancestors; the sweep frees the others and calls images_mark_frame for
 * every frame that stays. */
void trie_begin_mark(struct trie *t);
void trie_mark(struct trie *t, node_id n);
bool trie_marked(const struct trie *t, node_id n);
void trie_sweep(struct trie *t, struct images *images);

#endif
