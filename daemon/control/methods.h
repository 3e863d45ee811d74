/* The methods: a table of names and parameters, and what each answers. Knows nothing of sockets. Loop thread only. */
#ifndef BAROSCOPE_CONTROL_METHODS_H
#define BAROSCOPE_CONTROL_METHODS_H

#include "daemon/control/message.h"
#include "daemon/core/service.h"

struct method;

/* Finds the method and checks the parameters against its table. On failure a whole error message was appended to out
 * and -EINVAL is given. */
int method_find(const struct message *m, const struct method **ret, struct buf *out);
/* The answer depends on samples up to now: call it after service_when_ready. */
bool method_waits(const struct method *m);
/* A call of it with these parameters and "more" is answered again and again. */
bool method_streams(const struct method *m, const struct message *call);
/* Appends one whole reply or error. */
void method_answer(const struct method *m, struct service *service, const json_t *parameters, bool continues,
		   struct buf *out);

#endif
