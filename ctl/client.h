/* A blocking varlink client with a time-out. */
#ifndef BAROSCOPE_CTL_CLIENT_H
#define BAROSCOPE_CTL_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "daemon/util/err.h"

#define CTL_TIMEOUT_S 30
#define CTL_REPLY_MAX_BYTES (512u << 20)

struct ctl_client {
	int fd;
	const char *path;
	char *in; /* received; the first `taken` bytes are done with */
	size_t len, cap, taken;
};

/* e->text names the socket and what to do. */
int ctl_client_init(struct ctl_client *c, const char *path, struct err *e);
void ctl_client_deinit(struct ctl_client *c);
/* method is without its interface. Takes the reference to parameters, also on failure. */
int ctl_client_call(struct ctl_client *c, const char *method, json_t *parameters, bool more, struct err *e);
/* The next reply's parameters (json_decref); an error reply is -EREMOTEIO with its sentence. */
int ctl_client_reply(struct ctl_client *c, json_t **ret_parameters, bool *ret_continues, struct err *e);
/* Connect, call, one reply. */
int ctl_ask(const char *path, const char *method, json_t *parameters, json_t **ret_parameters, struct err *e);

#endif
