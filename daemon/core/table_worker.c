/* A job goes to the thread and comes back as its own answer, drops and ticks too. So the loop knows how many are out:
 * never more than the queue of answers holds, and the thread waits for nothing but jobs. A job that is back carries the
 * figures that stats are made of.
 *
 * A drop must not get lost (the id may be given out again), so drops that find the queue full are put off, and nothing
 * overtakes them. */
#include "daemon/core/table_worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

#include "daemon/image/table_cache.h"
#include "daemon/util/clock.h"
#include "daemon/util/log.h"
#include "daemon/util/queue.h"

#define MAX_JOBS 256
#define MAX_JOB_BYTES (64ull << 20) /* of tables on their way; a single one may always go */
#define CACHE_RETRY_NS (60 * NS_PER_S)

enum job_kind { JOB_FIND, JOB_LOAD, JOB_DROP, JOB_TICK };

struct job {
	enum job_kind kind;
	image_id image;
	uint64_t bytes;	     /* of the table, to the end */
	struct table *table; /* JOB_LOAD; the thread keeps it */
	char key[TABLE_KEY_BYTES];
	/* the answer */
	int result;
	size_t evicted_count;
	image_id *evicted; /* room for all that were loaded before */
	struct tables_stats tables;
	struct table_cache_stats cache;
	uint64_t cache_open_errors;
	int cache_error;
};

struct table_worker {
	/* loop */
	struct images *images;
	struct event *answered, *tick;
	size_t out; /* jobs that are not back */
	bool tick_out;
	uint64_t out_bytes;
	image_id *late_drops;
	size_t late_count, late_cap;
	struct table_worker_stats stats;

	/* thread */
	struct tables *tables;
	struct table_cache *cache; /* NULL: none, or not yet */
	uint64_t cache_retry_ns, cache_open_errors;
	int cache_error;

	/* both; set before the thread starts */
	struct queue *jobs, *answers;
	int wake_fd;
	char *cache_dir;
	uint64_t cache_max_bytes;
	pthread_t thread;
	bool running;
};

static void job_free(struct job *j)
{
	free(j->table);
	free(j->evicted);
	free(j);
}

/* Thread */

static void open_cache(struct table_worker *w)
{
	uint64_t now_ns = clock_mono_ns();

	if (w->cache || !w->cache_dir || now_ns < w->cache_retry_ns)
		return;
	w->cache_error = table_cache_open(w->cache_dir, w->cache_max_bytes, &w->cache, NULL);
	if (w->cache_error) {
		w->cache_open_errors++;
		w->cache_retry_ns = now_ns + CACHE_RETRY_NS;
	}
}

static void on_evicted(void *user, image_id image)
{
	struct job *j = user;

	j->evicted[j->evicted_count++] = image;
}

static int load(struct table_worker *w, const struct table *table, struct job *j)
{
	struct tables_stats stats;

	tables_get_stats(w->tables, &stats);
	j->evicted = calloc(stats.images + 1, sizeof(*j->evicted));
	if (!j->evicted)
		return -ENOMEM;
	return tables_load(w->tables, j->image, table, clock_mono_ns(), on_evicted, j);
}

static int find(struct table_worker *w, struct job *j)
{
	_cleanup_free_ struct table *table = NULL;
	int r = w->cache ? table_cache_get(w->cache, j->key, &table) : -ENOENT;

	return r ? r : load(w, table, j);
}

static int run(struct table_worker *w, struct job *j)
{
	switch (j->kind) {
	case JOB_FIND:
		return find(w, j);
	case JOB_LOAD:
		return table_check(j->table, j->table->bytes) ? -EBADMSG : load(w, j->table, j);
	case JOB_DROP:
		tables_drop(w->tables, j->image, clock_mono_ns());
		return 0;
	case JOB_TICK:
		open_cache(w);
		tables_tick(w->tables, clock_mono_ns());
		return 0;
	}
	return -EINVAL;
}

