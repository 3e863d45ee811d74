/* The scan of /proc: at start, and again after events of the kernel were lost. Part of the table of processes, loop
 * thread only.
 *
 * The scan at start reads synchronously, which runs the loop and so must not be done from within it. A rescan is asked
 * for from within the loop: it reads one process after the other by the opener's callbacks. Either way the table may
 * change between two reads, and nothing of it is held across one: an event that came after a process's read was begun
 * is newer than what was read. */
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "daemon/target/proc_text.h"
#include "daemon/target/target_internal.h"
#include "daemon/util/clock.h"

/* Where events are lost all the time, scans must not make it worse. */
#define RESCAN_INTERVAL_NS (5 * NS_PER_S)

struct found {
	uint32_t pid, parent;
	uint64_t start_ticks;
	char comm[COMM_BYTES];
};

static int read_stat(struct targets *t, uint32_t pid, struct found *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	r = opener_read_proc_sync(t->opener, pid, PROC_FILE_STAT, &text, &len);
	if (r < 0)
		return r;
	ret->pid = pid;
	return stat_parse(text, len, ret->comm, &ret->parent, &ret->start_ticks);
}

/* Lays what was mapped since the read was begun over what was read. */
static void add_newer(const struct process *p, struct space **space, uint64_t began_ns)
{
	struct space *newer;

	if (space_clone(p->space, began_ns, &newer) < 0)
		return;
	if (newer->count && space_lay_over(newer, *space) == 0) {
		newer->state = SPACE_READY;
		space_unref(*space);
		*space = newer;
		return;
	}
	space_unref(newer);
}

/* The process with its mappings as they are now. *space is taken over where it is of use. */
static void enter_found(struct targets *t, const struct found *f, uint32_t generation, struct space **space,
			uint64_t began_ns)
{
	struct process *p = target_newest(t, f->pid), *parent;
	uint64_t start_ns = 0;

	/* It ended while it was read. */
	if (p && p->end_ns > began_ns)
		return;
	if (p && !p->end_ns) {
		bool same = p->generation == generation || (p->placeholder && p->generation == 0);

		if (p->start_ticks && p->start_ticks != f->start_ticks)
			same = false;
		/* Began while the scan was under way: its event is younger than what was read. */
		if (p->start_ns > began_ns)
			return;
		if (same) {
			p->generation = generation;
			p->start_ticks = f->start_ticks;
			p->scan = t->scan;
			p->placeholder = false;
			memcpy(p->comm, f->comm, COMM_BYTES);
			/* What is known is kept where the maps could not be read, and the sharing where nothing is new.
			 */
			if ((*space)->state != SPACE_READY)
				return;
			add_newer(p, space, began_ns);
			if (p->space->state == SPACE_READY && space_equal(p->space, *space))
				return;
			space_unref(p->space);
			p->space = *space;
			*space = NULL;
			return;
		}
		target_end(t, p, began_ns, false);
	}
	if (p)
		start_ns = p->end_ns;
	/* Forks have the same mappings until one of them execs: share them, as if the fork had been seen. */
	parent = target_newest(t, f->parent);
	if (parent && !parent->end_ns && parent->space->state == SPACE_READY && (*space)->count &&
	    space_equal(parent->space, *space)) {
		space_unref(*space);
		*space = space_ref(parent->space);
	}
	p = target_enter(t, f->pid, generation, start_ns, *space, environment_create(), NULL);
	*space = NULL;
	if (!p)
		return;
	target_disown(t, p);
	p->start_ticks = f->start_ticks;
	p->scan = t->scan;
	memcpy(p->comm, f->comm, COMM_BYTES);
}

static void space_cleanup(struct space **s)
{
	*s = space_unref(*s);
}

/* Could not be read, which is no sign that it ended: it is kept as it is. */
static void keep_unless_gone(struct targets *t, uint32_t pid, int error)
{
	struct process *p = target_newest(t, pid);

	if (p && !p->end_ns && error < 0 && error != -ENOENT && error != -ESRCH)
		p->scan = t->scan;
}

