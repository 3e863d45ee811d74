/* Numbers and tables for people. Pure. */
#ifndef BAROSCOPE_CTL_FORMAT_H
#define BAROSCOPE_CTL_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define FORMAT_MAX 32

/* 1536 -> "1.5 KiB" */
void format_bytes(double bytes, char ret[static FORMAT_MAX]);
/* 1.5e9 -> "1.50 s", 90e9 -> "1m 30s", 2e6 -> "2.00 ms" */
void format_ns(double ns, char ret[static FORMAT_MAX]);
/* 12345 -> "12345", 1234567 -> "1.23 M" */
void format_count(double n, char ret[static FORMAT_MAX]);
/* By the unit at the end of a type id or a short name: bytes, ns or counts. */
void format_value(const char *type, double value, char ret[static FORMAT_MAX]);

/* Columns of a terminal, or 0 when the stream is none (nothing is cut then). */
size_t format_width(FILE *f);
/* Prints text, cut to max columns with "..." in place of its end; max 0 = whole. Control characters are shown as '?':
 * names come from foreign binaries. */
void format_text(FILE *f, const char *text, size_t max);

#endif
