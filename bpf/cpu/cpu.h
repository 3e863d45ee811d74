/* The CPU profiler: one sample a tick of a per-CPU clock event, 100 Hz by default, always.
 *
 * Ticks are what each event's time enabled and its period imply; reported + idle + filtered + lost = ticks. */
#ifndef BAROSCOPE_CPU_H
#define BAROSCOPE_CPU_H

#include "daemon/core/profiler.h"

extern const struct profiler_ops cpu_profiler;

/* The sampling period of a CPU: staggered around 1/rate_hz by 0.6 to 1.9 %, in both directions, so that no CPU beats
 * with a timer of a round period. Exposed for tests. */
uint64_t cpu_period_ns(uint32_t rate_hz, uint32_t cpu);

/* What a CPU owes. Pure, exposed for tests. Deficits count once they have lasted from one reading to the next, since a
 * tick may be under way at the moment of reading. */
struct cpu_ticks {
	uint64_t runs;      /* of the program, on this CPU */
	uint64_t not_run;   /* committed */
	uint64_t surplus;   /* runs ahead of the clock, so far */
	uint64_t deficit;   /* seen at the last reading */
};
/* due = time enabled / period. Returns how many ticks are newly known as not run. */
uint64_t cpu_ticks_update(struct cpu_ticks *t, uint64_t due, uint64_t runs);

#endif
