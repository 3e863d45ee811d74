/* What is read about a process through the opener: maps, environ, cgroup; and the shared objects that it becomes.
 *
 * Part of the table of processes, loop thread only. A read holds its process and is freed by the opener's callback,
 * also after the table is gone. Reads are as many as the opener queues; when it takes no more, the state stays as it
 * was and the next one who asks tries again.
 *
 * An answer may come after the pid has changed hands. It is used only if it can be this process's: the process lives,
 * or it ended and nobody took its pid by a fork since; a maps text after an exec is the new program's and is dropped.
 */
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "daemon/target/proc_text.h"
#include "daemon/target/target_internal.h"
#include "daemon/util/clock.h"

struct environment *environment_create(void)
{
	struct environment *v = calloc(1, sizeof(*v));

	if (v)
		v->refs = 1;
	return v;
}

struct environment *environment_ref(struct environment *v)
{
	v->refs++;
	return v;
}

struct environment *environment_unref(struct environment *v)
{
	if (v && --v->refs == 0)
		free(v);
	return NULL;
}

struct place *place_ref(struct place *v)
{
	if (v)
		v->refs++;
	return v;
}

struct place *place_unref(struct place *v)
{
	if (v && --v->refs == 0) {
		free(v->path);
		free(v->unit);
		free(v);
	}
	return NULL;
}

struct fill {
	struct targets *targets;
	struct space *space;
	uint32_t pid;
};

static int add_line(void *user, const struct maps_line *line)
{
	struct fill *f = user;
	struct opener_file file = {.pid = f->pid,
				   .start = line->start,
				   .end = line->end,
				   .inode = line->inode,
				   .dev_major = line->dev_major,
				   .dev_minor = line->dev_minor,
				   .path = line->path};
	struct mapping mapping;
	int r;

	target_resolve_mapping(f->targets, &file, line->offset, 0, &mapping);
	r = space_insert(f->space, &mapping, 0);
	return r == -ENOMEM ? r : 0;
}

int target_fill_space(struct targets *t, struct space *s, uint32_t pid, const char *text, size_t len)
{
	struct fill fill = {.targets = t, .space = s, .pid = pid};

	return maps_parse(text, len, add_line, &fill);
}

/* Nobody else has got the pid in between. */
static bool still_its_pid(const struct targets *t, const struct process *p)
{
	const struct process *newest = target_newest(t, p->pid);

	if (!p->end_ns)
		return p->linked;
	if (!p->linked)
		return false;
	return p == newest || (p->ended_by_exec && newest->older == p);
}

static void take_maps(struct targets *t, struct process *p, int error, const char *text, size_t len)
{
	struct space *s = p->space, *read;

	if (s->state != SPACE_READING || s->reader_pid != p->pid)
		return;
	s->state = SPACE_FAILED;
	if (error < 0 || p->ended_by_exec || !still_its_pid(t, p)) {
		t->stats.reads_failed++;
		return;
	}
	if (space_create(&t->spaces, SPACE_READY, &read) < 0)
		return;
	/* What events told since is newer than the text. */
	if (target_fill_space(t, read, p->pid, text, len) == 0 && space_lay_over(s, read) == 0)
		s->state = SPACE_READY;
	space_unref(read);
}

static void take_environment(struct targets *t, struct process *p, struct environment *v, int error, const char *text,
			     size_t len)
{
	char name[ENVIRON_VALUE_BYTES], version[ENVIRON_VALUE_BYTES];
	intern_id name_id, version_id;

	v->state = KNOWN_FAILED;
	if (error < 0 || !still_its_pid(t, p)) {
		t->stats.reads_failed++;
		return;
	}
	environ_parse(text, len, name, version);
	if (intern_puts(t->strings, name, &name_id) < 0 || intern_puts(t->strings, version, &version_id) < 0)
		return;
	v->service_name = name_id;
	v->service_version = version_id;
	v->state = KNOWN_YES;
}

