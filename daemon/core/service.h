/* What the daemon can be asked: the face of core towards control (and later HTTP). It answers in JSON text, as SURFACES
 * has it. Errors: -EINVAL with e->text = what is wrong with a parameter, -ENOENT for an unknown type or format.
 * Loop thread only. */
#ifndef BAROSCOPE_CORE_SERVICE_H
#define BAROSCOPE_CORE_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/util/buf.h"
#include "daemon/util/err.h"
#include "daemon/util/json_writer.h"

struct service;

/* A selection as a client gives it; NULL = not given. */
struct service_range {
	const char *type;     /* TYPE */
	const char *selector; /* SELECTOR */
	const char *since, *from, *until;
};

/* Writes the status object (one JSON value). */
int service_status(struct service *s, struct json_writer *w, struct err *e);
/* Writes the array of rows; by: "function" | "line" (NULL = function). limit 0 = 30. ret_note: a static text for the
 * user such as "nothing selected", or NULL. */
int service_top(struct service *s, const struct service_range *r, const char *by, uint64_t limit, struct json_writer *w,
		const char **ret_note, struct err *e);
/* Appends the export's bytes; ret_binary says whether they are no text. */
int service_export(struct service *s, const struct service_range *r, const char *format, struct buf *out,
		   bool *ret_binary, const char **ret_note, struct err *e);
/* Calls fn from the loop once what was sampled up to now is drained and named, or after at most 1 s. -EAGAIN when too
 * many wait. Cancel by user pointer. */
typedef void service_ready_fn(void *user);
int service_when_ready(struct service *s, service_ready_fn *fn, void *user);
void service_cancel(struct service *s, void *user);

#endif
