/* Durations and time ranges: what they mean, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "daemon/query/query.h"
#include "daemon/util/clock.h"

#define NOW (1700000000 * NS_PER_S + 123456789)
#define S NS_PER_S

static void duration__table(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns; /* UINT64_MAX: refused */
	} cases[] = {
		{"5m", 300 * S},
		{"1h30m", 5400 * S},
		{"90s", 90 * S},
		{"500ms", S / 2},
		{"14d", 1209600 * S},
		{"1.5h", 5400 * S},
		{"0s", 0},
		{"2w", 1209600 * S},
		{"10us", 10000},
		{"7ns", 7},
		{"0.25s", S / 4},
		{"", UINT64_MAX},
		{"5", UINT64_MAX},
		{"m", UINT64_MAX},
		{"5 m", UINT64_MAX},
		{"-5m", UINT64_MAX},
		{"5x", UINT64_MAX},
		{"1..5s", UINT64_MAX},
		{"9999999999999999999h", UINT64_MAX},
		{"5m ", UINT64_MAX},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t ns = 42;
		struct err e = {0};
		int r = duration_parse(cases[i].text, &ns, &e);

		if (r != (cases[i].ns == UINT64_MAX ? -EINVAL : 0) || ns != (r ? 42 : cases[i].ns))
			fail_msg("%s: %d, %llu", cases[i].text, r, (unsigned long long)ns);
		if (r)
			assert_non_null(strstr(e.text, "duration"));
	}
}

static void range__table(void **state)
{
	static const struct {
		const char *since, *from, *until;
		uint64_t from_ns, until_ns; /* 0, 0: refused */
	} cases[] = {
		{NULL, NULL, NULL, NOW - 300 * S, NOW},
		{"30s", NULL, NULL, NOW - 30 * S, NOW},
		{NULL, "1699999000", NULL, 1699999000 * S, NOW},
		{NULL, "1699999000.123456789", "1699999001.5", 1699999000 * S + 123456789, 1699999001 * S + S / 2},
		{NULL, "now-1h", "now", NOW - 3600 * S, NOW},
		{NULL, "now-1h30m", "now-1h", NOW - 5400 * S, NOW - 3600 * S},
		{NULL, NULL, "1699999000", 1699998700 * S, 1699999000 * S},
		{NULL, "2023-11-14T22:13:00Z", "2023-11-14T23:13:20+01:00", 1699999980 * S, 1700000000 * S},
		{NULL, "2023-11-14T22:13:00.25Z", NULL, 1699999980 * S + S / 4, NOW},
		{NULL, "2023-11-14T17:13:00-05:00", NULL, 1699999980 * S, NOW},
		{NULL, "0", NULL, 0, NOW},
		{"99999d", NULL, NULL, 0, NOW},
		{"5m", "now-1h", NULL, 0, 0},
		{"5m", NULL, "now", 0, 0},
		{"0s", NULL, NULL, 0, 0},
		{NULL, "now", NULL, 0, 0},
		{NULL, "now", "now-1m", 0, 0},
		{NULL, "yesterday", NULL, 0, 0},
		{NULL, "-5", NULL, 0, 0},
		{NULL, "", NULL, 0, 0},
		{NULL, "now-", NULL, 0, 0},
		{NULL, "nowhere", NULL, 0, 0},
		{NULL, "2023-02-31T00:00:00Z", NULL, 0, 0},
		{NULL, "2023-02-01T00:00:00", NULL, 0, 0},
		{NULL, "2023-02-01", NULL, 0, 0},
		{NULL, "2023-02-01T25:00:00Z", NULL, 0, 0},
		{NULL, "1e9", NULL, 0, 0},
		{NULL, "1699999000123456789", NULL, 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t from = 42, until = 42;
		struct err e = {0};
		bool refused = cases[i].until_ns == 0;
		int r = time_range_parse(cases[i].since, cases[i].from, cases[i].until, NOW, &from, &until, &e);

		if (r != (refused ? -EINVAL : 0) || from != (refused ? 42 : cases[i].from_ns) ||
		    until != (refused ? 42 : cases[i].until_ns))
			fail_msg("case %zu: %d, %llu to %llu (%s)", i, r, (unsigned long long)from,
				 (unsigned long long)until, e.text);
		assert_true(refused == (e.text[0] != '\0'));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(duration__table),
		cmocka_unit_test(range__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
