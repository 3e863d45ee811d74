/* Files are written under another name (KEY.part) and renamed, so that a reader never sees half of one; what a crash
 * left of these is removed at open. No fsync: after a power cut the checksum tells. Names come from a parser that may
 * have been taken over, so a key that is more than letters, digits and '-' is refused before it is a name. */
#include "daemon/image/table_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/fault.h"

#define DEFAULT_MAX_BYTES (256ull << 20)
#define BLOCK_BYTES 4096u
#define SUFFIX ".table"
#define PART_SUFFIX ".part"
#define NAME_BYTES (TABLE_KEY_BYTES + sizeof(SUFFIX))
#define ROOM_PART 16 /* one part in so many is made free at once, so that not each write reads the directory */

_Static_assert(sizeof(SUFFIX) >= sizeof(PART_SUFFIX), "NAME_BYTES holds both");

struct table_cache {
	int dir;
	uint64_t max_bytes;
	struct table_cache_stats stats;
};

static bool key_is_sound(const char *key, size_t length)
{
	if (!length || length >= TABLE_KEY_BYTES)
		return false;
	for (size_t i = 0; i < length; i++)
		if (!(key[i] >= '0' && key[i] <= '9') && !(key[i] >= 'a' && key[i] <= 'z') &&
		    !(key[i] >= 'A' && key[i] <= 'Z') && key[i] != '-')
			return false;
	return true;
}

static int name_of(const char *key, const char *suffix, char name[NAME_BYTES])
{
	if (!key_is_sound(key, strnlen(key, TABLE_KEY_BYTES)))
		return -EINVAL;
	(void)snprintf(name, NAME_BYTES, "%s%s", key, suffix);
	return 0;
}

/* Whether a file of this name would be ours. */
static bool is_ours(const char *name, const char *suffix)
{
	size_t length = strlen(name), end = strlen(suffix);

	return length > end && !strcmp(name + length - end, suffix) && key_is_sound(name, length - end);
}

