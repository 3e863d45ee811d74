/* The opener: a privileged child process that opens foreign paths and never parses what is in them.
 *
 * The loop thread must not touch a path of a target: a FUSE file or a held mmap lock would block it. It asks the
 * opener over a socket pair, gets descriptors or raw bytes of /proc files back, and kills and restarts the opener
 * when an answer takes too long (the request then fails with -ETIMEDOUT; those behind it are sent again).
 *
 * Wire, ring and disk are other types: see opener_wire.h. Loop thread only. All requests are asynchronous; callbacks
 * run from the event loop, never from within the request call, exactly once per accepted request, also at
 * opener_destroy (with -ECANCELED). */
#ifndef BAROSCOPE_OPENER_OPENER_H
#define BAROSCOPE_OPENER_OPENER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "daemon/util/err.h"

struct opener;

struct opener_options {
	uint64_t timeout_ns; /* one request; default 2 s */
	size_t max_queued;   /* default 4096; beyond it requests fail with -EAGAIN at once */
	const char *exe;     /* program started as `exe --internal-opener`; default /proc/self/exe */
};

enum proc_file {
	PROC_FILE_MAPS,	   /* /proc/PID/maps */
	PROC_FILE_ENVIRON, /* /proc/PID/environ, first 128 KiB */
	PROC_FILE_CGROUP,  /* /proc/PID/cgroup */
	PROC_FILE_STAT,	   /* /proc/PID/stat */
	PROC_FILE_COUNT,
};

/* What a mapping says of its file. */
struct opener_file {
	uint32_t pid;	     /* 0: only the path is tried */
	uint64_t start, end; /* of the mapping, for /proc/PID/map_files */
	uint64_t inode;	     /* 0: not checked */
	uint32_t dev_major, dev_minor;
	const char *path; /* in the process's mount namespace; may end in " (deleted)" */
};

/* error: 0 or -errno. -ESTALE: what is at the path now is another file. -EINVAL: not a regular file (FIFO, device,
 * symbolic link in the last component ...). fd is the callee's to close, -1 on error. */
typedef void opener_file_fn(void *user, int error, int fd, const struct stat *st);
/* text is borrowed, not terminated; truncated files are given as far as read. */
typedef void opener_text_fn(void *user, int error, const char *text, size_t len);

int opener_create(struct event_base *base, const struct opener_options *options, struct opener **ret, struct err *e);
void opener_destroy(struct opener *o);

/* Tries /proc/PID/map_files/START-END, then /proc/PID/root/PATH, then PATH in the daemon's own namespace; takes the
 * first that is a regular file and, where inode != 0, has this inode (and, through map_files, any device; on paths
 * the same device unless the file system reports another one in stat than in maps, such as overlay or btrfs). */
int opener_open_file(struct opener *o, const struct opener_file *file, opener_file_fn *fn, void *user);
/* A file of the host by an absolute path that the daemon itself chose (/proc/kallsyms). */
int opener_open_host(struct opener *o, const char *path, opener_file_fn *fn, void *user);
int opener_read_proc(struct opener *o, uint32_t pid, enum proc_file file, opener_text_fn *fn, void *user);
/* Synchronous form for the start-up scan, before the loop runs: runs the base until the answer is there. */
int opener_read_proc_sync(struct opener *o, uint32_t pid, enum proc_file file, char **ret_text, size_t *ret_len);
/* Requests made with this user pointer call back with -ECANCELED from the loop at the latest; their fn is not given
 * anything else from now on. */
void opener_cancel(struct opener *o, void *user);

int opener_child_pid(const struct opener *o); /* for tests and status; -1 while restarting */
uint64_t opener_restarts(const struct opener *o);

/* The child's main(); called by main.c for `--internal-opener`. fd 3 is the socket. */
int opener_child_main(void);

#endif
