#include "daemon/core/service.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "bpf/unwind_abi.h"
#include "daemon/core/service_internal.h"
#include "daemon/core/table_worker.h"
#include "daemon/export/export.h"
#include "daemon/query/query.h"
#include "daemon/util/clock.h"

#define READY_TIMEOUT_NS NS_PER_S
#define ANSWER_SLICE_NS (20 * NS_PER_MS)

static void write_drops(struct json_writer *w, const uint64_t drops[DROP_CAUSE_COUNT])
{
	jw_object(w, "drops");
#define X(sym, name, help) jw_uint(w, name, drops[DROP_##sym]);
	DROP_CAUSES(X)
#undef X
	jw_object_end(w);
}

static void write_incomplete(struct json_writer *w, const uint64_t causes[INCOMPLETE_CAUSE_COUNT])
{
	jw_object(w, "incomplete");
#define X(sym, name, help) jw_uint(w, name, causes[INCOMPLETE_##sym]);
	INCOMPLETE_CAUSES(X)
#undef X
	jw_object_end(w);
}

/* How whole user stacks ended. */
static void write_whole(struct json_writer *w, const uint64_t whole[PROFILER_WHOLE_ENDS])
{
	jw_object(w, "whole");
#define X(sym, name, help) jw_uint(w, name, whole[UNWIND_END_##sym]);
	UNWIND_WHOLE_ENDS(X)
#undef X
	jw_object_end(w);
}

static void write_unwinding(struct json_writer *w, const struct images_stats *images,
			    const struct table_worker_stats *worker)
{
	jw_object(w, "unwinding");
	jw_uint(w, "images", worker->tables.images);
	jw_uint(w, "rows", worker->tables.rows);
	jw_uint(w, "infos", worker->tables.infos);
	jw_uint(w, "table_bytes", worker->tables.used_bytes);
	jw_uint(w, "segments", worker->tables.segments);
	jw_uint(w, "budget_bytes", worker->tables.budget_bytes);
	jw_uint(w, "evictions", worker->tables.evictions);
	jw_uint(w, "no_room", worker->tables.no_room);
	jw_uint(w, "infos_full", worker->tables.infos_full);
	jw_uint(w, "waiting", images->tables_waiting);
	jw_uint(w, "compiled", images->tables_compiled);
	jw_uint(w, "none", images->tables_none);
	jw_uint(w, "failed", images->tables_failed);
	jw_uint(w, "dropped", images->tables_dropped);
	jw_uint(w, "losses", images->table_losses);
	jw_uint(w, "queue_full", worker->queue_full);
	jw_uint(w, "cache_hits", worker->cache_hits);
	jw_uint(w, "cache_misses", worker->cache_misses);
	jw_uint(w, "cache_broken", worker->cache_broken);
	jw_uint(w, "cache_write_errors", worker->cache_write_errors);
	jw_uint(w, "cache_bytes", worker->cache_bytes);
	jw_object_end(w);
}

static double cpu_seconds(int pid)
{
	struct timespec ts;
	clockid_t id;

	if (pid < 0 || clock_getcpuclockid(pid, &id) || clock_gettime(id, &ts))
		return 0;
	return (double)ts.tv_sec + (double)ts.tv_nsec / (double)NS_PER_S;
}

static uint64_t rss_bytes(int pid)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64];
	uint64_t pages = 0;

	if (pid < 0)
		return 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (!f || fscanf(f, "%*u %" SCNu64, &pages) != 1)
		return 0;
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* What the always-on profiler costs the machine: BPF programs by their own timing, daemon and children by their CPU
 * time; since the last reading that is at least a second old. */
static void update_cost(struct service *s, double bpf_seconds, int opener_pid, int parser_pid)
{
	uint64_t now_ns = clock_mono_ns();
	double cpu = cpu_seconds(0) + cpu_seconds(opener_pid) + cpu_seconds(parser_pid);
	double elapsed =
		(double)(now_ns - (s->cost.sampled_ns ? s->cost.sampled_ns : s->started_ns)) / (double)NS_PER_S;
	double spent = cpu - s->cost.cpu_seconds + bpf_seconds - s->cost.bpf_seconds;

	if (elapsed < 1)
		return;
	/* A child that was started anew begins at zero. */
	s->cost.percent = spent > 0 ? 100 * spent / elapsed / (double)sysconf(_SC_NPROCESSORS_ONLN) : 0;
	s->cost.sampled_ns = now_ns;
	s->cost.cpu_seconds = cpu;
	s->cost.bpf_seconds = bpf_seconds;
}

