/* Unwind tables of images: from the first stack through an image to the table in the kernel, and out again.
 *
 *   none -> wanted -(parser: key)-> finding -(sink: 0)----------------------------------------> loaded
 *                                      |                                                          |
 *                                      +--(sink: -ENOENT)-> compiling -(parser)-> loading -(sink: 0)
 *
 * Loop thread only. Whatever fails ends in `failed`, what there is no room for in `none` with a pause. An entry that
 * waits for the parser, or for room in the sink's queue, is in `table_work`; those for the sink, and those the cache
 * had not, stand in front. The sink answers in the order it was asked, so of an image that was dropped meanwhile the
 * first `stale_answers` are not taken. An image without mappings is in `idle_tables` while there is anything of its
 * table. */
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

static void queue_first(struct images *t, struct entry *y)
{
	TAILQ_INSERT_HEAD(&t->table_work, y, table.link);
	y->table.queued = true;
}

static void queue_last(struct images *t, struct entry *y)
{
	TAILQ_INSERT_TAIL(&t->table_work, y, table.link);
	y->table.queued = true;
}

static void unqueue(struct images *t, struct entry *y)
{
	if (y->table.queued)
		TAILQ_REMOVE(&t->table_work, y, table.link);
	y->table.queued = false;
}

static void forget_parts(struct entry *y)
{
	free(TAKE_PTR(y->table.key));
	free(TAKE_PTR(y->table.block));
	y->table.deaths = 0;
}

static void tell_sink_to_drop(struct images *t, struct entry *y)
{
	if (y->table.sink_has && t->sink.drop)
		t->sink.drop(t->sink.user, y->image.id);
	y->table.sink_has = false;
}

void image_table_fail(struct images *t, struct entry *y, bool gone, const char *problem)
{
	tell_sink_to_drop(t, y);
	forget_parts(y);
	set_state(t, y, TABLE_FAILED);
	y->table.gone = gone;
	y->table.failed_ns = clock_mono_ns();
	t->tables_failed++;
	image_log_problem(t, y, gone, "has no usable unwind table", problem);
}

static void fail_by_errno(struct images *t, struct entry *y, int error)
{
	char text[128];

	snprintf(text, sizeof(text), "it cannot be loaded: %s", strerror(-error));
	image_table_fail(t, y, false, text);
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

void image_table_retry(struct entry *y)
{
	if (y->table.state == TABLE_FAILED && (y->table.gone || clock_mono_ns() - y->table.failed_ns >= RETRY_NS))
		y->table.state = TABLE_NONE;
}

void images_want_table(struct images *t, image_id id)
{
	struct entry *y;

	if (!t->sink.find || (id != IMAGE_VDSO && id < IMAGE_FIRST_FILE))
		return;
	y = image_find(t, id);
	if (!y || !y->image.refs)
		return;
	/* No process will ever map the vDSO anew. */
	if (id == IMAGE_VDSO)
		image_table_retry(y);
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

/* 0, -EAGAIN: it has no room, or it failed and so did the table. */
static int ask_sink(struct images *t, struct entry *y)
{
	bool find = y->table.state == TABLE_FINDING;
	int r;

	if (find)
		r = t->sink.find(t->sink.user, y->image.id, y->table.key);
	else
		r = t->sink.load(t->sink.user, y->image.id, y->table.key, y->table.block);
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

struct entry *image_table_next(struct images *t, enum work_task *ret)
{
	struct entry *y;

	while (t->sink.find && (y = TAILQ_FIRST(&t->table_work))) {
		unqueue(t, y);
		if (y->table.state == TABLE_WANTED || y->table.state == TABLE_COMPILING) {
			*ret = y->table.state == TABLE_WANTED ? TASK_TABLE_FIND : TASK_TABLE_COMPILE;
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
	forget_parts(y);
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
	y->table.sink_has = false;
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

static void take_block(struct images *t, struct entry *y)
{
	y->table.block = parser_client_take_table(t->parser);
	if (!y->table.block) {
		fail_by_errno(t, y, -ENOMEM);
		return;
	}
	y->table.no_rows = y->table.block->flags & TABLE_FRAME_POINTER;
	set_state(t, y, TABLE_LOADING);
	queue_first(t, y);
}

void image_table_done(struct images *t, struct entry *y, enum work_task task, int error,
		      const struct parser_response *response)
{
	if (error == -ETIMEDOUT) {
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
		take_block(t, y);
	}
}