/* 0 also when the process went away meanwhile. */
static int scan_process(struct targets *t, uint32_t pid, targets_enter_fn *enter, void *user, uint64_t began_ns)
{
	_cleanup_(space_cleanup) struct space *space = NULL;
	_cleanup_free_ char *maps = NULL;
	struct found before, after;
	uint32_t generation = GENERATION_SCANNED;
	size_t len = 0;
	int r;

	r = read_stat(t, pid, &before);
	if (r < 0) {
		keep_unless_gone(t, pid, r);
		return 0;
	}
	/* The kernel side first: what is mapped from now on comes as an event. */
	if (enter) {
		r = enter(user, pid, &generation);
		if (r == -ENOMEM)
			return r;
		if (r < 0)
			generation = GENERATION_SCANNED;
	}
	r = opener_read_proc_sync(t->opener, pid, PROC_FILE_MAPS, &maps, &len);
	/* Another process by now: its fork was seen, so it comes as an event. */
	if (read_stat(t, pid, &after) < 0 || after.start_ticks != before.start_ticks)
		return 0;
	if (space_create(&t->spaces, r < 0 ? SPACE_UNREAD : SPACE_READY, &space) < 0)
		return -ENOMEM;
	if (r == 0 && target_fill_space(t, space, pid, maps, len) < 0)
		return -ENOMEM;
	enter_found(t, &after, generation, &space, began_ns);
	return 0;
}

static int compare_pids(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The numeric names in the directory, in ascending order: parents mostly come before their forks. */
static int list_pids(const char *proc_root, uint32_t **ret_pids, size_t *ret_count, struct err *e)
{
	_cleanup_free_ uint32_t *pids = NULL;
	size_t count = 0, cap = 0;
	struct dirent *entry;
	DIR *dir = opendir(proc_root);

	if (!dir)
		return err_errno(e, -errno, "cannot open %s", proc_root);
	while ((entry = readdir(dir))) {
		char *end;
		unsigned long pid = strtoul(entry->d_name, &end, 10);

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || *end || pid > INT32_MAX)
			continue;
		if (count == cap) {
			uint32_t *more;

			cap = cap ? 2 * cap : 512;
			more = realloc(pids, cap * sizeof(*pids));
			if (!more) {
				closedir(dir);
				return err_set(e, -ENOMEM, "no memory to list the processes");
			}
			pids = more;
		}
		pids[count++] = (uint32_t)pid;
	}
	closedir(dir);
	if (count)
		qsort(pids, count, sizeof(*pids), compare_pids);
	*ret_pids = TAKE_PTR(pids);
	*ret_count = count;
	return 0;
}

/* Who was not found has ended, and the event of it was lost. */
static void end_missing(struct targets *t, uint64_t began_ns)
{
	struct pid_slot *slot, *tmp;

	HASH_ITER (hh, t->table, slot, tmp) {
		struct process *p = slot->newest;

		if (!p->end_ns && p->scan != t->scan && p->start_ns <= began_ns)
			target_end(t, p, began_ns, false);
	}
}

int targets_scan(struct targets *t, targets_enter_fn *enter, void *user, struct err *e)
{
	uint64_t began_ns = clock_mono_ns();
	_cleanup_free_ uint32_t *pids = NULL;
	size_t count = 0;
	int r;

	r = list_pids(t->proc_root, &pids, &count, e);
	if (r < 0)
		return r;
	if (t->scan++)
		t->stats.rescans++;
	for (size_t i = 0; i < count; i++) {
		r = scan_process(t, pids[i], enter, user, began_ns);
		if (r < 0)
			return err_errno(e, r, "the scan of the processes ended early");
	}
	end_missing(t, began_ns);
	return 0;
}

/* A rescan under way. While it waits for an answer it belongs to the opener's callback, which frees it when the table
 * is gone. */
struct rescan {
	struct targets *targets; /* NULL: the table is gone */
	targets_enter_fn *enter;
	void *user;
	uint64_t began_ns;
	uint32_t *pids;
	size_t count, next;
	bool asked; /* an answer is due */
	/* Of pids[next]: stat, maps, stat again. */
	enum { STEP_BEFORE, STEP_MAPS, STEP_AFTER } step;
	uint64_t asked_ns; /* its first read was begun */
	struct found before;
	uint32_t generation;
	struct space *space;
};

static void rescan_free(struct rescan *s)
{
	space_unref(s->space);
	free(s->pids);
	free(s);
}

static void next_process(struct rescan *s)
{
	s->space = space_unref(s->space);
	s->step = STEP_BEFORE;
	s->next++;
}

