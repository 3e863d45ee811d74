/* The scan of /proc: at start, and again after events of the kernel were lost. Part of the table of processes, loop
 * thread only; the opener's synchronous reads run the loop, so the table may change between two of them and nothing of
 * it is held across one. */
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "daemon/target/proc_text.h"
#include "daemon/target/target_internal.h"
#include "daemon/util/clock.h"

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

/* The process with its mappings as they are now. *space is taken over where it is of use. */
static void enter_found(struct targets *t, const struct found *f, uint32_t generation, struct space **space,
			uint64_t began_ns)
{
	struct process *p = target_newest(t, f->pid), *parent;
	uint64_t start_ns = 0;

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
			if ((*space)->state != SPACE_READY ||
			    (p->space->state == SPACE_READY && space_equal(p->space, *space)))
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
	p->start_ticks = f->start_ticks;
	p->scan = t->scan;
	memcpy(p->comm, f->comm, COMM_BYTES);
}

static void space_cleanup(struct space **s)
{
	*s = space_unref(*s);
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

	if (read_stat(t, pid, &before) < 0)
		return 0;
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

int targets_scan(struct targets *t, targets_enter_fn *enter, void *user, struct err *e)
{
	uint64_t began_ns = clock_mono_ns();
	_cleanup_free_ uint32_t *pids = NULL;
	struct pid_slot *slot, *tmp;
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
	/* Who was not found has ended, and the event of it was lost. */
	HASH_ITER (hh, t->table, slot, tmp) {
		struct process *p = slot->newest;

		if (!p->end_ns && p->scan != t->scan && p->start_ns <= began_ns)
			target_end(t, p, began_ns, false);
	}
	return 0;
}

int targets_scan_cgroups(struct targets *t, struct err *e)
{
	return cgroups_scan(t->cgroups, clock_mono_ns(), e);
}
