/* What the files of this room share: the process and the table. Nobody else includes it. */
#ifndef BAROSCOPE_TARGET_INTERNAL_H
#define BAROSCOPE_TARGET_INTERNAL_H

#include <uthash.h>

#include "daemon/target/cgroups.h"
#include "daemon/target/space.h"
#include "daemon/target/target.h"

#define READ_TRIES 3
#define CACHED_SERIES_MAX 16

enum known_state { KNOWN_NOT, KNOWN_READING, KNOWN_YES, KNOWN_FAILED };

/* What a process's environment says. Shared with forks: they have the same one until they exec. */
struct environment {
	uint32_t refs, tries, reader_pid;
	enum known_state state;
	intern_id service_name, service_version; /* INTERN_EMPTY = not said */
};

/* What /proc/PID/cgroup said while the kernel reported (hierarchy, id). Shared, not changed once made. */
struct place {
	uint32_t refs;
	uint8_t hierarchy;
	uint64_t id;
	char *path; /* as shown */
	char *unit; /* in systemd's own hierarchy; NULL = there is none */
};

struct cached_series {
	uint64_t cgroup_id, made_ns;
	intern_id comm;
	series_id series;
	uint32_t epoch;
	uint8_t hierarchy;
	bool denied;
	bool provisional; /* something was not known: made anew after a while */
};

/* One incarnation: from fork or exec to exec or exit. */
struct process {
	uint32_t pid, generation;
	uint64_t start_ns; /* 0 = before anything that is known */
	uint64_t end_ns;   /* 0 = living */
	uint64_t exec_begin_ns;
	uint64_t start_ticks; /* of /proc/PID/stat; 0 = not known */
	uint32_t holds, scan;
	char comm[COMM_BYTES];
	bool placeholder; /* no event and no scan told of it */
	bool ended_by_exec;
	bool linked;   /* in the table */
	bool attended; /* in the list of those that targets_tick looks at */
	bool wanted;   /* to be published */
	bool published;
	uint64_t published_version;
	uint64_t publish_after_ns;
	struct space *space;

	struct environment *environment;
	struct place *place, *inherited_place;
	enum known_state place_state; /* of the read that is for place_hierarchy, place_id */
	uint8_t place_hierarchy;
	uint64_t place_id;
	uint64_t wait_since_ns; /* of target_label; 0 = does not wait */
	struct cached_series *series;
	uint32_t series_count, series_next;

	struct process *older; /* of this pid */
	struct process *ended_prev, *ended_next;
	struct process *attended_prev, *attended_next;
};

struct pid_slot {
	uint32_t pid;
	struct process *newest;
	UT_hash_handle hh;
};

/* A request to the opener. It belongs to the opener's callback, which frees it; the table keeps a list of them so that
 * it can leave before they are answered. */
struct target_read {
	struct targets *targets; /* NULL: the table is gone */
	struct process *process; /* held */
	struct environment *environment;
	enum proc_file file;
	uint8_t hierarchy;
	uint64_t cgroup_id;
	struct target_read *prev, *next;
};

struct targets {
	struct opener *opener;
	struct images *images;
	struct labels *labels;
	struct intern *strings;
	struct mapping_sink sink;
	char *host, *proc_root;
	char **allow, **deny; /* NULL-terminated; NULL = all, none */
	struct label_set static_labels;
	uint64_t exit_grace_ns;
	size_t max_processes, process_count;
	struct pid_slot *table;
	struct process *ended, *attended;
	struct process *nobody; /* pid 0, and who finds no room */
	struct spaces spaces;
	struct cgroups *cgroups;
	struct target_read *reads;
	uint32_t scan;
	struct rescan *rescan; /* under way; NULL */
	bool rescan_due;
	uint64_t rescan_next_ns; /* not before */
	targets_enter_fn *rescan_enter;
	void *rescan_user;
	uint32_t epoch; /* of labels */
	struct targets_stats stats;
};

/* targets.c */
struct process *target_find(const struct targets *t, uint32_t pid, uint32_t generation, uint64_t time_ns);
struct process *target_newest(const struct targets *t, uint32_t pid);
/* Takes over the references to space, environment and inherited_place, also on failure. NULL: no room or no memory. */
struct process *target_enter(struct targets *t, uint32_t pid, uint32_t generation, uint64_t start_ns,
			     struct space *space, struct environment *environment, struct place *inherited_place);
void target_end(struct targets *t, struct process *p, uint64_t time_ns, bool by_exec);
void target_disown(struct targets *t, const struct process *p);
/* The image of a mapping is referenced. */
void target_resolve_mapping(struct targets *t, const struct opener_file *file, uint64_t file_offset,
			    uint64_t inode_generation, struct mapping *ret);

/* target_scan.c */
void target_rescan_tick(struct targets *t);
void target_rescan_cancel(struct targets *t);

/* target_read.c */
/* Begin reading if that is still to be done and can be; else do nothing. */
void target_read_maps(struct targets *t, struct process *p);
void target_read_environment(struct targets *t, struct process *p);
void target_read_place(struct targets *t, struct process *p, enum cgroup_hierarchy hierarchy, uint64_t cgroup_id);
void target_cancel_reads(struct targets *t);
/* Fills an empty space from the text of /proc/PID/maps. */
int target_fill_space(struct targets *t, struct space *s, uint32_t pid, const char *text, size_t len);

struct environment *environment_create(void);
struct environment *environment_ref(struct environment *v);
struct environment *environment_unref(struct environment *v); /* NULL */
struct place *place_ref(struct place *v);		      /* NULL is fine */
struct place *place_unref(struct place *v);		      /* NULL */

#endif
