/* Unwind tables of images: from the first stack through an image to the table in the kernel, and out again.
 *
 *   none -> wanted -(parser: key)-> finding -(sink: 0)----------------------------------------> loaded
 *                                      |                                                          |
 *                                      +--(sink: -ENOENT)-> compiling -(parser)-> loading -(sink: 0)
 *
 * Loop thread only. Whatever fails ends in `failed`, what there is no room for in `none`, both with a pause. An entry
 * that waits for the parser, or for room in the sink's queue, is in `table_work`; those for the sink, and those the
 * cache had not, stand in front. One over which the parser ran out of time is in `slow_table_work` instead: names go
 * first. A loaded table whose file may be another by now stays loaded while the parser is asked for the key once more.
 * The sink answers in the order it was asked, so of an image that was dropped meanwhile the first `stale_answers` are
 * not taken. An image without mappings is in `idle_tables` while there is anything of its table. */
#include <errno.h>
#include <string.h>

#include "daemon/image/image_internal.h"
#include "daemon/util/clock.h"

/* No room now: whoever is in use must become idle first. */
#define NO_ROOM_PAUSE_NS (10 * NS_PER_S)
/* A disk may hang: names don't wait longer for an answer of the cache. */
#define HOLD_NAMES_NS (50 * NS_PER_MS)

static bool is_under_way(enum table_state s)
{
	return s >= TABLE_WANTED && s <= TABLE_LOADING;
}

static void leave_idle(struct images *t, struct entry *y)
{
	if (y->table.idle)
		TAILQ_REMOVE(&t->idle_tables, y, table.idle_link);
	y->table.idle = false;
}

static void set_state(struct images *t, struct entry *y, enum table_state state)
{
	t->tables_waiting -= is_under_way(y->table.state);
	t->tables_waiting += is_under_way(state);
	y->table.state = state;
	if (state == TABLE_NONE || state == TABLE_FAILED)
		leave_idle(t, y);
}

static void set_asked(struct images *t, struct entry *y, bool asked)
{
	if (y->table.state == TABLE_FINDING) {
		t->tables_finding -= y->table.asked;
		t->tables_finding += asked;
	}
	y->table.asked = asked;
}

static struct entry_queue *queue_of(struct images *t, const struct entry *y)
{
	return y->table.slow ? &t->slow_table_work : &t->table_work;
}

static void queue_first(struct images *t, struct entry *y)
{
	TAILQ_INSERT_HEAD(queue_of(t, y), y, table.link);
	y->table.queued = true;
}

static void queue_last(struct images *t, struct entry *y)
{
	TAILQ_INSERT_TAIL(queue_of(t, y), y, table.link);
	y->table.queued = true;
}

static void unqueue(struct images *t, struct entry *y)
{
	if (y->table.queued)
		TAILQ_REMOVE(queue_of(t, y), y, table.link);
	y->table.queued = false;
}

static void set_slow(struct images *t, struct entry *y, bool slow)
{
	unqueue(t, y);
	y->table.slow = slow;
}

static void forget_parts(struct entry *y)
{
	free(TAKE_PTR(y->table.key));
	free(TAKE_PTR(y->table.block));
	y->table.deaths = 0;
	y->table.doubtful = false;
	y->table.key_changed = false;
}

static void tell_sink_to_drop(struct images *t, struct entry *y)
{
	if (y->table.sink_has && t->sink.drop)
		t->sink.drop(t->sink.user, y->image.id);
	y->table.sink_has = false;
}

void image_table_fail(struct images *t, struct entry *y, bool gone, const char *problem)
{
	uint64_t pause_ns = y->table.pause_ns;

	tell_sink_to_drop(t, y);
	forget_parts(y);
	set_state(t, y, TABLE_FAILED);
	y->table.gone = gone;
	y->table.failed_ns = clock_mono_ns();
	if (!pause_ns)
		y->table.pause_ns = RETRY_NS;
	else
		y->table.pause_ns = pause_ns < TABLE_RETRY_MAX_NS / 2 ? pause_ns * 2 : TABLE_RETRY_MAX_NS;
	t->tables_failed++;
	image_log_problem(t, y, gone || pause_ns, "has no usable unwind table", problem);
}

static void fail_by_errno(struct images *t, struct entry *y, int error)
{
	char text[128];

	snprintf(text, sizeof(text), "it cannot be loaded: %s", strerror(-error));
	image_table_fail(t, y, false, text);
}

void image_table_doubt(struct images *t, struct entry *y)
{
	if (y->table.state != TABLE_LOADED) {
		image_table_drop(t, y);
		return;
	}
	y->table.doubtful = true;
	if (y == t->current && t->task != TASK_NAMES)
		t->task_void = true; /* it compares with the file before */
}

