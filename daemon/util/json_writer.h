/* Writes JSON into a buf, in one pass. Commas are put by the writer. Text that is not UTF-8 is written with U+FFFD
 * in place of each bad byte. */
#ifndef BAROSCOPE_UTIL_JSON_WRITER_H
#define BAROSCOPE_UTIL_JSON_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/util/buf.h"

struct json_writer {
	struct buf *out;
	bool comma; /* a comma is due before the next element */
};

void json_writer_init(struct json_writer *w, struct buf *out);
/* Every function takes key = NULL inside arrays and at top level. */
void json_object(struct json_writer *w, const char *key);
void json_object_end(struct json_writer *w);
void json_array(struct json_writer *w, const char *key);
void json_array_end(struct json_writer *w);
void json_string(struct json_writer *w, const char *key, const char *value);
void json_uint(struct json_writer *w, const char *key, uint64_t value);
void json_int(struct json_writer *w, const char *key, int64_t value);
/* NaN and infinities are written as null. Shortest form that reads back equal to 15 digits. */
void json_double(struct json_writer *w, const char *key, double value);
void json_bool(struct json_writer *w, const char *key, bool value);
void json_null(struct json_writer *w, const char *key);
/* text is JSON already. */
void json_raw(struct json_writer *w, const char *key, const char *text, size_t len);

#endif
