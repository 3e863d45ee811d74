/* The queue by which threads talk: bounded, first in first out, any number of threads at both ends. A message is a
 * pointer with one owner: who pushed it, then the queue, then who popped it. */
#ifndef BAROSCOPE_UTIL_QUEUE_H
#define BAROSCOPE_UTIL_QUEUE_H

#include <stddef.h>

struct queue;

int queue_create(size_t capacity, struct queue **ret);
/* No thread may be in it. Messages that are left are the caller's loss: pop them before. */
void queue_destroy(struct queue *q);
/* -EAGAIN: full; -EPIPE: closed. The message stays the caller's then. */
int queue_push(struct queue *q, void *message);
/* -EAGAIN: empty. Works on a closed queue too. */
int queue_pop(struct queue *q, void **ret);
/* Waits for a message. -EPIPE as soon as the queue is closed, whatever is still in it. */
int queue_pop_wait(struct queue *q, void **ret);
void queue_close(struct queue *q);

#endif
