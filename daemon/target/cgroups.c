/* cgroups of all hierarchies: id -> path. Filled by a walk over the mounted hierarchies (the inode number of a
 * directory is the cgroup's id), kept by the kernel's mkdir, rmdir and rename events. A removed one is kept for a
 * while, because samples that name it are still under way.
 *
 * Owned by targets.c, loop thread only. The only paths opened here are the cgroup file systems': the kernel's own, and
 * a directory is only entered while it is on the device that mountinfo told.
 *
 * Invariants: an entry is in `removed` exactly when its removed_ns is not 0; the list is in the order of removal. */
#include "daemon/target/cgroups.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <uthash.h>
#include <utlist.h>

#include "daemon/util/buf.h"

#define MAX_MOUNTS 8
#define MAX_DEPTH 64
#define MAX_MOUNTINFO_BYTES (4u << 20)

struct key {
	uint64_t id;
	uint64_t hierarchy;
};

struct cgroup {
	struct key key;
	char *path;
	uint64_t removed_ns;
	uint32_t scan; /* the last one that saw it */
	struct cgroup *prev, *next;
	UT_hash_handle hh;
};

struct cgroups {
	char *proc_root;
	size_t max;
	uint64_t removed_keep_ns, full;
	uint32_t scan;
	struct cgroup *table, *removed;
	struct cgroup_mount *mounts;
	size_t mount_count;
};

