/* Names come from programs and may hold any bytes; what we write out must be UTF-8. */
#ifndef BAROSCOPE_UTIL_UTF8_H
#define BAROSCOPE_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/util/buf.h"

/* Bytes of the well-formed sequence at s (len > 0), or 0: overlong forms, surrogates and values above U+10FFFF are bad.
 */
size_t utf8_sequence(const char *s, size_t len);
bool utf8_valid(const char *s, size_t len);
/* Appends s with U+FFFD in place of each bad byte. */
void utf8_add(struct buf *out, const char *s, size_t len);

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

#endif
