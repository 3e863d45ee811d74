/* The table of processes: who had a pid when, with which address space. Fed by the kernel's events in time order.
 *
 * Owns processes, spaces, environments, cgroups. Loop thread only.
 *
 * A process here is one incarnation of a pid: fork or exec begins it, exec or exit ends it. Each pid has a list of
 * them, newest first; at most the newest lives. Ended ones stay for the grace time. Events may be lost, and then
 * processes appear that no event told of (placeholders: their maps are read) and others end without saying so (the next
 * incarnation or the next scan ends them). An event that is older than what is known is ignored.
 *
 * Invariants: end_ns != 0 exactly for those in the list `ended`; published or wanted implies attended; an unlinked
 * process has holds and is freed by the last targets_release. */
#include <errno.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "daemon/target/proc_text.h"
#include "daemon/target/target_internal.h"
#include "daemon/util/clock.h"

#define MAX_MAPPINGS_PER_PROCESS 16384
#define MAX_CGROUPS 65536
#define CGROUP_REMOVED_KEEP_NS (60 * NS_PER_S)
#define PUBLISH_RETRY_NS (10 * NS_PER_S)
/* How long an exec takes at most, where its beginning was not reported. */
#define EXEC_SPAN_NS NS_PER_S

static void free_strings(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static int copy_strings(const char *const *list, char ***ret)
{
	size_t n = 0;
	char **copy;

	if (!list) {
		*ret = NULL;
		return 0;
	}
	while (list[n])
		n++;
	copy = calloc(n + 1, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		copy[i] = strdup(list[i]);
		if (!copy[i]) {
			free_strings(copy);
			return -ENOMEM;
		}
	}
	*ret = copy;
	return 0;
}

int targets_reconfigure(struct targets *t, const struct targets_options *options, struct err *e)
{
	char **allow = NULL, **deny = NULL;
	char name[256] = "", *host;

	if (options->host) {
		snprintf(name, sizeof(name), "%s", options->host);
	} else if (gethostname(name, sizeof(name) - 1) < 0) {
		return err_errno(e, -errno, "cannot find out the host's name");
	}
	host = strdup(name);
	if (!host || copy_strings(options->allow, &allow) < 0 || copy_strings(options->deny, &deny) < 0) {
		free(host);
		free_strings(allow);
		return err_set(e, -ENOMEM, "no memory for the configuration of targets");
	}
	free(t->host);
	free_strings(t->allow);
	free_strings(t->deny);
	t->host = host;
	t->allow = allow;
	t->deny = deny;
	t->static_labels = options->static_labels ? *options->static_labels : (struct label_set){0};
	t->epoch++;
	return 0;
}

static struct process *process_new(uint32_t pid, uint32_t generation)
{
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->pid = pid;
	p->generation = generation;
	return p;
}

static void process_free(struct process *p)
{
	space_unref(p->space);
	environment_unref(p->environment);
	place_unref(p->place);
	place_unref(p->inherited_place);
	free(p->series);
	free(p);
}

int targets_create(struct opener *opener, struct images *images, struct labels *labels, const struct mapping_sink *sink,
		   const struct targets_options *options, struct targets **ret, struct err *e)
{
	struct targets *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_set(e, -ENOMEM, "no memory for the table of processes");
	t->opener = opener;
	t->images = images;
	t->labels = labels;
	t->strings = labels_strings(labels);
	t->sink = *sink;
	t->exit_grace_ns = options->exit_grace_ns ? options->exit_grace_ns : 5 * NS_PER_S;
	t->max_processes = options->max_processes ? options->max_processes : 65536;
	t->spaces.images = images;
	t->spaces.max_mappings = MAX_MAPPINGS_PER_PROCESS;
	r = targets_reconfigure(t, options, e);
	if (r < 0)
		goto fail;
	r = -ENOMEM;
	t->proc_root = strdup(options->proc_root ? options->proc_root : "/proc");
	t->nobody = process_new(0, 0);
	if (!t->proc_root || !t->nobody)
		goto no_memory;
	t->nobody->environment = environment_create();
	if (!t->nobody->environment || space_create(&t->spaces, SPACE_READY, &t->nobody->space) < 0)
		goto no_memory;
	t->nobody->environment->state = KNOWN_YES;
	if (cgroups_create(t->proc_root, MAX_CGROUPS, CGROUP_REMOVED_KEEP_NS, &t->cgroups) < 0)
		goto no_memory;
	*ret = t;
	return 0;
no_memory:
	err_set(e, r, "no memory for the table of processes");
fail:
	targets_destroy(t);
	return r;
}

void targets_destroy(struct targets *t)
{
	struct pid_slot *slot, *tmp;

	if (!t)
		return;
	target_cancel_reads(t);
	target_rescan_cancel(t);
	HASH_ITER (hh, t->table, slot, tmp) {
		struct process *older;

		for (struct process *p = slot->newest; p; p = older) {
			older = p->older;
			process_free(p);
		}
		HASH_DEL(t->table, slot);
		free(slot);
	}
	if (t->nobody)
		process_free(t->nobody);
	cgroups_destroy(t->cgroups);
	free_strings(t->allow);
	free_strings(t->deny);
	free(t->host);
	free(t->proc_root);
	free(t);
}

static void attend(struct targets *t, struct process *p)
{
	if (p->attended || !p->linked)
		return;
	p->attended = true;
	DL_APPEND2(t->attended, p, attended_prev, attended_next);
}

static void ignore(struct targets *t, struct process *p)
{
	if (!p->attended)
		return;
	p->attended = false;
	DL_DELETE2(t->attended, p, attended_prev, attended_next);
}

static void retire(struct targets *t, struct process *p)
{
	if (!p->published)
		return;
	p->published = false;
	t->sink.retire(t->sink.user, p->pid, p->generation);
}

/* One whose fork was missed may run on a range of mappings that its parent has given back since. */
void target_disown(struct targets *t, const struct process *p)
{
	t->sink.retire(t->sink.user, p->pid, p->generation);
}

/* Out of the table; it lives on while somebody holds it. */
static void unlink_process(struct targets *t, struct process *p)
{
	struct pid_slot *slot;
	struct process **link;

	HASH_FIND(hh, t->table, &p->pid, sizeof(p->pid), slot);
	for (link = &slot->newest; *link != p; link = &(*link)->older)
		;
	*link = p->older;
	if (!slot->newest) {
		HASH_DEL(t->table, slot);
		free(slot);
	}
	if (p->end_ns)
		DL_DELETE2(t->ended, p, ended_prev, ended_next);
	retire(t, p);
	ignore(t, p);
	p->linked = false;
	t->process_count--;
	if (!p->holds)
		process_free(p);
}

struct process *target_newest(const struct targets *t, uint32_t pid)
{
	struct pid_slot *slot;

	HASH_FIND(hh, t->table, &pid, sizeof(pid), slot);
	return slot ? slot->newest : NULL;
}

struct process *target_enter(struct targets *t, uint32_t pid, uint32_t generation, uint64_t start_ns,
			     struct space *space, struct environment *environment, struct place *inherited_place)
{
	struct pid_slot *slot;
	struct process *p = NULL;

	if (t->process_count >= t->max_processes) {
		t->stats.processes_full++;
		if (!t->ended)
			goto fail;
		unlink_process(t, t->ended);
	}
	if (!space || !environment)
		goto fail;
	p = process_new(pid, generation);
	if (!p)
		goto fail;
	HASH_FIND(hh, t->table, &pid, sizeof(pid), slot);
	if (!slot) {
		slot = calloc(1, sizeof(*slot));
		if (!slot)
			goto fail;
		slot->pid = pid;
		HASH_ADD(hh, t->table, pid, sizeof(slot->pid), slot);
	}
	p->start_ns = start_ns;
	p->space = space;
	p->environment = environment;
	p->inherited_place = inherited_place;
	p->linked = true;
	p->scan = t->scan; /* the scan under way may have listed the pids before */
	p->older = slot->newest;
	slot->newest = p;
	t->process_count++;
	return p;
fail:
	free(p);
	space_unref(space);
	environment_unref(environment);
	place_unref(inherited_place);
	return NULL;
}

void target_end(struct targets *t, struct process *p, uint64_t time_ns, bool by_exec)
{
	if (p->end_ns || !p->linked)
		return;
	p->end_ns = time_ns > p->start_ns ? time_ns : p->start_ns + 1;
	p->ended_by_exec = by_exec;
	DL_APPEND2(t->ended, p, ended_prev, ended_next);
	if (p->published)
		attend(t, p);
}

/* generation 0: whoever had the pid at the time. A process is still sampled for a moment after it has ended, and one
 * that was missed at its beginning may be older than it seems: the nearest one is taken. */
struct process *target_find(const struct targets *t, uint32_t pid, uint32_t generation, uint64_t time_ns)
{
	struct process *later = NULL;

	for (struct process *p = target_newest(t, pid); p; p = p->older) {
		if (generation) {
			if (p->generation == generation)
				return p;
			continue;
		}
		if (p->start_ns <= time_ns)
			return !p->end_ns || time_ns <= p->end_ns + t->exit_grace_ns ? p : NULL;
		later = p;
	}
	return later;
}

struct process *targets_get(struct targets *t, uint32_t pid, uint32_t generation, uint64_t time_ns)
{
	struct process *p, *newest;
	struct space *space = NULL;
	uint64_t start_ns = 0;

	if (pid == 0)
		return t->nobody;
	p = target_find(t, pid, generation, time_ns);
	if (p) {
		target_read_maps(t, p);
		return p;
	}
	newest = target_newest(t, pid);
	if (newest && !newest->end_ns) {
		/* A placeholder by pid alone turns out to be this generation. */
		if (newest->placeholder && newest->generation == 0) {
			newest->generation = generation;
			return newest;
		}
		/* Older than all that is known of this pid: nothing can be read about it any more. */
		if (time_ns < newest->start_ns)
			return t->nobody;
		target_end(t, newest, time_ns, false);
	}
	if (newest)
		start_ns = newest->end_ns < time_ns ? newest->end_ns : time_ns;
	(void)space_create(&t->spaces, SPACE_UNREAD, &space);
	p = target_enter(t, pid, generation, start_ns, space, environment_create(), NULL);
	if (!p)
		return t->nobody;
	p->placeholder = true;
	target_disown(t, p);
	attend(t, p);
	target_read_maps(t, p);
	return p;
}

struct process *targets_hold(struct process *p)
{
	p->holds++;
	return p;
}

void targets_release(struct targets *t, struct process *p)
{
	if (--p->holds == 0 && !p->linked && p != t->nobody)
		process_free(p);
}

int process_find_mapping(const struct process *p, uint64_t address, struct mapping *ret)
{
	int r = space_find(p->space, address, ret);

	if (r == -ENOENT && !p->end_ns && p->linked &&
	    (p->space->state == SPACE_READING || p->space->state == SPACE_UNREAD))
		return -EAGAIN;
	return r;
}

/* A child runs on its parent's mappings from its first instruction on. Whatever the kernel side gave it and cannot be
 * accounted for here is taken away: its range would be somebody else's soon. */
static void inherit(struct targets *t, struct process *p, const struct process *parent)
{
	if (!t->sink.inherit)
		return;
	if (!parent || !parent->published) {
		target_disown(t, p);
		return;
	}
	p->wanted = true;
	if (t->sink.inherit(t->sink.user, p->pid, p->generation, parent->pid, parent->generation)) {
		target_disown(t, p); /* this drain's tick publishes it */
	} else {
		p->published = true;
		p->published_version = parent->published_version;
	}
	attend(t, p);
}

void targets_on_fork(struct targets *t, const struct record_process *r)
{
	struct process *p = target_find(t, r->head.pid, r->generation, r->time_ns), *parent;
	struct space *space = NULL;

	if (r->head.pid == 0)
		return;
	if (p && p->generation == r->generation) {
		/* A sample or the scan was quicker. */
		if (p->placeholder)
			memcpy(p->comm, r->comm, COMM_BYTES);
		p->placeholder = false;
		p->start_ns = r->time_ns;
		if (!p->published)
			target_disown(t, p);
		return;
	}
	p = target_newest(t, r->head.pid);
	if (p && !p->end_ns) {
		if (p->start_ns >= r->time_ns)
			return;
		target_end(t, p, r->time_ns, false);
	}
	parent = target_find(t, r->parent_pid, r->parent_generation, r->time_ns);
	if (!parent && r->parent_generation)
		parent = target_find(t, r->parent_pid, 0, r->time_ns);
	if (parent)
		p = target_enter(t, r->head.pid, r->generation, r->time_ns, space_ref(parent->space),
				 environment_ref(parent->environment),
				 place_ref(parent->place ? parent->place : parent->inherited_place));
	else if (space_create(&t->spaces, SPACE_UNREAD, &space) == 0)
		p = target_enter(t, r->head.pid, r->generation, r->time_ns, space, environment_create(), NULL);
	else
		p = NULL;
	if (!p) {
		t->sink.retire(t->sink.user, r->head.pid, r->generation);
		return;
	}
	inherit(t, p, parent);
	memcpy(p->comm, r->comm, COMM_BYTES);
}

void targets_on_exec_begin(struct targets *t, uint32_t pid, uint64_t time_ns)
{
	struct process *p = target_find(t, pid, 0, time_ns);

	if (p && !p->end_ns)
		p->exec_begin_ns = time_ns;
}

/* The new program's first mappings are reported before its exec record: they are in the old incarnation's space, where
 * addresses of samples up to now may be of either program. */
static int space_after_exec(struct targets *t, const struct process *old, uint64_t time_ns, struct space **ret)
{
	uint64_t since_ns = time_ns > EXEC_SPAN_NS ? time_ns - EXEC_SPAN_NS : 1;
	int r;

	if (!old)
		return space_create(&t->spaces, SPACE_UNREAD, ret);
	if (old->exec_begin_ns)
		since_ns = old->exec_begin_ns;
	if (since_ns < old->start_ns)
		since_ns = old->start_ns;
	if (since_ns == 0)
		since_ns = 1;
	r = space_clone(old->space, since_ns, ret);
	if (r < 0)
		return r;
	(*ret)->state = (*ret)->count ? SPACE_READY : SPACE_FRESH;
	return 0;
}

void targets_on_exec(struct targets *t, const struct record_process *r)
{
	struct process *p = target_find(t, r->head.pid, r->generation, r->time_ns), *old;
	struct space *space = NULL;
	struct place *place = NULL;

	if (r->head.pid == 0)
		return;
	if (p && p->generation == r->generation) {
		memcpy(p->comm, r->comm, COMM_BYTES);
		p->placeholder = false;
		/* Entered by a sample that came before it: the incarnation before has ended then. */
		if (p->start_ns)
			p->start_ns = r->time_ns;
		return;
	}
	old = target_newest(t, r->head.pid);
	if (old && old->end_ns)
		old = NULL;
	if (old && old->start_ns >= r->time_ns)
		return;
	if (space_after_exec(t, old, r->time_ns, &space) < 0)
		return;
	if (old) {
		place = place_ref(old->place ? old->place : old->inherited_place);
		target_end(t, old, r->time_ns, true);
	}
	p = target_enter(t, r->head.pid, r->generation, r->time_ns, space, environment_create(), place);
	if (p)
		memcpy(p->comm, r->comm, COMM_BYTES);
}

void targets_on_exit(struct targets *t, const struct record_process *r)
{
	struct process *p = target_find(t, r->head.pid, r->generation, r->time_ns);

	if (!p || p->generation != r->generation)
		p = target_find(t, r->head.pid, 0, r->time_ns);
	/* What began after this exit is somebody else. */
	if (p && p->start_ns <= r->time_ns && p == target_newest(t, r->head.pid))
		target_end(t, p, r->time_ns, false);
}

void target_resolve_mapping(struct targets *t, const struct opener_file *file, uint64_t file_offset,
			    uint64_t inode_generation, struct mapping *ret)
{
	static const char deleted[] = " (deleted)";
	enum abi_image kind = mapping_kind(file->path, file->inode);
	size_t len = strlen(file->path);
	struct image_key key = {.dev_major = file->dev_major,
				.dev_minor = file->dev_minor,
				.inode = file->inode,
				.inode_generation = inode_generation};
	_cleanup_free_ char *path = NULL;

	*ret = (struct mapping){.start = file->start, .end = file->end, .offset = file_offset, .image = kind};
	if (kind == IMAGE_JIT)
		ret->offset = file->start;
	else if (kind == IMAGE_VDSO)
		ret->offset = 0;
	if (kind != IMAGE_FIRST_FILE)
		return;
	ret->image = IMAGE_NONE;
	if (len > strlen(deleted) && strcmp(file->path + len - strlen(deleted), deleted) == 0)
		len -= strlen(deleted);
	path = strndup(file->path, len);
	if (!path)
		return;
	key.path = path;
	(void)images_ref(t->images, &key, file, &ret->image);
}

void targets_on_mmap(struct targets *t, const struct mmap_event *m)
{
	struct process *p = target_find(t, m->pid, 0, m->time_ns);
	struct opener_file file = {.pid = m->pid,
				   .start = m->start,
				   .end = m->start + m->bytes,
				   .inode = m->inode,
				   .dev_major = m->dev_major,
				   .dev_minor = m->dev_minor,
				   .path = m->path ? m->path : ""};
	struct mapping mapping;

	/* One that nobody told of has its maps read when it is sampled. */
	if (!p || m->bytes == 0 || file.end < file.start)
		return;
	if (p->space->refs > 1) {
		struct space *old = p->space, *copy;

		if (space_clone(old, 0, &copy) < 0)
			return;
		if (old->state == SPACE_READING && old->reader_pid == p->pid) {
			/* The answer will come to this process; the others ask again. */
			copy->tries = old->tries;
			copy->reader_pid = old->reader_pid;
			old->state = SPACE_UNREAD;
		} else if (old->state == SPACE_READING || old->state == SPACE_FAILED) {
			copy->state = SPACE_UNREAD;
		}
		space_unref(old);
		p->space = copy;
	}
	target_resolve_mapping(t, &file, m->file_offset, m->inode_generation, &mapping);
	if (space_insert(p->space, &mapping, m->time_ns ? m->time_ns : 1) == 0 && p->space->state == SPACE_FRESH)
		p->space->state = SPACE_READY;
}

void targets_on_cgroup(struct targets *t, const struct record_cgroup *r)
{
	bool renamed = false;

	cgroups_on_event(t->cgroups, r, &renamed);
	if (renamed)
		t->epoch++;
}

void targets_want_published(struct targets *t, struct process *p)
{
	if (p->end_ns || p == t->nobody)
		return;
	p->wanted = true;
	attend(t, p);
}

static void publish(struct targets *t, struct process *p, uint64_t now_ns)
{
	const struct space *s = p->space;
	int r;

	if (!p->wanted || s->count == 0 || s->state == SPACE_UNREAD || s->state == SPACE_READING)
		return;
	if (p->published && p->published_version == s->version)
		return;
	if (now_ns < p->publish_after_ns)
		return;
	r = t->sink.publish(t->sink.user, p->pid, p->generation, s->maps, s->count);
	if (r < 0) {
		/* The old mappings must not stand beside new ones that the kernel side doesn't know. */
		retire(t, p);
		t->stats.publish_full++;
		p->publish_after_ns = now_ns + PUBLISH_RETRY_NS;
		return;
	}
	p->published = true;
	p->published_version = s->version;
	/* Old ranges rest for seconds: a process that maps all the time must not fill the table with copies. */
	p->publish_after_ns = now_ns + (s->count > 100 ? s->count : 100) * NS_PER_MS;
}

void targets_tick(struct targets *t, uint64_t now_ns)
{
	struct process *p, *tmp;

	/* Ranges are given back first: an exec's old one makes room for its new one. */
	DL_FOREACH_SAFE2(t->attended, p, tmp, attended_next)
	{
		if (p->end_ns) {
			retire(t, p);
			ignore(t, p);
		}
	}
	DL_FOREACH_SAFE2(t->attended, p, tmp, attended_next)
	{
		target_read_maps(t, p);
		publish(t, p, now_ns);
		if (!p->wanted && p->space->state != SPACE_UNREAD && p->space->state != SPACE_READING)
			ignore(t, p);
	}
	while (t->ended && t->ended->end_ns + t->exit_grace_ns <= now_ns)
		unlink_process(t, t->ended);
	cgroups_expire(t->cgroups, now_ns);
	target_rescan_tick(t);
}

void targets_get_stats(const struct targets *t, struct targets_stats *ret)
{
	*ret = t->stats;
	ret->processes = t->process_count;
	ret->address_spaces = t->spaces.count - 1; /* nobody's */
	ret->mappings = t->spaces.mappings;
	ret->mappings_full = t->spaces.mappings_full;
	ret->cgroups = cgroups_count(t->cgroups);
	ret->cgroups_full = cgroups_full(t->cgroups);
}
