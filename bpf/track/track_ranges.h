/* Ranges of a table that BPF programs read (mappings, a segment of unwind tables): who has which, what is free, what
 * was freed too lately to be written again. Pure bookkeeping. */
#ifndef BAROSCOPE_TRACK_RANGES_H
#define BAROSCOPE_TRACK_RANGES_H

#include <stddef.h>
#include <stdint.h>

struct ranges;

int ranges_create(uint32_t entries, uint64_t grace_ns, struct ranges **ret);
void ranges_destroy(struct ranges *r);
/* count > 0; -ENOSPC. */
int ranges_take(struct ranges *r, uint32_t count, uint64_t now_ns, uint32_t *ret_start);
/* Usable again once grace_ns have passed. */
void ranges_give(struct ranges *r, uint32_t start, uint32_t count, uint64_t now_ns);
/* Usable again at once: no program was told of it. */
void ranges_cancel(struct ranges *r, uint32_t start, uint32_t count);
/* Frees what has rested; ranges_take does so too. */
void ranges_wake(struct ranges *r, uint64_t now_ns);
uint32_t ranges_used(const struct ranges *r);	 /* taken, or still in grace */
uint32_t ranges_resting(const struct ranges *r); /* in grace */
uint32_t ranges_largest(const struct ranges *r); /* the most that one ranges_take can have */

#endif
