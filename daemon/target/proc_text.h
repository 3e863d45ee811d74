/* Texts of /proc: maps, stat, cgroup, environ. Foreign bytes; pure functions. */
#ifndef BAROSCOPE_TARGET_PROC_TEXT_H
#define BAROSCOPE_TARGET_PROC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/abi.h"

struct maps_line {
	uint64_t start, end, offset;
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	const char *path; /* unescaped; "" for anonymous memory */
};
/* A negative result ends the parse and is its result. */
typedef int maps_line_fn(void *user, const struct maps_line *line);
/* Calls fn for each executable mapping; lines that cannot be read are left out. */
int maps_parse(const char *text, size_t len, maps_line_fn *fn, void *user);

/* IMAGE_FIRST_FILE for a file, else what the memory is. path as perf and /proc/PID/maps give it. */
enum abi_image mapping_kind(const char *path, uint64_t inode);

/* -EINVAL when the text is not whole. ret_comm is terminated. */
int stat_parse(const char *text, size_t len, char ret_comm[COMM_BYTES], uint32_t *ret_parent,
	       uint64_t *ret_start_ticks);

/* The path of one hierarchy in /proc/PID/cgroup: a new string; -ENOENT. */
int proc_cgroup_path(const char *text, size_t len, enum cgroup_hierarchy hierarchy, char **ret);
/* The path that is shown: v2, where that is "/" the one of memory, else cpu, else systemd; "/" if all are. */
int proc_cgroup_shown_path(const char *text, size_t len, char **ret);

#define ENVIRON_VALUE_BYTES 257 /* 256 and the end */
/* Service name and version of a process's environment; "" where it says nothing. */
void environ_parse(const char *text, size_t len, char ret_service_name[ENVIRON_VALUE_BYTES],
		   char ret_service_version[ENVIRON_VALUE_BYTES]);

/* Copies text as UTF-8: a bad byte or control character becomes U+FFFD; cut between characters when it doesn't fit. */
void text_clean(const char *text, size_t len, char *ret, size_t size);

#endif
