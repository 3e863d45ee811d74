/* Selectors, time ranges, and what is computed from a merged profile. Read-only on its inputs. No libbpf here. */
#ifndef BAROSCOPE_QUERY_QUERY_H
#define BAROSCOPE_QUERY_QUERY_H

#include "daemon/profile/profile.h"
#include "daemon/util/err.h"

/* Prometheus form: `{service_name="redis",comm=~"redis.*"}`; = != =~ !~, values in double quotes (escapes \\ \" \n),
 * single quotes or backquotes; regular expressions are anchored (PCRE2, with a match limit). "{}" and "" match all.
 * A label that a series does not have counts as "". */
struct selector;
int selector_parse(const char *text, struct selector **ret, struct err *e);
void selector_destroy(struct selector *s);
bool selector_match(const struct selector *s, const struct labels *labels, series_id series);

/* Times as on the command line, relative to now_ns: since ("5m", "1h30m", "90s", "500ms"), or from/until as Unix
 * seconds (fractions too), RFC 3339, "now", "now-1h". Any may be NULL; without any: the last 5 minutes. since together
 * with from or until, and from >= until, are errors. */
int time_range_parse(const char *since, const char *from, const char *until, uint64_t now_ns, uint64_t *ret_from_ns,
		     uint64_t *ret_until_ns, struct err *e);
int duration_parse(const char *text, uint64_t *ret_ns, struct err *e);

enum top_by { TOP_BY_FUNCTION, TOP_BY_LINE };
struct top_row {
	const char *function; /* borrowed from the string table, or from the rows' own storage when nameless */
	const char *file;
	uint32_t line;
	uint64_t self, total;
	double self_percent, total_percent; /* of the profile's total */
	double ci95; /* half width of the 95 % interval of total, in the type's unit; see docs/ACCURACY.md */
};
struct top {
	size_t count;
	struct top_row *rows; /* by self, then total, descending; at most limit */
	void *storage;
};
/* A function that stands several times in one stack counts once in total. */
int query_top(const struct profile *p, const struct trie *trie, const struct images *images, struct intern *strings,
	      enum top_by by, size_t limit, struct top **ret);
void top_destroy(struct top *t);

/* Half width of the 95 % interval of a sum of n samples that together are worth value. */
double query_ci95(uint64_t count, uint64_t value);

#endif
