/* Stacks by id: decoding, forgetting. images and target stand in as small tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/stacks.h"

struct fake_frame {
	image_id image;
	uint64_t offset;
};

static struct fake_frame frames[256];
static size_t frame_count = 1;
static int mapping_error;
static uint64_t forgotten_stack;
static size_t forgotten;

int images_frame(struct images *t, image_id image, uint64_t offset, frame_id *ret)
{
	(void)t;
	for (size_t i = 1; i < frame_count; i++)
		if (frames[i].image == image && frames[i].offset == offset) {
			*ret = (frame_id)i;
			return 0;
		}
	if (frame_count == ARRAY_SIZE(frames))
		return -ENOSPC;
	frames[frame_count] = (struct fake_frame){image, offset};
	*ret = (frame_id)frame_count++;
	return 0;
}

int images_special_frame(struct images *t, enum special_frame which, frame_id *ret)
{
	return images_frame(t, IMAGE_SPECIAL, which, ret);
}

void images_mark_frame(struct images *t, frame_id id)
{
	(void)t;
	(void)id;
}

int process_find_mapping(const struct process *p, uint64_t address, struct mapping *ret)
{
	(void)p;
	if (mapping_error)
		return mapping_error;
	if (address >= 0x7000000)
		*ret = (struct mapping){.start = 0x7000000, .end = 0x8000000, .offset = 0x7000000, .image = IMAGE_JIT};
	else if (address >= 0x400000)
		*ret = (struct mapping){.start = 0x400000, .end = 0x500000, .offset = 0x1000, .image = 20};
	else
		return -ENOENT;
	return 0;
}

static image_id wanted[16];
static size_t wanted_count;

void images_want_table(struct images *t, image_id id)
{
	(void)t;
	assert_true(wanted_count < 16);
	wanted[wanted_count++] = id;
}

static void on_forget_stack(void *user, uint64_t stack_id)
{
	(void)user;
	forgotten_stack = stack_id;
	forgotten++;
}

struct fixture {
	struct intern *strings;
	struct trie *trie;
	struct stacks *stacks;
};

static int setup(void **state)
{
	static struct fixture f;
	const struct stacks_forget forget = {.stack = on_forget_stack};

	forgotten = 0;
	wanted_count = 0;
	frame_count = 1;
	mapping_error = 0;
	assert_int_equal(intern_create(1 << 20, &f.strings), 0);
	assert_int_equal(trie_create(1000, &f.trie), 0);
	assert_int_equal(stacks_create(f.trie, NULL, 4, &forget, &f.stacks), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	stacks_destroy(f->stacks);
	trie_destroy(f->trie);
	intern_destroy(f->strings);
	return 0;
}

static struct record_stack *make(uint64_t id, uint16_t kernel, uint16_t user, const abi_frame *ips)
{
	static union {
		struct record_stack record;
		char bytes[sizeof(struct record_stack) + 16 * sizeof(abi_frame)];
	} u;

	u.record = (struct record_stack){.stack_id = id, .kernel_frames = kernel, .user_frames = user};
	memcpy(&u.record + 1, ips, (size_t)(kernel + user) * sizeof(abi_frame));
	return &u.record;
}

static void stacks_resolve__builds_root_first_from_leaf_first(void **state)
{
	struct fixture *f = *state;
	const abi_frame ips[] = {ABI_FRAME(IMAGE_KERNEL, 0xffffffff81000010), ABI_FRAME(20, 0x1123),
				 ABI_FRAME_RAW | 0x400200, ABI_FRAME_RAW | 0x7000040, ABI_FRAME_RAW | 0x10};
	const struct fake_frame expected[] = {
		{IMAGE_KERNEL, 0xffffffff81000010}, {20, 0x1123}, {20, 0x1200}, {IMAGE_JIT, 0x7000040},
		{IMAGE_SPECIAL, SPECIAL_UNKNOWN},
	};
	struct stack_view view;
	node_id n;

	assert_int_equal(stacks_add(f->stacks, make(1, 1, 4, ips), 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 1, (struct process *)&ips, false, 5, &view), 0);
	assert_true(view.raw);
	assert_int_equal(view.incomplete, 1u << INCOMPLETE_UNMAPPED);
	n = view.node;
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++, n = trie_parent(f->trie, n)) {
		assert_int_equal(frames[trie_frame(f->trie, n)].image, expected[i].image);
		assert_int_equal(frames[trie_frame(f->trie, n)].offset, expected[i].offset);
	}
	assert_int_equal(n, NODE_ROOT);
}

static void stacks_resolve__waits_for_mappings_but_not_for_ever(void **state)
{
	struct fixture *f = *state;
	const abi_frame ips[] = {ABI_FRAME_RAW | 0x400200};
	struct stack_view view;

	mapping_error = -EAGAIN;
	assert_int_equal(stacks_add(f->stacks, make(1, 0, 1, ips), 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 1, (struct process *)&ips, false, 5, &view), -EAGAIN);
	assert_int_equal(stacks_resolve(f->stacks, 1, (struct process *)&ips, true, 5, &view), 0);
	assert_int_equal(view.incomplete, 1u << INCOMPLETE_UNMAPPED);
}

static void stacks_resolve__an_unknown_stack_is_asked_for_again(void **state)
{
	struct fixture *f = *state;
	struct stack_view view;

	assert_int_equal(stacks_resolve(f->stacks, 99, NULL, false, 0, &view), -ENOENT);
	assert_int_equal(forgotten_stack, 99);
}

static void stacks_add__at_the_limit_it_is_forgotten_and_comes_again(void **state)
{
	struct fixture *f = *state;
	const abi_frame ips[] = {ABI_FRAME(20, 1)};
	struct stack_view view;

	for (uint64_t id = 1; id <= 4; id++) {
		assert_int_equal(stacks_add(f->stacks, make(id, 0, 1, ips), 100), 0);
		assert_int_equal(stacks_resolve(f->stacks, id, NULL, false, 100 * id, &view), 0);
	}
	assert_int_equal(stacks_add(f->stacks, make(5, 0, 1, ips), 500), -ENOSPC);
	assert_int_equal(forgotten_stack, 5);
	trie_begin_mark(f->trie);
	stacks_sweep(f->stacks, 350);
	assert_int_equal(stacks_count(f->stacks), 1);
	assert_int_equal(forgotten, 4);
	assert_int_equal(stacks_resolve(f->stacks, 4, NULL, false, 600, &view), 0);
	assert_true(trie_marked(f->trie, view.node));
	assert_int_equal(stacks_add(f->stacks, make(5, 0, 1, ips), 500), 0);
}

static void stacks_resolve__shows_what_is_missing_as_frames(void **state)
{
	struct fixture *f = *state;
	const abi_frame ips[] = {ABI_FRAME(IMAGE_KERNEL, 1), ABI_FRAME(20, 1)};
	struct record_stack *r = make(1, 1, 1, ips);
	struct stack_view view;
	node_id root;

	r->incomplete = 1u << INCOMPLETE_DEPTH;
	assert_int_equal(stacks_add(f->stacks, r, 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 1, NULL, false, 0, &view), 0);
	root = trie_parent(f->trie, trie_parent(f->trie, view.node));
	assert_int_equal(frames[trie_frame(f->trie, root)].offset, SPECIAL_TRUNCATED);
	r = make(2, 0, 0, ips);
	r->incomplete = 1u << INCOMPLETE_KERNEL_STACK | 1u << INCOMPLETE_USER_STACK;
	assert_int_equal(stacks_add(f->stacks, r, 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 2, NULL, false, 0, &view), 0);
	assert_int_equal(frames[trie_frame(f->trie, view.node)].offset, SPECIAL_KERNEL_UNKNOWN);
	assert_int_equal(frames[trie_frame(f->trie, trie_parent(f->trie, view.node))].offset,
			 SPECIAL_INCOMPLETE + INCOMPLETE_USER_STACK);
	/* Of several causes the one that the others follow from. */
	r = make(3, 0, 1, ips + 1);
	r->incomplete = 1u << INCOMPLETE_DEPTH | 1u << INCOMPLETE_STACK_READ | 1u << INCOMPLETE_NO_TABLE;
	assert_int_equal(stacks_add(f->stacks, r, 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 3, NULL, false, 0, &view), 0);
	assert_int_equal(frames[trie_frame(f->trie, trie_parent(f->trie, view.node))].offset,
			 SPECIAL_INCOMPLETE + INCOMPLETE_NO_TABLE);
}

