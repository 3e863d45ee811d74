/* The series of a sample: labels from the process's environment, its cgroup and its name, cached per process.
 *
 * Part of the table of processes, loop thread only. A process has few series: one for each (cgroup, leader's name) that
 * it had; the cache is a small ring. The label table may have dropped a series that no window holds: then it is put
 * again. Series made while something was not known are provisional and made anew after a second. */
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "daemon/target/cgroup_names.h"
#include "daemon/target/proc_text.h"
#include "daemon/target/target_internal.h"
#include "daemon/util/clock.h"
#include "daemon/util/glob.h"

#define WAIT_NS NS_PER_S
#define PROVISIONAL_NS NS_PER_S
#define SHOWN_PATH_BYTES 1024

static struct cached_series *find_cached(struct targets *t, struct process *p, enum cgroup_hierarchy hierarchy,
					 uint64_t cgroup_id, intern_id comm, uint64_t now_ns)
{
	for (uint32_t i = 0; i < p->series_count; i++) {
		struct cached_series *s = &p->series[i];

		if (s->comm != comm || s->cgroup_id != cgroup_id || s->hierarchy != hierarchy || s->epoch != t->epoch)
			continue;
		if (s->provisional && now_ns - s->made_ns >= PROVISIONAL_NS)
			return NULL;
		if (!s->denied && !labels_get(t->labels, s->series))
			return NULL;
		return s;
	}
	return NULL;
}

/* Failing to remember costs time only. */
static void remember(struct process *p, const struct cached_series *entry)
{
	for (uint32_t i = 0; i < p->series_count; i++) {
		struct cached_series *s = &p->series[i];

		if (s->comm == entry->comm && s->cgroup_id == entry->cgroup_id && s->hierarchy == entry->hierarchy) {
			*s = *entry;
			return;
		}
	}
	if (p->series_count < CACHED_SERIES_MAX) {
		struct cached_series *more = realloc(p->series, (p->series_count + 1) * sizeof(*more));

		if (!more)
			return;
		p->series = more;
		p->series[p->series_count++] = *entry;
		return;
	}
	p->series[p->series_next] = *entry;
	p->series_next = (p->series_next + 1) % CACHED_SERIES_MAX;
}

static bool any_matches(char *const *globs, const char *path)
{
	for (size_t i = 0; globs[i]; i++)
		if (glob_match(globs[i], path))
			return true;
	return false;
}

/* A path that is not known is excluded as soon as there is a rule that it could break: nothing of a denied cgroup may
 * slip through because an event was lost. */
static bool is_denied(const struct targets *t, const char *path)
{
	if (t->deny && t->deny[0] && (!path || any_matches(t->deny, path)))
		return true;
	if (!t->allow)
		return false;
	if (path)
		return !any_matches(t->allow, path);
	for (size_t i = 0; t->allow[i]; i++)
		if (strcmp(t->allow[i], "/**") == 0 || strcmp(t->allow[i], "**") == 0)
			return false;
	return true;
}

/* What the labels are made from. */
struct facts {
	const char *path; /* of the cgroup; NULL = not known */
	const char *unit; /* path in systemd's own hierarchy; NULL */
	const struct environment *environment;
	intern_id comm;
};

/* The kernel's word where it is useful, else what /proc/PID/cgroup said, for this cgroup. */
static void find_path(const struct targets *t, const struct process *p, enum cgroup_hierarchy hierarchy,
		      uint64_t cgroup_id, struct facts *f)
{
	const char *known = cgroups_path(t->cgroups, hierarchy, cgroup_id);
	const struct place *place = p->place;

	if (!place || place->hierarchy != hierarchy || place->id != cgroup_id)
		place = p->inherited_place;
	if (place && (place->hierarchy != hierarchy || place->id != cgroup_id))
		place = NULL;
	f->unit = place ? place->unit : NULL;
	if (known && strcmp(known, "/") != 0)
		f->path = known;
	else
		f->path = place ? place->path : known;
}

/* v2 says it all, unless it is the root. v1's controllers may be less fine than systemd's own hierarchy. */
static bool needs_place(const struct targets *t, const struct process *p, enum cgroup_hierarchy hierarchy,
			uint64_t cgroup_id)
{
	const char *known = cgroups_path(t->cgroups, hierarchy, cgroup_id);

	if (p == t->nobody)
		return false;
	return !known || strcmp(known, "/") == 0 || hierarchy != CGROUP_V2;
}

static const char *service_name(const struct targets *t, const struct facts *f, char text[CGROUP_NAME_BYTES])
{
	const char *const paths[] = {f->path, f->unit};

	if (f->environment->service_name != INTERN_EMPTY)
		return intern_str(t->strings, f->environment->service_name);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (!paths[i])
			continue;
		cgroup_service(paths[i], text);
		if (text[0])
			return text;
	}
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (!paths[i])
			continue;
		cgroup_container_name(paths[i], text);
		if (text[0])
			return text;
	}
	return NULL;
}