static void answer(struct table_worker *w, struct job *j)
{
	uint64_t one = 1;

	tables_get_stats(w->tables, &j->tables);
	if (w->cache)
		table_cache_get_stats(w->cache, &j->cache);
	j->cache_open_errors = w->cache_open_errors;
	j->cache_error = w->cache_error;
	if (queue_push(w->answers, j))
		job_free(j); /* only when the loop closes everything */
	(void)!write(w->wake_fd, &one, sizeof(one));
}

static void *thread_main(void *user)
{
	struct table_worker *w = user;
	void *message;

	open_cache(w);
	while (!queue_pop_wait(w->jobs, &message)) {
		struct job *j = message;
		_cleanup_free_ struct table *table = NULL;
		char key[TABLE_KEY_BYTES];

		j->result = run(w, j);
		/* One that found no room now comes back from the cache. */
		if (j->kind == JOB_LOAD && j->key[0] && (!j->result || j->result == -ENOSPC)) {
			table = TAKE_PTR(j->table);
			memcpy(key, j->key, sizeof(key));
		}
		answer(w, j);
		/* After the answer: stacks don't wait for the disk. */
		if (table && w->cache)
			(void)table_cache_put(w->cache, key, table); /* it counts its errors */
	}
	return NULL;
}

/* Loop */

static int submit(struct table_worker *w, enum job_kind kind, image_id image, const char *key, struct table *table)
{
	uint64_t bytes = table ? table->bytes : 0;
	struct job *j;
	int r;

	if (key && strlen(key) >= TABLE_KEY_BYTES)
		return -EINVAL;
	if (w->out >= MAX_JOBS || (bytes && w->out_bytes && w->out_bytes + bytes > MAX_JOB_BYTES))
		return -EAGAIN;
	j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->kind = kind;
	j->image = image;
	j->bytes = bytes;
	j->table = table;
	if (key)
		memcpy(j->key, key, strlen(key));
	r = queue_push(w->jobs, j);
	if (r) {
		j->table = NULL;
		job_free(j);
		return r;
	}
	w->out++;
	w->out_bytes += bytes;
	return 0;
}

static void flush_drops(struct table_worker *w)
{
	size_t done = 0;

	while (done < w->late_count && !submit(w, JOB_DROP, w->late_drops[done], NULL, NULL))
		done++;
	if (done)
		memmove(w->late_drops, w->late_drops + done, (w->late_count - done) * sizeof(*w->late_drops));
	w->late_count -= done;
}

static int ask(struct table_worker *w, enum job_kind kind, image_id image, const char *key, struct table *table)
{
	int r;

	flush_drops(w);
	r = w->late_count ? -EAGAIN : submit(w, kind, image, key, table);
	w->stats.queue_full += r == -EAGAIN;
	return r;
}

static int sink_find(void *user, image_id image, const char *key)
{
	return ask(user, JOB_FIND, image, key, NULL);
}

static int sink_load(void *user, image_id image, const char *key, struct table *table)
{
	return ask(user, JOB_LOAD, image, key, table);
}

static void sink_drop(void *user, image_id image)
{
	struct table_worker *w = user;

	flush_drops(w);
	if (!w->late_count && !submit(w, JOB_DROP, image, NULL, NULL))
		return;
	w->stats.queue_full++;
	if (w->late_count == w->late_cap) {
		size_t cap = w->late_cap ? w->late_cap * 2 : 64;
		image_id *grown = realloc(w->late_drops, cap * sizeof(*grown));

		if (!grown)
			return; /* its table stays until it is the oldest, or replaced */
		w->late_drops = grown;
		w->late_cap = cap;
	}
	w->late_drops[w->late_count++] = image;
}

struct table_sink table_worker_sink(struct table_worker *w)
{
	return (struct table_sink){.find = sink_find, .load = sink_load, .drop = sink_drop, .user = w};
}

