/* Tells the service manager how the daemon fares: sd_notify's protocol, one datagram to $NOTIFY_SOCKET. Without that
 * variable every call does nothing and gives 0. Loop thread only. */
#ifndef BAROSCOPE_UTIL_NOTIFY_H
#define BAROSCOPE_UTIL_NOTIFY_H

#include "daemon/util/cleanup.h"

/* Sends `state`, newline-separated assignments. -errno; a daemon goes on without its manager. */
int notify_send(const char *state);
int notify_ready(void);
/* With MONOTONIC_USEC, as Type=notify-reload wants; followed by notify_ready once the reload is done or refused. */
int notify_reloading(void);
int notify_stopping(void);
/* One line for `systemctl status`. */
int notify_status(const char *fmt, ...) _printf_(1, 2);

#endif
