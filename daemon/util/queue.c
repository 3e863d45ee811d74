/* A ring of pointers. head is the oldest; invariants hold whenever the lock is free: count <= capacity. */
#include "daemon/util/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t pushed; /* or closed */
	bool closed;
	size_t capacity, head, count;
	void *messages[];
};

int queue_create(size_t capacity, struct queue **ret)
{
	struct queue *q;

	if (!capacity || capacity > (SIZE_MAX - sizeof(*q)) / sizeof(void *))
		return -EINVAL;
	q = calloc(1, sizeof(*q) + capacity * sizeof(void *));
	if (!q)
		return -ENOMEM;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->pushed, NULL);
	q->capacity = capacity;
	*ret = q;
	return 0;
}

void queue_destroy(struct queue *q)
{
	if (!q)
		return;
	pthread_cond_destroy(&q->pushed);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

int queue_push(struct queue *q, void *message)
{
	int r = 0;

	pthread_mutex_lock(&q->lock);
	if (q->closed) {
		r = -EPIPE;
	} else if (q->count == q->capacity) {
		r = -EAGAIN;
	} else {
		q->messages[(q->head + q->count++) % q->capacity] = message;
		pthread_cond_signal(&q->pushed);
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

static void *take(struct queue *q)
{
	void *message = q->messages[q->head];

	q->head = (q->head + 1) % q->capacity;
	q->count--;
	return message;
}

int queue_pop(struct queue *q, void **ret)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&q->lock);
	if (q->count) {
		*ret = take(q);
		r = 0;
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

int queue_pop_wait(struct queue *q, void **ret)
{
	int r = -EPIPE;

	pthread_mutex_lock(&q->lock);
	while (!q->closed && !q->count)
		pthread_cond_wait(&q->pushed, &q->lock);
	if (!q->closed) {
		*ret = take(q);
		r = 0;
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

void queue_close(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->closed = true;
	pthread_cond_broadcast(&q->pushed);
	pthread_mutex_unlock(&q->lock);
}
