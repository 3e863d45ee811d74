/* bpf/unwind.h compiled for user space, behind a small interface: mappings, tables and memory in, frames out.
 *
 * A walker holds what the BPF maps hold in the kernel. Any number of walkers, one thread. */
#ifndef BAROSCOPE_TESTS_BPF_UNWIND_USER_H
#define BAROSCOPE_TESTS_BPF_UNWIND_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/unwind_abi.h"
#include "daemon/image/cfi.h"

#define UNWIND_USER_REGISTERS 21 /* words of struct pt_regs */

/* The target's memory: 0, or anything else if not all of it can be read. */
typedef int (*unwind_user_read)(void *user, void *to, uint32_t bytes, uint64_t from);

struct unwind_walk {
	enum unwind_end end;
	uint32_t frame_count;
	abi_frame frames[UNWIND_MAX_FRAMES];
	uint64_t pc, sp, bp; /* of the last frame, as far as the walk came */
	uint32_t tail_calls;
	bool by_frame_pointer, no_table;
};

struct unwind_user;

int unwind_user_create(struct unwind_user **ret);
void unwind_user_destroy(struct unwind_user *u);
void unwind_user_memory(struct unwind_user *u, unwind_user_read read, void *user);
/* Executable mappings sorted by address; borrowed. */
void unwind_user_mappings(struct unwind_user *u, const struct mapping_value *mappings, uint32_t count);
/* t NULL: an image that is walked by frame pointer. -ENOSPC above the limits of the walker's maps. */
int unwind_user_load(struct unwind_user *u, uint32_t image, const struct cfi_tables *t);
bool unwind_user_loaded(const struct unwind_user *u, uint32_t image);
/* registers: UNWIND_USER_REGISTERS words, or NULL if nothing but pc, sp and bp is known. */
void unwind_user_walk(struct unwind_user *u, uint64_t pc, uint64_t sp, uint64_t bp, const uint64_t *registers,
		      uint32_t max_frames, struct unwind_walk *ret);

/* For tests that spoil what the walker reads, NULL if there is no such thing. */
struct unwind_image *unwind_user_image(struct unwind_user *u, uint32_t image);
struct unwind_segment *unwind_user_segment(struct unwind_user *u, uint32_t segment);
/* Room for rows; -ENOSPC. */
int unwind_user_take(struct unwind_user *u, uint32_t words, uint32_t *ret_segment, uint32_t *ret_start);
void unwind_user_tail_calls_work(struct unwind_user *u, bool work);
uint64_t unwind_user_row(struct unwind_user *u, uint32_t segment, uint32_t start, uint32_t count, uint32_t low);
int unwind_user_find_mapping(struct unwind_user *u, uint64_t address);

/* As shown, for ends of both kinds. */
const char *unwind_end_name(enum unwind_end end);
bool unwind_end_whole(enum unwind_end end);

#endif
