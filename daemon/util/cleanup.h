/* Release of locals at the end of their scope, and small macros that everything uses. */
#ifndef BAROSCOPE_UTIL_CLEANUP_H
#define BAROSCOPE_UTIL_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _unused_ __attribute__((unused))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Takes the value out of a variable with a cleanup, so that it survives the scope. */
#define TAKE_PTR(p)                                                                                                    \
	({                                                                                                             \
		__typeof__(p) *take_p = &(p);                                                                          \
		__typeof__(p) take_v = *take_p;                                                                        \
		*take_p = NULL;                                                                                        \
		take_v;                                                                                                \
	})
#define TAKE_FD(fd)                                                                                                    \
	({                                                                                                             \
		int *take_p = &(fd);                                                                                   \
		int take_v = *take_p;                                                                                  \
		*take_p = -1;                                                                                          \
		take_v;                                                                                                \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)

#endif
