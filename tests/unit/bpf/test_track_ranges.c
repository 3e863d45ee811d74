#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/track/track_ranges.h"

#define GRACE_NS 1000

static void ranges_take__never_overlaps(void **state)
{
	enum { ENTRIES = 4096, ROUNDS = 20000 };
	static unsigned char owner[ENTRIES];
	struct {
		uint32_t start, count;
	} held[64] = {0};
	struct ranges *r;
	unsigned int seed = 7;

	(void)state;
	assert_int_equal(ranges_create(ENTRIES, GRACE_NS, &r), 0);
	for (uint64_t now = 0; now < ROUNDS; now++) {
		size_t i = (size_t)rand_r(&seed) % 64;

		if (held[i].count) {
			memset(owner + held[i].start, 0, held[i].count);
			ranges_give(r, held[i].start, held[i].count, now);
			held[i].count = 0;
			continue;
		}
		held[i].count = 1 + (uint32_t)rand_r(&seed) % 40;
		if (ranges_take(r, held[i].count, now, &held[i].start)) {
			held[i].count = 0;
			continue;
		}
		assert_true(held[i].start + held[i].count <= ENTRIES);
		for (uint32_t k = 0; k < held[i].count; k++) {
			assert_int_equal(owner[held[i].start + k], 0);
			owner[held[i].start + k] = 1;
		}
	}
	for (size_t i = 0; i < 64; i++)
		if (held[i].count)
			ranges_give(r, held[i].start, held[i].count, ROUNDS);
	/* After the grace time everything is one piece again. */
	uint32_t start;
	assert_int_equal(ranges_take(r, ENTRIES, ROUNDS + GRACE_NS, &start), 0);
	assert_int_equal(start, 0);
	ranges_destroy(r);
}

static void ranges_give__rests_for_the_grace_time(void **state)
{
	struct ranges *r;
	uint32_t start;

	(void)state;
	assert_int_equal(ranges_create(10, GRACE_NS, &r), 0);
	assert_int_equal(ranges_take(r, 10, 0, &start), 0);
	ranges_give(r, start, 10, 500);
	assert_int_equal(ranges_used(r), 10);
	assert_int_equal(ranges_take(r, 1, 500 + GRACE_NS - 1, &start), -ENOSPC);
	assert_int_equal(ranges_take(r, 1, 500 + GRACE_NS, &start), 0);
	assert_int_equal(ranges_used(r), 1);
	ranges_destroy(r);
}

static void ranges_cancel__is_free_at_once(void **state)
{
	struct ranges *r;
	uint32_t a, b, c;

	(void)state;
	assert_int_equal(ranges_create(10, GRACE_NS, &r), 0);
	assert_int_equal(ranges_largest(r), 10);
	assert_int_equal(ranges_take(r, 4, 0, &a), 0);
	assert_int_equal(ranges_take(r, 4, 0, &b), 0);
	assert_int_equal(ranges_take(r, 2, 0, &c), 0);
	assert_int_equal(ranges_largest(r), 0);
	ranges_cancel(r, b, 4);
	assert_int_equal(ranges_largest(r), 4);
	assert_int_equal(ranges_used(r), 6);
	/* The end of a range, joined to what is free behind it. */
	ranges_cancel(r, a + 1, 3);
	assert_int_equal(ranges_largest(r), 7);
	ranges_give(r, c, 2, 100);
	assert_int_equal(ranges_resting(r), 2);
	ranges_wake(r, 100 + GRACE_NS - 1);
	assert_int_equal(ranges_resting(r), 2);
	ranges_wake(r, 100 + GRACE_NS);
	assert_int_equal(ranges_resting(r), 0);
	assert_int_equal(ranges_largest(r), 9);
	assert_int_equal(ranges_used(r), 1);
	ranges_destroy(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_cancel__is_free_at_once),
		cmocka_unit_test(ranges_take__never_overlaps),
		cmocka_unit_test(ranges_give__rests_for_the_grace_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
