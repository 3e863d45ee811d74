/* The opener process: opens files and reads /proc texts for the daemon, one request after the other.
 *
 * It is privileged, so it never looks into what it opens. It may block for ever on a hostile file system: the daemon
 * kills it then. A device or FIFO is never opened, only looked at through O_PATH: opening alone can have an effect. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "daemon/opener/opener.h"
#include "daemon/opener/opener_wire.h"
#include "daemon/util/child.h"

#ifndef CAP_CHECKPOINT_RESTORE
#define CAP_CHECKPOINT_RESTORE 40
#endif
#ifndef BTRFS_SUPER_MAGIC
#define BTRFS_SUPER_MAGIC 0x9123683E
#endif
#ifndef OVERLAYFS_SUPER_MAGIC
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#endif
#define FUSE_MAGIC 0x65735546
#define BCACHEFS_MAGIC 0xca451a4e

/* A file of a user's file server is copied up to this size, see detach_from_server. */
#define FUSE_COPY_MAX_BYTES (64u << 20)

static const char *const proc_names[PROC_FILE_COUNT] = {
	[PROC_FILE_MAPS] = "maps",
	[PROC_FILE_ENVIRON] = "environ",
	[PROC_FILE_CGROUP] = "cgroup",
	[PROC_FILE_STAT] = "stat",
};
static const size_t proc_max_bytes[PROC_FILE_COUNT] = {
	[PROC_FILE_MAPS] = 8u << 20,
	[PROC_FILE_ENVIRON] = 128u << 10,
	[PROC_FILE_CGROUP] = 64u << 10,
	[PROC_FILE_STAT] = 4u << 10,
};

static void stall_at_fault(const char *path)
{
	char arg[256];

	if (!child_fault("opener.stall", arg, sizeof(arg)) || !strstr(path, arg))
		return;
	for (;;)
		pause();
}

/* Closing a descriptor of a FUSE file waits for its server, in whichever process closes it. The daemon must not wait,
 * so it gets a copy in memory instead. */
static int detach_from_server(int fd, uint64_t size, int *ret)
{
	_cleanup_close_ int copy = -1;
	char buf[65536];
	uint64_t done = 0;

	if (size > FUSE_COPY_MAX_BYTES)
		return -EFBIG;
	copy = memfd_create("baroscope-copy", MFD_CLOEXEC);
	if (copy < 0)
		return -errno;
	while (done < FUSE_COPY_MAX_BYTES) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		for (ssize_t at = 0; at < n;) {
			ssize_t w = write(copy, buf + at, (size_t)(n - at));

			if (w < 0)
				return -errno;
			at += w;
		}
		done += (uint64_t)n;
	}
	*ret = TAKE_FD(copy);
	return 0;
}

/* From an O_PATH descriptor to a readable one. */
static int reopen(int path_fd, const struct stat *st, int *ret)
{
	_cleanup_close_ int fd = -1;
	char link[64];
	struct statfs fs;
	struct stat now;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
	fd = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &now))
		return -errno;
	if (!S_ISREG(now.st_mode) || now.st_ino != st->st_ino || now.st_dev != st->st_dev)
		return -ESTALE;
	if (!fstatfs(fd, &fs) && (unsigned long)fs.f_type == FUSE_MAGIC)
		return detach_from_server(fd, (uint64_t)st->st_size, ret);
	*ret = TAKE_FD(fd);
	return 0;
}

static bool reports_other_device(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return false;
	switch ((unsigned long)fs.f_type) {
	case OVERLAYFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case BCACHEFS_MAGIC:
		return true;
	default:
		return false;
	}
}

static int open_map_file(const struct opener_wire_request *q, const char *path, int *ret, struct stat *ret_st)
{
	_cleanup_close_ int fd = -1;
	char link[96], text[PATH_MAX];
	struct stat st;
	ssize_t n;
	int r;

	snprintf(link, sizeof(link), "/proc/%" PRIu32 "/map_files/%" PRIx64 "-%" PRIx64, q->pid, q->start, q->end);
	fd = open(link, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (q->inode && st.st_ino != q->inode) {
		struct statfs fs;

		/* Overlay before 6.8 shows the real file's inode in maps; then the name has to do. */
		if (fstatfs(fd, &fs) || (unsigned long)fs.f_type != OVERLAYFS_SUPER_MAGIC)
			return -ESTALE;
		n = readlink(link, text, sizeof(text));
		if (n < 0 || (size_t)n != strlen(path) || memcmp(text, path, (size_t)n) != 0)
			return -ESTALE;
	}
	r = reopen(fd, &st, ret);
	if (!r)
		*ret_st = st;
	return r;
}

/* root: O_PATH descriptor of the directory that is `/` for the path. */
static int open_in_root(int root, const struct opener_wire_request *q, const char *path, int *ret, struct stat *ret_st)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (q->inode) {
		bool same_device = major(st.st_dev) == q->dev_major && minor(st.st_dev) == q->dev_minor;

		if (st.st_ino != q->inode || (!same_device && !reports_other_device(fd)))
			return -ESTALE;
	}
	r = reopen(fd, &st, ret);
	if (!r)
		*ret_st = st;
	return r;
}

