/* User side of the tracker. Invariants:
 * 1. A batch holds events up to the moment before the ring was read; later ones of the side band wait in `carry`, so
 *    that a mapping never comes before the fork or exec that made its process.
 * 2. An exec stands at the time of its side-band record (the old mappings are gone, the new ones not yet there), not at
 *    that of the tracepoint, which fires when the new mappings are made already.
 * 3. A range of the mapping table is rewritten no earlier than RANGE_GRACE_NS after it was last named. */
#include "bpf/track/track.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "bpf/track/track.skel.h"
#include "bpf/track/track_ranges.h"
#include "bpf/track/track_sideband.h"
#include "daemon/util/clock.h"
#include "daemon/util/cpus.h"

#define RANGE_GRACE_NS (2 * NS_PER_S)
#define EXEC_HOLD_NS NS_PER_S
#define SIDEBAND_PAGES 16
#define MAX_BATCH_BYTES (64u << 20)

struct arena {
	char *data;
	size_t len, cap;
};

struct batch {
	struct arena arena;
	struct track_event *events; /* record and path pointers hold offsets + 1 until the batch is sealed */
	size_t count, cap;
};

struct published {
	uint32_t pid, generation, start, count;
};

#define VERIFIER_LOG_BYTES 65536
#define MAX_VERIFIER_LOGS 32

struct verifier_log {
	char program[BPF_OBJ_NAME_LEN];
	char *text;
};

struct track {
	struct track_bpf *skel;
	uint64_t hash_seed;
	bool log_verifier;
	struct verifier_log logs[MAX_VERIFIER_LOGS];
	size_t log_count;
	struct ring_buffer *ring;
	struct sideband *sideband;
	struct ranges *ranges;
	struct mapping_value *table; /* map `mappings` */
	size_t table_entries;
	struct published *published; /* sorted by pid, generation */
	size_t published_count, published_cap;
	uint16_t *range_holders; /* by a range's start: how many processes have it; forks share */
	uint64_t mappings_full;
	struct batch batches[2]; /* one is lent out, the other takes what is carried over */
	unsigned int current;
	size_t carry;	    /* events at the end of batches[current] that belong to the next drain */
	uint64_t order;	    /* even; the odd ones are for what is moved behind another event */
	uint64_t lost_seen; /* events and side-band records lost so far, as told by the last drain */
	uint64_t cpus_checked_ns;
	uint64_t malformed_samples, malformed_events;
	bool started;
	int error; /* of a ring callback */
};

static size_t power_of_two(size_t at_least)
{
	size_t n = 4096;

	while (n < at_least)
		n *= 2;
	return n;
}

static int silent(enum libbpf_print_level level _unused_, const char *fmt _unused_, va_list args _unused_)
{
	return 0;
}

static struct bpf_map *shared_map(const struct track *t, const char *name)
{
	return bpf_object__find_map_by_name(t->skel->obj, name);
}

/* Statistics only (level 4), each program into a buffer of its own. Before the object is loaded. */
static int log_programs(struct track *t, struct bpf_object *object)
{
	struct bpf_program *program;

	if (!t->log_verifier)
		return 0;
	bpf_object__for_each_program(program, object)
	{
		struct verifier_log *log = &t->logs[t->log_count];

		if (t->log_count == MAX_VERIFIER_LOGS)
			return -ENOSPC;
		log->text = calloc(1, VERIFIER_LOG_BYTES);
		if (!log->text)
			return -ENOMEM;
		(void)snprintf(log->program, sizeof(log->program), "%s", bpf_program__name(program));
		t->log_count++;
		bpf_program__set_log_level(program, 4);
		bpf_program__set_log_buf(program, log->text, VERIFIER_LOG_BYTES);
	}
	return 0;
}

void track_print_verified(const struct track *t, FILE *out)
{
	for (size_t i = 0; t && i < t->log_count; i++) {
		const char *processed = strstr(t->logs[i].text, "processed ");
		unsigned long insns = 0;

		if (processed)
			(void)sscanf(processed, "processed %lu insns", &insns);
		fprintf(out, "program %s insns %lu\n", t->logs[i].program, insns);
	}
}

