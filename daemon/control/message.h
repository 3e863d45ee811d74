/* One varlink message: decoding of a call, and the writing of replies and errors. Pure: no I/O, no state. The bytes
 * are foreign; whatever they are, decoding ends with a call or an error. */
#ifndef BAROSCOPE_CONTROL_MESSAGE_H
#define BAROSCOPE_CONTROL_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "daemon/util/buf.h"
#include "daemon/util/err.h"

#define CONTROL_INTERFACE "io.baroscope.Control"
#define VARLINK_INTERFACE "org.varlink.service"

struct message {
	json_t *root;	    /* owned */
	const char *method; /* borrowed from root */
	json_t *parameters; /* an object, borrowed from root; NULL = none given */
	bool more, oneway;
};

/* text is one message without its NUL. -EINVAL with e->text = what is wrong with it; -ENOMEM. */
int message_decode(const char *text, size_t len, struct message *ret, struct err *e);
void message_deinit(struct message *m);

/* Each appends one whole message with its NUL. `parameters` is JSON text of an object. */
void message_reply(struct buf *out, const char *parameters, size_t len, bool continues);
/* error is a full name; the only parameter is a text. */
void message_error(struct buf *out, const char *error, const char *parameter, const char *value);
void message_denied(struct buf *out, uid_t uid);

#endif
