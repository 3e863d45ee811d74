/* The thread `bpfsys` with a loader of the test's (no BPF) and answers to the test. The loader can be held, so that
 * jobs wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/core/table_worker.h"
#include "daemon/util/cleanup.h"
#include "daemon/util/clock.h"

#define DEADLINE_NS (20 * NS_PER_S)
#define MAX_CALLS 4096

/* The loader: what it was called with, on the thread. */
struct call {
	char what; /* l d t */
	image_id image;
	uint32_t bytes;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool held, inside; /* a call waits for held to end */
	struct call calls[MAX_CALLS];
	size_t count, ticks;
	int result;	   /* of loads */
	image_id evict[4]; /* by the next load */
	size_t evict_count;
	uint64_t images;
	bool signals_blocked;
	char name[16];
} loader = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int loader_fails;

int tables_create(const struct tables_options *options, struct tables **ret, struct err *e)
{
	if (loader_fails)
		return err_set(e, loader_fails, "as the test wants it");
	assert_int_equal(options->images_fd, 77);
	*ret = (struct tables *)&loader;
	return 0;
}

void tables_destroy(struct tables *t)
{
	assert_true(!t || t == (struct tables *)&loader);
}

/* The lock is held. */
static void enter(char what, image_id image, uint32_t bytes)
{
	loader.inside = true;
	pthread_cond_broadcast(&loader.changed);
	while (loader.held)
		pthread_cond_wait(&loader.changed, &loader.lock);
	loader.inside = false;
	if (loader.count < MAX_CALLS)
		loader.calls[loader.count++] = (struct call){what, image, bytes};
}

int tables_load(struct tables *t, image_id image, const struct table *table, uint64_t now_ns,
		tables_evicted_fn *evicted, void *user)
{
	sigset_t mask;
	int r;

	(void)t, (void)now_ns;
	pthread_mutex_lock(&loader.lock);
	enter('l', image, table->bytes);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	loader.signals_blocked = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT);
	pthread_getname_np(pthread_self(), loader.name, sizeof(loader.name));
	for (size_t i = 0; i < loader.evict_count; i++)
		evicted(user, loader.evict[i]);
	loader.evict_count = 0;
	r = loader.result;
	loader.images += !r;
	pthread_mutex_unlock(&loader.lock);
	return r;
}

void tables_drop(struct tables *t, image_id image, uint64_t now_ns)
{
	(void)t, (void)now_ns;
	pthread_mutex_lock(&loader.lock);
	enter('d', image, 0);
	pthread_mutex_unlock(&loader.lock);
}

void tables_tick(struct tables *t, uint64_t now_ns)
{
	(void)t, (void)now_ns;
	pthread_mutex_lock(&loader.lock);
	loader.ticks++;
	pthread_mutex_unlock(&loader.lock);
}

void tables_get_stats(const struct tables *t, struct tables_stats *ret)
{
	(void)t;
	pthread_mutex_lock(&loader.lock);
	*ret = (struct tables_stats){.images = loader.images + 4};
	pthread_mutex_unlock(&loader.lock);
}

static void hold(bool held)
{
	pthread_mutex_lock(&loader.lock);
	loader.held = held;
	pthread_cond_broadcast(&loader.changed);
	pthread_mutex_unlock(&loader.lock);
}

/* Until the thread is in a held call. */
static void wait_inside(void)
{
	pthread_mutex_lock(&loader.lock);
	while (!loader.inside)
		pthread_cond_wait(&loader.changed, &loader.lock);
	pthread_mutex_unlock(&loader.lock);
}

/* Images: what was answered, on the loop. */
struct answered {
	image_id image;
	int result;
};

static struct {
	struct answered answers[MAX_CALLS];
	size_t count;
	image_id evicted[MAX_CALLS];
	size_t evicted_count;
} images;

void images_table_answer(struct images *t, image_id id, int result)
{
	assert_ptr_equal(t, &images);
	assert_true(images.count < MAX_CALLS);
	images.answers[images.count++] = (struct answered){id, result};
}

void images_table_evicted(struct images *t, image_id id)
{
	assert_ptr_equal(t, &images);
	images.evicted[images.evicted_count++] = id;
}

/* Fixture */

static struct event_base *base;
static struct table_worker *worker;
static struct table_sink sink;
static char dir[256], cache_dir[300];

static void start(bool cache)
{
	struct table_worker_options options = {
		.tables = {.images_fd = 77, .infos_fd = 78, .segments_fd = 79},
		.cache_dir = cache ? cache_dir : NULL,
	};
	struct err e = {0};

	if (table_worker_create(base, (struct images *)&images, &options, &worker, &e))
		fail_msg("%s", e.text);
	sink = table_worker_sink(worker);
}

static void stop(void)
{
	table_worker_destroy(worker);
	worker = NULL;
}

