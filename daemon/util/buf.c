#include "daemon/util/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

void buf_init(struct buf *b)
{
	*b = (struct buf){0};
}

void buf_deinit(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

static bool reserve(struct buf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 256;
	char *data;

	if (b->failed)
		return false;
	if (more > SIZE_MAX / 4 - b->len) {
		b->failed = true;
		return false;
	}
	if (b->len + more + 1 <= b->cap)
		return true;
	while (cap < b->len + more + 1)
		cap *= 2;
	data = realloc(b->data, cap);
	if (!data) {
		b->failed = true;
		return false;
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void buf_add(struct buf *b, const void *data, size_t len)
{
	if (!reserve(b, len))
		return;
	if (len)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void buf_adds(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0 || !reserve(b, (size_t)n))
		return;
	va_start(args, fmt);
	(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
	va_end(args);
	b->len += (size_t)n;
}

int buf_steal(struct buf *b, char **ret_data, size_t *ret_len)
{
	if (!reserve(b, 0)) {
		buf_deinit(b);
		return -ENOMEM;
	}
	b->data[b->len] = '\0';
	*ret_data = b->data;
	*ret_len = b->len;
	*b = (struct buf){0};
	return 0;
}