int track_open(const struct track_options *options, struct track **ret, struct err *e)
{
	size_t cpus = cpus_possible(), ring = options->ring_bytes, entries = options->mappings;
	struct track *t = calloc(1, sizeof(*t));
	void *table;
	int err;

	if (!t)
		return err_set(e, -ENOMEM, "out of memory");
	libbpf_set_print(silent);
	if (getrandom(&t->hash_seed, sizeof(t->hash_seed), 0) != (ssize_t)sizeof(t->hash_seed))
		t->hash_seed = clock_mono_ns();
	if (!ring) {
		ring = power_of_two(cpus * (128u << 10));
		ring = ring < (512u << 10) ? 512u << 10 : ring > (4u << 20) ? 4u << 20 : ring;
	}
	if (!entries)
		entries = cpus <= 4 ? 65536 : 131072;
	t->skel = track_bpf__open();
	if (!t->skel) {
		err = err_errno(e, -errno, "cannot open the tracker's BPF programs");
		goto fail;
	}
	bpf_map__set_max_entries(t->skel->maps.ring, (uint32_t)power_of_two(ring));
	bpf_map__set_max_entries(t->skel->maps.mappings, (uint32_t)entries);
	if (options->procs) {
		bpf_map__set_max_entries(t->skel->maps.procs, (uint32_t)options->procs);
		bpf_map__set_max_entries(t->skel->maps.proc_ranges, (uint32_t)options->procs);
	}
	bpf_map__set_max_entries(shared_map(t, "stacks"), (uint32_t)(options->stacks ? options->stacks
								     : cpus <= 4     ? 16384
										     : 65536));
	t->log_verifier = options->log_verifier;
	err = log_programs(t, t->skel->obj);
	if (!err)
		err = track_bpf__load(t->skel);
	if (err) {
		err = err_errno(e, err,
				"the kernel refused the tracker's BPF programs (needs Linux 5.10 with BTF, CAP_BPF and "
				"CAP_PERFMON or root)");
		goto fail;
	}
	table = mmap(NULL, entries * sizeof(*t->table), PROT_READ | PROT_WRITE, MAP_SHARED,
		     bpf_map__fd(t->skel->maps.mappings), 0);
	if (table == MAP_FAILED) {
		err = err_errno(e, -errno, "cannot map the mapping table");
		goto fail;
	}
	t->table = table;
	t->table_entries = entries;
	t->range_holders = calloc(entries, sizeof(*t->range_holders));
	if (!t->range_holders) {
		err = err_set(e, -ENOMEM, "out of memory");
		goto fail;
	}
	err = ranges_create((uint32_t)entries, RANGE_GRACE_NS, &t->ranges);
	if (!err)
		err = sideband_create(SIDEBAND_PAGES, &t->sideband);
	if (err) {
		err_errno(e, err, "cannot prepare the tracker");
		goto fail;
	}
	*ret = t;
	return 0;
fail:
	track_close(t);
	return err;
}

void track_stop(struct track *t)
{
	if (!t || !t->started)
		return;
	track_bpf__detach(t->skel);
	sideband_destroy(t->sideband);
	t->sideband = NULL;
	t->started = false;
}

void track_close(struct track *t)
{
	if (!t)
		return;
	track_stop(t);
	sideband_destroy(t->sideband);
	ring_buffer__free(t->ring);
	if (t->table)
		munmap(t->table, t->table_entries * sizeof(*t->table));
	track_bpf__destroy(t->skel);
	ranges_destroy(t->ranges);
	free(t->range_holders);
	free(t->published);
	for (size_t i = 0; i < t->log_count; i++)
		free(t->logs[i].text);
	for (size_t i = 0; i < ARRAY_SIZE(t->batches); i++) {
		free(t->batches[i].arena.data);
		free(t->batches[i].events);
	}
	free(t);
}

static const char *const shared_names[] = {"ring",   "procs",	      "proc_ranges",  "mappings",
					   "stacks", "unwind_images", "unwind_infos", "unwind_segments"};

int track_share(struct track *t, struct bpf_object *object, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(shared_names); i++) {
		struct bpf_map *mine = shared_map(t, shared_names[i]);
		struct bpf_map *theirs = bpf_object__find_map_by_name(object, shared_names[i]);
		int err;

		if (!theirs)
			continue;
		if (!mine)
			return err_set(e, -ENOENT, "the tracker has no map %s", shared_names[i]);
		err = bpf_map__reuse_fd(theirs, bpf_map__fd(mine));
		if (err)
			return err_errno(e, err, "cannot share map %s", shared_names[i]);
	}
	if (log_programs(t, object))
		return err_set(e, -ENOMEM, "no room for the verifier's log");
	return 0;
}

/* Batches */