static int build(struct targets *t, const struct facts *f, series_id *ret)
{
	char path[SHOWN_PATH_BYTES] = "", container[CONTAINER_ID_BYTES] = "", text[CGROUP_NAME_BYTES] = "";
	char comm[4 * COMM_BYTES] = "";
	const char *comm_text = intern_str(t->strings, f->comm), *service = service_name(t, f, text);
	struct label_set set = t->static_labels;
	const struct {
		const char *name, *value;
	} labels[] = {
		{"host", t->host},
		{"comm", comm},
		{"cgroup", path},
		{"container", container},
		{"service_name", service ? service : comm},
		{"service_version", intern_str(t->strings, f->environment->service_version)},
	};

	text_clean(comm_text, strlen(comm_text), comm, sizeof(comm));
	if (f->path) {
		text_clean(f->path, strlen(f->path), path, sizeof(path));
		cgroup_container_id(f->path, container);
	}
	if (!container[0] && f->unit)
		cgroup_container_id(f->unit, container);
	for (size_t i = 0; i < ARRAY_SIZE(labels); i++) {
		int r;

		/* A static label of this name stands where the process says nothing. */
		if (!labels[i].value[0])
			continue;
		r = label_set_put(&set, t->strings, labels[i].name, labels[i].value);
		if (r < 0)
			return r == -E2BIG ? -ENOSPC : r;
	}
	return labels_put(t->labels, &set, ret);
}

static bool is_reading(const struct process *p)
{
	return p->environment->state == KNOWN_READING || p->place_state == KNOWN_READING;
}

/* Wanted, but the opener takes no more at the moment. */
static bool is_put_off(const struct process *p, bool wants_place)
{
	if (p->end_ns || !p->linked)
		return false;
	return p->environment->state == KNOWN_NOT || (wants_place && p->place_state == KNOWN_NOT);
}

int target_label(struct targets *t, struct process *p, enum cgroup_hierarchy hierarchy, uint64_t cgroup_id,
		 intern_id comm, uint64_t now_ns, bool final, series_id *ret)
{
	struct cached_series entry = {.cgroup_id = cgroup_id, .hierarchy = (uint8_t)hierarchy, .made_ns = now_ns};
	struct facts f = {0};
	const struct cached_series *cached;
	bool wants_place, waits;
	int r;

	if (comm == INTERN_EMPTY && p->comm[0]) {
		r = intern_put(t->strings, p->comm, strnlen(p->comm, COMM_BYTES), &comm);
		if (r < 0)
			return r;
	}
	cached = find_cached(t, p, hierarchy, cgroup_id, comm, now_ns);
	if (cached) {
		if (cached->denied)
			return -EACCES;
		*ret = cached->series;
		return 0;
	}

	wants_place = needs_place(t, p, hierarchy, cgroup_id);
	if (wants_place && !(p->place && p->place->hierarchy == hierarchy && p->place->id == cgroup_id))
		target_read_place(t, p, hierarchy, cgroup_id);
	else
		wants_place = false;
	find_path(t, p, hierarchy, cgroup_id, &f);
	/* What the kernel names needs no reading to be refused. */
	if (f.path && strcmp(f.path, "/") != 0 && is_denied(t, f.path)) {
		entry.comm = comm;
		entry.epoch = t->epoch;
		entry.denied = true;
		remember(p, &entry);
		return -EACCES;
	}
	target_read_environment(t, p);
	waits = is_reading(p) || is_put_off(p, wants_place);
	if (!waits) {
		p->wait_since_ns = 0;
	} else {
		if (!p->wait_since_ns)
			p->wait_since_ns = now_ns ? now_ns : 1;
		if (!final && now_ns - p->wait_since_ns < WAIT_NS)
			return -EAGAIN;
	}

	f.environment = p->environment;
	f.comm = comm;
	entry.comm = comm;
	entry.epoch = t->epoch;
	entry.provisional = waits || !f.path;
	entry.denied = is_denied(t, f.path);
	if (!entry.denied) {
		r = build(t, &f, &entry.series);
		if (r < 0)
			return r;
		*ret = entry.series;
	}
	remember(p, &entry);
	return entry.denied ? -EACCES : 0;
}

int targets_host_series(struct targets *t, series_id *ret)
{
	struct label_set set = {0};
	int r;

	r = label_set_put(&set, t->strings, "host", t->host);
	if (r < 0)
		return r;
	return labels_put(t->labels, &set, ret);
}

static void mark_process(const struct process *p, struct intern *strings)
{
	intern_mark(strings, p->environment->service_name);
	intern_mark(strings, p->environment->service_version);
	for (uint32_t i = 0; i < p->series_count; i++)
		intern_mark(strings, p->series[i].comm);
}

void targets_mark_strings(struct targets *t, struct intern *strings)
{
	struct pid_slot *slot, *tmp;
	const struct target_read *read;

	for (size_t i = 0; i < t->static_labels.count; i++) {
		intern_mark(strings, t->static_labels.labels[i].name);
		intern_mark(strings, t->static_labels.labels[i].value);
	}
	mark_process(t->nobody, strings);
	HASH_ITER (hh, t->table, slot, tmp)
		for (const struct process *p = slot->newest; p; p = p->older)
			mark_process(p, strings);
	/* Ended ones that a read still holds. */
	DL_FOREACH(t->reads, read)
	mark_process(read->process, strings);
}
