#include "daemon/util/clock.h"

#include <time.h>

static uint64_t fake_mono_ns, fake_wall_ns;

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
	return fake_mono_ns ? fake_mono_ns : read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_wall_ns(void)
{
	return fake_wall_ns ? fake_wall_ns : read_clock(CLOCK_REALTIME);
}

void clock_fake(uint64_t mono_ns, uint64_t wall_ns)
{
	fake_mono_ns = mono_ns;
	fake_wall_ns = wall_ns;
}
