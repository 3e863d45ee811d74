/* Creation and removal of the socket's file. No step leaves a moment in which a stranger could connect. */
#include "daemon/control/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/config.h"
#include "daemon/control/auth.h"

static int make_default_dir(const char *path, struct err *e)
{
	char dir[] = CONFIG_DEFAULT_SOCKET;

	if (strcmp(path, CONFIG_DEFAULT_SOCKET))
		return 0;
	*strrchr(dir, '/') = 0;
	if (mkdir(dir, 0755) < 0) {
		if (errno == EEXIST)
			return 0;
		return err_errno(e, -errno, "cannot make the directory %s", dir);
	}
	/* Whatever the umask was: others must reach the socket to be told that they may not. */
	if (chmod(dir, 0755) < 0)
		return err_errno(e, -errno, "cannot set the mode of %s", dir);
	return 0;
}

static int remove_dead(const char *path, const struct sockaddr_un *sa, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_errno(e, -errno, "cannot look at %s", path);
	}
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST,
			       "%s exists and is no socket; remove it, or choose another path with --socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, -errno, "cannot make a socket");
	/* EAGAIN is a live one with a full queue. */
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) >= 0 || errno == EAGAIN)
		return err_set(e, -EADDRINUSE,
			       "another daemon answers at %s; stop it first, or choose another path with --socket",
			       path);
	if (errno != ECONNREFUSED && errno != ENOENT)
		return err_errno(e, -errno, "cannot tell whether a daemon answers at %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(e, -errno, "cannot remove the dead socket %s", path);
	return 0;
}

/* Through a descriptor: the path could be exchanged between two calls where its directory is not root's alone. */
static int open_to_group(const char *path, gid_t group, struct stat *ret, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char self[40];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, -errno, "cannot look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "%s was exchanged while it was made; look who writes to its directory",
			       path);
	if (group != AUTH_NO_GROUP) {
		if (fchownat(fd, "", (uid_t)-1, group, AT_EMPTY_PATH) < 0)
			return err_errno(e, -errno, "cannot give %s to the group " AUTH_GROUP, path);
		(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
		if (chmod(self, 0660) < 0)
			return err_errno(e, -errno, "cannot set the mode of %s", path);
	}
	*ret = st;
	return 0;
}

int listen_init(struct listen_socket *s, const char *path, gid_t group, int backlog, int *ret_fd, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st = {0};
	int r;

	memset(s, 0, sizeof(*s));
	if (!*path || strlen(path) >= sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG,
			       "the socket path %.120s is empty or longer than %zu bytes; choose a shorter one", path,
			       sizeof(sa.sun_path) - 1);
	memcpy(sa.sun_path, path, strlen(path));
	r = make_default_dir(path, e);
	if (r >= 0)
		r = remove_dead(path, &sa, e);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, -errno, "cannot make a socket");
	/* A socket's own mode is the mode of the file that bind makes: private from the start, and the umask, which
	 * belongs to all threads, stays as it is. */
	if (fchmod(fd, 0600) < 0)
		return err_errno(e, -errno, "cannot set the mode of a socket");
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_errno(e, -errno, "cannot bind %s", path);
	r = open_to_group(path, group, &st, e);
	if (r >= 0 && listen(fd, backlog) < 0)
		r = err_errno(e, -errno, "cannot listen at %s", path);
	if (r >= 0) {
		s->path = strdup(path);
		if (!s->path)
			r = err_set(e, -ENOMEM, "out of memory");
	}
	if (r < 0) {
		(void)unlink(path);
		return r;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

void listen_deinit(struct listen_socket *s)
{
	struct stat st;

	if (s->path && lstat(s->path, &st) >= 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		(void)unlink(s->path);
	free(s->path);
	s->path = NULL;
}
