#include "daemon/core/stacks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#define KERNEL_ADDRESS_BITS (~ABI_FRAME_OFFSET_MASK)
/* Causes for which the outer part of the stack is missing or not to be trusted. */
#define INCOMPLETE_OUTER (~(1u << INCOMPLETE_KERNEL_STACK))
/* Causes that a table would mend. */
#define INCOMPLETE_FOR_TABLE (1u << INCOMPLETE_NO_TABLE | 1u << INCOMPLETE_NO_MAPPINGS)
#define MAX_WANTED 64

struct stack {
	uint64_t id;
	uint64_t used_ns;
	struct record_stack *record; /* until decoded */
	node_id node;
	uint32_t incomplete;
	image_id *wanted; /* images that may have had no table */
	uint32_t wanted_count;
	bool raw;
	UT_hash_handle hh;
};

struct stacks {
	struct trie *trie;
	struct images *images;
	size_t max_stacks;
	struct stacks_forget forget;
	struct stack *by_id;
};

int stacks_create(struct trie *trie, struct images *images, size_t max_stacks, const struct stacks_forget *forget,
		  struct stacks **ret)
{
	struct stacks *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->trie = trie;
	t->images = images;
	t->max_stacks = max_stacks;
	t->forget = *forget;
	*ret = t;
	return 0;
}

static void drop_stack(struct stacks *t, struct stack *s)
{
	HASH_DEL(t->by_id, s);
	free(s->record);
	free(s->wanted);
	free(s);
}

void stacks_destroy(struct stacks *t)
{
	struct stack *s, *next_stack;

	if (!t)
		return;
	HASH_ITER (hh, t->by_id, s, next_stack)
		drop_stack(t, s);
	free(t);
}

