/* The table of functions, and the interval. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "daemon/query/query.h"
#include "tests/unit/query/fake_images.h"

static struct images images;
static struct intern *strings;
static struct trie *trie;
static struct profile_entry entries[16];
static struct profile profile;

static int setup(void **state)
{
	(void)state;
	memset(&images, 0, sizeof(images));
	assert_int_equal(intern_create(1 << 20, &strings), 0);
	assert_int_equal(trie_create(1000, &trie), 0);
	images.strings = strings;
	profile = (struct profile){.type = profile_type_cpu(), .entries = entries};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	trie_destroy(trie);
	intern_destroy(strings);
	return 0;
}

static void add(const frame_id *stack, size_t depth, uint64_t count, uint64_t value)
{
	struct profile_entry *e = &entries[profile.entry_count++];

	*e = (struct profile_entry){.count = count, .value = value};
	assert_int_equal(trie_stack(trie, stack, depth, &e->node), 0);
	profile.samples += count;
	profile.total += value;
}

static const struct top_row *row_of(const struct top *t, const char *function)
{
	for (size_t i = 0; i < t->count; i++)
		if (!strcmp(t->rows[i].function, function))
			return &t->rows[i];
	fail_msg("no row %s", function);
	return NULL;
}

static void top__recursion_counts_once(void **state)
{
	frame_id a = fake_function(&images, "a"), b = fake_function(&images, "b"), again = fake_function(&images, "a");
	const frame_id deep[] = {a, b, again, b}, flat[] = {a};
	const struct top_row *row;
	struct top *t;

	(void)state;
	add(deep, 4, 9, 90);
	add(flat, 1, 1, 10);
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_FUNCTION, 30, &t), 0);
	assert_int_equal(t->count, 2);
	assert_string_equal(t->rows[0].function, "b");
	row = row_of(t, "b");
	assert_int_equal(row->self, 90);
	assert_int_equal(row->total, 90);
	assert_true(fabs(row->self_percent - 90.0) < 1e-9);
	assert_true(fabs(row->ci95 - 1.96 * 90 / 3) < 1e-9);
	row = row_of(t, "a");
	assert_int_equal(row->self, 10);
	assert_int_equal(row->total, 100);
	assert_true(fabs(row->total_percent - 100.0) < 1e-9);
	top_destroy(t);
}

static void top__inlined_lines_and_rows_by_line(void **state)
{
	frame_id f = fake_frame(&images, IMAGE_FIRST_FILE, 0x100), g = fake_frame(&images, IMAGE_FIRST_FILE, 0x200);
	const frame_id one[] = {f}, two[] = {g};
	struct top *t;

	(void)state;
	fake_line(&images, f, "inlined", "x.h", 7);
	fake_line(&images, f, "outer", "x.c", 20);
	fake_line(&images, g, "outer", "x.c", 30);
	add(one, 1, 1, 5);
	add(two, 1, 1, 3);
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_FUNCTION, 30, &t), 0);
	assert_int_equal(t->count, 2);
	assert_int_equal(row_of(t, "inlined")->self, 5);
	assert_int_equal(row_of(t, "outer")->self, 3);
	assert_int_equal(row_of(t, "outer")->total, 8);
	assert_string_equal(row_of(t, "outer")->file, "x.c");
	top_destroy(t);
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_LINE, 30, &t), 0);
	assert_int_equal(t->count, 3);
	assert_string_equal(t->rows[0].function, "inlined");
	assert_int_equal(t->rows[1].line, 30);
	assert_int_equal(t->rows[2].line, 20);
	assert_int_equal(t->rows[2].self, 0);
	top_destroy(t);
}

static void top__nameless_special_limit_and_empty_stack(void **state)
{
	frame_id lib = fake_frame(&images, IMAGE_FIRST_FILE, 0x100),
		 lib2 = fake_frame(&images, IMAGE_FIRST_FILE, 0x200);
	frame_id lost = fake_frame(&images, IMAGE_SPECIAL, SPECIAL_NOT_RUN);
	const frame_id one[] = {lib}, two[] = {lib2}, three[] = {lost};
	struct top *t;

	(void)state;
	assert_int_equal(intern_puts(strings, "libfoo.so", &images.images[IMAGE_FIRST_FILE].path), 0);
	add(one, 1, 1, 5);
	add(two, 1, 1, 5);
	add(three, 1, 0, 7);
	add(NULL, 0, 1, 2);
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_FUNCTION, 30, &t), 0);
	assert_int_equal(t->count, 3);
	assert_int_equal(row_of(t, "[libfoo.so]")->self, 10);
	assert_int_equal(row_of(t, "[not_run]")->self, 7);
	assert_true(isnan(row_of(t, "[not_run]")->ci95));
	assert_int_equal(row_of(t, "[unknown]")->self, 2);
	top_destroy(t);
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_FUNCTION, 1, &t), 0);
	assert_int_equal(t->count, 1);
	assert_string_equal(t->rows[0].function, "[libfoo.so]");
	top_destroy(t);
}

static void top__empty_profile_has_no_rows(void **state)
{
	struct top *t;

	(void)state;
	assert_int_equal(query_top(&profile, trie, &images, strings, TOP_BY_FUNCTION, 30, &t), 0);
	assert_int_equal(t->count, 0);
	top_destroy(t);
}

static void ci95__covers_a_poisson_sum(void **state)
{
	(void)state;
	assert_true(fabs(query_ci95(10000, 10000ull * 10000000) - 1.96 * 100 * 1e7) < 1);
	assert_true(fabs(query_ci95(1, 7) - 1.96 * 7) < 1e-9);
	assert_true(isnan(query_ci95(0, 5)));
	assert_true(query_ci95(0, 0) == 0.0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(top__recursion_counts_once, setup, teardown),
		cmocka_unit_test_setup_teardown(top__inlined_lines_and_rows_by_line, setup, teardown),
		cmocka_unit_test_setup_teardown(top__nameless_special_limit_and_empty_stack, setup, teardown),
		cmocka_unit_test_setup_teardown(top__empty_profile_has_no_rows, setup, teardown),
		cmocka_unit_test(ci95__covers_a_poisson_sum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
