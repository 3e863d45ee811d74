/* Log lines on stderr: `level area: event key=value`. Called by main and the loop's callbacks, never by libraries
 * such as elf readers or the trie. One line per call site per 10 s; what was suppressed in between is told with the
 * next one. Loop thread only. */
#ifndef BAROSCOPE_UTIL_LOG_H
#define BAROSCOPE_UTIL_LOG_H

#include <stdint.h>

#include "daemon/util/cleanup.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log_site {
	uint64_t last_ns; /* 0 = never */
	uint64_t suppressed;
};

/* Lines above this level are dropped; LOG_LEVEL_INFO by default. */
void log_set_level(enum log_level level);
void log_line(struct log_site *site, enum log_level level, const char *area, const char *fmt, ...) _printf_(4, 5);

#define log_at(level, area, ...)                                                                                       \
	do {                                                                                                           \
		static struct log_site log_site_;                                                                      \
		log_line(&log_site_, level, area, __VA_ARGS__);                                                        \
	} while (0)
#define log_error(area, ...) log_at(LOG_LEVEL_ERROR, area, __VA_ARGS__)
#define log_warn(area, ...) log_at(LOG_LEVEL_WARN, area, __VA_ARGS__)
#define log_info(area, ...) log_at(LOG_LEVEL_INFO, area, __VA_ARGS__)
#define log_debug(area, ...) log_at(LOG_LEVEL_DEBUG, area, __VA_ARGS__)

#endif
