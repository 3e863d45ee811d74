/* Child processes of the daemon that talk over a SOCK_SEQPACKET socket on their fd 3: the opener and the parser.
 *
 * Parent side: loop thread only. Nothing here waits for a child, except child_stop with its bound: a killed child may
 * hang in the kernel (a dead file server), so it is reaped whenever it ends. */
#ifndef BAROSCOPE_UTIL_CHILD_H
#define BAROSCOPE_UTIL_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "daemon/util/err.h"

#define CHILD_SOCKET_FD 3
#define CHILD_MAX_UNREAPED 64

struct child {
	pid_t pid; /* -1 = none */
	int fd;	   /* our end, non-blocking; -1 = none */
};

/* Starts `exe arg` (exe NULL: this program). The child dies with the calling thread. -EAGAIN when too many killed
 * children have not ended yet. */
int child_spawn(const char *exe, const char *arg, struct child *ret, struct err *e);
/* Kills the child, closes the socket, returns at once. Safe on an empty struct. */
void child_kill(struct child *c);
/* As child_kill, and waits until it has ended, but no longer than timeout_ns. */
void child_stop(struct child *c, uint64_t timeout_ns);
/* Reaps killed children that have ended by now. */
void child_reap(void);

/* One message each. pass_fd < 0: none. Return 0 or -errno (-EAGAIN: would block). */
int child_send(int fd, const struct iovec *iov, size_t count, int pass_fd);
/* ret_len 0: the peer is gone. At most one descriptor is taken, *ret_fd = -1 without. -EMSGSIZE: the message was longer
 * than size (it is lost). */
int child_recv(int fd, void *buf, size_t size, size_t *ret_len, int *ret_fd);

/* In the child: name, death with the parent, no signals of the terminal. -EPIPE: the parent is gone already. */
int child_enter(const char *name);
/* In the child: keeps of the capabilities only those listed (and had), for good. Missing ones are no error. */
void child_keep_capabilities(const int *keep, size_t count);
/* The argument of a fault point in BAROSCOPE_CHILD_FAULT ("point=argument,..."), copied into arg. Always false in
 * builds without fault points. */
bool child_fault(const char *point, char *arg, size_t size);

#endif
