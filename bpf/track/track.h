/* The tracker: what the kernel tells about processes, mappings and cgroups, and the maps that all profilers share.
 *
 * Two sources, merged by the caller in time order: records of the BPF ring (lifecycle of processes and cgroups, and the
 * records of the profilers, which use the same ring), and perf's side band (executable mappings, the moment of an
 * exec). Loop thread only. */
#ifndef BAROSCOPE_TRACK_H
#define BAROSCOPE_TRACK_H

#include <stdint.h>
#include <stdio.h>

#include "bpf/abi.h"
#include "daemon/target/target.h"
#include "daemon/util/err.h"

struct bpf_object;
struct track;

/* Zero = default by the number of CPUs. */
struct track_options {
	size_t ring_bytes;
	size_t stacks;	 /* entries that BPF remembers as sent */
	size_t mappings; /* entries of the mapping table */
	size_t procs;
	bool log_verifier; /* keep what the verifier says of each program, for track_print_verified */
};

/* Loads programs and maps; nothing is attached yet. */
int track_open(const struct track_options *options, struct track **ret, struct err *e);
/* Attaches, opens the side band on every CPU that is online. */
int track_start(struct track *t, struct err *e);
void track_stop(struct track *t);
void track_close(struct track *t);

/* Gives the shared maps to a profiler's object; between its open and its load. */
int track_share(struct track *t, struct bpf_object *object, struct err *e);

enum track_event_kind {
	TRACK_RECORD,	  /* record: of the ring */
	TRACK_MMAP,	  /* mmap */
	TRACK_EXEC_BEGIN, /* pid: its old mappings are gone, those of the new program follow; its record too */
};

struct track_event {
	uint64_t time_ns; /* CLOCK_MONOTONIC; 0 for records without a time (stacks) */
	uint64_t order;	  /* arrival, to break ties */
	enum track_event_kind kind;
	uint32_t pid;
	uint32_t bytes;			  /* of data */
	const struct record_head *record; /* TRACK_RECORD; lives until the next drain */
	struct mmap_event mmap;		  /* TRACK_MMAP; the path lives until the next drain */
};

/* Everything up to now, in time order; stacks come before all samples. The array is borrowed until the next
 * drain. Events of an exec under way are held back until it is complete, for 1 s at most. ret_lost: events were lost
 * since the last drain, a rescan is due. */
int track_drain(struct track *t, struct track_event **ret_events, size_t *ret_count, bool *ret_lost, struct err *e);

/* How many stacks the kernel side remembers as sent. */
size_t track_stack_capacity(const struct track *t);
/* Seeds the ids of stacks, so that no program can build stacks that collide. The same for all profilers. */
uint64_t track_hash_seed(const struct track *t);
/* Borrowed descriptors of the maps of the unwind tables, for track_tables.h. */
void track_table_maps(const struct track *t, int *ret_images_fd, int *ret_infos_fd, int *ret_segments_fd);
/* The daemon has forgotten a stack: it will be sent again. */
void track_forget_stack(struct track *t, uint64_t stack_id);

/* For struct mapping_sink. */
int track_publish(void *track, uint32_t pid, uint32_t generation, const struct mapping *mappings, size_t count);
int track_inherit(void *track, uint32_t pid, uint32_t generation, uint32_t parent_pid, uint32_t parent_generation);
void track_retire(void *track, uint32_t pid, uint32_t generation);
/* For targets_enter_fn. */
int track_enter(void *track, uint32_t pid, uint32_t *ret_generation);

struct track_info {
	struct track_stats stats; /* over all CPUs */
	uint64_t mappings_used, mappings_full, sideband_lost;
	double run_seconds; /* of the tracker's programs, by their own timing */
};
int track_get_info(struct track *t, struct track_info *ret);

/* `program NAME insns N` for each program loaded, where log_verifier was asked for. Accepts NULL. */
void track_print_verified(const struct track *t, FILE *out);

/* Memory of all shared maps and of the side band's buffers. */
uint64_t track_memory_bytes(struct track *t);
/* Samples that could not be decoded or kept. */
uint64_t track_malformed_samples(const struct track *t);

/* Memory of the maps of a profiler's object that are not shared, as the kernel counts it (fdinfo memlock). */
uint64_t track_own_map_bytes(const struct bpf_object *object);

#endif