static void stacks_resolve__wants_the_tables_that_were_missing(void **state)
{
	struct fixture *f = *state;
	const abi_frame ips[] = {ABI_FRAME(20, 1), ABI_FRAME(IMAGE_VDSO, 1), ABI_FRAME(20, 2),
				 ABI_FRAME_RAW | 0x7000040, ABI_FRAME(21, 1)};
	struct record_stack *r = make(1, 0, 5, ips);
	struct stack_view view;

	r->incomplete = 1u << INCOMPLETE_NO_TABLE;
	assert_int_equal(stacks_add(f->stacks, r, 0), 0);
	for (size_t hits = 1; hits < 3; hits++) {
		/* At each hit: it may have been thrown out meanwhile. */
		assert_int_equal(stacks_resolve(f->stacks, 1, NULL, false, 0, &view), 0);
		assert_int_equal(wanted_count, 3 * hits);
		assert_int_equal(wanted[wanted_count - 3] + wanted[wanted_count - 2] + wanted[wanted_count - 1],
				 20 + 21 + IMAGE_VDSO);
	}
	/* A whole stack needs none. */
	assert_int_equal(stacks_add(f->stacks, make(2, 0, 5, ips), 0), 0);
	assert_int_equal(stacks_resolve(f->stacks, 2, NULL, false, 0, &view), 0);
	assert_int_equal(wanted_count, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(stacks_resolve__builds_root_first_from_leaf_first, setup, teardown),
		cmocka_unit_test_setup_teardown(stacks_resolve__waits_for_mappings_but_not_for_ever, setup, teardown),
		cmocka_unit_test_setup_teardown(stacks_resolve__an_unknown_stack_is_asked_for_again, setup, teardown),
		cmocka_unit_test_setup_teardown(stacks_add__at_the_limit_it_is_forgotten_and_comes_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(stacks_resolve__shows_what_is_missing_as_frames, setup, teardown),
		cmocka_unit_test_setup_teardown(stacks_resolve__wants_the_tables_that_were_missing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