static uint64_t on_disk(uint64_t bytes)
{
	return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

/* Takes a file away, and its bytes from the sum if it is one of the sum. */
static void drop(struct table_cache *c, const char *name)
{
	struct stat st;

	if (fstatat(c->dir, name, &st, AT_SYMLINK_NOFOLLOW) || unlinkat(c->dir, name, 0) || !S_ISREG(st.st_mode))
		return;
	c->stats.bytes -=
		on_disk((uint64_t)st.st_size) < c->stats.bytes ? on_disk((uint64_t)st.st_size) : c->stats.bytes;
}

struct entry {
	char name[NAME_BYTES];
	uint64_t bytes;
	struct timespec mtime;
};

struct listing {
	struct entry *entries;
	size_t count, cap;
	uint64_t bytes;
};

static int listing_add(struct listing *l, const char *name, const struct stat *st)
{
	struct entry *e;

	if (l->count == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct entry *grown = realloc(l->entries, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->entries = grown;
		l->cap = cap;
	}
	e = &l->entries[l->count++];
	memcpy(e->name, name, strlen(name) + 1); /* is_ours saw to its length */
	e->bytes = on_disk((uint64_t)st->st_size);
	e->mtime = st->st_mtim;
	l->bytes += e->bytes;
	return 0;
}

/* All tables there are. What a crash left half-written is removed on the way. */
static int list(struct table_cache *c, struct listing *ret)
{
	struct listing l = {0};
	struct dirent *d;
	int fd = openat(c->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (!r && (d = readdir(dir))) {
		struct stat st;

		if (is_ours(d->d_name, PART_SUFFIX))
			(void)unlinkat(c->dir, d->d_name, 0);
		else if (is_ours(d->d_name, SUFFIX) && !fstatat(c->dir, d->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
			 S_ISREG(st.st_mode))
			r = listing_add(&l, d->d_name, &st);
	}
	closedir(dir);
	if (r) {
		free(l.entries);
		return r;
	}
	*ret = l;
	return 0;
}

static int by_mtime(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;

	if (a->mtime.tv_sec != b->mtime.tv_sec)
		return a->mtime.tv_sec < b->mtime.tv_sec ? -1 : 1;
	if (a->mtime.tv_nsec != b->mtime.tv_nsec)
		return a->mtime.tv_nsec < b->mtime.tv_nsec ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* Reads the directory, and removes the oldest if `more` bytes don't fit. */
static int make_room(struct table_cache *c, uint64_t more)
{
	struct listing l = {0};
	int r = list(c, &l);

	if (r)
		return r;
	c->stats.bytes = l.bytes;
	if (l.bytes + more > c->max_bytes && more <= c->max_bytes) {
		uint64_t to = c->max_bytes - c->max_bytes / ROOM_PART;

		qsort(l.entries, l.count, sizeof(*l.entries), by_mtime);
		to = more < to ? to - more : 0;
		for (size_t i = 0; i < l.count && c->stats.bytes > to; i++) {
			if (unlinkat(c->dir, l.entries[i].name, 0))
				continue;
			c->stats.bytes -= l.entries[i].bytes;
			c->stats.removed++;
		}
	}
	free(l.entries);
	return c->stats.bytes + more > c->max_bytes ? -EDQUOT : 0;
}

int table_cache_open(const char *dir, uint64_t max_bytes, struct table_cache **ret, struct err *e)
{
	struct table_cache *c;
	struct stat st;
	int r = 0;

	if (mkdir(dir, 0700) && errno != EEXIST)
		return err_errno(e, -errno, "cannot make the directory %s", dir);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->max_bytes = max_bytes ? max_bytes : DEFAULT_MAX_BYTES;
	c->dir = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->dir < 0 || fstat(c->dir, &st))
		r = err_errno(e, -errno, "cannot open the directory %s", dir);
	else if (st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
		r = err_set(e, -EPERM, "others may write into the directory %s", dir);
	if (!r) {
		r = make_room(c, 0);
		if (r)
			err_errno(e, r, "cannot read the directory %s", dir);
	}
	if (r) {
		table_cache_close(c);
		return r;
	}
	*ret = c;
	return 0;
}

void table_cache_close(struct table_cache *c)
{
	if (!c)
		return;
	if (c->dir >= 0)
		close(c->dir);
	free(c);
}

/* -EBADMSG: there is something, but no table. */
static int read_table(struct table_cache *c, const char *name, struct table **ret)
{
	/* O_NONBLOCK: whoever opens a FIFO waits for its writer. */
	_cleanup_close_ int fd = openat(c->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_free_ char *data = NULL;
	size_t size, done = 0;
	struct stat st;

	if (fd < 0)
		return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct table) || st.st_size > (off_t)TABLE_MAX_BYTES)
		return -EBADMSG;
	size = (size_t)st.st_size;
	data = malloc(size);
	if (!data)
		return -ENOMEM;
	while (done < size) {
		ssize_t n = pread(fd, data + done, size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EBADMSG;
		done += (size_t)n;
	}
	if (table_check(data, size))
		return -EBADMSG;
	(void)futimens(fd, NULL); /* young again */
	*ret = (struct table *)(void *)TAKE_PTR(data);
	return 0;
}

int table_cache_get(struct table_cache *c, const char *key, struct table **ret)
{
	char name[NAME_BYTES];
	int r = name_of(key, SUFFIX, name);

	if (r)
		return r;
	r = read_table(c, name, ret);
	if (!r) {
		c->stats.hits++;
		return 0;
	}
	c->stats.misses++;
	if (r == -EBADMSG || r == -EIO) {
		c->stats.broken++;
		drop(c, name);
	}
	return -ENOENT;
}

static int write_part(struct table_cache *c, const char *name, const struct table *table)
{
	_cleanup_close_ int fd = -1;
	const char *data = (const char *)table;
	size_t done = 0;

	/* Of a write that failed where even the removal did. */
	(void)unlinkat(c->dir, name, 0);
	fd = openat(c->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	while (done < table->bytes) {
		ssize_t n = write(fd, data + done, table->bytes - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
		if (FAULT("cache.write"))
			return -ENOSPC;
	}
	return 0;
}

int table_cache_put(struct table_cache *c, const char *key, const struct table *table)
{
	uint64_t bytes = on_disk(table->bytes);
	char name[NAME_BYTES], part[NAME_BYTES];
	int r = name_of(key, SUFFIX, name);

	if (r)
		return r;
	(void)name_of(key, PART_SUFFIX, part);
	if (c->stats.bytes + bytes > c->max_bytes)
		r = make_room(c, bytes);
	if (!r)
		r = write_part(c, part, table);
	if (!r) {
		drop(c, name);
		if (renameat(c->dir, part, c->dir, name))
			r = -errno;
	}
	if (r) {
		c->stats.write_errors++;
		(void)unlinkat(c->dir, part, 0);
		return r;
	}
	c->stats.bytes += bytes;
	return 0;
}

void table_cache_get_stats(const struct table_cache *c, struct table_cache_stats *ret)
{
	*ret = c->stats;
}
