/* The two clocks, and a fake for tests. Kernel records carry CLOCK_MONOTONIC; windows are on the wall clock. */
#ifndef BAROSCOPE_UTIL_CLOCK_H
#define BAROSCOPE_UTIL_CLOCK_H

#include <stdint.h>

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL

uint64_t clock_mono_ns(void);
uint64_t clock_wall_ns(void);
/* Tests: both clocks stand still at these values from now on; (0, 0) = real clocks again. */
void clock_fake(uint64_t mono_ns, uint64_t wall_ns);

#endif
