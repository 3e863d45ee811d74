/* The string table: ids, limit, mark and sweep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/util/intern.h"

static void put__equal_texts_have_equal_ids(void **state)
{
	struct intern *t;
	intern_id a, b, c, empty;

	(void)state;
	assert_int_equal(intern_create(1 << 20, &t), 0);
	assert_int_equal(intern_puts(t, "hello", &a), 0);
	assert_int_equal(intern_put(t, "hello world", 5, &b), 0);
	assert_int_equal(intern_puts(t, "hello world", &c), 0);
	assert_int_equal(intern_puts(t, "", &empty), 0);
	assert_int_equal(a, b);
	assert_int_not_equal(a, c);
	assert_int_equal(empty, INTERN_EMPTY);
	assert_string_equal(intern_str(t, c), "hello world");
	assert_string_equal(intern_str(t, 12345), "");
	assert_int_equal(intern_count(t), 3);
	assert_int_equal(intern_find(t, "nope", 4, &a), -ENOENT);
	intern_destroy(t);
}

static void put__many_texts_stay_found(void **state)
{
	struct intern *t;
	char text[32];
	intern_id id;

	(void)state;
	assert_int_equal(intern_create(4 << 20, &t), 0);
	for (unsigned int i = 0; i < 20000; i++) {
		snprintf(text, sizeof(text), "function_%u", i);
		assert_int_equal(intern_puts(t, text, &id), 0);
		assert_int_equal(id, i + 1);
	}
	for (unsigned int i = 0; i < 20000; i++) {
		snprintf(text, sizeof(text), "function_%u", i);
		assert_int_equal(intern_find(t, text, strlen(text), &id), 0);
		assert_int_equal(id, i + 1);
		assert_string_equal(intern_str(t, id), text);
	}
	intern_destroy(t);
}

static void put__limit_is_enospc_and_known_texts_still_work(void **state)
{
	struct intern *t;
	char text[128];
	intern_id first, id;
	int r = 0;

	(void)state;
	assert_int_equal(intern_create(8192, &t), 0);
	assert_int_equal(intern_puts(t, "first", &first), 0);
	memset(text, 'x', sizeof(text));
	for (unsigned int i = 0; i < 1000 && r == 0; i++) {
		snprintf(text + 100, 20, "%u", i);
		r = intern_puts(t, text, &id);
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(intern_bytes(t) <= 8192);
	assert_int_equal(intern_puts(t, "first", &id), 0);
	assert_int_equal(id, first);
	intern_destroy(t);
}

static void sweep__unmarked_go_and_marked_stay(void **state)
{
	struct intern *t;
	intern_id keep, drop, fresh, id;
	size_t before;

	(void)state;
	assert_int_equal(intern_create(1 << 20, &t), 0);
	assert_int_equal(intern_puts(t, "keep", &keep), 0);
	before = intern_bytes(t);
	assert_int_equal(intern_puts(t, "drop", &drop), 0);
	intern_begin_mark(t);
	intern_mark(t, keep);
	assert_int_equal(intern_puts(t, "made meanwhile", &fresh), 0);
	intern_sweep(t);
	assert_int_equal(intern_find(t, "drop", 4, &id), -ENOENT);
	assert_string_equal(intern_str(t, drop), "");
	assert_string_equal(intern_str(t, keep), "keep");
	assert_string_equal(intern_str(t, fresh), "made meanwhile");
	assert_string_equal(intern_str(t, INTERN_EMPTY), "");
	assert_int_equal(intern_find(t, "", 0, &id), 0);
	assert_int_equal(intern_puts(t, "new", &id), 0);
	assert_int_equal(id, drop);
	intern_begin_mark(t);
	intern_mark(t, keep);
	intern_sweep(t);
	assert_int_equal(intern_count(t), 2);
	assert_int_equal(intern_bytes(t), before);
	intern_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put__equal_texts_have_equal_ids),
		cmocka_unit_test(put__many_texts_stay_found),
		cmocka_unit_test(put__limit_is_enospc_and_known_texts_still_work),
		cmocka_unit_test(sweep__unmarked_go_and_marked_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
