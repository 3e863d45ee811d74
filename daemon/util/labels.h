/* Label sets of series, interned: equal sets have equal ids.
 *
 * A set is sorted by label name (strcmp), has no empty values and no name twice. Ids are never reused while the
 * table lives; sets that no window holds any more are dropped by labels_sweep and looked up in vain. Loop thread only.
 */
#ifndef BAROSCOPE_UTIL_LABELS_H
#define BAROSCOPE_UTIL_LABELS_H

#include "daemon/util/intern.h"

#define LABELS_MAX_PER_SET 30

typedef uint32_t series_id;
#define SERIES_NONE 0u

struct label {
	intern_id name, value;
};

struct label_set {
	size_t count;
	struct label labels[LABELS_MAX_PER_SET];
};

struct labels;

/* Strings live in `strings`, which is borrowed and must outlive the table. */
int labels_create(struct intern *strings, size_t max_series, struct labels **ret);
void labels_destroy(struct labels *t);
struct intern *labels_strings(const struct labels *t);

/* Builds a set: adds or replaces a label; an empty value removes it. -E2BIG, -ENOSPC, -ENOMEM. */
int label_set_put(struct label_set *set, struct intern *strings, const char *name, const char *value);

/* -ENOSPC when the table is at its limit and the set is new. */
int labels_put(struct labels *t, const struct label_set *set, series_id *ret);
/* NULL when unknown. Borrowed; valid until the next labels_put or labels_sweep. */
const struct label_set *labels_get(const struct labels *t, series_id id);
/* "" when the set has no such label. */
const char *labels_value(const struct labels *t, series_id id, const char *name);
size_t labels_count(const struct labels *t);

void labels_begin_mark(struct labels *t);
void labels_mark(struct labels *t, series_id id);
/* Also marks the strings of the sets that stay (call between intern_begin_mark and intern_sweep). */
void labels_sweep(struct labels *t);

#endif
