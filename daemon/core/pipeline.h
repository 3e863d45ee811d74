/* The way of a sample inside the daemon: record -> sample -> labelled sample -> window.
 *
 * Once a drain: takes the tracker's events in time order, tells targets of processes and mappings, decodes stacks into
 * the trie, and files every sample under its series. A sample whose process is still being read waits in a bounded
 * queue. Keeps the books of what was lost on the way. Loop thread only. */
#ifndef BAROSCOPE_CORE_PIPELINE_H
#define BAROSCOPE_CORE_PIPELINE_H

#include "bpf/track/track.h"
#include "daemon/core/profiler.h"
#include "daemon/image/image.h"
#include "daemon/profile/profile.h"
#include "daemon/target/target.h"
#include "daemon/util/labels.h"

struct pipeline;

/* All borrowed; they outlive the pipeline. */
struct pipeline_parts {
	struct track *track;
	struct targets *targets;
	struct images *images;
	struct labels *labels;
	struct intern *strings;
	struct trie *trie;
	struct windows *windows;
	const struct profiler_ops *ops;
	struct profiler *profiler;
};

struct pipeline_options {
	size_t max_stacks;    /* that are kept decoded; default 65536 */
	size_t kernel_stacks; /* that the kernel side remembers as sent; default: as many */
	size_t max_pending;   /* samples; default 65536 */
	uint32_t rate_hz;
};

int pipeline_create(const struct pipeline_parts *parts, const struct pipeline_options *options, struct pipeline **ret);
void pipeline_destroy(struct pipeline *p);

/* Everything up to now; about once a minute, and more often when tables are crowded, drops what is not needed. */
int pipeline_drain(struct pipeline *p, struct err *e);
/* Samples that wait for their process. */
size_t pipeline_pending(const struct pipeline *p);

/* samples + idle + sum(drops) = ticks. samples: taken and not lost, those under way included; stored: in windows or
 * waiting for their process. */
struct pipeline_stats {
	uint64_t ticks, idle, samples, stored, in_flight;
	uint64_t drops[DROP_CAUSE_COUNT];
	uint64_t incomplete[INCOMPLETE_CAUSE_COUNT];
	uint64_t stacks, seen_full;
	uint64_t frames;		     /* user frames walked */
	uint64_t whole[PROFILER_WHOLE_ENDS]; /* whole user stacks, by enum unwind_end */
	double bpf_run_seconds;
};
int pipeline_get_stats(struct pipeline *p, struct pipeline_stats *ret);

#endif