int service_status(struct service *s, struct json_writer *w, struct err *e)
{
	const struct pipeline_parts *parts = s->parts;
	struct pipeline_stats stats;
	struct images_stats images;
	struct targets_stats targets;
	struct windows_stats windows;
	struct table_worker_stats tables;
	struct track_info track;
	char rate[32];
	int err, opener_pid = opener_child_pid(s->opener);

	err = pipeline_get_stats(s->pipeline, &stats);
	if (!err)
		err = track_get_info(parts->track, &track);
	if (err)
		return err_errno(e, err, "cannot read counters");
	images_get_stats(parts->images, &images);
	targets_get_stats(parts->targets, &targets);
	windows_get_stats(parts->windows, &windows);
	table_worker_get_stats(s->tables, &tables);
	update_cost(s, stats.bpf_run_seconds + track.run_seconds, opener_pid, images.parser_pid);
	(void)snprintf(rate, sizeof(rate), "%uHz", s->rate_hz);

	jw_object(w, NULL);
	jw_string(w, "version", BAROSCOPE_VERSION);
	jw_double(w, "uptime_seconds", (double)(clock_mono_ns() - s->started_ns) / (double)NS_PER_S);
	jw_array(w, "profilers");
	jw_object(w, NULL);
	jw_string(w, "profiler", s->profiler_name);
	jw_string(w, "state", "running");
	jw_string(w, "rate", rate);
	jw_uint(w, "samples", stats.samples);
	jw_uint(w, "stored", stats.stored);
	jw_uint(w, "idle", stats.idle);
	jw_uint(w, "ticks", stats.ticks);
	jw_uint(w, "in_flight", stats.in_flight);
	jw_double(w, "cost_percent", s->cost.percent);
	jw_double(w, "bpf_seconds", stats.bpf_run_seconds);
	write_drops(w, stats.drops);
	write_incomplete(w, stats.incomplete);
	write_whole(w, stats.whole);
	jw_uint(w, "frames", stats.frames);
	jw_uint(w, "stacks", stats.stacks);
	jw_uint(w, "stacks_resent", stats.seen_full);
	jw_object_end(w);
	jw_array_end(w);
	jw_array(w, "sessions");
	jw_array_end(w);
	write_drops(w, stats.drops);

	jw_object(w, "memory");
	jw_uint(w, "rss_bytes", rss_bytes(getpid()) + rss_bytes(opener_pid) + rss_bytes(images.parser_pid));
	jw_uint(w, "map_bytes",
		track_memory_bytes(parts->track) + tables.tables.segments * sizeof(struct unwind_segment) +
			parts->ops->memory_bytes(parts->profiler));
	jw_uint(w, "profile_bytes", windows.bytes);
	jw_uint(w, "trie_bytes", trie_bytes(parts->trie));
	jw_uint(w, "string_bytes", intern_bytes(parts->strings));
	jw_object_end(w);

	jw_uint(w, "targets", targets.processes);
	jw_uint(w, "series", labels_count(parts->labels));
	jw_object(w, "store");
	jw_uint(w, "bytes", windows.bytes);
	if (windows.oldest_ns)
		jw_double(w, "oldest", (double)windows.oldest_ns / (double)NS_PER_S);
	else
		jw_null(w, "oldest");
	if (windows.evicted_early)
		jw_string(w, "problem",
			  "the limit of profile memory was reached: the oldest windows were dropped early");
	jw_object_end(w);

	jw_object(w, "images");
	jw_uint(w, "new", images.by_state[IMAGE_NEW]);
	jw_uint(w, "loading", images.by_state[IMAGE_LOADING]);
	jw_uint(w, "ready", images.by_state[IMAGE_READY]);
	jw_uint(w, "failed", images.by_state[IMAGE_FAILED]);
	jw_uint(w, "frames", images.frames);
	jw_uint(w, "frames_pending", images.frames_pending);
	jw_uint(w, "frames_nameless", images.frames_nameless);
	jw_uint(w, "parser_restarts", images.parser_restarts);
	jw_uint(w, "opener_restarts", images.opener_restarts);
	jw_uint(w, "parse_timeouts", images.parse_timeouts);
	jw_uint(w, "images_full", images.images_full);
	jw_uint(w, "frames_full", images.frames_full);
	jw_object_end(w);
	write_unwinding(w, &images, &tables);
	jw_object(w, "tracking");
	jw_uint(w, "events", track.stats.events);
	jw_uint(w, "events_lost", track.stats.events_lost + track.sideband_lost);
	jw_uint(w, "rescans", targets.rescans);
	jw_uint(w, "mappings", targets.mappings);
	jw_uint(w, "mappings_published", track.mappings_used);
	jw_uint(w, "mappings_full", track.mappings_full);
	jw_uint(w, "processes_full", targets.processes_full + track.stats.procs_full);
	jw_uint(w, "cgroups", targets.cgroups);
	jw_double(w, "bpf_seconds", track.run_seconds);
	jw_object_end(w);
	jw_object_end(w);
	return 0;
}

struct match {
	const struct selector *selector;
	const struct labels *labels;
};

static bool match_series(void *user, series_id series)
{
	const struct match *m = user;

	return selector_match(m->selector, m->labels, series);
}

static void selector_destroyp(struct selector **s)
{
	selector_destroy(*s);
}

static void profile_destroyp(struct profile **p)
{
	profile_destroy(*p);
}

static void top_destroyp(struct top **t)
{
	top_destroy(*t);
}