static int setup(void **state)
{
	(void)state;
	memset(&images, 0, sizeof(images));
	loader.count = loader.ticks = loader.evict_count = loader.images = 0;
	loader.result = 0;
	loader.held = loader.inside = false;
	base = event_base_new();
	assert_non_null(base);
	(void)snprintf(dir, sizeof(dir), "%s/table-worker-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	assert_non_null(mkdtemp(dir));
	(void)snprintf(cache_dir, sizeof(cache_dir), "%s/tables", dir);
	return 0;
}

static int teardown(void **state)
{
	DIR *d = opendir(cache_dir);
	struct dirent *e;

	(void)state;
	hold(false);
	stop();
	event_base_free(base);
	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	unlink(cache_dir);
	rmdir(cache_dir);
	rmdir(dir);
	return 0;
}

/* Runs the loop until the condition holds. */
#define RUN_UNTIL(condition)                                                                                           \
	do {                                                                                                           \
		uint64_t until_ns = clock_mono_ns() + DEADLINE_NS;                                                     \
		while (!(condition)) {                                                                                 \
			assert_true(clock_mono_ns() < until_ns);                                                       \
			event_base_loop(base, EVLOOP_ONCE);                                                            \
		}                                                                                                      \
	} while (0)

static struct table *make(void)
{
	struct cfi_info infos[3] = {{0}, {.rules = CFI_CFA_INVALID}, {.offset = 8, .rules = CFI_CFA_SP}};
	struct cfi_page page = {.count = 2};
	struct cfi_row rows[2] = {{0, 2}, {9, 1}};
	struct cfi_tables t = {
		.rows = rows, .infos = infos, .pages = &page, .row_count = 2, .info_count = 3, .page_count = 1};
	struct table *ret;

	assert_int_equal(table_make(&t, 0, &ret), 0);
	return ret;
}

static void load(image_id image, const char *key)
{
	assert_int_equal(sink.load(sink.user, image, key, make()), 0);
}

static struct table_worker_stats stats(void)
{
	struct table_worker_stats s;

	table_worker_get_stats(worker, &s);
	return s;
}

/* Cases */

static void table_worker__answers_loads_and_finds(void **state)
{
	(void)state;
	start(true);
	assert_int_equal(sink.find(sink.user, 5, "abc-1"), 0);
	RUN_UNTIL(images.count == 1);
	assert_int_equal(images.answers[0].image, 5);
	assert_int_equal(images.answers[0].result, -ENOENT);
	load(5, "abc-1");
	RUN_UNTIL(images.count == 2);
	assert_int_equal(images.answers[1].image, 5);
	assert_int_equal(images.answers[1].result, 0);
	/* Written behind the answer, found in front of whatever comes next. */
	assert_int_equal(sink.find(sink.user, 6, "abc-1"), 0);
	RUN_UNTIL(images.count == 3);
	assert_int_equal(images.answers[2].image, 6);
	assert_int_equal(images.answers[2].result, 0);
	assert_int_equal(loader.count, 2);
	assert_int_equal(loader.calls[0].bytes, loader.calls[1].bytes);
	assert_true(loader.signals_blocked);
	assert_string_equal(loader.name, "bpfsys");
	assert_int_equal(stats().cache_hits, 1);
	assert_int_equal(stats().cache_misses, 1);
	assert_int_equal(stats().cache_bytes, 4096);
	assert_int_equal(stats().tables.images, 4 + 2);
	/* And after a restart. */
	stop();
	start(true);
	assert_int_equal(sink.find(sink.user, 7, "abc-1"), 0);
	RUN_UNTIL(images.count == 4);
	assert_int_equal(images.answers[3].result, 0);
}

static void table_worker__a_broken_table_is_not_loaded(void **state)
{
	struct table *t = make();

	(void)state;
	start(true);
	((char *)t)[t->bytes - 1] ^= 1;
	assert_int_equal(sink.load(sink.user, 5, "abc-1", t), 0);
	RUN_UNTIL(images.count == 1);
	assert_int_equal(images.answers[0].result, -EBADMSG);
	assert_int_equal(loader.count, 0);
	assert_int_equal(sink.find(sink.user, 5, "abc-1"), 0);
	RUN_UNTIL(images.count == 2);
	assert_int_equal(images.answers[1].result, -ENOENT);
}

static void table_worker__what_found_no_room_comes_from_the_cache(void **state)
{
	(void)state;
	start(true);
	loader.result = -ENOSPC;
	load(5, "abc-1");
	RUN_UNTIL(images.count == 1);
	assert_int_equal(images.answers[0].result, -ENOSPC);
	pthread_mutex_lock(&loader.lock);
	loader.result = 0;
	pthread_mutex_unlock(&loader.lock);
	assert_int_equal(sink.find(sink.user, 5, "abc-1"), 0);
	RUN_UNTIL(images.count == 2);
	assert_int_equal(images.answers[1].result, 0);
	/* Without a key it is not kept. */
	load(6, NULL);
	RUN_UNTIL(images.count == 3);
	assert_int_equal(images.answers[2].result, 0);
	assert_int_equal(stats().cache_bytes, 4096);
}

static void table_worker__tells_of_evictions_first(void **state)
{
	(void)state;
	start(false);
	loader.evict[0] = 40;
	loader.evict[1] = 41;
	loader.evict_count = 2;
	load(5, NULL);
	RUN_UNTIL(images.count == 1);
	assert_int_equal(images.evicted_count, 2);
	assert_int_equal(images.evicted[0], 40);
	assert_int_equal(images.evicted[1], 41);
}

static void table_worker__a_full_queue_refuses_jobs_but_loses_no_drop(void **state)
{
	size_t sent = 0, drops = 0, waiting;

	(void)state;
	start(false);
	hold(true);
	load(0, NULL);
	wait_inside();
	for (;;) {
		int r = sink.find(sink.user, (image_id)sent, "abc-1");

		if (r) {
			assert_int_equal(r, -EAGAIN);
			break;
		}
		sent++;
		assert_true(sent < MAX_CALLS);
	}
	assert_int_equal(stats().queue_full, 1);
	for (image_id i = 1000; i < 1600; i++)
		sink.drop(sink.user, i);
	/* Nothing overtakes a drop. */
	waiting = sent;
	assert_int_equal(sink.find(sink.user, 1000, "abc-1"), -EAGAIN);
	assert_int_equal(stats().queue_full, 602);
	hold(false);
	RUN_UNTIL(images.count == waiting + 1);
	while (sink.find(sink.user, 1000, "abc-1"))
		event_base_loop(base, EVLOOP_ONCE);
	RUN_UNTIL(images.count == waiting + 2);
	for (size_t i = 0; i < loader.count; i++)
		if (loader.calls[i].what == 'd')
			assert_int_equal(loader.calls[i].image, 1000 + drops++);
	assert_int_equal(drops, 600);
}

static void table_worker__tables_that_wait_have_a_limit(void **state)
{
	struct table *t;
	int r;
	size_t sent = 0;

	(void)state;
	start(false);
	hold(true);
	for (;;) {
		t = calloc(1, 16 << 20);
		assert_non_null(t);
		t->bytes = 16 << 20;
		r = sink.load(sink.user, 1, NULL, t);
		if (r)
			break;
		sent++;
	}
	free(t);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(sent, 4);
	hold(false);
	RUN_UNTIL(images.count == sent);
	load(2, NULL);
	RUN_UNTIL(images.count == sent + 1);
	assert_int_equal(images.answers[sent].result, 0);
}

static void table_worker__ticks(void **state)
{
	size_t ticks = 0;

	(void)state;
	start(false);
	RUN_UNTIL(({
		pthread_mutex_lock(&loader.lock);
		ticks = loader.ticks;
		pthread_mutex_unlock(&loader.lock);
		ticks >= 2;
	}));
}

static void table_worker_destroy__with_jobs_and_answers_waiting(void **state)
{
	(void)state;
	start(true);
	/* Answers that nobody fetches... */
	for (image_id i = 0; i < 20; i++)
		load(i, "abc-1");
	pthread_mutex_lock(&loader.lock);
	while (loader.count < 10)
		pthread_cond_wait(&loader.changed, &loader.lock);
	loader.held = true;
	pthread_mutex_unlock(&loader.lock);
	/* ...and jobs that nobody does. */
	for (image_id i = 0; i < 20; i++) {
		load(i, "abc-1");
		assert_int_equal(sink.find(sink.user, i, "abc-1"), 0);
		sink.drop(sink.user, i);
	}
	wait_inside();
	hold(false);
	stop();
	assert_int_equal(images.count, 0);
	table_worker_destroy(NULL);
}

static void table_worker__goes_on_without_a_cache_directory(void **state)
{
	int fd = open(cache_dir, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	(void)state;
	close(fd);
	start(true);
	assert_int_equal(sink.find(sink.user, 5, "abc-1"), 0);
	load(5, "abc-1");
	RUN_UNTIL(images.count == 2);
	assert_int_equal(images.answers[0].result, -ENOENT);
	assert_int_equal(images.answers[1].result, 0);
	assert_int_equal(stats().cache_write_errors, 1);
}

static void table_worker_create__without_a_loader(void **state)
{
	struct table_worker_options options = {0};
	struct table_worker *w = NULL;
	struct err e = {0};

	(void)state;
	loader_fails = -EPERM;
	assert_int_equal(table_worker_create(base, NULL, &options, &w, &e), -EPERM);
	loader_fails = 0;
	assert_null(w);
	assert_string_equal(e.text, "as the test wants it");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(table_worker__answers_loads_and_finds),
		CASE(table_worker__a_broken_table_is_not_loaded),
		CASE(table_worker__what_found_no_room_comes_from_the_cache),
		CASE(table_worker__tells_of_evictions_first),
		CASE(table_worker__a_full_queue_refuses_jobs_but_loses_no_drop),
		CASE(table_worker__tables_that_wait_have_a_limit),
		CASE(table_worker__ticks),
		CASE(table_worker_destroy__with_jobs_and_answers_waiting),
		CASE(table_worker__goes_on_without_a_cache_directory),
		CASE(table_worker_create__without_a_loader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
