/* Stacks as the kernel side sent them, by id; a stack is decoded into the trie at its first sample.
 *
 * The kernel side remembers what it has sent: whatever is forgotten here is reported through `forget`, so that it comes
 * again. Loop thread only. */
#ifndef BAROSCOPE_CORE_STACKS_H
#define BAROSCOPE_CORE_STACKS_H

#include "bpf/abi.h"
#include "daemon/profile/trie.h"
#include "daemon/target/target.h"

struct stacks;

struct stacks_forget {
	void (*stack)(void *user, uint64_t stack_id);
	void *user;
};

int stacks_create(struct trie *trie, struct images *images, size_t max_stacks, const struct stacks_forget *forget,
		  struct stacks **ret);
void stacks_destroy(struct stacks *t);

/* A record from the ring, checked by the reader. -ENOMEM, -ENOSPC (the table is full; it is forgotten at once). */
int stacks_add(struct stacks *t, const struct record_stack *r, uint64_t now_ns);

struct stack_view {
	node_id node;
	uint32_t incomplete; /* bit set of enum incomplete_cause */
	bool raw;	     /* came with raw frames: the process is worth publishing */
};
/* 0; -ENOENT: not known; -EAGAIN: the process's mappings are still being read (not when `final`); -ENOSPC: the trie or
 * the frame table is full. */
int stacks_resolve(struct stacks *t, uint64_t stack_id, const struct process *process, bool final, uint64_t now_ns,
		   struct stack_view *ret);

/* Forgets what was not used since before_ns; marks the nodes of the rest. */
void stacks_sweep(struct stacks *t, uint64_t before_ns);
size_t stacks_count(const struct stacks *t);

#endif
