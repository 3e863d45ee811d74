/* A sentence for the user, filled where the cause is known, printed by main, the loop's callbacks and ctl only. */
#ifndef BAROSCOPE_UTIL_ERR_H
#define BAROSCOPE_UTIL_ERR_H

#include "daemon/util/cleanup.h"

struct err {
	int code;	/* negative errno; 0 = no error */
	char text[512]; /* what, why, what to do; no trailing newline */
};

/* Fills *e (which may be NULL) and returns code, so that `return err_set(e, -EINVAL, "...")` works. code < 0. */
int err_set(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);
/* As err_set, with ": strerror(-code)" added. */
int err_errno(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);

#endif
