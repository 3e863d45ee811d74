/* The kernel's and its modules' functions from /proc/kallsyms. Parser process only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/image/symbols.h"

#define READ_BYTES 65536

static bool parse_address(const char **p, uint64_t *ret)
{
	const char *start = *p;
	uint64_t value = 0;

	for (;; (*p)++) {
		char c = **p;

		if (c >= '0' && c <= '9')
			value = value << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (uint64_t)(c - 'a' + 10);
		else
			break;
	}
	*ret = value;
	return *p != start && *p - start <= 16;
}

/* `ffffffff81000000 T name\t[module]`; line is terminated. */
static int parse_line(struct symbols *s, const char *line, bool *shown)
{
	enum symbol_rank rank;
	uint64_t address;
	char type;

	if (!parse_address(&line, &address) || line[0] != ' ' || !line[1] || line[2] != ' ')
		return 0;
	type = line[1];
	line += 3;
	if (!strchr("tTwW", type))
		return 0;
	if (!address)
		return 0;
	*shown = true;
	rank = type == 'T' ? SYMBOL_GLOBAL : type == 't' ? SYMBOL_LOCAL : SYMBOL_WEAK;
	return symbols_add(s, address, 0, rank, line, strcspn(line, " \t"));
}

int kallsyms_load(struct symbols *s, int fd, bool *ret_hidden)
{
	_cleanup_free_ char *buf = malloc(READ_BYTES + 1);
	bool shown = false, any = false;
	size_t have = 0;
	int r;

	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = read(fd, buf + have, READ_BYTES - have);
		char *line = buf, *end;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		have += (size_t)n;
		buf[have] = '\0';
		while ((end = memchr(line, '\n', have - (size_t)(line - buf)))) {
			*end = '\0';
			any = true;
			r = parse_line(s, line, &shown);
			if (r)
				return r;
			line = end + 1;
		}
		have -= (size_t)(line - buf);
		if (n == 0)
			break;
		if (have == READ_BYTES)
			return -EBADMSG; /* no line is that long */
		memmove(buf, line, have);
	}
	*ret_hidden = any && !shown;
	return symbols_finish(s);
}
