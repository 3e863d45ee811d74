/* A growing byte buffer. After a failed allocation it keeps `failed` set, drops further bytes, and buf_steal says
 * -ENOMEM: a writer checks once, at the end. */
#ifndef BAROSCOPE_UTIL_BUF_H
#define BAROSCOPE_UTIL_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/util/cleanup.h"

struct buf {
	char *data; /* NUL-terminated as soon as anything was written */
	size_t len, cap;
	bool failed;
};

void buf_init(struct buf *b);
void buf_deinit(struct buf *b);
void buf_add(struct buf *b, const void *data, size_t len);
void buf_adds(struct buf *b, const char *s);
void buf_addf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
/* Hands the bytes over (free with free()); b is empty afterwards. -ENOMEM. */
int buf_steal(struct buf *b, char **ret_data, size_t *ret_len);

#endif
