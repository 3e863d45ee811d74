/* cgroups of all hierarchies: id -> path, also for a while after the directory is gone. */
#ifndef BAROSCOPE_TARGET_CGROUPS_H
#define BAROSCOPE_TARGET_CGROUPS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/abi.h"
#include "daemon/util/err.h"

#define CGROUP_HIERARCHIES (CGROUP_V1_OTHER + 1)

/* The mounts that matter, out of mountinfo. One hierarchy may be mounted with several controllers. */
struct cgroup_mount {
	unsigned hierarchies; /* bit set of enum cgroup_hierarchy */
	uint32_t dev_major, dev_minor;
	char point[PATH_MAX];
	char root[PATH_MAX]; /* what of the hierarchy is mounted there; "" = all */
};
/* One mount per file system, the one that shows most. Writes at most max. */
size_t cgroup_mounts_parse(const char *text, size_t len, struct cgroup_mount *ret, size_t max);

struct cgroups;

/* proc_root is copied. max: of remembered paths. */
int cgroups_create(const char *proc_root, size_t max, uint64_t removed_keep_ns, struct cgroups **ret);
void cgroups_destroy(struct cgroups *c);
/* Reads the mounts, then every directory; what is not there any more counts as removed at now_ns. */
int cgroups_scan(struct cgroups *c, uint64_t now_ns, struct err *e);
/* ret_renamed: paths given out earlier have changed. */
void cgroups_on_event(struct cgroups *c, const struct record_cgroup *r, bool *ret_renamed);
/* NULL when unknown. Borrowed until the next call that changes the table. */
const char *cgroups_path(const struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id);
/* A path heard from elsewhere is remembered if the directory there has this id. */
bool cgroups_learn(struct cgroups *c, enum cgroup_hierarchy hierarchy, uint64_t id, const char *path);
/* Forgets those that were removed long ago. */
void cgroups_expire(struct cgroups *c, uint64_t now_ns);
size_t cgroups_count(const struct cgroups *c);
uint64_t cgroups_full(const struct cgroups *c); /* paths that were not remembered, or forgotten early */

#endif
