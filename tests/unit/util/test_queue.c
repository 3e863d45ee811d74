#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "daemon/util/queue.h"

#define MESSAGES 20000u

static void *message(uintptr_t n)
{
	return (void *)n;
}

static void queue_push__in_order_up_to_the_capacity(void **state)
{
	struct queue *q = NULL;
	uintptr_t pushed = 0, popped = 0;
	void *m;

	(void)state;
	assert_int_equal(queue_create(0, &q), -EINVAL);
	assert_null(q);
	assert_int_equal(queue_create(3, &q), 0);
	assert_int_equal(queue_pop(q, &m), -EAGAIN);
	for (int round = 0; round < 10; round++) {
		while (pushed - popped < 3)
			assert_int_equal(queue_push(q, message(++pushed)), 0);
		assert_int_equal(queue_push(q, message(99)), -EAGAIN);
		for (int i = 0; i < 1 + round % 3; i++) {
			assert_int_equal(queue_pop(q, &m), 0);
			assert_ptr_equal(m, message(++popped));
		}
	}
	while (popped < pushed) {
		assert_int_equal(queue_pop_wait(q, &m), 0);
		assert_ptr_equal(m, message(++popped));
	}
	assert_int_equal(queue_pop(q, &m), -EAGAIN);
	queue_destroy(q);
	queue_destroy(NULL);
}

static void *wait_for_one(void *user)
{
	struct queue *q = user;
	void *m;

	return message((uintptr_t)-queue_pop_wait(q, &m));
}

static void queue_close__wakes_who_waits_and_keeps_what_is_left(void **state)
{
	struct queue *q;
	pthread_t threads[3];
	void *m, *result;

	(void)state;
	assert_int_equal(queue_create(4, &q), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_for_one, q), 0);
	queue_close(q);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_int_equal((uintptr_t)result, EPIPE);
	}
	assert_int_equal(queue_push(q, message(1)), -EPIPE);
	queue_destroy(q);

	assert_int_equal(queue_create(4, &q), 0);
	assert_int_equal(queue_push(q, message(1)), 0);
	queue_close(q);
	assert_int_equal(queue_pop_wait(q, &m), -EPIPE);
	assert_int_equal(queue_pop(q, &m), 0);
	assert_ptr_equal(m, message(1));
	queue_destroy(q);
}

static void *produce(void *user)
{
	struct queue *q = user;

	for (uintptr_t i = 1; i <= MESSAGES; i++)
		while (queue_push(q, message(i)))
			sched_yield();
	return NULL;
}

static void queue_pop_wait__all_messages_of_two_threads(void **state)
{
	struct queue *q;
	pthread_t threads[2];
	uintptr_t sum = 0;
	void *m;

	(void)state;
	assert_int_equal(queue_create(16, &q), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, produce, q), 0);
	for (unsigned int i = 0; i < 2 * MESSAGES; i++) {
		assert_int_equal(queue_pop_wait(q, &m), 0);
		sum += (uintptr_t)m;
	}
	assert_int_equal(sum, (uintptr_t)MESSAGES * (MESSAGES + 1));
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(queue_pop(q, &m), -EAGAIN);
	queue_destroy(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queue_push__in_order_up_to_the_capacity),
		cmocka_unit_test(queue_close__wakes_who_waits_and_keeps_what_is_left),
		cmocka_unit_test(queue_pop_wait__all_messages_of_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
