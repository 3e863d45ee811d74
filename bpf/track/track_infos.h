/* The rules ("infos") of all loaded unwind tables, each kept once for the host, in map unwind_infos.
 *
 * An info is written before anything names it, and its place is written anew no earlier than the grace time after its
 * last reference went; until then it can be had again. 0 and 1 are fixed (unwind_abi.h). One thread at a time. */
#ifndef BAROSCOPE_TRACK_INFOS_H
#define BAROSCOPE_TRACK_INFOS_H

#include <stdint.h>

#include "bpf/unwind_abi.h"

struct infos;

/* map_fd is borrowed. */
int infos_create(int map_fd, uint64_t grace_ns, struct infos **ret);
void infos_destroy(struct infos *t);
/* One more reference to the info with this value. -ENOSPC, -ENOMEM, or why the map cannot be mapped. */
int infos_ref(struct infos *t, struct unwind_info value, uint64_t now_ns, uint16_t *ret);
void infos_unref(struct infos *t, uint16_t info, uint64_t now_ns);
/* Unmaps the map, after a series of infos_ref. */
void infos_settle(struct infos *t);
/* Frees what has rested. */
void infos_wake(struct infos *t, uint64_t now_ns);
uint32_t infos_count(const struct infos *t); /* with references, and the fixed ones */
uint32_t infos_spare(const struct infos *t); /* free or resting */

#endif
