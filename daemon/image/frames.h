/* The table of frames: (image, offset) to a number, and functions shared by the frames in them. Loop thread only.
 *
 * Invariants: a frame's id is its place in the chunks and never moves; a free place has image IMAGE_NONE and offset
 * FRAME_FREE; frames change only through this file's functions, so the counters are always right. */
#ifndef BAROSCOPE_IMAGE_FRAMES_H
#define BAROSCOPE_IMAGE_FRAMES_H

#include "daemon/image/image.h"
#include "daemon/util/index.h"

#define FRAME_FREE UINT64_MAX

struct function {
	struct frame_line line; /* free: function = next free id, and used = false */
	bool used, marked;
};

struct frames {
	size_t max;
	uint64_t seed;
	struct frame **chunks;
	size_t chunk_count;
	uint32_t end;	  /* ids [1, end) were given out once */
	uint32_t free_id; /* list of free places, 0 = none */
	uint8_t *marks;	  /* one bit a frame */
	struct index by_key;
	struct function **function_chunks;
	size_t function_chunk_count;
	uint32_t function_end, function_free;
	struct index by_names;
	size_t count, pending, nameless;
};

void frames_init(struct frames *f, size_t max);
void frames_deinit(struct frames *f);
/* A new frame is pending. -ENOSPC at the limit. */
int frames_put(struct frames *f, image_id image, uint64_t offset, frame_id *ret, bool *ret_new);
/* NULL: free, or never given out. */
struct frame *frames_get(const struct frames *f, frame_id id);
int frames_set_name(struct frames *f, struct frame *frame, uint64_t address, intern_id function, intern_id system_name);
void frames_set_nameless(struct frames *f, struct frame *frame, uint64_t address);
void frames_set_pending(struct frames *f, struct frame *frame);

void frames_begin_mark(struct frames *f);
void frames_mark(struct frames *f, frame_id id);
/* Frees what is not marked; dropped is called for each. Marks the strings of what stays. */
typedef void frames_dropped_fn(void *user, const struct frame *frame);
void frames_sweep(struct frames *f, struct intern *strings, frames_dropped_fn *dropped, void *user);

#endif
