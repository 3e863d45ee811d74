/* Lets BPF code be compiled for user space: the helpers and maps that it uses are functions of the test. Include before
 * any header of bpf/. */
#ifndef BAROSCOPE_TESTS_BPF_SHIM_H
#define BAROSCOPE_TESTS_BPF_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* Stand in for libbpf's headers. */
#define __BPF_HELPERS__
#define __BPF_CORE_READ_H__
#define __core

#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

void *shim_map_lookup(const void *map, const void *key);
long shim_map_update(const void *map, const void *key, const void *value);
long shim_get_stack(void *buffer, uint32_t size, uint64_t flags);
long shim_ringbuf_output(const void *data, uint64_t size);

#define bpf_map_lookup_elem(map, key) shim_map_lookup(map, key)
#define bpf_map_update_elem(map, key, value, flags) shim_map_update(map, key, value)
#define bpf_get_stack(ctx, buffer, size, flags) ((void)(ctx), shim_get_stack(buffer, size, flags))
#define bpf_ringbuf_output(ring, data, size, flags) shim_ringbuf_output(data, size)

#endif
