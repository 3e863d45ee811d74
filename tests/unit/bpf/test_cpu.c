/* The books of the CPU profiler: periods and ticks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "bpf/cpu/cpu.h"
#include "daemon/util/clock.h"

static void cpu_period_ns__is_staggered_and_near_the_rate(void **state)
{
	double sum = 0;

	(void)state;
	for (uint32_t cpu = 0; cpu < 24; cpu++) {
		uint64_t period_ns = cpu_period_ns(100, cpu);

		assert_in_range(period_ns, 9800000, 10200000);
		/* Far enough from 10 ms to sweep over all phases of such a timer within a window. */
		assert_true(period_ns < 9945000 || period_ns > 10055000);
		for (uint32_t other = 0; other < cpu; other++)
			assert_true(period_ns != cpu_period_ns(100, other));
		sum += (double)period_ns;
	}
	assert_in_range((uint64_t)(sum / 24), 9999000, 10001000);
}

static void cpu_ticks_update__counts_a_deficit_that_lasts(void **state)
{
	struct cpu_ticks t = {0};

	(void)state;
	assert_int_equal(cpu_ticks_update(&t, 100, 100, 0, 0), 0);
	assert_int_equal(cpu_ticks_update(&t, 200, 150, 0, 0), 0); /* may still be under way */
	assert_int_equal(cpu_ticks_update(&t, 300, 250, 0, 0), 50);
	assert_int_equal(t.not_run, 50);
	assert_int_equal(cpu_ticks_update(&t, 400, 350, 0, 0), 0);
}

static void cpu_ticks_update__a_tick_that_came_late_is_not_lost(void **state)
{
	struct cpu_ticks t = {0};

	(void)state;
	assert_int_equal(cpu_ticks_update(&t, 100, 99, 0, 0), 0);
	assert_int_equal(cpu_ticks_update(&t, 200, 200, 0, 0), 0);
	assert_int_equal(t.not_run, 0);
}

static void cpu_ticks_update__runs_ahead_of_the_clock_hide_no_later_loss(void **state)
{
	struct cpu_ticks t = {0};

	(void)state;
	assert_int_equal(cpu_ticks_update(&t, 100, 103, 0, 0), 0);
	assert_int_equal(cpu_ticks_update(&t, 200, 193, 0, 0), 0);
	assert_int_equal(cpu_ticks_update(&t, 300, 293, 0, 0), 10);
	assert_int_equal(t.not_run, 10);
}

static void cpu_ticks_update__grows_with_a_lasting_loss(void **state)
{
	struct cpu_ticks t = {0};
	uint64_t lost = 0;

	(void)state;
	for (uint64_t second = 1; second <= 100; second++)
		lost += cpu_ticks_update(&t, second * 100, second * 67, 0, 0);
	/* All but the last second's, which may be under way. */
	assert_int_equal(lost, 99 * 33);
	assert_int_equal(t.not_run, lost);
}

static void cpu_ticks_update__a_parked_cpu_was_idle(void **state)
{
	struct cpu_ticks t = {0};
	uint64_t lost = 0;

	(void)state;
	/* 100 ticks a second are due; half of each second the CPU is idle and its timer stopped, 10 a second are lost.
	 */
	for (uint64_t second = 1; second <= 50; second++)
		lost += cpu_ticks_update(&t, second * 100, second * 40, second * 50, 0);
	assert_int_equal(t.idle_unseen, 49 * 50);
	assert_int_equal(lost, 49 * 10);
	assert_int_equal(t.not_run, lost);
}

static void cpu_ticks_update__idle_ticks_that_were_seen_explain_no_loss(void **state)
{
	struct cpu_ticks t = {0};
	uint64_t lost = 0;

	(void)state;
	for (uint64_t second = 1; second <= 50; second++)
		lost += cpu_ticks_update(&t, second * 100, second * 67, second * 50, second * 50);
	assert_int_equal(t.idle_unseen, 0);
	assert_int_equal(lost, 49 * 33);
}

static void cpu_parse_idle__takes_idle_and_iowait_by_cpu(void **state)
{
	uint64_t idle_ns[4] = {1, 2, 3, 4}, tick_ns = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);

	(void)state;
	cpu_parse_idle("cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 1 2 3 400 5 6 7 8 9 0\ncpu2 1 2 3 70 30 6 7 8 9 0\n"
		       "cpu99 1 1 1 1 1\nintr 1 2 3\n",
		       idle_ns, 4);
	assert_int_equal(idle_ns[0], 405 * tick_ns);
	assert_int_equal(idle_ns[1], 2);
	assert_int_equal(idle_ns[2], 100 * tick_ns);
	assert_int_equal(idle_ns[3], 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cpu_period_ns__is_staggered_and_near_the_rate),
		cmocka_unit_test(cpu_ticks_update__counts_a_deficit_that_lasts),
		cmocka_unit_test(cpu_ticks_update__a_tick_that_came_late_is_not_lost),
		cmocka_unit_test(cpu_ticks_update__runs_ahead_of_the_clock_hide_no_later_loss),
		cmocka_unit_test(cpu_ticks_update__grows_with_a_lasting_loss),
		cmocka_unit_test(cpu_ticks_update__a_parked_cpu_was_idle),
		cmocka_unit_test(cpu_ticks_update__idle_ticks_that_were_seen_explain_no_loss),
		cmocka_unit_test(cpu_parse_idle__takes_idle_and_iowait_by_cpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
