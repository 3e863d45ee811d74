/* The trie: identity, limit, mark and sweep, size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "daemon/profile/trie.h"
#include "tests/unit/query/fake_images.h"

static void stack__equal_stacks_are_one_node(void **state)
{
	const frame_id ab[] = {1, 2}, abc[] = {1, 2, 3}, b[] = {2};
	struct trie *t;
	node_id n, m, k, l;

	(void)state;
	assert_int_equal(trie_create(100, &t), 0);
	assert_int_equal(trie_stack(t, abc, 3, &n), 0);
	assert_int_equal(trie_stack(t, abc, 3, &m), 0);
	assert_int_equal(trie_stack(t, ab, 2, &k), 0);
	assert_int_equal(trie_stack(t, b, 1, &l), 0);
	assert_int_equal(n, m);
	assert_int_equal(trie_parent(t, n), k);
	assert_int_not_equal(l, k);
	assert_int_equal(trie_frame(t, n), 3);
	assert_int_equal(trie_parent(t, trie_parent(t, k)), NODE_ROOT);
	assert_int_equal(trie_count(t), 4);
	assert_int_equal(trie_stack(t, NULL, 0, &n), 0);
	assert_int_equal(n, NODE_ROOT);
	trie_destroy(t);
}

static void child__limit_is_enospc_and_known_children_still_work(void **state)
{
	struct trie *t;
	node_id a, n;

	(void)state;
	assert_int_equal(trie_create(2, &t), 0);
	assert_int_equal(trie_child(t, NODE_ROOT, 1, &a), 0);
	assert_int_equal(trie_child(t, a, 2, &n), 0);
	assert_int_equal(trie_child(t, a, 3, &n), -ENOSPC);
	assert_int_equal(trie_child(t, NODE_ROOT, 1, &n), 0);
	assert_int_equal(n, a);
	assert_int_equal(trie_child(t, 50, 1, &n), -EINVAL);
	trie_destroy(t);
}

static void sweep__marked_paths_stay_and_freed_nodes_are_reused(void **state)
{
	static struct images images;
	const frame_id keep[] = {1, 2, 3}, drop[] = {1, 4, 5};
	struct trie *t;
	node_id k, d, n, fresh;

	(void)state;
	assert_int_equal(trie_create(100, &t), 0);
	assert_int_equal(trie_stack(t, keep, 3, &k), 0);
	assert_int_equal(trie_stack(t, drop, 3, &d), 0);
	trie_begin_mark(t);
	assert_false(trie_marked(t, k));
	trie_mark(t, k);
	assert_true(trie_marked(t, trie_parent(t, k)));
	assert_false(trie_marked(t, d));
	assert_int_equal(trie_child(t, NODE_ROOT, 9, &fresh), 0);
	trie_sweep(t, &images);
	assert_int_equal(trie_count(t), 4);
	assert_true(images.marked[1] && images.marked[2] && images.marked[3] && images.marked[9]);
	assert_false(images.marked[4] || images.marked[5]);
	assert_int_equal(trie_frame(t, d), 0);
	assert_int_equal(trie_stack(t, keep, 3, &n), 0);
	assert_int_equal(n, k);
	assert_int_equal(trie_stack(t, drop, 3, &n), 0);
	assert_int_equal(trie_count(t), 6);
	assert_true(n <= fresh);
	trie_destroy(t);
}

static void sweep__many_rounds_hold_size_and_identity(void **state)
{
	static struct images images;
	struct trie *t;
	node_id kept[64], n;
	size_t bytes = 0;

	(void)state;
	assert_int_equal(trie_create(5000, &t), 0);
	for (frame_id i = 0; i < 64; i++)
		assert_int_equal(trie_child(t, i ? kept[i - 1] : NODE_ROOT, i % 60, &kept[i]), 0);
	for (unsigned int round = 0; round < 20; round++) {
		for (frame_id i = 0; i < 4000; i++)
			assert_int_equal(trie_child(t, kept[i % 64], 1000 + round * 4000 + i, &n), 0);
		trie_begin_mark(t);
		trie_mark(t, kept[63]);
		trie_sweep(t, &images);
		assert_int_equal(trie_count(t), 64);
		if (round == 0)
			bytes = trie_bytes(t);
		assert_int_equal(trie_bytes(t), bytes);
	}
	for (frame_id i = 0; i < 64; i++) {
		assert_int_equal(trie_child(t, i ? kept[i - 1] : NODE_ROOT, i % 60, &n), 0);
		assert_int_equal(n, kept[i]);
	}
	trie_destroy(t);
}

static void bytes__at_most_24_a_node(void **state)
{
	struct trie *t;
	node_id n = NODE_ROOT;

	(void)state;
	assert_int_equal(trie_create(300000, &t), 0);
	for (frame_id i = 0; i < 300000; i++) {
		assert_int_equal(trie_child(t, i % 40 ? n : NODE_ROOT, i, &n), 0);
		if (i > 5000)
			assert_true(trie_bytes(t) <= 24 * trie_count(t));
	}
	trie_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stack__equal_stacks_are_one_node),
		cmocka_unit_test(child__limit_is_enospc_and_known_children_still_work),
		cmocka_unit_test(sweep__marked_paths_stay_and_freed_nodes_are_reused),
		cmocka_unit_test(sweep__many_rounds_hold_size_and_identity),
		cmocka_unit_test(bytes__at_most_24_a_node),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
