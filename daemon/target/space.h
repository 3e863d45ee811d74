/* Address spaces: the executable mappings of one or more processes, sorted by address, without overlaps. */
#ifndef BAROSCOPE_TARGET_SPACE_H
#define BAROSCOPE_TARGET_SPACE_H

#include "daemon/target/target.h"

/* FRESH: after an exec whose mappings have not been seen; the first one makes it READY. UNREAD: /proc/PID/maps is to
 * be read when somebody asks. FAILED: it could not be read; what events told is there. */
enum space_state { SPACE_FRESH, SPACE_UNREAD, SPACE_READING, SPACE_READY, SPACE_FAILED };

/* What all spaces share. */
struct spaces {
	struct images *images;
	size_t max_mappings; /* per space */
	uint64_t count, mappings, mappings_full;
	uint64_t last_version;
};

struct space {
	struct spaces *owner;
	uint32_t refs;
	uint32_t tries;	     /* reads begun */
	uint32_t reader_pid; /* of the last one */
	enum space_state state;
	uint64_t version; /* changes with every change; no two spaces have the same */
	size_t count, cap;
	struct mapping *maps; /* each holds one reference to its image */
	uint64_t *born_ns;    /* when each was mapped; 0 = read from /proc */
};

int space_create(struct spaces *owner, enum space_state state, struct space **ret);
struct space *space_ref(struct space *s);
struct space *space_unref(struct space *s); /* NULL */
/* A copy of the mappings that are not older than since_ns. */
int space_clone(const struct space *s, uint64_t since_ns, struct space **ret);
/* Replaces what it overlaps. Takes over the reference to m->image, also on failure. -ENOSPC, -ENOMEM. */
int space_insert(struct space *s, const struct mapping *m, uint64_t born_ns);
/* s = older, with the mappings of s laid over it. older is emptied. */
int space_lay_over(struct space *s, struct space *older);
/* s = other; other is emptied. */
void space_take(struct space *s, struct space *other);
bool space_equal(const struct space *a, const struct space *b);
int space_find(const struct space *s, uint64_t address, struct mapping *ret);

#endif
