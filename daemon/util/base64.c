/* Base64. Pure functions; failures of memory stay in the buf. */
#include "daemon/util/base64.h"

#include <errno.h>
#include <stdint.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct buf *out, const void *data, size_t len)
{
	const unsigned char *p = data;
	char block[4096];
	size_t used = 0;

	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t v = (uint32_t)p[i] << 16;

		if (n > 1)
			v |= (uint32_t)p[i + 1] << 8;
		if (n > 2)
			v |= p[i + 2];
		block[used++] = alphabet[v >> 18];
		block[used++] = alphabet[v >> 12 & 63];
		block[used++] = n > 1 ? alphabet[v >> 6 & 63] : '=';
		block[used++] = n > 2 ? alphabet[v & 63] : '=';
		if (used == sizeof(block)) {
			buf_add(out, block, used);
			used = 0;
		}
	}
	buf_add(out, block, used);
}

static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

int base64_decode(struct buf *out, const char *text, size_t len)
{
	size_t start = out->len;
	unsigned char block[3072];
	size_t used = 0;

	if (len % 4)
		return -EINVAL;
	for (size_t i = 0; i < len; i += 4) {
		size_t pad = 0;
		uint32_t v = 0;

		if (i + 4 == len)
			pad = text[i + 3] != '=' ? 0 : text[i + 2] != '=' ? 1 : 2;
		for (size_t k = 0; k < 4; k++) {
			int d = k >= 4 - pad ? 0 : value_of(text[i + k]);

			if (d < 0)
				goto bad;
			v = v << 6 | (uint32_t)d;
		}
		if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff)))
			goto bad;
		block[used++] = (unsigned char)(v >> 16);
		if (pad < 2)
			block[used++] = (unsigned char)(v >> 8);
		if (pad < 1)
			block[used++] = (unsigned char)v;
		if (used >= sizeof(block) - 2) {
			buf_add(out, block, used);
			used = 0;
		}
	}
	buf_add(out, block, used);
	return 0;
bad:
	/* What was appended of this text goes again. */
	if (out->data && out->len > start) {
		out->len = start;
		out->data[start] = '\0';
	}
	return -EINVAL;
}