int cgroups_create(const char *proc_root, size_t max, uint64_t removed_keep_ns, struct cgroups **ret)
{
	struct cgroups *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->max = max;
	c->removed_keep_ns = removed_keep_ns;
	c->proc_root = strdup(proc_root);
	c->mounts = calloc(MAX_MOUNTS, sizeof(*c->mounts));
	if (!c->proc_root || !c->mounts) {
		cgroups_destroy(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

static void forget(struct cgroups *c, struct cgroup *g)
{
	if (g->removed_ns)
		DL_DELETE(c->removed, g);
	HASH_DEL(c->table, g);
	free(g->path);
	free(g);
}

void cgroups_destroy(struct cgroups *c)
{
	struct cgroup *g, *tmp;

	if (!c)
		return;
	HASH_ITER (hh, c->table, g, tmp)
		forget(c, g);
	free(c->proc_root);
	free(c->mounts);
	free(c);
}

static struct cgroup *find(const struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id)
{
	struct key key = {.id = id, .hierarchy = hierarchy};
	struct cgroup *g;

	HASH_FIND(hh, c->table, &key, sizeof(key), g);
	return g;
}

const char *cgroups_path(const struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id)
{
	const struct cgroup *g = find(c, hierarchy, id);

	return g ? g->path : NULL;
}

static void remove_at(struct cgroups *c, struct cgroup *g, uint64_t time_ns)
{
	if (g->removed_ns)
		return;
	g->removed_ns = time_ns ? time_ns : 1;
	DL_APPEND(c->removed, g);
}

/* Enters or renames. */
static int put(struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id, const char *path)
{
	struct cgroup *g = find(c, hierarchy, id);
	char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	if (g) {
		free(g->path);
		g->path = copy;
		if (g->removed_ns) {
			DL_DELETE(c->removed, g);
			g->removed_ns = 0;
		}
		g->scan = c->scan;
		return 0;
	}
	if (HASH_COUNT(c->table) >= c->max) {
		c->full++;
		if (!c->removed) {
			free(copy);
			return -ENOSPC;
		}
		forget(c, c->removed);
	}
	g = calloc(1, sizeof(*g));
	if (!g) {
		free(copy);
		return -ENOMEM;
	}
	g->key = (struct key){.id = id, .hierarchy = hierarchy};
	g->path = copy;
	g->scan = c->scan;
	HASH_ADD(hh, c->table, key, sizeof(g->key), g);
	return 0;
}

/* Copies the next blank-separated field, with octal escapes undone. */
static bool take_field(const char **s, const char *end, char *ret, size_t size)
{
	size_t n = 0;

	while (*s < end && **s == ' ')
		(*s)++;
	if (*s == end)
		return false;
	for (; *s < end && **s != ' '; (*s)++) {
		const char *p = *s;
		char c = *p;

		if (end - p >= 4 && p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
		    p[3] >= '0' && p[3] <= '7') {
			c = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			*s += 3;
		}
		if (n + 1 >= size)
			return false;
		ret[n++] = c;
	}
	ret[n] = '\0';
	return true;
}

static unsigned hierarchies_of(const char *type, char *options)
{
	unsigned set = 0;
	char *save = NULL;

	if (strcmp(type, "cgroup2") == 0)
		return 1u << CGROUP_V2;
	if (strcmp(type, "cgroup") != 0)
		return 0;
	for (char *o = strtok_r(options, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		if (strcmp(o, "memory") == 0)
			set |= 1u << CGROUP_V1_MEMORY;
		else if (strcmp(o, "cpu") == 0)
			set |= 1u << CGROUP_V1_CPU;
		else if (strcmp(o, "name=systemd") == 0)
			set |= 1u << CGROUP_V1_SYSTEMD;
	}
	return set;
}

/* "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER_OPTIONS". */
static bool parse_mount(const char *s, const char *end, struct cgroup_mount *m)
{
	char field[PATH_MAX], type[64], options[1024];

	for (int i = 0; i < 3; i++) /* the device is the third */
		if (!take_field(&s, end, field, sizeof(field)))
			return false;
	if (sscanf(field, "%" SCNu32 ":%" SCNu32, &m->dev_major, &m->dev_minor) != 2 ||
	    !take_field(&s, end, m->root, sizeof(m->root)) || !take_field(&s, end, m->point, sizeof(m->point)))
		return false;
	do {
		if (!take_field(&s, end, field, sizeof(field)))
			return false;
	} while (strcmp(field, "-") != 0);
	if (!take_field(&s, end, type, sizeof(type)) || !take_field(&s, end, field, sizeof(field)) ||
	    !take_field(&s, end, options, sizeof(options)))
		return false;
	m->hierarchies = hierarchies_of(type, options);
	/* "/" is the whole hierarchy; "/.." is more than the daemon's own cgroup namespace: the whole, too. */
	if (strcmp(m->root, "/") == 0 || strncmp(m->root, "/..", 3) == 0)
		m->root[0] = '\0';
	return m->hierarchies != 0;
}

size_t cgroup_mounts_parse(const char *text, size_t len, struct cgroup_mount *ret, size_t max)
{
	_cleanup_free_ struct cgroup_mount *m = malloc(sizeof(*m));
	const char *end = text + len;
	size_t count = 0;

	for (const char *eol; m && text < end; text = eol + 1) {
		size_t i;

		eol = memchr(text, '\n', (size_t)(end - text));
		if (!eol)
			break;
		if (!parse_mount(text, eol, m))
			continue;
		for (i = 0; i < count; i++)
			if (ret[i].dev_major == m->dev_major && ret[i].dev_minor == m->dev_minor)
				break;
		if (i == max)
			continue;
		if (i == count)
			count++;
		else if (strlen(ret[i].root) <= strlen(m->root))
			continue;
		ret[i] = *m;
	}
	return count;
}

struct walk {
	struct cgroups *c;
	const struct cgroup_mount *mount;
	char path[PATH_MAX]; /* in the hierarchy */
	size_t len;
};

/* Enters the directory and what is below it. fd is closed. */
static int walk(struct walk *w, int fd, unsigned depth)
{
	_cleanup_close_ int own = fd;
	struct dirent *entry;
	struct stat st;
	DIR *dir;
	int r = 0;

	if (fstat(own, &st) < 0)
		return -errno;
	/* Something else is mounted over it. */
	if (st.st_dev != makedev(w->mount->dev_major, w->mount->dev_minor))
		return 0;
	for (unsigned h = 0; h < CGROUP_HIERARCHIES; h++)
		if (w->mount->hierarchies & (1u << h))
			(void)put(w->c, (enum cgroup_hierarchy)h, st.st_ino, w->len ? w->path : "/");
	/* A directory of a cgroup has as many links as it has children, and two. */
	if (st.st_nlink == 2 || depth >= MAX_DEPTH)
		return 0;
	dir = fdopendir(own);
	if (!dir)
		return -errno;
	own = -1;
	while (r != -ENOMEM && (entry = readdir(dir))) {
		size_t n = strlen(entry->d_name), len = w->len;
		int child;

		if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    len + 1 + n >= sizeof(w->path))
			continue;
		child = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0)
			continue; /* removed meanwhile */
		w->path[len] = '/';
		memcpy(w->path + len + 1, entry->d_name, n + 1);
		w->len = len + 1 + n;
		r = walk(w, child, depth + 1);
		w->len = len;
		w->path[len] = '\0';
	}
	closedir(dir);
	return r == -ENOMEM ? r : 0;
}

static int read_mountinfo(struct cgroups *c, struct err *e)
{
	char name[PATH_MAX], chunk[16384];
	_cleanup_(buf_deinit) struct buf text = {0};
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(name, sizeof(name), "%s/self/mountinfo", c->proc_root);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, -errno, "cannot open %s", name);
	while ((n = read(fd, chunk, sizeof(chunk))) > 0 && text.len < MAX_MOUNTINFO_BYTES)
		buf_add(&text, chunk, (size_t)n);
	if (n < 0)
		return err_errno(e, -errno, "cannot read %s", name);
	if (text.failed)
		return err_set(e, -ENOMEM, "no memory for %s", name);
	c->mount_count = text.len ? cgroup_mounts_parse(text.data, text.len, c->mounts, MAX_MOUNTS) : 0;
	return 0;
}

int cgroups_scan(struct cgroups *c, uint64_t now_ns, struct err *e)
{
	_cleanup_free_ struct walk *w = calloc(1, sizeof(*w));
	struct cgroup *g, *tmp;
	int r;

	if (!w)
		return err_set(e, -ENOMEM, "no memory to read the cgroups");
	r = read_mountinfo(c, e);
	if (r < 0)
		return r;
	c->scan++;
	for (size_t i = 0; i < c->mount_count; i++) {
		int fd = open(c->mounts[i].point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		/* Hidden under another mount: what events and /proc/PID/cgroup tell must do. */
		if (fd < 0)
			continue;
		w->c = c;
		w->mount = &c->mounts[i];
		w->len = strlen(c->mounts[i].root);
		memcpy(w->path, c->mounts[i].root, w->len + 1);
		r = walk(w, fd, 0);
		if (r == -ENOMEM)
			return err_set(e, r, "no memory to read the cgroups");
	}
	HASH_ITER (hh, c->table, g, tmp)
		if (g->scan != c->scan)
			remove_at(c, g, now_ns);
	return 0;
}

/* Hierarchies that are mounted together have one id, and the kernel reports it for one of them. */
static unsigned mounted_with(const struct cgroups *c, unsigned hierarchy)
{
	for (size_t i = 0; i < c->mount_count; i++)
		if (c->mounts[i].hierarchies & (1u << hierarchy))
			return c->mounts[i].hierarchies;
	return 1u << hierarchy;
}

static void rename_below(struct cgroups *c, unsigned hierarchy, const char *from, const char *to)
{
	size_t n = strlen(from);
	struct cgroup *g, *tmp;

	HASH_ITER (hh, c->table, g, tmp) {
		char *path;

		if (g->key.hierarchy != hierarchy || strncmp(g->path, from, n) != 0 || g->path[n] != '/')
			continue;
		if (asprintf(&path, "%s%s", to, g->path + n) < 0)
			continue;
		free(g->path);
		g->path = path;
	}
}

void cgroups_on_event(struct cgroups *c, const struct record_cgroup *r, bool *ret_renamed)
{
	char path[CGROUP_PATH_BYTES + 1];
	unsigned set;
	bool renamed = false;

	memcpy(path, r->path, CGROUP_PATH_BYTES);
	path[CGROUP_PATH_BYTES] = '\0';
	if (r->head.hierarchy >= CGROUP_V1_OTHER)
		return;
	set = mounted_with(c, r->head.hierarchy);
	for (unsigned h = 0; h < CGROUP_HIERARCHIES; h++) {
		struct cgroup *g;

		if (!(set & (1u << h)))
			continue;
		g = find(c, (enum cgroup_hierarchy)h, r->cgroup_id);
		if (r->head.type == RECORD_CGROUP_RMDIR) {
			if (g)
				remove_at(c, g, r->time_ns);
			continue;
		}
		if (path[0] != '/')
			continue;
		if (r->head.type == RECORD_CGROUP_RENAME && g && strcmp(g->path, path) != 0) {
			_cleanup_free_ char *old = strdup(g->path);

			renamed = true;
			if (old)
				rename_below(c, h, old, path);
		}
		(void)put(c, (enum cgroup_hierarchy)h, r->cgroup_id, path);
	}
	*ret_renamed = renamed;
}

bool cgroups_learn(struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id, const char *path)
{
	for (size_t i = 0; i < c->mount_count; i++) {
		const struct cgroup_mount *m = &c->mounts[i];
		size_t root = strlen(m->root);
		_cleanup_free_ char *name = NULL;
		struct stat st;

		if (!(m->hierarchies & (1u << hierarchy)) || strncmp(path, m->root, root) != 0 || strstr(path, "/.."))
			continue;
		if (asprintf(&name, "%s%s", m->point, path + root) < 0) {
			name = NULL;
			return false;
		}
		if (lstat(name, &st) < 0 || st.st_ino != id || st.st_dev != makedev(m->dev_major, m->dev_minor))
			continue;
		return put(c, hierarchy, id, path) == 0;
	}
	return false;
}

void cgroups_expire(struct cgroups *c, uint64_t now_ns)
{
	while (c->removed && c->removed->removed_ns + c->removed_keep_ns <= now_ns)
		forget(c, c->removed);
}

size_t cgroups_count(const struct cgroups *c)
{
	return HASH_COUNT(c->table);
}

uint64_t cgroups_full(const struct cgroups *c)
{
	return c->full;
}