static void take_answer(struct rescan *s, int error, const char *text, size_t len)
{
	struct targets *t = s->targets;
	uint32_t pid = s->pids[s->next];
	struct found after = {.pid = pid};

	switch (s->step) {
	case STEP_BEFORE:
		if (!error)
			error = stat_parse(text, len, s->before.comm, &s->before.parent, &s->before.start_ticks);
		if (error < 0)
			break;
		/* The kernel side first: what is mapped from now on comes as an event. */
		s->generation = GENERATION_SCANNED;
		if (s->enter(s->user, pid, &s->generation) < 0)
			s->generation = GENERATION_SCANNED;
		s->step = STEP_MAPS;
		return;
	case STEP_MAPS:
		if (space_create(&t->spaces, error < 0 ? SPACE_UNREAD : SPACE_READY, &s->space) < 0 ||
		    (!error && target_fill_space(t, s->space, pid, text, len) < 0)) {
			error = -ENOMEM;
			break;
		}
		s->step = STEP_AFTER;
		return;
	case STEP_AFTER:
		if (!error)
			error = stat_parse(text, len, after.comm, &after.parent, &after.start_ticks);
		/* Another process by now: its fork comes as an event. */
		if (!error && after.start_ticks == s->before.start_ticks)
			enter_found(t, &after, s->generation, &s->space, s->asked_ns);
		break;
	}
	keep_unless_gone(t, pid, error);
	next_process(s);
}

static void rescan_step(struct targets *t);

static void on_rescan_answer(void *user, int error, const char *text, size_t len)
{
	struct rescan *s = user;

	s->asked = false;
	if (!s->targets) {
		rescan_free(s);
		return;
	}
	take_answer(s, error, text, len);
	rescan_step(s->targets);
}

/* Asks for what comes next, or ends the scan. Where the opener takes no more the next tick asks again. */
static void rescan_step(struct targets *t)
{
	struct rescan *s = t->rescan;

	if (s->next == s->count) {
		end_missing(t, s->began_ns);
		t->rescan = NULL;
		rescan_free(s);
		return;
	}
	if (s->step == STEP_BEFORE)
		s->asked_ns = clock_mono_ns();
	s->asked = !opener_read_proc(t->opener, s->pids[s->next],
				     s->step == STEP_MAPS ? PROC_FILE_MAPS : PROC_FILE_STAT, on_rescan_answer, s);
}

static int rescan_begin(struct targets *t, struct err *e)
{
	struct rescan *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(e, -ENOMEM, "no memory to scan the processes again");
	*s = (struct rescan){
		.targets = t, .enter = t->rescan_enter, .user = t->rescan_user, .began_ns = clock_mono_ns()};
	t->rescan_next_ns = s->began_ns + RESCAN_INTERVAL_NS;
	r = targets_scan_cgroups(t, e);
	if (!r)
		r = list_pids(t->proc_root, &s->pids, &s->count, e);
	if (r < 0) {
		rescan_free(s);
		return r;
	}
	t->rescan_due = false;
	t->scan++;
	t->stats.rescans++;
	t->rescan = s;
	rescan_step(t);
	return 0;
}

int targets_rescan(struct targets *t, targets_enter_fn *enter, void *user, struct err *e)
{
	t->rescan_enter = enter;
	t->rescan_user = user;
	t->rescan_due = true;
	if (t->rescan || clock_mono_ns() < t->rescan_next_ns)
		return 0;
	return rescan_begin(t, e);
}

void target_rescan_tick(struct targets *t)
{
	if (t->rescan && !t->rescan->asked)
		rescan_step(t);
	else if (!t->rescan && t->rescan_due && clock_mono_ns() >= t->rescan_next_ns)
		(void)rescan_begin(t, NULL); /* still due then, and tried again */
}

void target_rescan_cancel(struct targets *t)
{
	struct rescan *s = TAKE_PTR(t->rescan);

	if (!s)
		return;
	s->space = space_unref(s->space); /* while its images are there */
	s->targets = NULL;
	if (s->asked)
		opener_cancel(t->opener, s); /* the callback frees it, perhaps at once */
	else
		rescan_free(s);
}

int targets_scan_cgroups(struct targets *t, struct err *e)
{
	return cgroups_scan(t->cgroups, clock_mono_ns(), e);
}