void image_table_drop(struct images *t, struct entry *y)
{
	if (y->table.state == TABLE_NONE || y->table.state == TABLE_FAILED)
		return;
	if (y == t->current && t->task != TASK_NAMES)
		t->task_void = true;
	unqueue(t, y);
	y->table.stale_answers += y->table.asked;
	set_asked(t, y, false);
	tell_sink_to_drop(t, y);
	forget_parts(y);
	set_state(t, y, TABLE_NONE);
	t->tables_dropped++;
}

void image_table_drop_idle(struct images *t)
{
	struct entry *y;

	while ((y = TAILQ_FIRST(&t->idle_tables)) && clock_mono_ns() - y->table.unref_ns >= t->table_idle_ns)
		image_table_drop(t, y);
}

void image_table_ref(struct images *t, struct entry *y)
{
	leave_idle(t, y);
}

void image_table_unref(struct images *t, struct entry *y)
{
	if (y->table.state == TABLE_NONE || y->table.state == TABLE_FAILED)
		return;
	y->table.unref_ns = clock_mono_ns();
	y->table.idle = true;
	TAILQ_INSERT_TAIL(&t->idle_tables, y, table.idle_link);
}

static bool is_due(const struct entry *y)
{
	return clock_mono_ns() - y->table.failed_ns >= y->table.pause_ns;
}

void image_table_retry(struct entry *y)
{
	if (y->table.state == TABLE_FAILED && (y->table.gone || is_due(y)))
		y->table.state = TABLE_NONE;
}

/* Is it still the file that the table is of? The table is used meanwhile. */
static void compare(struct images *t, struct entry *y)
{
	if (y->table.queued || (y == t->current && t->task != TASK_NAMES))
		return;
	queue_last(t, y);
}

void images_want_table(struct images *t, image_id id)
{
	struct entry *y;

	if (!t->sink.find || (id != IMAGE_VDSO && id < IMAGE_FIRST_FILE))
		return;
	y = image_find(t, id);
	if (!y || !y->image.refs)
		return;
	if (y->table.state == TABLE_LOADED && y->table.doubtful)
		compare(t, y);
	if (y->table.state == TABLE_FAILED && is_due(y))
		y->table.state = TABLE_NONE;
	if (y->table.state != TABLE_NONE)
		return;
	if (y->table.not_before_ns && clock_mono_ns() < y->table.not_before_ns)
		return;
	y->table.not_before_ns = 0;
	set_state(t, y, TABLE_WANTED);
	queue_last(t, y);
}

bool images_tables_pending(const struct images *t)
{
	return t->tables_waiting > 0;
}

/* --- the sink --- */

void images_set_table_sink(struct images *t, const struct table_sink *sink)
{
	t->sink = sink ? *sink : (struct table_sink){0};
}

/* Whoever can write to a file could have a table kept under the key of other contents, if only he is fast enough; so
 * the cache, which outlives the file and is there for all, has tables of root's files alone. */
static bool may_be_kept(const struct entry *y)
{
	return y->table.owned_by_root && !y->table.key_changed;
}

void image_table_opened(struct entry *y, const struct stat *st)
{
	/* Without a file it is the vDSO, which the kernel gave us. */
	y->table.owned_by_root = !st || (st->st_uid == 0 && !(st->st_mode & (S_IWGRP | S_IWOTH)));
}

/* 0, -EAGAIN: it has no room, or it failed and so did the table. */
static int ask_sink(struct images *t, struct entry *y)
{
	bool find = y->table.state == TABLE_FINDING;
	int r;

	if (find)
		r = t->sink.find(t->sink.user, y->image.id, y->table.key);
	else
		r = t->sink.load(t->sink.user, y->image.id, may_be_kept(y) ? y->table.key : NULL, y->table.block);
	if (r == -EAGAIN)
		return r;
	if (r) {
		fail_by_errno(t, y, r);
		return 0;
	}
	set_asked(t, y, true);
	y->table.sink_has = true;
	if (find)
		t->found_ns = clock_mono_ns();
	else
		y->table.block = NULL;
	return 0;
}

struct entry *image_table_next(struct images *t, bool slow, enum work_task *ret)
{
	struct entry_queue *queue = slow ? &t->slow_table_work : &t->table_work;
	struct entry *y;

	while (t->sink.find && (y = TAILQ_FIRST(queue))) {
		unqueue(t, y);
		if (y->table.state == TABLE_COMPILING) {
			*ret = TASK_TABLE_COMPILE;
			return y;
		}
		if (y->table.state == TABLE_WANTED || y->table.state == TABLE_LOADED) {
			*ret = TASK_TABLE_FIND;
			return y;
		}
		if (ask_sink(t, y)) {
			queue_first(t, y);
			break;
		}
	}
	return NULL;
}

bool image_table_holds_names(const struct images *t)
{
	return t->tables_finding && clock_mono_ns() - t->found_ns < HOLD_NAMES_NS;
}

static void take_loaded(struct images *t, struct entry *y)
{
	if (y->table.state == TABLE_FINDING)
		t->tables_cached++;
	else if (y->table.no_rows)
		t->tables_none++;
	else
		t->tables_compiled++;
	y->table.deaths = 0;
	y->table.pause_ns = 0;
	set_slow(t, y, false);
	set_state(t, y, TABLE_LOADED);
}

