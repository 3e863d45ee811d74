#include "daemon/util/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "daemon/util/clock.h"

#define SITE_INTERVAL_NS (10 * NS_PER_S)

static enum log_level max_level = LOG_LEVEL_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_set_level(enum log_level level)
{
	max_level = level;
}

void log_line(struct log_site *site, enum log_level level, const char *area, const char *fmt, ...)
{
	char text[1024];
	uint64_t now = clock_mono_ns();
	size_t len;
	va_list args;

	if (level > max_level)
		return;
	if (site->last_ns && now - site->last_ns < SITE_INTERVAL_NS) {
		site->suppressed++;
		return;
	}
	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	/* Foreign text (a path, a comm) must not be able to forge a line. */
	len = strlen(text);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '?';
	if (site->suppressed)
		fprintf(stderr, "%s %s: %s suppressed=%" PRIu64 "\n", level_names[level], area, text, site->suppressed);
	else
		fprintf(stderr, "%s %s: %s\n", level_names[level], area, text);
	site->last_ns = now;
	site->suppressed = 0;
}