static int arena_put(struct arena *a, const void *data, size_t bytes, size_t *ret_offset)
{
	size_t at = (a->len + 7) & ~(size_t)7;

	if (at + bytes > a->cap) {
		size_t cap = a->cap ? a->cap : 65536;
		char *grown;

		while (cap < at + bytes)
			cap *= 2;
		if (cap > MAX_BATCH_BYTES)
			return -ENOSPC;
		grown = realloc(a->data, cap);
		if (!grown)
			return -ENOMEM;
		a->data = grown;
		a->cap = cap;
	}
	memcpy(a->data + at, data, bytes);
	a->len = at + bytes;
	*ret_offset = at;
	return 0;
}

/* Copies the event and what it points to; pointers become offsets + 1. */
static int batch_put(struct batch *b, const struct track_event *event)
{
	struct track_event copy = *event;
	size_t offset;
	int err;

	if (b->count == b->cap) {
		size_t cap = b->cap ? b->cap * 2 : 1024;
		struct track_event *grown = realloc(b->events, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		b->events = grown;
		b->cap = cap;
	}
	if (event->record) {
		err = arena_put(&b->arena, event->record, event->bytes, &offset);
		if (err)
			return err;
		copy.record = (const struct record_head *)(offset + 1);
	}
	if (event->mmap.path) {
		err = arena_put(&b->arena, event->mmap.path, strlen(event->mmap.path) + 1, &offset);
		if (err)
			return err;
		copy.mmap.path = (const char *)(offset + 1);
	}
	b->events[b->count++] = copy;
	return 0;
}

static void batch_seal(struct batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		struct track_event *ev = &b->events[i];

		if (ev->record)
			ev->record = (const struct record_head *)(b->arena.data + (size_t)ev->record - 1);
		if (ev->mmap.path)
			ev->mmap.path = b->arena.data + (size_t)ev->mmap.path - 1;
	}
}

/* The smallest size of a record of this type; 0 = unknown. */
static size_t record_bytes(uint8_t type)
{
	switch (type) {
	case RECORD_SAMPLE:
		return sizeof(struct record_sample);
	case RECORD_STACK:
		return sizeof(struct record_stack);
	case RECORD_FORK:
	case RECORD_EXEC:
	case RECORD_EXIT:
		return sizeof(struct record_process);
	case RECORD_CGROUP_MKDIR:
	case RECORD_CGROUP_RMDIR:
	case RECORD_CGROUP_RENAME:
		return sizeof(struct record_cgroup);
	default:
		return 0;
	}
}

static uint64_t record_time_ns(const struct record_head *head)
{
	switch (head->type) {
	case RECORD_SAMPLE:
		return ((const struct record_sample *)head)->time_ns;
	case RECORD_FORK:
	case RECORD_EXEC:
	case RECORD_EXIT:
		return ((const struct record_process *)head)->time_ns;
	case RECORD_CGROUP_MKDIR:
	case RECORD_CGROUP_RMDIR:
	case RECORD_CGROUP_RENAME:
		return ((const struct record_cgroup *)head)->time_ns;
	default:
		return 0; /* stacks: before all others */
	}
}

static bool record_is_sound(const struct record_head *head, size_t bytes)
{
	size_t least = bytes >= sizeof(*head) ? record_bytes(head->type) : 0;

	if (!least || bytes < least)
		return false;
	if (head->type == RECORD_STACK) {
		const struct record_stack *s = (const struct record_stack *)head;
		size_t frames = (size_t)s->kernel_frames + s->user_frames;

		return s->kernel_frames <= STACK_MAX_KERNEL_FRAMES && s->user_frames <= STACK_MAX_USER_FRAMES &&
		       bytes >= sizeof(*s) + frames * sizeof(abi_frame);
	}
	return true;
}

/* A sample is lost by itself; of the rest it is not known what they would have told. */
static void refuse(struct track *t, const struct record_head *head, size_t bytes)
{
	if (bytes >= sizeof(*head) && head->type == RECORD_SAMPLE)
		t->malformed_samples++;
	else
		t->malformed_events++;
}

static int on_record(void *user, void *data, size_t bytes)
{
	struct track *t = user;
	const struct record_head *head = data;
	struct track_event event = {.kind = TRACK_RECORD, .record = head};

	if (!record_is_sound(head, bytes)) {
		refuse(t, head, bytes);
		return 0;
	}
	event.pid = head->pid;
	event.bytes = (uint32_t)bytes;
	event.time_ns = record_time_ns(head);
	event.order = t->order += 2;
	if (batch_put(&t->batches[t->current], &event) < 0)
		refuse(t, head, bytes);
	return 0;
}

