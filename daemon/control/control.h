/* The control socket: varlink's wire form (JSON messages ended by NUL) for io.baroscope.Control.
 *
 * Bounded: clients, message size, output waiting for a client, time without progress. A client that stalls is closed
 * and never blocks the loop. Peers are authorised by SO_PEERCRED and SO_PEERGROUPS. Loop thread only. */
#ifndef BAROSCOPE_CONTROL_CONTROL_H
#define BAROSCOPE_CONTROL_CONTROL_H

#include <event2/event.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/core/service.h"
#include "daemon/util/err.h"

struct control;

struct control_options {
	const char *socket_path;
	size_t max_clients;	  /* 128 */
	size_t max_message_bytes; /* 1 MiB in */
	uint64_t idle_timeout_ns; /* half a message, or output that does not move: 10 s */
};

/* Makes the socket's directory if it is the default one; 0660 root:baroscope, or 0600 without that group. Refuses when
 * another daemon answers on the path; removes a dead socket. */
int control_create(struct event_base *base, struct service *service, const struct control_options *options,
		   struct control **ret, struct err *e);
/* Closes clients and unlinks the socket. */
void control_destroy(struct control *c);

#endif
