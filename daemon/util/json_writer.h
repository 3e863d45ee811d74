/* Writes JSON into a buf, in one pass. Commas are put by the writer. Text that is not UTF-8 is written with U+FFFD in
 * place of each bad byte. The prefix is jw_ because jansson, which is in the same program, has json_object and its
 * like. */
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
void jw_object(struct json_writer *w, const char *key);
void jw_object_end(struct json_writer *w);
void jw_array(struct json_writer *w, const char *key);
void jw_array_end(struct json_writer *w);
void jw_string(struct json_writer *w, const char *key, const char *value);
void jw_uint(struct json_writer *w, const char *key, uint64_t value);
void jw_int(struct json_writer *w, const char *key, int64_t value);
/* NaN and infinities are written as null. Shortest form that reads back equal to 15 digits. */
void jw_double(struct json_writer *w, const char *key, double value);
void jw_bool(struct json_writer *w, const char *key, bool value);
void jw_null(struct json_writer *w, const char *key);
/* text is JSON already. */
void jw_raw(struct json_writer *w, const char *key, const char *text, size_t len);

#endif