/* Of several failures the one that says most: refused, replaced, then whatever came last. */
static int worse(int a, int b)
{
	if (a == -EINVAL || b == -EINVAL)
		return -EINVAL;
	if (a == -ESTALE || b == -ESTALE)
		return -ESTALE;
	return a == 0 || a == -ENOENT || a == -ESRCH ? b : a;
}

static int open_file(const struct opener_wire_request *q, const char *path, int *ret, struct stat *ret_st)
{
	_cleanup_close_ int host_root = -1;
	int r = 0, error = 0;

	if (q->pid) {
		_cleanup_close_ int root = -1;
		char link[64];

		if (q->end > q->start) {
			r = open_map_file(q, path, ret, ret_st);
			if (!r)
				return 0;
			error = worse(error, r);
		}
		snprintf(link, sizeof(link), "/proc/%" PRIu32 "/root", q->pid);
		root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = root < 0 ? -errno : open_in_root(root, q, path, ret, ret_st);
		if (!r)
			return 0;
		error = worse(error, r);
	}
	host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = host_root < 0 ? -errno : open_in_root(host_root, q, path, ret, ret_st);
	return r ? worse(error, r) : 0;
}

static int open_host(const char *path, int *ret, struct stat *ret_st)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	int r;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	r = reopen(fd, &st, ret);
	if (!r)
		*ret_st = st;
	return r;
}

static int respond(struct opener_wire_response *s, const void *text, size_t len, int fd)
{
	struct iovec iov[2] = {
		{.iov_base = s, .iov_len = sizeof(*s)},
		{.iov_base = (void *)text, .iov_len = len},
	};

	return child_send(CHILD_SOCKET_FD, iov, len ? 2 : 1, fd);
}

static int read_proc(const struct opener_wire_request *q, struct opener_wire_response *s)
{
	static char text[OPENER_WIRE_TEXT_MAX];
	_cleanup_close_ int fd = -1;
	size_t done = 0, have = 0;
	char path[64];
	int r;

	if (q->file >= PROC_FILE_COUNT) {
		s->error = -EINVAL;
		return respond(s, NULL, 0, -1);
	}
	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/%s", q->pid, proc_names[q->file]);
	stall_at_fault(path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		s->error = -errno;
		return respond(s, NULL, 0, -1);
	}
	while (done + have < proc_max_bytes[q->file]) {
		size_t room = sizeof(text) - have, left = proc_max_bytes[q->file] - done - have;
		ssize_t n = read(fd, text + have, room < left ? room : left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			/* The process may end in mid-file: what was read so far is given. */
			if (!done && !have)
				s->error = -errno;
			break;
		}
		if (n == 0)
			break;
		have += (size_t)n;
		if (have == sizeof(text)) {
			s->more = 1;
			r = respond(s, text, have, -1);
			if (r)
				return r;
			done += have;
			have = 0;
		}
	}
	s->more = 0;
	return respond(s, text, have, -1);
}

static int serve(const struct opener_wire_request *q, const char *path)
{
	struct opener_wire_response s = {.id = q->id};
	_cleanup_close_ int fd = -1;

	if (q->kind == OPENER_READ_PROC)
		return read_proc(q, &s);
	stall_at_fault(path);
	if (q->kind == OPENER_OPEN_FILE)
		s.error = open_file(q, path, &fd, &s.st);
	else
		s.error = open_host(path, &fd, &s.st);
	return respond(&s, NULL, 0, fd);
}

int opener_child_main(void)
{
	static const int keep[] = {CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE,
				   CAP_SYSLOG};
	union {
		struct opener_wire_request head;
		char bytes[sizeof(struct opener_wire_request) + OPENER_WIRE_PATH_MAX + 1];
	} q;

	if (child_enter("baro-opener"))
		return 1;
	child_keep_capabilities(keep, ARRAY_SIZE(keep));
	for (;;) {
		size_t len;
		int r, fd;

		r = child_recv(CHILD_SOCKET_FD, &q, sizeof(q) - 1, &len, &fd);
		if (fd >= 0 && !r)
			close(fd);
		if (r)
			return 1;
		if (len == 0)
			return 0;
		if (len < sizeof(q.head))
			return 1;
		q.bytes[len] = '\0';
		if (serve(&q.head, q.bytes + sizeof(q.head)))
			return 1;
	}
}
