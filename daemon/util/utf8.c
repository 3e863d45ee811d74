/* UTF-8 check and repair. Pure functions. */
#include "daemon/util/utf8.h"

#include <stdint.h>

size_t utf8_sequence(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t n;
	uint32_t value, least;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] < 0xe0) {
		n = 2;
		value = p[0] & 0x1fu;
		least = 0x80;
	} else if (p[0] >= 0xe0 && p[0] < 0xf0) {
		n = 3;
		value = p[0] & 0x0fu;
		least = 0x800;
	} else if (p[0] >= 0xf0 && p[0] < 0xf5) {
		n = 4;
		value = p[0] & 0x07u;
		least = 0x10000;
	} else {
		return 0;
	}
	if (len < n)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (p[i] & 0x3fu);
	}
	if (value < least || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
		return 0;
	return n;
}

bool utf8_valid(const char *s, size_t len)
{
	for (size_t i = 0; i < len;) {
		size_t n = utf8_sequence(s + i, len - i);

		if (!n)
			return false;
		i += n;
	}
	return true;
}

void utf8_add(struct buf *out, const char *s, size_t len)
{
	size_t from = 0, i = 0;

	while (i < len) {
		size_t n = utf8_sequence(s + i, len - i);

		if (n) {
			i += n;
			continue;
		}
		buf_add(out, s + from, i - from);
		buf_adds(out, UTF8_REPLACEMENT);
		from = ++i;
	}
	buf_add(out, s + from, len - from);
}