void images_table_answer(struct images *t, image_id id, int result)
{
	struct entry *y = image_find(t, id);

	if (!y)
		return;
	if (y->table.stale_answers) {
		y->table.stale_answers--;
		return;
	}
	if (!y->table.asked)
		return;
	set_asked(t, y, false);
	if (!result) {
		take_loaded(t, y);
	} else if (result == -ENOENT && y->table.state == TABLE_FINDING) {
		y->table.sink_has = false;
		set_state(t, y, TABLE_COMPILING);
		queue_first(t, y);
	} else if (result == -ENOSPC) {
		y->table.not_before_ns = clock_mono_ns() + NO_ROOM_PAUSE_NS;
		y->table.sink_has = false;
		forget_parts(y);
		set_state(t, y, TABLE_NONE);
	} else {
		fail_by_errno(t, y, result);
	}
	image_pump(t);
}

void images_table_evicted(struct images *t, image_id id)
{
	struct entry *y = image_find(t, id);

	/* In any other state it is on its way anew already. */
	if (!y || y->table.state != TABLE_LOADED)
		return;
	if (y == t->current && t->task != TASK_NAMES)
		t->task_void = true;
	unqueue(t, y);
	y->table.sink_has = false;
	forget_parts(y);
	set_state(t, y, TABLE_NONE);
}

/* --- the parser --- */

void image_table_again(struct images *t, struct entry *y)
{
	queue_first(t, y);
}

static void take_key(struct images *t, struct entry *y, const char *key)
{
	y->table.key = strdup(key);
	if (!y->table.key) {
		fail_by_errno(t, y, -ENOMEM);
		return;
	}
	set_state(t, y, TABLE_FINDING);
	queue_first(t, y);
}

/* The answer to compare(). Whatever went wrong: the table is not believed any more. */
static void take_comparison(struct images *t, struct entry *y, int error, const struct parser_response *response)
{
	if (!error && response->result == PARSER_NEED_FILE && !t->fresh)
		queue_first(t, y);
	else if (!error && response->result == PARSER_DONE && !strcmp(response->table_key, y->table.key))
		y->table.doubtful = false;
	else
		image_table_drop(t, y);
}

static void tell_losses(struct images *t, struct entry *y)
{
	const uint64_t *counts = y->table.block->counts;
	char text[128];

	t->table_losses += table_losses(y->table.block);
	if (y->table.losses_told || !(counts[CFI_SECTIONS] || counts[CFI_INFOS_FULL] || counts[CFI_BROKEN]))
		return;
	y->table.losses_told = true;
	snprintf(text, sizeof(text), "left out: sections %llu, infos_full %llu, broken %llu",
		 (unsigned long long)counts[CFI_SECTIONS], (unsigned long long)counts[CFI_INFOS_FULL],
		 (unsigned long long)counts[CFI_BROKEN]);
	/* A broken entry is left out alone, and some linkers leave such ones. */
	image_log_problem(t, y, !counts[CFI_SECTIONS] && !counts[CFI_INFOS_FULL], "has an unwind table with holes",
			  text);
}

static void take_block(struct images *t, struct entry *y, const char *key)
{
	char *compiled_key;

	y->table.block = parser_client_take_table(t->parser);
	if (!y->table.block) {
		fail_by_errno(t, y, -ENOMEM);
		return;
	}
	if (strcmp(key, y->table.key) != 0) {
		compiled_key = strdup(key);
		if (!compiled_key) {
			fail_by_errno(t, y, -ENOMEM);
			return;
		}
		free(y->table.key);
		y->table.key = compiled_key;
		y->table.key_changed = true;
	}
	tell_losses(t, y);
	y->table.no_rows = y->table.block->flags & TABLE_FRAME_POINTER;
	set_state(t, y, TABLE_LOADING);
	queue_first(t, y);
}

void image_table_done(struct images *t, struct entry *y, enum work_task task, int error,
		      const struct parser_response *response)
{
	if (y->table.state == TABLE_LOADED) {
		take_comparison(t, y, error, response);
	} else if (error == -ETIMEDOUT) {
		set_slow(t, y, true);
		image_table_fail(t, y, false, "parser timed out");
	} else if (error) {
		if (++y->table.deaths >= MAX_PARSER_DEATHS)
			image_table_fail(t, y, false, "the parser died over it");
		else
			queue_last(t, y);
	} else if (response->result == PARSER_BAD_IMAGE) {
		image_table_fail(t, y, false, response->problem);
	} else if (response->result != PARSER_DONE) {
		/* It closed the file in the meantime. */
		if (t->fresh)
			image_table_fail(t, y, false, "the descriptor was lost");
		else
			queue_first(t, y);
	} else if (task == TASK_TABLE_FIND) {
		take_key(t, y, response->table_key);
	} else {
		take_block(t, y, response->table_key);
	}
}
