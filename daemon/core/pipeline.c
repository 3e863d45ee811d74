#include "daemon/core/pipeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/stacks.h"
#include "daemon/util/clock.h"

/* A sample waits this long for its process; then it is filed with what is known. Below the windows' close delay. */
#define PENDING_NS NS_PER_S
/* A stack that nobody hit for so long is forgotten. */
#define STACK_IDLE_NS (10 * 60 * NS_PER_S)
#define SWEEP_INTERVAL_NS (60 * NS_PER_S)
/* Where it is crowded. */
#define SWEEP_CROWDED_INTERVAL_NS (5 * NS_PER_S)

struct pending {
	struct record_sample record;
	struct process *process; /* held */
};

struct pipeline {
	struct pipeline_parts parts;
	struct pipeline_options options;
	struct stacks *stacks;
	struct pending *pending;
	size_t pending_count;
	size_t pending_cap;
	uint64_t wall_offset_ns; /* wall clock - monotonic clock */
	uint64_t stored;
	uint64_t user_drops[DROP_CAUSE_COUNT];
	uint64_t user_incomplete[INCOMPLETE_CAUSE_COUNT];
	struct profiler_drops counted; /* what was told to the windows */
	uint64_t malformed_counted;
	uint64_t swept_ns;
};

static void forget_stack(void *user, uint64_t stack_id)
{
	track_forget_stack(user, stack_id);
}

int pipeline_create(const struct pipeline_parts *parts, const struct pipeline_options *options, struct pipeline **ret)
{
	struct pipeline *p = calloc(1, sizeof(*p));
	struct stacks_forget forget = {.stack = forget_stack, .user = parts->track};
	int err;

	if (!p)
		return -ENOMEM;
	p->parts = *parts;
	p->options = *options;
	p->swept_ns = clock_mono_ns();
	if (!p->options.max_stacks)
		p->options.max_stacks = 65536;
	if (!p->options.kernel_stacks)
		p->options.kernel_stacks = p->options.max_stacks;
	if (!p->options.max_pending)
		p->options.max_pending = 65536;
	err = stacks_create(parts->trie, parts->images, p->options.max_stacks, &forget, &p->stacks);
	if (err) {
		free(p);
		return err;
	}
	*ret = p;
	return 0;
}

void pipeline_destroy(struct pipeline *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->pending_count; i++)
		targets_release(p->parts.targets, p->pending[i].process);
	free(p->pending);
	stacks_destroy(p->stacks);
	free(p);
}

static void lose(struct pipeline *p, uint64_t wall_ns, enum drop_cause cause)
{
	p->user_drops[cause]++;
	windows_count_lost(p->parts.windows, wall_ns, cause, 1);
}

