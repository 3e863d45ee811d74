/* Label sets: order, identity, limits, mark and sweep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/util/labels.h"

static void set_put__sorted_replaced_and_removed(void **state)
{
	struct intern *s;
	struct label_set set = {0};

	(void)state;
	assert_int_equal(intern_create(1 << 20, &s), 0);
	assert_int_equal(label_set_put(&set, s, "host", "h1"), 0);
	assert_int_equal(label_set_put(&set, s, "comm", "redis"), 0);
	assert_int_equal(label_set_put(&set, s, "zone", "a"), 0);
	assert_int_equal(label_set_put(&set, s, "comm", "nginx"), 0);
	assert_int_equal(set.count, 3);
	assert_string_equal(intern_str(s, set.labels[0].name), "comm");
	assert_string_equal(intern_str(s, set.labels[0].value), "nginx");
	assert_string_equal(intern_str(s, set.labels[1].name), "host");
	assert_int_equal(label_set_put(&set, s, "host", ""), 0);
	assert_int_equal(label_set_put(&set, s, "absent", ""), 0);
	assert_int_equal(set.count, 2);
	assert_string_equal(intern_str(s, set.labels[1].name), "zone");
	intern_destroy(s);
}

static void set_put__full_set_is_e2big(void **state)
{
	struct intern *s;
	struct label_set set = {0}, before;
	char name[16];

	(void)state;
	assert_int_equal(intern_create(1 << 20, &s), 0);
	for (int i = 0; i < LABELS_MAX_PER_SET; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		assert_int_equal(label_set_put(&set, s, name, "v"), 0);
	}
	before = set;
	assert_int_equal(label_set_put(&set, s, "more", "v"), -E2BIG);
	assert_memory_equal(&set, &before, sizeof(set));
	assert_int_equal(label_set_put(&set, s, "l3", "w"), 0);
	intern_destroy(s);
}

static void put__equal_sets_have_equal_ids_up_to_the_limit(void **state)
{
	struct intern *s;
	struct labels *t;
	struct label_set a = {0}, b = {0}, c = {0};
	series_id ia, ib, ic;

	(void)state;
	assert_int_equal(intern_create(1 << 20, &s), 0);
	assert_int_equal(labels_create(s, 2, &t), 0);
	label_set_put(&a, s, "x", "1");
	label_set_put(&a, s, "y", "2");
	label_set_put(&b, s, "y", "2");
	label_set_put(&b, s, "x", "1");
	label_set_put(&c, s, "x", "2");
	assert_int_equal(labels_put(t, &a, &ia), 0);
	assert_int_equal(labels_put(t, &b, &ib), 0);
	assert_int_equal(labels_put(t, &c, &ic), 0);
	assert_int_not_equal(ia, SERIES_NONE);
	assert_int_equal(ia, ib);
	assert_int_not_equal(ia, ic);
	assert_string_equal(labels_value(t, ia, "y"), "2");
	assert_string_equal(labels_value(t, ia, "nope"), "");
	assert_string_equal(labels_value(t, 77, "x"), "");
	label_set_put(&c, s, "x", "3");
	assert_int_equal(labels_put(t, &c, &ib), -ENOSPC);
	assert_int_equal(labels_put(t, &a, &ib), 0);
	labels_destroy(t);
	intern_destroy(s);
}

static void sweep__ids_are_never_reused_and_strings_marked(void **state)
{
	struct intern *s;
	struct labels *t;
	struct label_set set = {0};
	series_id first, second, third;
	intern_id id;

	(void)state;
	assert_int_equal(intern_create(1 << 20, &s), 0);
	assert_int_equal(labels_create(s, 10, &t), 0);
	label_set_put(&set, s, "x", "gone");
	assert_int_equal(labels_put(t, &set, &first), 0);
	label_set_put(&set, s, "x", "stays");
	assert_int_equal(labels_put(t, &set, &second), 0);
	intern_begin_mark(s);
	labels_begin_mark(t);
	labels_mark(t, second);
	labels_sweep(t);
	intern_sweep(s);
	assert_null(labels_get(t, first));
	assert_int_equal(labels_count(t), 1);
	assert_string_equal(labels_value(t, second, "x"), "stays");
	assert_int_equal(intern_find(s, "gone", 4, &id), -ENOENT);
	label_set_put(&set, s, "x", "gone");
	assert_int_equal(labels_put(t, &set, &third), 0);
	assert_true(third > second);
	label_set_put(&set, s, "x", "stays");
	assert_int_equal(labels_put(t, &set, &first), 0);
	assert_int_equal(first, second);
	labels_destroy(t);
	intern_destroy(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_put__sorted_replaced_and_removed),
		cmocka_unit_test(set_put__full_set_is_e2big),
		cmocka_unit_test(put__equal_sets_have_equal_ids_up_to_the_limit),
		cmocka_unit_test(sweep__ids_are_never_reused_and_strings_marked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
