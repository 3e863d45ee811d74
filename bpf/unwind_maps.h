/* The maps of the unwind tables, see unwind_abi.h. The tracker creates them and every profiler shares them; user space
 * fills them (bpf/track/track_tables.c). */
#ifndef BAROSCOPE_UNWIND_MAPS_H
#define BAROSCOPE_UNWIND_MAPS_H

#include "bpf/kernel.h"
#include "bpf/unwind_abi.h"

/* Images whose table is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, abi_u32);
	__type(value, struct unwind_image);
} unwind_images SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, UNWIND_MAX_INFOS);
	__type(key, abi_u32);
	__type(value, struct unwind_info);
} unwind_infos SEC(".maps");

struct unwind_segment_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(abi_u32)); /* clang forgets what a type behind two pointers is */
	__uint(value_size, sizeof(struct unwind_segment));
};

/* One slow insert a MiB; what is in a segment changes through its mapping. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UNWIND_MAX_SEGMENTS);
	__type(key, abi_u32);
	__array(values, struct unwind_segment_map);
} unwind_segments SEC(".maps");

#endif
