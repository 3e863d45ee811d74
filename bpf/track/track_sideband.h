/* Perf's side band: a dummy event a CPU whose buffer tells of executable mappings and of execs, host-wide, without a
 * BPF program and without a probe. */
#ifndef BAROSCOPE_TRACK_SIDEBAND_H
#define BAROSCOPE_TRACK_SIDEBAND_H

#include <stdint.h>

#include "bpf/track/track.h"

struct sideband;

int sideband_create(size_t pages_per_cpu, struct sideband **ret);
void sideband_destroy(struct sideband *s);
/* Opens the CPUs that are online and not open yet, closes those that went. 0 if at least one is open. */
int sideband_follow_cpus(struct sideband *s, struct err *e);
/* Calls fn for every event up to now; mmap paths are borrowed for the time of the call. */
typedef int sideband_fn(void *user, const struct track_event *event);
int sideband_drain(struct sideband *s, sideband_fn *fn, void *user);
uint64_t sideband_lost(const struct sideband *s);
uint64_t sideband_bytes(const struct sideband *s);

#endif
