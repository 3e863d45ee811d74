/* What a cgroup path tells by itself: the systemd service, the container. Pure functions; a path is walked by its
 * components, the innermost one that fits wins (a service in a container, a container in a container). */
#include "daemon/target/cgroup_names.h"

#include <stdbool.h>
#include <string.h>

#include "daemon/target/proc_text.h"
#include "daemon/util/cleanup.h"

struct component {
	const char *s;
	size_t len;
};

/* Moves *path past its next component; false at the end. */
static bool next(const char **path, struct component *ret)
{
	*path += strspn(*path, "/");
	ret->s = *path;
	ret->len = strcspn(*path, "/");
	*path += ret->len;
	return ret->len > 0;
}

static bool has_prefix(const struct component *c, const char *prefix)
{
	return c->len > strlen(prefix) && memcmp(c->s, prefix, strlen(prefix)) == 0;
}

static bool has_suffix(const struct component *c, const char *suffix)
{
	size_t n = strlen(suffix);

	return c->len > n && memcmp(c->s + c->len - n, suffix, n) == 0;
}

static bool is_number(const char *s, size_t len)
{
	return len > 0 && strspn(s, "0123456789") >= len;
}

/* user@1000.service, user-1000.slice: what lies in there belongs to a user's session. */
static bool is_user_session(const struct component *c)
{
	if (has_prefix(c, "user@") && has_suffix(c, ".service"))
		return is_number(c->s + strlen("user@"), c->len - strlen("user@.service"));
	if (has_prefix(c, "user-") && has_suffix(c, ".slice"))
		return is_number(c->s + strlen("user-"), c->len - strlen("user-.slice"));
	return false;
}

void cgroup_service(const char *path, char ret[CGROUP_NAME_BYTES])
{
	struct component c;

	ret[0] = '\0';
	while (next(&path, &c)) {
		if (is_user_session(&c)) {
			ret[0] = '\0';
			return;
		}
		if (has_suffix(&c, ".service"))
			text_clean(c.s, c.len - strlen(".service"), ret, CGROUP_NAME_BYTES);
	}
}

void cgroup_container_id(const char *path, char ret[CONTAINER_ID_BYTES])
{
	static const size_t digits = CONTAINER_ID_BYTES - 1;
	struct component c;

	ret[0] = '\0';
	while (next(&path, &c)) {
		size_t len = c.len - (has_suffix(&c, ".scope") ? strlen(".scope") : 0);
		const char *id;

		if (len < digits)
			continue;
		id = c.s + len - digits;
		if (strspn(id, "0123456789abcdef") < digits)
			continue;
		/* libpod-ID, docker-ID, SLICE:cri-containerd:ID, or ID alone. */
		if (len > digits && id[-1] != '-' && id[-1] != ':')
			continue;
		/* The monitor beside the container is not in it. */
		if (memmem(c.s, len - digits, "conmon", strlen("conmon")))
			continue;
		memcpy(ret, id, digits);
		ret[digits] = '\0';
	}
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* systemd writes what may not stand in a unit's name as \xNN. */
static void unescape_unit(const char *s, size_t len, char ret[CGROUP_NAME_BYTES])
{
	char text[CGROUP_NAME_BYTES];
	size_t n = 0;

	for (size_t i = 0; i < len && n < sizeof(text); i++) {
		if (len - i >= 4 && s[i] == '\\' && s[i + 1] == 'x' && hex_digit(s[i + 2]) >= 0 &&
		    hex_digit(s[i + 3]) >= 0) {
			text[n++] = (char)(hex_digit(s[i + 2]) << 4 | hex_digit(s[i + 3]));
			i += 3;
		} else {
			text[n++] = s[i];
		}
	}
	text_clean(text, n, ret, CGROUP_NAME_BYTES);
}

static bool is(const struct component *c, const char *s)
{
	return c->len == strlen(s) && memcmp(c->s, s, c->len) == 0;
}

void cgroup_container_name(const char *path, char ret[CGROUP_NAME_BYTES])
{
	struct component c, parent = {"", 0};

	ret[0] = '\0';
	for (; next(&path, &c); parent = c) {
		if (has_prefix(&c, "lxc.payload."))
			text_clean(c.s + strlen("lxc.payload."), c.len - strlen("lxc.payload."), ret,
				   CGROUP_NAME_BYTES);
		else if ((is(&parent, "lxc") || is(&parent, "lxc.payload")) && !has_prefix(&c, "lxc."))
			text_clean(c.s, c.len, ret, CGROUP_NAME_BYTES);
		else if (has_prefix(&c, "machine-") && has_suffix(&c, ".scope") && c.len > strlen("machine-.scope"))
			unescape_unit(c.s + strlen("machine-"), c.len - strlen("machine-.scope"), ret);
	}
}