static int on_sideband(void *user, const struct track_event *event)
{
	struct track *t = user;
	struct track_event copy = *event;

	copy.order = t->order += 2;
	return batch_put(&t->batches[t->current], &copy);
}

static int compare_events(const void *a, const void *b)
{
	const struct track_event *x = a, *y = b;

	if (x->time_ns != y->time_ns)
		return x->time_ns < y->time_ns ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static const struct record_process *as_process(const struct track_event *ev, uint8_t type)
{
	return ev->kind == TRACK_RECORD && ev->record->type == type ? (const struct record_process *)ev->record : NULL;
}

/* Moves every exec to where its side-band record stands (invariant 2). Returns the time from which on the batch has to
 * wait for an exec that is not complete; UINT64_MAX = none. */
static uint64_t settle_execs(struct batch *b, uint64_t now_ns)
{
	uint64_t hold_from_ns = UINT64_MAX;
	bool moved = false;

	for (size_t i = 0; i < b->count; i++) {
		struct track_event *begin = &b->events[i];
		size_t k;

		if (begin->kind != TRACK_EXEC_BEGIN)
			continue;
		for (k = i + 1; k < b->count; k++) {
			struct track_event *ev = &b->events[k];

			if (ev->pid != begin->pid || ev->kind == TRACK_MMAP)
				continue;
			if (ev->kind == TRACK_EXEC_BEGIN || as_process(ev, RECORD_EXIT))
				break; /* it failed on the way */
			if (as_process(ev, RECORD_EXEC)) {
				struct record_process *r = (struct record_process *)as_process(ev, RECORD_EXEC);

				ev->time_ns = r->time_ns = begin->time_ns;
				ev->order = begin->order + 1;
				moved = true;
				break;
			}
		}
		if (k == b->count && begin->time_ns + EXEC_HOLD_NS > now_ns && begin->time_ns < hold_from_ns)
			hold_from_ns = begin->time_ns;
	}
	if (moved)
		qsort(b->events, b->count, sizeof(*b->events), compare_events);
	return hold_from_ns;
}

int track_drain(struct track *t, struct track_event **ret_events, size_t *ret_count, bool *ret_lost, struct err *e)
{
	struct batch *last = &t->batches[t->current], *b;
	size_t carry = t->carry, kept = 0;
	uint64_t until_ns, hold_ns, lost;
	struct track_info info;
	int err;

	t->current ^= 1;
	b = &t->batches[t->current];
	b->count = 0;
	b->arena.len = 0;
	t->carry = 0; /* also where this drain fails: the next one looks at another batch */
	for (size_t i = last->count - carry; i < last->count; i++) {
		err = batch_put(b, &last->events[i]);
		if (err)
			return err_errno(e, err, "cannot take over events");
	}

	until_ns = clock_mono_ns();
	if (until_ns - t->cpus_checked_ns >= NS_PER_S) {
		t->cpus_checked_ns = until_ns;
		if (cpus_refresh())
			(void)sideband_follow_cpus(t->sideband, NULL);
	}
	err = ring_buffer__consume(t->ring);
	if (err < 0)
		return err_errno(e, err, "cannot read the ring buffer");
	err = sideband_drain(t->sideband, on_sideband, t);
	if (err)
		return err_errno(e, err, "cannot read the side band");
	batch_seal(b);
	if (b->count)
		qsort(b->events, b->count, sizeof(*b->events), compare_events);
	hold_ns = settle_execs(b, until_ns);
	if (hold_ns < until_ns)
		until_ns = hold_ns - 1;

	/* Sorted, so what has to wait is the tail (invariant 1). */
	while (kept < b->count && b->events[kept].time_ns <= until_ns)
		kept++;
	t->carry = b->count - kept;

	err = track_get_info(t, &info);
	if (err)
		return err_errno(e, err, "cannot read the tracker's counters");
	lost = info.stats.events_lost + info.sideband_lost + t->malformed_events;
	*ret_lost = lost != t->lost_seen;
	t->lost_seen = lost;
	*ret_events = b->events;
	*ret_count = kept;
	return 0;
}

int track_start(struct track *t, struct err *e)
{
	int err;

	t->ring = ring_buffer__new(bpf_map__fd(t->skel->maps.ring), on_record, t, NULL);
	if (!t->ring)
		return err_errno(e, -errno, "cannot open the ring buffer");
	t->started = true;
	err = sideband_follow_cpus(t->sideband, e);
	if (err)
		return err;
	err = track_bpf__attach(t->skel);
	if (err)
		return err_errno(e, err, "cannot attach the tracker to its tracepoints");
	return 0;
}

size_t track_stack_capacity(const struct track *t)
{
	return bpf_map__max_entries(shared_map(t, "stacks"));
}

uint64_t track_hash_seed(const struct track *t)
{
	return t->hash_seed;
}

void track_table_maps(const struct track *t, int *ret_images_fd, int *ret_infos_fd, int *ret_segments_fd)
{
	*ret_images_fd = bpf_map__fd(t->skel->maps.unwind_images);
	*ret_infos_fd = bpf_map__fd(t->skel->maps.unwind_infos);
	*ret_segments_fd = bpf_map__fd(t->skel->maps.unwind_segments);
}

void track_forget_stack(struct track *t, uint64_t stack_id)
{
	(void)bpf_map_delete_elem(bpf_map__fd(shared_map(t, "stacks")), &stack_id);
}

/* Published mappings */

static size_t published_find(const struct track *t, uint32_t pid, uint32_t generation)
{
	size_t low = 0, high = t->published_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct published *p = &t->published[middle];

		if (p->pid < pid || (p->pid == pid && p->generation < generation))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool published_is(const struct track *t, size_t at, uint32_t pid, uint32_t generation)
{
	return at < t->published_count && t->published[at].pid == pid && t->published[at].generation == generation;
}

static int published_reserve(struct track *t)
{
	size_t cap = t->published_cap ? t->published_cap * 2 : 256;
	struct published *grown;

	if (t->published_count < t->published_cap)
		return 0;
	grown = realloc(t->published, cap * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	t->published = grown;
	t->published_cap = cap;
	return 0;
}

static void published_insert(struct track *t, size_t at, struct published p)
{
	memmove(t->published + at + 1, t->published + at, (t->published_count - at) * sizeof(*t->published));
	t->published[at] = p;
	t->published_count++;
}

/* The range is given back with its last holder. */
static void range_release(struct track *t, const struct published *p, uint64_t now_ns)
{
	if (--t->range_holders[p->start] == 0)
		ranges_give(t->ranges, p->start, p->count, now_ns);
}

int track_publish(void *track, uint32_t pid, uint32_t generation, const struct mapping *mappings, size_t count)
{
	struct track *t = track;
	uint64_t now_ns = clock_mono_ns();
	size_t at = published_find(t, pid, generation);
	bool known = published_is(t, at, pid, generation);
	struct range_value value = {.generation = generation, .pid = pid};
	size_t filled = 0;
	int err;

	for (size_t i = 0; i < count; i++)
		value.count += mappings[i].image != IMAGE_NONE;
	if (!value.count)
		return 0;
	err = published_reserve(t);
	if (err)
		return err;
	err = ranges_take(t->ranges, value.count, now_ns, &value.start);
	if (err) {
		t->mappings_full++;
		return err;
	}
	for (size_t i = 0; i < count; i++)
		if (mappings[i].image != IMAGE_NONE)
			t->table[value.start + filled++] = (struct mapping_value){
				.start = mappings[i].start,
				.offset = mappings[i].offset,
				.pages = (uint32_t)((mappings[i].end - mappings[i].start) >> 12),
				.image = mappings[i].image,
			};
	__atomic_thread_fence(__ATOMIC_RELEASE);
	err = bpf_map_update_elem(bpf_map__fd(t->skel->maps.proc_ranges), &pid, &value, BPF_ANY);
	if (err) {
		ranges_give(t->ranges, value.start, value.count, now_ns);
		t->mappings_full++;
		return err;
	}
	t->range_holders[value.start] = 1;
	if (known) {
		range_release(t, &t->published[at], now_ns);
		t->published[at] = (struct published){pid, generation, value.start, value.count};
	} else {
		published_insert(t, at, (struct published){pid, generation, value.start, value.count});
	}
	return 0;
}

int track_inherit(void *track, uint32_t pid, uint32_t generation, uint32_t parent_pid, uint32_t parent_generation)
{
	struct track *t = track;
	size_t parent = published_find(t, parent_pid, parent_generation), at = published_find(t, pid, generation);
	int fd = bpf_map__fd(t->skel->maps.proc_ranges), err;
	struct range_value value;
	struct published p;

	if (!published_is(t, parent, parent_pid, parent_generation) || published_is(t, at, pid, generation))
		return -ENOENT;
	p = (struct published){pid, generation, t->published[parent].start, t->published[parent].count};
	/* The parent may have been published anew since the fork: what the child was given is another range then. */
	if (bpf_map_lookup_elem(fd, &pid, &value) || value.generation != generation || value.start != p.start ||
	    value.count != p.count || t->range_holders[p.start] == UINT16_MAX)
		return -ENOENT;
	err = published_reserve(t);
	if (err)
		return err;
	t->range_holders[p.start]++;
	published_insert(t, at, p);
	return 0;
}

void track_retire(void *track, uint32_t pid, uint32_t generation)
{
	struct track *t = track;
	int fd = bpf_map__fd(t->skel->maps.proc_ranges);
	size_t at = published_find(t, pid, generation);
	struct range_value value;

	/* Also what a child was given at its fork and never got from us. */
	if (!bpf_map_lookup_elem(fd, &pid, &value) && value.generation == generation)
		(void)bpf_map_delete_elem(fd, &pid);
	if (!published_is(t, at, pid, generation))
		return;
	range_release(t, &t->published[at], clock_mono_ns());
	memmove(t->published + at, t->published + at + 1, (t->published_count - at - 1) * sizeof(*t->published));
	t->published_count--;
}

int track_enter(void *track, uint32_t pid, uint32_t *ret_generation)
{
	struct track *t = track;
	int fd = bpf_map__fd(t->skel->maps.procs);
	struct proc_value value = {.generation = GENERATION_SCANNED};

	if (bpf_map_update_elem(fd, &pid, &value, BPF_NOEXIST) < 0) {
		if (errno != EEXIST)
			return -errno;
		if (bpf_map_lookup_elem(fd, &pid, &value) < 0)
			return -errno;
	} else if (kill((pid_t)pid, 0) < 0 && errno == ESRCH) {
		/* It ended before it was entered, so no exit will take it out. */
		(void)bpf_map_delete_elem(fd, &pid);
		return -ESRCH;
	}
	*ret_generation = value.generation;
	return 0;
}

/* Figures */

static uint64_t map_bytes(int map_fd)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64], line[256];
	uint64_t bytes = 0;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", map_fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "memlock: %" SCNu64, &bytes) == 1)
			break;
	return bytes;
}

int track_get_info(struct track *t, struct track_info *ret)
{
	size_t cpus = (size_t)libbpf_num_possible_cpus();
	_cleanup_free_ struct track_stats *per_cpu = calloc(cpus, sizeof(*per_cpu));
	struct track_info info = {0};
	uint32_t zero = 0;

	if (!per_cpu)
		return -ENOMEM;
	if (bpf_map_lookup_elem(bpf_map__fd(t->skel->maps.track_stats), &zero, per_cpu) < 0)
		return -errno;
	for (size_t i = 0; i < cpus; i++) {
		info.stats.events += per_cpu[i].events;
		info.stats.events_lost += per_cpu[i].events_lost;
		info.stats.procs_full += per_cpu[i].procs_full;
		info.stats.timed_runs += per_cpu[i].timed_runs;
		info.stats.timed_ns += per_cpu[i].timed_ns;
	}
	if (info.stats.timed_runs)
		info.run_seconds = (double)info.stats.timed_ns / (double)info.stats.timed_runs *
				   (double)info.stats.events / (double)NS_PER_S;
	info.mappings_used = ranges_used(t->ranges);
	info.mappings_full = t->mappings_full;
	info.sideband_lost = t->sideband ? sideband_lost(t->sideband) : 0;
	*ret = info;
	return 0;
}

uint64_t track_own_map_bytes(const struct bpf_object *object)
{
	uint64_t bytes = 0;
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
	{
		bool shared = false;

		for (size_t i = 0; i < ARRAY_SIZE(shared_names); i++)
			shared |= !strcmp(bpf_map__name(map), shared_names[i]);
		if (!shared)
			bytes += map_bytes(bpf_map__fd(map));
	}
	return bytes;
}

uint64_t track_memory_bytes(struct track *t)
{
	uint64_t bytes = t->sideband ? sideband_bytes(t->sideband) : 0;
	struct bpf_map *map;

	bpf_object__for_each_map(map, t->skel->obj) bytes += map_bytes(bpf_map__fd(map));
	return bytes;
}

uint64_t track_malformed_samples(const struct track *t)
{
	return t->malformed_samples;
}
