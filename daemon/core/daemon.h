/* The daemon put together: every room's object, the drain timer, reload. main.c makes one, runs the loop, destroys it.
 *
 * starting -> (daemon_start) -> running -> (daemon_destroy) -> gone. Destroying detaches everything, whatever state it
 * is in. Loop thread only. */
#ifndef BAROSCOPE_CORE_DAEMON_H
#define BAROSCOPE_CORE_DAEMON_H

#include <event2/event.h>

#include "daemon/config.h"
#include "daemon/core/service.h"
#include "daemon/util/err.h"

struct daemon;

struct daemon_options {
	const struct config *config; /* borrowed until daemon_start returns */
	const char *state_dir;
};

/* Locks the state directory (-EBUSY: another daemon has it), starts the children, loads the programs. */
int daemon_create(struct event_base *base, const struct daemon_options *options, struct daemon **ret, struct err *e);
/* Attaches, scans, begins to drain: it samples when this returns. */
int daemon_start(struct daemon *d, struct err *e);
void daemon_destroy(struct daemon *d);
/* All or nothing. What needs a restart (rate, limits, listen) is kept as it was and told in ret_note (static text or
 * NULL). */
int daemon_reload(struct daemon *d, const struct config *config, const char **ret_note, struct err *e);
struct service *daemon_service(struct daemon *d);

#endif
