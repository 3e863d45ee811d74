/* Durations, points in time and ranges as they stand on a command line. Pure functions, integers throughout: a time
 * stamp in ns does not fit a double. */
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "daemon/query/query.h"
#include "daemon/util/clock.h"

#define DEFAULT_RANGE_NS (300 * NS_PER_S)
/* Keeps sums of two times below the end of 64 bits. */
#define TIME_MAX_NS ((uint64_t)INT64_MAX)

static const struct {
	const char *text;
	uint64_t ns;
} units[] = {
	{"ns", 1},
	{"us", 1000},
	{"ms", NS_PER_MS},
	{"s", NS_PER_S},
	{"m", 60 * NS_PER_S},
	{"h", 3600 * NS_PER_S},
	{"d", 86400 * NS_PER_S},
	{"w", 7 * 86400 * NS_PER_S},
};

/* digits[.digits] times unit_ns; false when there is no digit or too much of them. */
static bool scale(const char *at, size_t len, uint64_t unit_ns, uint64_t *ret)
{
	unsigned __int128 ns = 0, part = unit_ns;
	bool point = false, digit = false;

	for (size_t i = 0; i < len; i++) {
		if (at[i] == '.' && !point) {
			point = true;
			continue;
		}
		if (!isdigit((unsigned char)at[i]))
			return false;
		digit = true;
		if (point) {
			/* Digits below a nanosecond are cut off. */
			ns += part * (unsigned int)(at[i] - '0') / 10;
			part /= 10;
		} else {
			ns = ns * 10 + (unsigned __int128)(at[i] - '0') * unit_ns;
		}
		if (ns > TIME_MAX_NS)
			return false;
	}
	if (!digit)
		return false;
	*ret = (uint64_t)ns;
	return true;
}

/* A duration of len bytes. */
static bool parse_duration(const char *text, size_t len, uint64_t *ret)
{
	uint64_t sum = 0;
	size_t i = 0;

	if (!len)
		return false;
	while (i < len) {
		size_t number = i, unit;
		uint64_t ns, unit_ns = 0;

		while (i < len && (isdigit((unsigned char)text[i]) || text[i] == '.'))
			i++;
		unit = i;
		while (i < len && isalpha((unsigned char)text[i]))
			i++;
		for (size_t k = 0; k < ARRAY_SIZE(units); k++)
			if (strlen(units[k].text) == i - unit && !strncmp(units[k].text, text + unit, i - unit))
				unit_ns = units[k].ns;
		if (!unit_ns || !scale(text + number, unit - number, unit_ns, &ns) || ns > TIME_MAX_NS - sum)
			return false;
		sum += ns;
	}
	*ret = sum;
	return true;
}

int duration_parse(const char *text, uint64_t *ret_ns, struct err *e)
{
	size_t len = strlen(text);

	if (!parse_duration(text, len, ret_ns))
		return err_set(e, -EINVAL, "'%.40s' is not a duration: write 500ms, 90s, 5m, 1h30m or 14d", text);
	return 0;
}

static bool number(const char **at, size_t digits, int least, int most, int *ret)
{
	int v = 0;

	for (size_t i = 0; i < digits; i++) {
		if (!isdigit((unsigned char)(*at)[i]))
			return false;
		v = v * 10 + ((*at)[i] - '0');
	}
	if (v < least || v > most)
		return false;
	*at += digits;
	*ret = v;
	return true;
}

static bool literal(const char **at, const char *any_of)
{
	if (!**at || !strchr(any_of, **at))
		return false;
	(*at)++;
	return true;
}

/* 2026-01-02T03:04:05.678+01:00 */
static bool parse_rfc3339(const char *at, uint64_t *ret)
{
	struct tm tm = {0}, check;
	int hours = 0, minutes = 0;
	uint64_t fraction_ns = 0;
	bool east = false;
	time_t seconds;

	if (!number(&at, 4, 1970, 2261, &tm.tm_year) || !literal(&at, "-") || !number(&at, 2, 1, 12, &tm.tm_mon) ||
	    !literal(&at, "-") || !number(&at, 2, 1, 31, &tm.tm_mday) || !literal(&at, "Tt ") ||
	    !number(&at, 2, 0, 23, &tm.tm_hour) || !literal(&at, ":") || !number(&at, 2, 0, 59, &tm.tm_min) ||
	    !literal(&at, ":") || !number(&at, 2, 0, 60, &tm.tm_sec))
		return false;
	if (*at == '.') {
		size_t digits = 1;

		while (isdigit((unsigned char)at[digits]))
			digits++;
		if (!scale(at, digits, NS_PER_S, &fraction_ns))
			return false;
		at += digits;
	}
	if (*at == '+' || *at == '-') {
		east = *at++ == '+';
		if (!number(&at, 2, 0, 23, &hours) || !literal(&at, ":") || !number(&at, 2, 0, 59, &minutes))
			return false;
	} else if (!literal(&at, "Zz")) {
		return false;
	}
	if (*at)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	check = tm;
	seconds = timegm(&check);
	/* timegm makes the 3rd of March of the 31st of February. */
	if (check.tm_mday != tm.tm_mday && tm.tm_sec < 60)
		return false;
	seconds += (east ? -1 : 1) * (hours * 3600 + minutes * 60);
	if (seconds < 0)
		return false;
	*ret = (uint64_t)seconds * NS_PER_S + fraction_ns;
	return true;
}

static bool parse_now(const char *text, uint64_t now_ns, uint64_t *ret)
{
	uint64_t ns;

	if (strncmp(text, "now", 3) != 0)
		return false;
	if (!text[3]) {
		*ret = now_ns;
		return true;
	}
	if ((text[3] != '-' && text[3] != '+') || !parse_duration(text + 4, strlen(text + 4), &ns))
		return false;
	if (text[3] == '+')
		*ret = now_ns + ns;
	else
		*ret = ns < now_ns ? now_ns - ns : 0;
	return true;
}

static int parse_time(const char *what, const char *text, uint64_t now_ns, uint64_t *ret, struct err *e)
{
	if (parse_now(text, now_ns, ret) || scale(text, strlen(text), NS_PER_S, ret) || parse_rfc3339(text, ret))
		return 0;
	return err_set(e, -EINVAL,
		       "%s '%.40s' is not a time: write Unix seconds, RFC 3339 (2026-01-02T03:04:05Z), now or now-1h",
		       what, text);
}

int time_range_parse(const char *since, const char *from, const char *until, uint64_t now_ns, uint64_t *ret_from_ns,
		     uint64_t *ret_until_ns, struct err *e)
{
	uint64_t from_ns, until_ns = now_ns, back_ns = DEFAULT_RANGE_NS;
	int r;

	if (since && (from || until))
		return err_set(e, -EINVAL, "since can't be given together with from or until");
	if (since) {
		r = duration_parse(since, &back_ns, e);
		if (r < 0)
			return r;
		if (!back_ns)
			return err_set(e, -EINVAL, "since must be longer than 0");
	}
	if (until) {
		r = parse_time("until", until, now_ns, &until_ns, e);
		if (r < 0)
			return r;
	}
	from_ns = back_ns < until_ns ? until_ns - back_ns : 0;
	if (from) {
		r = parse_time("from", from, now_ns, &from_ns, e);
		if (r < 0)
			return r;
	}
	if (from_ns >= until_ns)
		return err_set(e, -EINVAL, "the range is empty: from%s must lie before until%s",
			       from ? "" : " (not given)", until ? "" : " (now)");
	*ret_from_ns = from_ns;
	*ret_until_ns = until_ns;
	return 0;
}
