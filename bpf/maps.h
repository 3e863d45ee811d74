/* The maps that the tracker creates and every profiler shares (bpf/track/track.c gives them to a profiler's object by
 * name before it is loaded). Sizes are set by user space. */
#ifndef BAROSCOPE_MAPS_H
#define BAROSCOPE_MAPS_H

#include "bpf/kernel.h"

/* Records of every kind, see abi.h. Never wakes the reader: the daemon drains by time. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} ring SEC(".maps");

/* Living processes and their generations. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, abi_u32);
	__type(value, struct proc_value);
} procs SEC(".maps");

/* Where the mappings of a process stand. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, abi_u32);
	__type(value, struct range_value);
} proc_ranges SEC(".maps");

/* Executable mappings, packed by user space through mmap; entries of one process are contiguous and sorted. A range is
 * only rewritten a grace time after no process names it any more. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, abi_u32);
	__type(value, struct mapping_value);
} mappings SEC(".maps");

/* Stacks that user space has. It deletes what it forgets, so that it is sent again. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, abi_u64);
	__type(value, abi_u32);
} stacks SEC(".maps");

#endif
