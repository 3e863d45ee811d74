/* Humanised values; see format.h. */
#include "ctl/format.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "daemon/util/cleanup.h"

void format_bytes(double bytes, char ret[static FORMAT_MAX])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	size_t unit = 0;

	while (fabs(bytes) >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
		bytes /= 1024;
		unit++;
	}
	(void)snprintf(ret, FORMAT_MAX, unit && fabs(bytes) < 100 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

void format_ns(double ns, char ret[static FORMAT_MAX])
{
	uint64_t s;

	if (fabs(ns) < 1e3)
		(void)snprintf(ret, FORMAT_MAX, "%.0f ns", ns);
	else if (fabs(ns) < 1e6)
		(void)snprintf(ret, FORMAT_MAX, "%.2f us", ns / 1e3);
	else if (fabs(ns) < 1e9)
		(void)snprintf(ret, FORMAT_MAX, "%.2f ms", ns / 1e6);
	else if (ns < 60e9 || ns > 1e18)
		(void)snprintf(ret, FORMAT_MAX, "%.2f s", ns / 1e9);
	else {
		s = (uint64_t)(ns / 1e9 + 0.5);
		if (s < 3600)
			(void)snprintf(ret, FORMAT_MAX, "%um %02us", (unsigned int)(s / 60), (unsigned int)(s % 60));
		else if (s < 86400)
			(void)snprintf(ret, FORMAT_MAX, "%uh %02um", (unsigned int)(s / 3600),
				       (unsigned int)(s / 60 % 60));
		else
			(void)snprintf(ret, FORMAT_MAX, "%ud %02uh", (unsigned int)(s / 86400),
				       (unsigned int)(s / 3600 % 24));
	}
}

void format_count(double n, char ret[static FORMAT_MAX])
{
	if (fabs(n) < 1e6)
		(void)snprintf(ret, FORMAT_MAX, "%.0f", n);
	else if (fabs(n) < 1e9)
		(void)snprintf(ret, FORMAT_MAX, "%.2f M", n / 1e6);
	else
		(void)snprintf(ret, FORMAT_MAX, "%.2f G", n / 1e9);
}

void format_value(const char *type, double value, char ret[static FORMAT_MAX])
{
	static const char *const times[] = {"process_cpu", "offcpu",	 "wall",      "wall_clock",
					    "runq",	   "lock_delay", "wait_delay"};

	if (strstr(type, ":nanoseconds")) {
		/* The third part of an id is the value's unit, the last the period's. */
		const char *unit = strchr(type, ':');

		unit = unit ? strchr(unit + 1, ':') : NULL;
		if (unit && !strncmp(unit, ":nanoseconds", 12)) {
			format_ns(value, ret);
			return;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		if (!strcmp(type, times[i])) {
			format_ns(value, ret);
			return;
		}
	}
	if (strstr(type, "_space") || strstr(type, "rss_growth"))
		format_bytes(value, ret);
	else
		format_count(value, ret);
}

size_t format_width(FILE *f)
{
	struct winsize size;

	if (!isatty(fileno(f)))
		return 0;
	return ioctl(fileno(f), TIOCGWINSZ, &size) >= 0 && size.ws_col ? size.ws_col : 80;
}

static size_t columns_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

void format_text(FILE *f, const char *text, size_t max)
{
	bool cut = max && columns_of(text) > max;
	size_t left = cut ? (max > 3 ? max - 3 : 0) : SIZE_MAX;

	for (; *text; text++) {
		if (((unsigned char)*text & 0xc0) != 0x80 && !left--)
			break;
		(void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, f);
	}
	if (cut)
		(void)fputs("...", f);
}