static int wait_for_process(struct pipeline *p, const struct record_sample *r, struct process *process)
{
	if (p->pending_count >= p->options.max_pending)
		return -ENOSPC;
	if (p->pending_count == p->pending_cap) {
		size_t cap = p->pending_cap ? p->pending_cap * 2 : 256;
		struct pending *grown = realloc(p->pending, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		p->pending = grown;
		p->pending_cap = cap;
	}
	p->pending[p->pending_count++] = (struct pending){.record = *r, .process = targets_hold(process)};
	return 0;
}

/* The kernel side remembers fewer stacks than we can keep; what it cannot remember it sends again at every hit. */
static bool is_crowded(const struct pipeline *p)
{
	return stacks_count(p->stacks) > p->options.kernel_stacks / 10 * 9;
}

static enum drop_cause cause_of(int err)
{
	switch (err) {
	case -ENOENT:
		return DROP_STACK_UNKNOWN;
	case -ESTALE:
		return DROP_LATE;
	case -EACCES:
		return DROP_DENIED;
	default:
		return DROP_TRIE_FULL;
	}
}

/* Without memory a sample is filed without its name. */
static intern_id name_of(struct pipeline *p, const char *comm)
{
	intern_id id;

	return intern_put(p->parts.strings, comm, strnlen(comm, COMM_BYTES), &id) ? INTERN_EMPTY : id;
}

/* 0: filed or lost, and counted; -EAGAIN: its process is still being read. */
static int file_sample(struct pipeline *p, const struct record_sample *r, struct process *process, uint64_t now_ns)
{
	uint64_t wall_ns = r->time_ns + p->wall_offset_ns;
	bool final = now_ns > r->time_ns + PENDING_NS;
	struct labelled_sample s = {
		.wall_ns = wall_ns,
		.pid = r->head.pid,
		.count = 1,
		.value = p->parts.ops->sample_value(p->parts.profiler, r->head.cpu),
	};
	struct stack_view stack;
	int err;

	err = stacks_resolve(p->stacks, r->stack_id, process, final, now_ns, &stack);
	if (err == -EAGAIN)
		return err;
	if (err) {
		lose(p, wall_ns, cause_of(err));
		return 0;
	}
	s.node = stack.node;
	s.comm = name_of(p, r->comm);
	s.thread = memcmp(r->thread, r->comm, COMM_BYTES) ? name_of(p, r->thread) : s.comm;
	if (stack.raw || stack.incomplete & (1u << INCOMPLETE_NO_MAPPINGS))
		targets_want_published(p->parts.targets, process);
	err = target_label(p->parts.targets, process, r->head.hierarchy, r->cgroup_id, s.comm, now_ns, final,
			   &s.series);
	if (err == -EAGAIN)
		return err;
	if (err) {
		lose(p, wall_ns, err == -EACCES ? DROP_DENIED : DROP_SERIES_FULL);
		return 0;
	}
	err = windows_add(p->parts.windows, &s);
	if (err) {
		lose(p, wall_ns, err == -ESTALE ? DROP_LATE : DROP_WINDOW_FULL);
		return 0;
	}
	p->stored++;
	for (int i = 0; i < INCOMPLETE_CAUSE_COUNT; i++)
		if (stack.incomplete & (1u << i)) {
			p->user_incomplete[i]++;
			windows_count_incomplete(p->parts.windows, wall_ns, i, 1);
		}
	return 0;
}

static void on_sample(struct pipeline *p, const struct record_sample *r, uint64_t now_ns)
{
	uint64_t wall_ns = r->time_ns + p->wall_offset_ns;
	struct process *process = targets_get(p->parts.targets, r->head.pid, r->generation, r->time_ns);

	if (!process) {
		lose(p, wall_ns, DROP_PENDING_FULL);
		return;
	}
	if (file_sample(p, r, process, now_ns) == -EAGAIN && wait_for_process(p, r, process))
		lose(p, wall_ns, DROP_PENDING_FULL);
}

static void on_record(struct pipeline *p, const struct record_head *head, uint64_t now_ns)
{
	const void *record = head;

	switch (head->type) {
	case RECORD_SAMPLE:
		on_sample(p, record, now_ns);
		break;
	case RECORD_STACK:
		/* A stack that finds no room is missed by its samples, which are counted. */
		(void)stacks_add(p->stacks, record, now_ns);
		break;
	case RECORD_FORK:
		targets_on_fork(p->parts.targets, record);
		break;
	case RECORD_EXEC:
		targets_on_exec(p->parts.targets, record);
		break;
	case RECORD_EXIT:
		targets_on_exit(p->parts.targets, record);
		break;
	default:
		targets_on_cgroup(p->parts.targets, record);
		break;
	}
}

static void retry_pending(struct pipeline *p, uint64_t now_ns)
{
	size_t kept = 0;

	for (size_t i = 0; i < p->pending_count; i++) {
		struct pending entry = p->pending[i];

		if (file_sample(p, &entry.record, entry.process, now_ns) == -EAGAIN)
			p->pending[kept++] = entry;
		else
			targets_release(p->parts.targets, entry.process);
	}
	p->pending_count = kept;
}

/* Time that passed on a CPU without a sample, as a frame of its own: in no service's total, and no sample. */
static void add_not_run(struct pipeline *p, uint64_t wall_ns, uint64_t ticks)
{
	struct labelled_sample s = {.wall_ns = wall_ns, .value = ticks * (NS_PER_S / p->options.rate_hz)};
	frame_id frame;

	if (images_special_frame(p->parts.images, SPECIAL_NOT_RUN, &frame) ||
	    trie_child(p->parts.trie, NODE_ROOT, frame, &s.node) || targets_host_series(p->parts.targets, &s.series))
		return; /* the counters have it all the same */
	(void)windows_add(p->parts.windows, &s);
}

/* Tells the windows what the kernel side counted since the last time. */
static int count_kernel_side(struct pipeline *p, uint64_t wall_ns)
{
	struct profiler_drops d;
	uint64_t malformed = track_malformed_samples(p->parts.track) - p->malformed_counted;
	int err = p->parts.ops->read_drops(p->parts.profiler, &d);

	if (err)
		return err;
	windows_count_ticks(p->parts.windows, wall_ns, d.ticks - p->counted.ticks, d.idle - p->counted.idle);
	for (int i = 0; i < DROP_CAUSE_COUNT; i++)
		if (d.lost[i] > p->counted.lost[i])
			windows_count_lost(p->parts.windows, wall_ns, i, d.lost[i] - p->counted.lost[i]);
	if (d.lost[DROP_NOT_RUN] > p->counted.lost[DROP_NOT_RUN])
		add_not_run(p, wall_ns, d.lost[DROP_NOT_RUN] - p->counted.lost[DROP_NOT_RUN]);
	for (; malformed; malformed--, p->malformed_counted++)
		lose(p, wall_ns, DROP_MALFORMED);
	p->counted = d;
	return 0;
}

/* Drops what no window, process or stack needs any more. */
static void sweep(struct pipeline *p)
{
	uint64_t now_ns = clock_mono_ns(), idle_ns = STACK_IDLE_NS;

	/* Under pressure the patience is shorter. */
	if (is_crowded(p))
		idle_ns = 10 * NS_PER_S;
	p->swept_ns = now_ns;
	intern_begin_mark(p->parts.strings);
	labels_begin_mark(p->parts.labels);
	trie_begin_mark(p->parts.trie);
	images_begin_mark(p->parts.images);
	windows_mark(p->parts.windows, p->parts.trie, p->parts.labels, p->parts.strings);
	stacks_sweep(p->stacks, now_ns > idle_ns ? now_ns - idle_ns : 0);
	targets_mark_strings(p->parts.targets, p->parts.strings);
	labels_sweep(p->parts.labels);
	trie_sweep(p->parts.trie, p->parts.images);
	images_sweep(p->parts.images);
	intern_sweep(p->parts.strings);
}

int pipeline_drain(struct pipeline *p, struct err *e)
{
	struct track_event *events;
	uint64_t now_ns, wall_ns;
	size_t count;
	bool lost;
	int err;

	err = p->parts.ops->drain(p->parts.profiler, e);
	if (err)
		return err;
	err = track_drain(p->parts.track, &events, &count, &lost, e);
	if (err)
		return err;
	now_ns = clock_mono_ns();
	wall_ns = clock_wall_ns();
	p->wall_offset_ns = wall_ns - now_ns;

	retry_pending(p, now_ns);
	for (size_t i = 0; i < count; i++) {
		if (events[i].kind == TRACK_RECORD)
			on_record(p, events[i].record, now_ns);
		else if (events[i].kind == TRACK_MMAP)
			targets_on_mmap(p->parts.targets, &events[i].mmap);
		else
			targets_on_exec_begin(p->parts.targets, events[i].pid, events[i].time_ns);
	}
	if (lost) {
		err = targets_rescan(p->parts.targets, track_enter, p->parts.track, e);
		if (err)
			return err;
	}
	targets_tick(p->parts.targets, now_ns);
	err = count_kernel_side(p, wall_ns);
	if (err)
		return err_errno(e, err, "cannot read the profiler's counters");
	windows_advance(p->parts.windows, wall_ns);
	images_kick(p->parts.images);
	if (now_ns - p->swept_ns > (is_crowded(p) ? SWEEP_CROWDED_INTERVAL_NS : SWEEP_INTERVAL_NS))
		sweep(p);
	return 0;
}

size_t pipeline_pending(const struct pipeline *p)
{
	return p->pending_count;
}

int pipeline_get_stats(struct pipeline *p, struct pipeline_stats *ret)
{
	struct pipeline_stats s = {0};
	struct profiler_drops d;
	int err = p->parts.ops->read_drops(p->parts.profiler, &d);

	if (err)
		return err;
	s.ticks = d.ticks;
	s.idle = d.idle;
	s.samples = d.reported;
	s.in_flight = d.in_flight;
	s.stored = p->stored + p->pending_count;
	for (int i = 0; i < DROP_CAUSE_COUNT; i++) {
		s.drops[i] = d.lost[i] + p->user_drops[i];
		s.samples -= p->user_drops[i];
	}
	for (int i = 0; i < INCOMPLETE_CAUSE_COUNT; i++)
		s.incomplete[i] = p->user_incomplete[i];
	s.stacks = stacks_count(p->stacks);
	s.seen_full = d.seen_full;
	s.frames = d.frames;
	memcpy(s.whole, d.whole, sizeof(s.whole));
	s.bpf_run_seconds = d.run_seconds;
	*ret = s;
	return 0;
}
