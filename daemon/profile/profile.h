/* Windows of 10 s per series, in memory, for the last 15 minutes; and the profile that a query merges from them.
 *
 * Windows align to wall-clock multiples of span_ns. A window takes samples until it is closed (end + close_delay_ns);
 * from then on its totals don't change and late samples are refused with -ESTALE (drop cause late). A merge takes every
 * window that overlaps the range, whole. Memory is bounded: at max_bytes the oldest closed windows go first; when only
 * the open one is left, samples are refused with -ENOSPC (drop cause window_full).
 * No libbpf here. Loop thread only. */
#ifndef BAROSCOPE_PROFILE_PROFILE_H
#define BAROSCOPE_PROFILE_PROFILE_H

#include "bpf/abi.h"
#include "daemon/profile/trie.h"
#include "daemon/util/labels.h"

/* What the values of a profile mean. The list of all families; ids on the wire are made from it
 * (`process_cpu:cpu:nanoseconds:cpu:nanoseconds`). */
struct profile_type {
	const char *short_name;	 /* process_cpu */
	const char *id;		 /* process_cpu:cpu:nanoseconds:cpu:nanoseconds */
	const char *sample_type; /* cpu */
	const char *unit;	 /* nanoseconds */
	const char *period_type; /* cpu */
	const char *period_unit; /* nanoseconds */
	/* pprof's sample types in their order; value 0 is the count, value 1 the value. */
	const char *count_type, *count_unit; /* samples, count */
};
/* NULL when unknown; takes short names, aliases and full ids. */
const struct profile_type *profile_type_find(const char *name);
const struct profile_type *profile_type_cpu(void);

struct labelled_sample {
	uint64_t wall_ns;
	series_id series;
	node_id node;
	uint32_t pid;	  /* 0: none */
	intern_id comm;	  /* of the process */
	intern_id thread; /* of the thread */
	uint64_t count;	  /* 1; 0 for what is time but no sample ([not_run]) */
	uint64_t value;	  /* in the type's unit */
};

struct windows_options {
	uint64_t span_ns;	 /* 10 s */
	uint64_t close_delay_ns; /* 1.5 s */
	size_t keep;		 /* windows; 90 */
	size_t max_bytes;	 /* default 16 MiB */
	uint64_t period;	 /* nominal, for the pprof header: 10,000,000 */
};

struct windows;

int windows_create(const struct profile_type *type, const struct windows_options *options, struct windows **ret);
void windows_destroy(struct windows *t);
int windows_add(struct windows *t, const struct labelled_sample *s);
/* Ticks of the host in the window of wall_ns: lost by cause, idle, and due; each is added. */
void windows_count_lost(struct windows *t, uint64_t wall_ns, enum drop_cause cause, uint64_t count);
void windows_count_incomplete(struct windows *t, uint64_t wall_ns, enum incomplete_cause cause, uint64_t count);
void windows_count_ticks(struct windows *t, uint64_t wall_ns, uint64_t ticks, uint64_t idle);
/* Closes and evicts by the wall clock. */
void windows_advance(struct windows *t, uint64_t wall_ns);
void windows_set_period(struct windows *t, uint64_t period);

struct profile_entry {
	series_id series;
	node_id node;
	uint32_t pid;
	intern_id comm, thread;
	uint64_t count, value;
};

/* A merged profile: what query gives and export writes. */
struct profile {
	const struct profile_type *type;
	uint64_t from_ns, until_ns; /* wall; what the windows cover (0, 0 when empty) */
	uint64_t period;
	uint64_t samples;		  /* sum of counts */
	uint64_t total;			  /* sum of values */
	uint64_t ticks, idle;		  /* of the host over the range */
	uint64_t drops[DROP_CAUSE_COUNT]; /* of the host over the range */
	uint64_t incomplete[INCOMPLETE_CAUSE_COUNT];
	size_t entry_count;
	struct profile_entry *entries;
};
void profile_destroy(struct profile *p);

/* match decides per series; NULL = all. from/until: wall ns. */
typedef bool profile_match_fn(void *user, series_id series);
int windows_merge(struct windows *t, uint64_t from_ns, uint64_t until_ns, profile_match_fn *match, void *user,
		  struct profile **ret);

/* Marks nodes, series and strings that windows hold. */
void windows_mark(struct windows *t, struct trie *trie, struct labels *labels, struct intern *strings);

struct windows_stats {
	uint64_t windows, entries, bytes, evicted_early;
	uint64_t oldest_ns; /* wall; 0 = empty */
	uint64_t samples;   /* accepted so far */
};
void windows_get_stats(const struct windows *t, struct windows_stats *ret);

#endif
