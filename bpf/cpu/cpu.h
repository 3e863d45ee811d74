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

/* What a CPU owes. Pure, exposed for tests.
 *
 * Deficits count once they have lasted from one reading to the next, since a tick may be under way at the moment of
 * reading. An idle CPU may stop its timers (some hypervisors park it): ticks that did not come while the kernel's own
 * books have the CPU idle, beyond the idle ticks that were seen, were idle and lost nothing. */
struct cpu_ticks {
	uint64_t not_run;     /* lost */
	uint64_t idle_unseen; /* not run, and idle */
	uint64_t surplus;     /* runs ahead of the clock, so far */
	/* As of the last reading: */
	uint64_t deficit;
	uint64_t idle_room; /* idle ticks by the kernel's books, less those seen */
};
bool cpu_ticks_behind(const struct cpu_ticks *t, uint64_t due, uint64_t runs);
/* due = time enabled / period; idle_due = idle time by the kernel's books / period; idle_runs = idle ticks seen.
 * Returns how many ticks are newly known as lost. */
uint64_t cpu_ticks_update(struct cpu_ticks *t, uint64_t due, uint64_t runs, uint64_t idle_due, uint64_t idle_runs);

/* Idle time of each CPU from the text of /proc/stat, in ns; CPUs that are not in it keep their value. */
void cpu_parse_idle(const char *text, uint64_t *idle_ns, size_t count);

#endif
