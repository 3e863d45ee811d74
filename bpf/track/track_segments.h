/* Segments of unwind tables: equal pieces of kernel memory, made when needed and given back when empty.
 *
 * A range is words (4 bytes) of one segment, even in start and count, so that page entries (8 bytes) fit any. A segment
 * is seen by the walker from segments_publish on. Its memory is mapped here only between segments_at and
 * segments_settle, so that tables don't count twice, as the kernel's and as the daemon's. One thread at a time. */
#ifndef BAROSCOPE_TRACK_SEGMENTS_H
#define BAROSCOPE_TRACK_SEGMENTS_H

#include <stdbool.h>
#include <stdint.h>

struct segments;

struct segment_range {
	uint32_t segment, start, count;
};

/* outer_fd: the array of maps, borrowed. max <= UNWIND_MAX_SEGMENTS. */
int segments_create(int outer_fd, uint32_t max, uint64_t grace_ns, struct segments **ret);
void segments_destroy(struct segments *s);

/* Takes `words`, or as many as the segment has that comes first with at least `at_least`. One that has all of them goes
 * before others, a new one comes last. ret->count is what is asked for, rounded up to even, or less. -ENOSPC. */
int segments_take(struct segments *s, uint32_t words, uint32_t at_least, uint64_t now_ns, struct segment_range *ret);
/* Gives back what is behind the first `words` of a range that was just taken. */
void segments_trim(struct segments *s, struct segment_range *range, uint32_t words);
void segments_give(struct segments *s, struct segment_range range, uint64_t now_ns);
/* As segments_give for a range that no program was told of. */
void segments_cancel(struct segments *s, struct segment_range range);

/* Where to write the range. */
int segments_at(struct segments *s, struct segment_range range, void **ret);
/* Shows new segments to the walker. */
int segments_publish(struct segments *s);
/* Ends a load, whatever became of it: unmaps, and forgets new segments that were not published. */
void segments_settle(struct segments *s);

/* Frees what has rested. */
void segments_wake(struct segments *s, uint64_t now_ns);
/* Gives empty segments back to the kernel, all but one; a few at a time, since each one waits. */
void segments_release(struct segments *s);

uint32_t segments_count(const struct segments *s);
uint64_t segments_spare_words(const struct segments *s);   /* free, resting, or in segments that may still be made */
uint64_t segments_resting_words(const struct segments *s); /* of these, resting */

#endif
