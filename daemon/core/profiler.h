/* A profiler: one room below bpf/, one `const struct profiler_ops`, one line in the registry.
 *
 * prepared (open) -> armed (start) -> ... -> stopped (stop) -> gone (close). stop detaches; every exit path goes
 * through it. Loop thread only, except where a profiler's header says otherwise. */
#ifndef BAROSCOPE_CORE_PROFILER_H
#define BAROSCOPE_CORE_PROFILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/abi.h"
#include "daemon/util/err.h"

struct track; /* bpf/track/track.h: the maps that all profilers share */

enum target_kind { TARGET_HOST, TARGET_CGROUP, TARGET_PIDS };

/* What a profiler looks at. A cgroup means its subtree. */
struct profiler_target {
	enum target_kind kind;
	enum cgroup_hierarchy hierarchy;
	uint64_t cgroup_id;
	uint32_t cgroup_level; /* path components below the hierarchy's root */
	const uint32_t *pids;
	size_t pid_count;
};

struct profiler_options {
	struct profiler_target target;
	uint32_t rate_hz;
};

/* Counters since open; ticks = what should have been seen. reported (put into the ring) + idle + filtered + lost =
 * ticks, always. */
struct profiler_drops {
	uint64_t ticks, reported, idle, filtered;
	uint64_t lost[DROP_CAUSE_COUNT];
	uint64_t incomplete[INCOMPLETE_CAUSE_COUNT];
	uint64_t frames;		     /* user frames walked */
	uint64_t whole[PROFILER_WHOLE_ENDS]; /* whole user stacks, by enum unwind_end */
	uint64_t in_flight; /* runs that had no outcome at the moment of reading: never more than there are CPUs */
	uint64_t seen_full;
	double run_seconds; /* of its BPF programs, by their own timing */
};

struct profiler;

struct profiler_ops {
	const char *name; /* cpu */
	/* 0, or -errno with what this kernel lacks. */
	int (*probe)(struct err *e);
	int (*open)(struct track *track, const struct profiler_options *options, struct profiler **ret, struct err *e);
	int (*start)(struct profiler *p, struct err *e);
	void (*stop)(struct profiler *p);
	/* Called once a drain: follows CPU hot-plug and the like. */
	int (*drain)(struct profiler *p, struct err *e);
	int (*read_drops)(struct profiler *p, struct profiler_drops *ret);
	/* The value of one sample taken on this CPU, in the unit of the profiler's type. */
	uint64_t (*sample_value)(const struct profiler *p, uint32_t cpu);
	/* Memory of the maps that are the profiler's own. */
	uint64_t (*memory_bytes)(const struct profiler *p);
	void (*close)(struct profiler *p);
};

/* NULL when unknown. */
const struct profiler_ops *profiler_find(const char *name);
/* NULL-terminated. */
extern const struct profiler_ops *const profilers[];

#endif
