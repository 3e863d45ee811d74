/* Base64 (RFC 4648, padded): binary exports travel in JSON. */
#ifndef BAROSCOPE_UTIL_BASE64_H
#define BAROSCOPE_UTIL_BASE64_H

#include <stddef.h>

#include "daemon/util/buf.h"

void base64_encode(struct buf *out, const void *data, size_t len);
/* Strict: no white space, padding required, no stray bits. -EINVAL appends nothing. */
int base64_decode(struct buf *out, const char *text, size_t len);

#endif