int stacks_add(struct stacks *t, const struct record_stack *r, uint64_t now_ns)
{
	size_t bytes = sizeof(*r) + ((size_t)r->kernel_frames + r->user_frames) * sizeof(abi_frame);
	struct stack *s;

	HASH_FIND(hh, t->by_id, &r->stack_id, sizeof(r->stack_id), s);
	if (s) /* sent twice: by two CPUs at once, or the kernel's memory of it was full */
		return 0;
	if (HASH_COUNT(t->by_id) >= t->max_stacks) {
		t->forget.stack(t->forget.user, r->stack_id);
		return -ENOSPC;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->record = malloc(bytes);
	if (!s->record) {
		free(s);
		return -ENOMEM;
	}
	memcpy(s->record, r, bytes);
	s->id = r->stack_id;
	s->used_ns = now_ns;
	HASH_ADD(hh, t->by_id, id, sizeof(s->id), s);
	return 0;
}

/* Without memory it is asked for by the next stack that goes through the image. */
static void want_table(struct stack *s, image_id image)
{
	image_id *grown;

	if (image < IMAGE_FIRST_FILE && image != IMAGE_VDSO)
		return;
	for (uint32_t i = 0; i < s->wanted_count; i++)
		if (s->wanted[i] == image)
			return;
	if (s->wanted_count == MAX_WANTED)
		return;
	grown = realloc(s->wanted, (s->wanted_count + 1) * sizeof(*grown));
	if (!grown)
		return;
	s->wanted = grown;
	s->wanted[s->wanted_count++] = image;
}

/* What is missing is shown as a frame in its place. */
static int missing_frame(struct stacks *t, uint32_t incomplete, frame_id *ret)
{
	/* Of several causes the one that explains most: where the mappings were not known all else is a guess. */
	static const enum incomplete_cause first[] = {INCOMPLETE_USER_STACK, INCOMPLETE_NO_MAPPINGS,
						      INCOMPLETE_NO_TABLE};

	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if (incomplete & (1u << first[i]))
			return images_special_frame(t->images, SPECIAL_INCOMPLETE + first[i], ret);
	if (incomplete & (1u << INCOMPLETE_DEPTH))
		return images_special_frame(t->images, SPECIAL_TRUNCATED, ret);
	return images_special_frame(t->images, SPECIAL_INCOMPLETE + __builtin_ctz(incomplete & INCOMPLETE_OUTER), ret);
}

static int user_frame(struct stacks *t, const struct process *process, abi_frame f, bool final, uint32_t *incomplete,
		      image_id *ret_image, frame_id *ret)
{
	struct mapping m;
	uint64_t address;
	int err;

	*ret_image = ABI_FRAME_IMAGE(f);
	if (!(f & ABI_FRAME_RAW))
		return images_frame(t->images, ABI_FRAME_IMAGE(f), ABI_FRAME_OFFSET(f), ret);
	*ret_image = IMAGE_NONE;
	address = f & ~ABI_FRAME_RAW;
	err = process ? process_find_mapping(process, address, &m) : -ENOENT;
	if (err == -EAGAIN && !final)
		return err;
	if (err || m.image == IMAGE_NONE) {
		*incomplete |= 1u << INCOMPLETE_UNMAPPED;
		return images_special_frame(t->images, SPECIAL_UNKNOWN, ret);
	}
	*ret_image = m.image;
	if (m.image == IMAGE_JIT)
		return images_frame(t->images, IMAGE_JIT, address, ret);
	return images_frame(t->images, m.image, address - m.start + m.offset, ret);
}

static int decode(struct stacks *t, struct stack *s, const struct process *process, bool final)
{
	const struct record_stack *r = s->record;
	const abi_frame *kernel = (const abi_frame *)(r + 1), *user = kernel + r->kernel_frames;
	frame_id frames[STACK_MAX_FRAMES + 2];
	uint32_t incomplete = r->incomplete;
	bool raw = false;
	image_id image;
	size_t n = 0;
	int err;

	/* Root first. */
	if (incomplete & INCOMPLETE_OUTER) {
		err = missing_frame(t, incomplete, &frames[n++]);
		if (err)
			return err;
	}
	for (size_t i = r->user_frames; i-- > 0;) {
		raw |= (user[i] & ABI_FRAME_RAW) != 0;
		err = user_frame(t, process, user[i], final, &incomplete, &image, &frames[n++]);
		if (err)
			return err;
		if (r->incomplete & INCOMPLETE_FOR_TABLE)
			want_table(s, image);
	}
	for (size_t i = r->kernel_frames; i-- > 0;) {
		err = images_frame(t->images, IMAGE_KERNEL, ABI_FRAME_OFFSET(kernel[i]) | KERNEL_ADDRESS_BITS,
				   &frames[n++]);
		if (err)
			return err;
	}
	if (incomplete & (1u << INCOMPLETE_KERNEL_STACK)) {
		err = images_special_frame(t->images, SPECIAL_KERNEL_UNKNOWN, &frames[n++]);
		if (err)
			return err;
	}
	err = trie_stack(t->trie, frames, n, &s->node);
	if (err)
		return err;
	s->incomplete = incomplete;
	s->raw = raw;
	free(s->record);
	s->record = NULL;
	return 0;
}

int stacks_resolve(struct stacks *t, uint64_t stack_id, const struct process *process, bool final, uint64_t now_ns,
		   struct stack_view *ret)
{
	struct stack *s;

	HASH_FIND(hh, t->by_id, &stack_id, sizeof(stack_id), s);
	if (!s) {
		t->forget.stack(t->forget.user, stack_id);
		return -ENOENT;
	}
	if (s->record) {
		int err = decode(t, s, process, final);

		if (err)
			return err;
	}
	s->used_ns = now_ns;
	for (uint32_t i = 0; i < s->wanted_count; i++)
		images_want_table(t->images, s->wanted[i]);
	*ret = (struct stack_view){.node = s->node, .incomplete = s->incomplete, .raw = s->raw};
	return 0;
}

void stacks_sweep(struct stacks *t, uint64_t before_ns)
{
	struct stack *s, *next_stack;

	HASH_ITER (hh, t->by_id, s, next_stack) {
		if (s->used_ns < before_ns) {
			t->forget.stack(t->forget.user, s->id);
			drop_stack(t, s);
		} else if (!s->record) {
			trie_mark(t->trie, s->node);
		}
	}
}

size_t stacks_count(const struct stacks *t)
{
	return HASH_COUNT(t->by_id);
}