static int select_profile(struct service *s, const struct service_range *r, struct profile **ret, const char **ret_note,
			  struct err *e)
{
	_cleanup_(selector_destroyp) struct selector *selector = NULL;
	const struct profile_type *type = r->type ? profile_type_find(r->type) : NULL;
	uint64_t from_ns, until_ns;
	struct match match;
	int err;

	if (!r->type)
		return err_set(e, -EINVAL, "a profile type is missing, such as process_cpu");
	if (!type)
		return err_set(e, -ENOENT, "unknown profile type %s; there is process_cpu", r->type);
	err = selector_parse(r->selector ? r->selector : "{}", &selector, e);
	if (err)
		return err;
	err = time_range_parse(r->since, r->from, r->until, clock_wall_ns(), &from_ns, &until_ns, e);
	if (err)
		return err;
	match = (struct match){.selector = selector, .labels = s->parts->labels};
	err = windows_merge(s->parts->windows, from_ns, until_ns, match_series, &match, ret);
	if (err)
		return err_errno(e, err, "cannot merge the windows");
	*ret_note = (*ret)->entry_count ? NULL : "nothing selected: no samples in this range match the selector";
	return 0;
}

int service_top(struct service *s, const struct service_range *r, const char *by, uint64_t limit, struct json_writer *w,
		const char **ret_note, struct err *e)
{
	_cleanup_(profile_destroyp) struct profile *profile = NULL;
	_cleanup_(top_destroyp) struct top *top = NULL;
	enum top_by what = TOP_BY_FUNCTION;
	int err;

	if (by && !strcmp(by, "line"))
		what = TOP_BY_LINE;
	else if (by && strcmp(by, "function"))
		return err_set(e, -EINVAL, "top cannot be ordered by %s; there is function and line", by);
	err = select_profile(s, r, &profile, ret_note, e);
	if (err)
		return err;
	err = query_top(profile, s->parts->trie, s->parts->images, s->parts->strings, what, limit ? limit : 30, &top);
	if (err)
		return err_errno(e, err, "cannot compute the table");
	jw_array(w, NULL);
	for (size_t i = 0; i < top->count; i++) {
		const struct top_row *row = &top->rows[i];

		jw_object(w, NULL);
		jw_string(w, "function", row->function);
		jw_string(w, "file", row->file);
		jw_uint(w, "line", row->line);
		jw_uint(w, "self", row->self);
		jw_uint(w, "total", row->total);
		jw_double(w, "self_percent", row->self_percent);
		jw_double(w, "total_percent", row->total_percent);
		jw_double(w, "ci95", row->ci95);
		jw_object_end(w);
	}
	jw_array_end(w);
	return 0;
}

int service_export(struct service *s, const struct service_range *r, const char *format, struct buf *out,
		   bool *ret_binary, const char **ret_note, struct err *e)
{
	const struct export_format *f = export_format_find(format ? format : "pprof");
	_cleanup_(profile_destroyp) struct profile *profile = NULL;
	struct export_context context;
	int err;

	if (!f)
		return err_set(e, -EINVAL, "unknown format %s; there is pprof, folded and json", format);
	err = select_profile(s, r, &profile, ret_note, e);
	if (err)
		return err;
	context = (struct export_context){
		.profile = profile,
		.trie = s->parts->trie,
		.images = s->parts->images,
		.labels = s->parts->labels,
		.strings = s->parts->strings,
	};
	*ret_binary = f->binary;
	return f->write(&context, out, e);
}

int service_when_ready(struct service *s, service_ready_fn *fn, void *user)
{
	if (s->waiter_count == ARRAY_SIZE(s->waiters))
		return -EAGAIN;
	s->waiters[s->waiter_count++] = (struct service_waiter){
		.fn = fn,
		.user = user,
		.until_ns = clock_mono_ns() + READY_TIMEOUT_NS,
		.after_drain = s->drains + 1,
	};
	s->hurry(s->hurry_user);
	return 0;
}

void service_cancel(struct service *s, void *user)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->waiter_count; i++)
		if (s->waiters[i].user != user)
			s->waiters[kept++] = s->waiters[i];
	s->waiter_count = kept;
}

void service_after_drain(struct service *s)
{
	struct images_stats images;
	uint64_t now_ns = clock_mono_ns();
	bool settled;

	s->drains++;
	if (!s->waiter_count)
		return;
	images_get_stats(s->parts->images, &images);
	settled = !images.frames_pending && !pipeline_pending(s->pipeline);
	/* A callback may add or cancel waiters: start over after each. */
	for (size_t i = 0; i < s->waiter_count;) {
		struct service_waiter w = s->waiters[i];

		if ((!settled || s->drains < w.after_drain) && now_ns < w.until_ns) {
			i++;
			continue;
		}
		memmove(&s->waiters[i], &s->waiters[i + 1], (s->waiter_count - i - 1) * sizeof(w));
		s->waiter_count--;
		w.fn(w.user);
		/* Sampling goes on between answers, however many ask. */
		if (clock_mono_ns() - now_ns > ANSWER_SLICE_NS)
			break;
		i = 0;
	}
	if (s->waiter_count)
		s->hurry(s->hurry_user);
}
