/* Ranges of the shared mapping table: who has which, what is free, what was freed too lately to be written again.
 * Pure bookkeeping. */
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
uint32_t ranges_used(const struct ranges *r); /* taken, or still in grace */

#endif