static void take_answer(struct table_worker *w, struct job *j)
{
	struct table_worker_stats *s = &w->stats;

	w->out--;
	if (j->kind == JOB_TICK)
		w->tick_out = false;
	w->out_bytes -= j->bytes;
	s->tables = j->tables;
	s->cache_hits = j->cache.hits;
	s->cache_misses = j->cache.misses;
	s->cache_broken = j->cache.broken;
	s->cache_bytes = j->cache.bytes;
	s->cache_write_errors = j->cache.write_errors + j->cache_open_errors;
	if (j->cache_error)
		log_warn("tables", "the cache cannot be used dir=\"%s\" cause=\"%s\"", w->cache_dir,
			 strerror(-j->cache_error));
	for (size_t i = 0; i < j->evicted_count; i++)
		images_table_evicted(w->images, j->evicted[i]);
	if (j->kind == JOB_FIND || j->kind == JOB_LOAD)
		images_table_answer(w->images, j->image, j->result);
	job_free(j);
}

static void on_answered(evutil_socket_t fd, short what, void *user)
{
	struct table_worker *w = user;
	uint64_t count;
	void *message;

	(void)what;
	(void)!read(fd, &count, sizeof(count));
	/* An answer may be followed by the next job at once: other events get their turn in between. */
	for (int i = 0; i < MAX_JOBS; i++) {
		if (queue_pop(w->answers, &message)) {
			flush_drops(w);
			return;
		}
		take_answer(w, message);
	}
	event_active(w->answered, EV_READ, 1);
}

static void on_tick(evutil_socket_t fd, short what, void *user)
{
	struct table_worker *w = user;

	(void)fd;
	(void)what;
	flush_drops(w);
	if (!w->late_count && !w->tick_out && !submit(w, JOB_TICK, 0, NULL, NULL))
		w->tick_out = true; /* when it is busy the next one will do */
}

static int start_thread(struct table_worker *w)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&w->thread, NULL, thread_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return r;
	w->running = true;
	pthread_setname_np(w->thread, "bpfsys");
	return 0;
}

int table_worker_create(struct event_base *base, struct images *images, const struct table_worker_options *options,
			struct table_worker **ret, struct err *e)
{
	const struct timeval second = {.tv_sec = 1};
	struct table_worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(e, -ENOMEM, "out of memory");
	w->images = images;
	w->cache_max_bytes = options->cache_max_bytes;
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	r = w->wake_fd < 0 ? -errno : 0;
	if (!r && options->cache_dir && !(w->cache_dir = strdup(options->cache_dir)))
		r = -ENOMEM;
	if (!r)
		r = queue_create(MAX_JOBS, &w->jobs);
	if (!r)
		r = queue_create(MAX_JOBS, &w->answers);
	if (r) {
		err_errno(e, r, "cannot prepare the thread for unwind tables");
		goto fail;
	}
	r = tables_create(&options->tables, &w->tables, e);
	if (r)
		goto fail;
	w->answered = event_new(base, w->wake_fd, EV_READ | EV_PERSIST, on_answered, w);
	w->tick = event_new(base, -1, EV_PERSIST, on_tick, w);
	if (!w->answered || !w->tick || event_add(w->answered, NULL) || event_add(w->tick, &second)) {
		r = err_set(e, -ENOMEM, "cannot prepare the thread for unwind tables");
		goto fail;
	}
	r = start_thread(w);
	if (r) {
		err_errno(e, r, "cannot start the thread for unwind tables");
		goto fail;
	}
	*ret = w;
	return 0;
fail:
	table_worker_destroy(w);
	return r;
}

void table_worker_destroy(struct table_worker *w)
{
	void *message;

	if (!w)
		return;
	if (w->running) {
		queue_close(w->jobs);
		pthread_join(w->thread, NULL);
	}
	while (w->jobs && !queue_pop(w->jobs, &message))
		job_free(message);
	while (w->answers && !queue_pop(w->answers, &message))
		job_free(message);
	queue_destroy(w->jobs);
	queue_destroy(w->answers);
	if (w->answered)
		event_free(w->answered);
	if (w->tick)
		event_free(w->tick);
	table_cache_close(w->cache);
	tables_destroy(w->tables);
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	free(w->late_drops);
	free(w->cache_dir);
	free(w);
}

void table_worker_get_stats(const struct table_worker *w, struct table_worker_stats *ret)
{
	*ret = w->stats;
}
