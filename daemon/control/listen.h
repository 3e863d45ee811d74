/* The control socket's file: made private, opened to the group, removed only by the one that made it. */
#ifndef BAROSCOPE_CONTROL_LISTEN_H
#define BAROSCOPE_CONTROL_LISTEN_H

#include <sys/stat.h>
#include <sys/types.h>

#include "daemon/util/err.h"

struct listen_socket {
	char *path; /* NULL = nothing to remove */
	dev_t dev;
	ino_t ino;
};

/* Binds and listens; 0660 root:group, or 0600 for AUTH_NO_GROUP. A dead socket file is replaced; -EADDRINUSE when
 * somebody answers there, -EEXIST when the path is no socket. */
int listen_init(struct listen_socket *s, const char *path, gid_t group, int backlog, int *ret_fd, struct err *e);
/* Unlinks the file if it is still the one that was made. The descriptor is its holder's. */
void listen_deinit(struct listen_socket *s);

#endif
