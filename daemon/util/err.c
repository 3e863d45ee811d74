#include "daemon/util/err.h"

#include <stdarg.h>
#include <string.h>

static void fill(struct err *e, int code, const char *fmt, va_list args)
{
	e->code = code;
	(void)vsnprintf(e->text, sizeof(e->text), fmt, args);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list args;

	if (!e)
		return code;
	va_start(args, fmt);
	fill(e, code, fmt, args);
	va_end(args);
	return code;
}

int err_errno(struct err *e, int code, const char *fmt, ...)
{
	va_list args;
	size_t used;

	if (!e)
		return code;
	va_start(args, fmt);
	fill(e, code, fmt, args);
	va_end(args);
	used = strlen(e->text);
	(void)snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror(-code));
	return code;
}