static void take_place(struct targets *t, struct process *p, const struct target_read *read, int error,
		       const char *text, size_t len)
{
	_cleanup_free_ char *own = NULL;
	struct place *v;

	/* A later read for another cgroup is under way. */
	if (p->place_state != KNOWN_READING || p->place_hierarchy != read->hierarchy || p->place_id != read->cgroup_id)
		return;
	p->place_state = KNOWN_FAILED;
	if (error < 0 || !still_its_pid(t, p)) {
		t->stats.reads_failed++;
		return;
	}
	v = calloc(1, sizeof(*v));
	if (!v)
		return;
	v->refs = 1;
	v->hierarchy = read->hierarchy;
	v->id = read->cgroup_id;
	if (proc_cgroup_shown_path(text, len, &v->path) < 0) {
		place_unref(v);
		return;
	}
	(void)proc_cgroup_path(text, len, CGROUP_V1_SYSTEMD, &v->unit);
	if (!cgroups_path(t->cgroups, (enum cgroup_hierarchy)read->hierarchy, read->cgroup_id) &&
	    proc_cgroup_path(text, len, (enum cgroup_hierarchy)read->hierarchy, &own) == 0)
		(void)cgroups_learn(t->cgroups, (enum cgroup_hierarchy)read->hierarchy, read->cgroup_id, own);
	place_unref(p->place);
	p->place = v;
	p->place_state = KNOWN_YES;
}

static void answered(void *user, int error, const char *text, size_t len)
{
	struct target_read *read = user;
	struct targets *t = read->targets;
	struct process *p = read->process;

	if (!t) {
		free(read);
		return;
	}
	DL_DELETE(t->reads, read);
	switch (read->file) {
	case PROC_FILE_MAPS:
		take_maps(t, p, error, text, len);
		break;
	case PROC_FILE_ENVIRON:
		take_environment(t, p, read->environment, error, text, len);
		break;
	default:
		take_place(t, p, read, error, text, len);
		break;
	}
	/* No event told of it, so none may tell of its end. */
	if (p->placeholder && !p->end_ns && (error == -ENOENT || error == -ESRCH))
		target_end(t, p, clock_mono_ns(), false);
	environment_unref(read->environment);
	free(read);
	targets_release(t, p);
}

/* -EAGAIN: not now. */
static int begin(struct targets *t, struct process *p, enum proc_file file, uint8_t hierarchy, uint64_t cgroup_id)
{
	struct target_read *read = calloc(1, sizeof(*read));
	int r;

	if (!read)
		return -ENOMEM;
	read->targets = t;
	read->file = file;
	read->hierarchy = hierarchy;
	read->cgroup_id = cgroup_id;
	r = opener_read_proc(t->opener, p->pid, file, answered, read);
	if (r < 0) {
		free(read);
		return r;
	}
	read->process = targets_hold(p);
	read->environment = file == PROC_FILE_ENVIRON ? environment_ref(p->environment) : NULL;
	DL_APPEND(t->reads, read);
	return 0;
}

void target_cancel_reads(struct targets *t)
{
	struct target_read *read, *tmp;

	DL_FOREACH_SAFE(t->reads, read, tmp)
	{
		DL_DELETE(t->reads, read);
		environment_unref(read->environment);
		targets_release(t, read->process);
		read->targets = NULL;
		read->process = NULL;
		opener_cancel(t->opener, read); /* the callback frees it, perhaps at once */
	}
}

void target_read_maps(struct targets *t, struct process *p)
{
	struct space *s = p->space;

	if (p->end_ns || !p->linked || s->state == SPACE_READY || s->state == SPACE_READING)
		return;
	/* Another process of a shared space may succeed where the first one was gone. */
	if (s->state == SPACE_FAILED && s->reader_pid == p->pid)
		return;
	if (s->tries >= READ_TRIES) {
		s->state = SPACE_FAILED;
		return;
	}
	if (begin(t, p, PROC_FILE_MAPS, 0, 0) < 0) {
		if (s->state == SPACE_FRESH)
			s->state = SPACE_UNREAD;
		return;
	}
	s->state = SPACE_READING;
	s->tries++;
	s->reader_pid = p->pid;
}

void target_read_environment(struct targets *t, struct process *p)
{
	struct environment *v = p->environment;

	if (p->end_ns || !p->linked || v->state == KNOWN_YES || v->state == KNOWN_READING)
		return;
	if (v->state == KNOWN_FAILED && (v->reader_pid == p->pid || v->tries >= READ_TRIES))
		return;
	if (begin(t, p, PROC_FILE_ENVIRON, 0, 0) < 0)
		return;
	v->state = KNOWN_READING;
	v->tries++;
	v->reader_pid = p->pid;
}

void target_read_place(struct targets *t, struct process *p, enum cgroup_hierarchy hierarchy, uint64_t cgroup_id)
{
	bool same = p->place_hierarchy == hierarchy && p->place_id == cgroup_id;

	if (p->end_ns || !p->linked || (same && p->place_state != KNOWN_NOT))
		return;
	if (begin(t, p, PROC_FILE_CGROUP, (uint8_t)hierarchy, cgroup_id) < 0)
		return;
	p->place_state = KNOWN_READING;
	p->place_hierarchy = (uint8_t)hierarchy;
	p->place_id = cgroup_id;
}
