/* Spawning, messages and privileges of the daemon's child processes, see child.h.
 *
 * Between fork and exec only async-signal-safe calls: the daemon has threads. */
#include "daemon/util/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/util/allocator.h"
#include "daemon/util/clock.h"

static pid_t unreaped[CHILD_MAX_UNREAPED];
static size_t unreaped_count;

/* What a child sees of the daemon's environment: nothing secret. */
static const char *const passed_env[] = {"ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "BAROSCOPE_CHILD_FAULT"};

void child_reap(void)
{
	size_t left = 0;

	for (size_t i = 0; i < unreaped_count; i++)
		if (waitpid(unreaped[i], NULL, WNOHANG) == 0)
			unreaped[left++] = unreaped[i];
	unreaped_count = left;
}

static _Noreturn void run_child(const char *exe, char *const argv[], char *const envp[], int sock, pid_t parent)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, dfl = {.sa_handler = SIG_DFL};
	sigset_t none;
	int null_fd;

	/* A terminal's signals go to the whole group; the daemon decides when its children end. */
	sigaction(SIGPIPE, &dfl, NULL);
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(126);
	/* dup2 onto itself would keep O_CLOEXEC. */
	if (sock == CHILD_SOCKET_FD)
		sock = fcntl(sock, F_DUPFD, CHILD_SOCKET_FD + 1);
	null_fd = open("/dev/null", O_RDWR);
	if (sock < 0 || null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(sock, CHILD_SOCKET_FD) < 0)
		_exit(126);
	if (syscall(SYS_close_range, CHILD_SOCKET_FD + 1, ~0u, 0))
		for (int fd = CHILD_SOCKET_FD + 1; fd < 65536; fd++)
			close(fd);
	execve(exe, argv, envp);
	_exit(127);
}

int child_spawn(const char *exe, const char *arg, struct child *ret, struct err *e)
{
	char *argv[3], *envp[ARRAY_SIZE(passed_env) + 2];
	char *env_text[ARRAY_SIZE(passed_env)] = {NULL};
	_cleanup_free_ char *name = NULL;
	_cleanup_close_ int ours = -1, theirs = -1;
	int fds[2], r = 0;
	size_t n = 0;
	pid_t pid, self = getpid();

	child_reap();
	if (unreaped_count == CHILD_MAX_UNREAPED)
		return err_set(e, -EAGAIN, "cannot start %s: %zu killed children have not ended", arg, unreaped_count);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return err_errno(e, -errno, "cannot make a socket pair for %s", arg);
	ours = fds[0];
	theirs = fds[1];
	if (fcntl(ours, F_SETFL, O_NONBLOCK))
		return err_errno(e, -errno, "cannot set up the socket of %s", arg);
	name = strdup(arg);
	if (!name)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(passed_env); i++) {
		const char *value = getenv(passed_env[i]);

		if (!value)
			continue;
		if (asprintf(&env_text[n], "%s=%s", passed_env[i], value) < 0) {
			env_text[n] = NULL;
			r = -ENOMEM;
			goto out;
		}
		envp[n] = env_text[n];
		n++;
	}
	envp[n] = (char *)(uintptr_t)allocator_child_env; /* exec writes to none */
	envp[n + 1] = NULL;
	argv[0] = name + strspn(name, "-");
	argv[1] = name;
	argv[2] = NULL;
	pid = fork();
	if (pid == 0)
		run_child(exe ? exe : "/proc/self/exe", argv, envp, theirs, self);
	if (pid < 0) {
		r = err_errno(e, -errno, "cannot start %s", arg);
		goto out;
	}
	ret->pid = pid;
	ret->fd = TAKE_FD(ours);
out:
	for (size_t i = 0; i < ARRAY_SIZE(env_text); i++)
		free(env_text[i]);
	return r;
}

void child_kill(struct child *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	if (c->pid <= 0)
		return;
	kill(c->pid, SIGKILL);
	if (waitpid(c->pid, NULL, WNOHANG) == 0 && unreaped_count < CHILD_MAX_UNREAPED)
		unreaped[unreaped_count++] = c->pid;
	c->pid = -1;
}

void child_stop(struct child *c, uint64_t timeout_ns)
{
	_cleanup_close_ int pidfd = -1;

	if (c->pid > 0) {
		pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
		kill(c->pid, SIGKILL);
		if (pidfd >= 0) {
			struct pollfd p = {.fd = pidfd, .events = POLLIN};

			while (poll(&p, 1, (int)(timeout_ns / NS_PER_MS)) < 0 && errno == EINTR)
				;
		}
	}
	child_kill(c);
	child_reap();
}

int child_send(int fd, const struct iovec *iov, size_t count, int pass_fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.space = {0}};
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
	ssize_t n;

	if (pass_fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.space;
		msg.msg_controllen = sizeof(control.space);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int child_recv(int fd, void *buf, size_t size, size_t *ret_len, int *ret_fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int got = -1;
	ssize_t n;

	do {
		msg.msg_control = control.space;
		msg.msg_controllen = sizeof(control.space);
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(&got, CMSG_DATA(c), sizeof(int));
	if (msg.msg_flags & MSG_TRUNC) {
		if (got >= 0)
			close(got);
		return -EMSGSIZE;
	}
	*ret_len = (size_t)n;
	*ret_fd = got;
	return 0;
}

int child_enter(const char *name)
{
	struct pollfd p = {.fd = CHILD_SOCKET_FD};

	prctl(PR_SET_NAME, name);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		return -errno;
	/* The parent may have died before the line above. */
	if (poll(&p, 1, 0) < 0)
		return -errno;
	return p.revents & (POLLHUP | POLLERR | POLLNVAL) ? -EPIPE : 0;
}

void child_keep_capabilities(const int *keep, size_t count)
{
	cap_t had = cap_get_proc(), now = cap_init();

	if (had && now) {
		for (int cap = 0; cap <= CAP_LAST_CAP; cap++) {
			cap_flag_value_t on = CAP_CLEAR;
			cap_value_t value = cap;
			bool wanted = false;

			for (size_t i = 0; i < count; i++)
				wanted |= keep[i] == cap;
			if (!wanted) {
				/* Needs CAP_SETPCAP; without it no_new_privs below holds alone. */
				(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
				continue;
			}
			if (!cap_get_flag(had, value, CAP_PERMITTED, &on) && on == CAP_SET) {
				cap_set_flag(now, CAP_PERMITTED, 1, &value, CAP_SET);
				cap_set_flag(now, CAP_EFFECTIVE, 1, &value, CAP_SET);
			}
		}
		(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
		(void)cap_set_proc(now);
	}
	cap_free(had);
	cap_free(now);
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

bool child_fault(const char *point, char *arg, size_t size)
{
#ifdef BAROSCOPE_FAULTS
	const char *p = getenv("BAROSCOPE_CHILD_FAULT");
	size_t len = strlen(point);

	while (p && *p) {
		const char *end = strchrnul(p, ',');

		if (!strncmp(p, point, len) && p[len] == '=') {
			size_t n = (size_t)(end - p) - len - 1;

			n = n < size - 1 ? n : size - 1;
			memcpy(arg, p + len + 1, n);
			arg[n] = '\0';
			return true;
		}
		p = *end ? end + 1 : NULL;
	}
#else
	(void)point;
	(void)arg;
	(void)size;
#endif
	return false;
}
