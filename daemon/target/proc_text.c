/* Texts of /proc: maps, stat, cgroup, environ. The bytes are foreign: nothing is terminated, any length and any byte
 * may come. Pure functions, no state. */
#include "daemon/target/proc_text.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/cleanup.h"
#include "daemon/util/utf8.h"

static bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Reads a number and moves *p past it; false when there is none or it is too large. */
static bool take_number(const char **p, const char *end, unsigned base, uint64_t *ret)
{
	const char *s = *p;
	uint64_t value = 0;

	for (; s < end; s++) {
		unsigned digit;

		if (*s >= '0' && *s <= '9')
			digit = (unsigned)(*s - '0');
		else if (*s >= 'a' && *s <= 'f')
			digit = (unsigned)(*s - 'a') + 10;
		else
			break;
		if (digit >= base)
			break;
		if (value > (UINT64_MAX - digit) / base)
			return false;
		value = value * base + digit;
	}
	if (s == *p)
		return false;
	*p = s;
	*ret = value;
	return true;
}

static bool take_char(const char **p, const char *end, char c)
{
	if (*p >= end || **p != c)
		return false;
	(*p)++;
	return true;
}

/* "start-end perms offset major:minor inode    path"; path is written to *path, 0 = not executable. */
static int parse_maps_line(const char *s, const char *end, struct maps_line *line, char path[PATH_MAX])
{
	uint64_t major, minor;
	const char *perms;
	size_t n = 0;

	if (!take_number(&s, end, 16, &line->start) || !take_char(&s, end, '-') ||
	    !take_number(&s, end, 16, &line->end) || !take_char(&s, end, ' ') || end - s < 5)
		return -EINVAL;
	perms = s;
	s += 4;
	if (!take_char(&s, end, ' ') || !take_number(&s, end, 16, &line->offset) || !take_char(&s, end, ' ') ||
	    !take_number(&s, end, 16, &major) || !take_char(&s, end, ':') || !take_number(&s, end, 16, &minor) ||
	    !take_char(&s, end, ' ') || !take_number(&s, end, 10, &line->inode))
		return -EINVAL;
	if (line->start >= line->end || major > UINT32_MAX || minor > UINT32_MAX)
		return -EINVAL;
	if (perms[2] != 'x')
		return 0;
	line->dev_major = (uint32_t)major;
	line->dev_minor = (uint32_t)minor;
	while (take_char(&s, end, ' '))
		;
	while (s < end) {
		if (n + 1 >= PATH_MAX || !*s)
			return -EINVAL;
		/* The kernel escapes the newline alone here. */
		if (end - s >= 4 && memcmp(s, "\\012", 4) == 0) {
			path[n++] = '\n';
			s += 4;
		} else {
			path[n++] = *s++;
		}
	}
	path[n] = '\0';
	line->path = path;
	return 1;
}

int maps_parse(const char *text, size_t len, maps_line_fn *fn, void *user)
{
	const char *end = text + len;
	char path[PATH_MAX];

	while (text < end) {
		const char *eol = memchr(text, '\n', (size_t)(end - text));
		struct maps_line line = {0};

		/* A last line without its end was cut off. */
		if (!eol)
			break;
		if (parse_maps_line(text, eol, &line, path) > 0) {
			int r = fn(user, &line);

			if (r < 0)
				return r;
		}
		text = eol + 1;
	}
	return 0;
}

enum abi_image mapping_kind(const char *path, uint64_t inode)
{
	static const char *const anonymous[] = {"//anon", "/memfd:",	    "/dev/zero",
						"/SYSV",  "/anon_hugepage", "anon_inode:"};

	if (strcmp(path, "[vdso]") == 0)
		return IMAGE_VDSO;
	if (strcmp(path, "[vsyscall]") == 0 || strcmp(path, "[uprobes]") == 0)
		return IMAGE_NONE;
	if (path[0] == '[' && inode == 0)
		return IMAGE_JIT;
	if (path[0] == '\0')
		return inode ? IMAGE_NONE : IMAGE_JIT;
	for (size_t i = 0; i < ARRAY_SIZE(anonymous); i++)
		if (starts_with(path, anonymous[i]))
			return IMAGE_JIT;
	return IMAGE_FIRST_FILE;
}

int stat_parse(const char *text, size_t len, char ret_comm[COMM_BYTES], uint32_t *ret_parent, uint64_t *ret_start_ticks)
{
	const char *end = text + len, *open = memchr(text, '(', len), *close = memrchr(text, ')', len), *s;
	uint64_t parent = 0, start_ticks = 0;
	size_t n;

	/* The name may hold brackets and blanks: it ends at the last bracket. */
	if (!open || !close || close < open)
		return -EINVAL;
	s = close + 1;
	/* Field 3 is the state, 4 the parent, 22 the start time. */
	for (unsigned field = 3; field <= 22; field++) {
		if (!take_char(&s, end, ' '))
			return -EINVAL;
		if (field == 4 && !take_number(&s, end, 10, &parent))
			return -EINVAL;
		if (field == 22 && !take_number(&s, end, 10, &start_ticks))
			return -EINVAL;
		while (s < end && *s != ' ' && *s != '\n')
			s++;
	}
	n = (size_t)(close - open - 1);
	if (n >= COMM_BYTES)
		n = COMM_BYTES - 1;
	memset(ret_comm, 0, COMM_BYTES);
	memcpy(ret_comm, open + 1, n);
	*ret_parent = (uint32_t)parent;
	*ret_start_ticks = start_ticks;
	return 0;
}

static bool list_has(const char *list, size_t len, const char *word)
{
	size_t n = strlen(word);

	while (len > 0) {
		const char *comma = memchr(list, ',', len);
		size_t item = comma ? (size_t)(comma - list) : len;

		if (item == n && memcmp(list, word, n) == 0)
			return true;
		if (!comma)
			break;
		len -= item + 1;
		list = comma + 1;
	}
	return false;
}

int proc_cgroup_path(const char *text, size_t len, enum cgroup_hierarchy hierarchy, char **ret)
{
	static const char *const controllers[] = {
		[CGROUP_V1_MEMORY] = "memory", [CGROUP_V1_CPU] = "cpu", [CGROUP_V1_SYSTEMD] = "name=systemd"};
	static const char deleted[] = " (deleted)";
	const char *end = text + len;

	for (const char *eol; text < end; text = eol + 1) {
		const char *list, *path;
		size_t n;
		char *copy;
		bool found;

		eol = memchr(text, '\n', (size_t)(end - text));
		if (!eol)
			break;
		list = memchr(text, ':', (size_t)(eol - text));
		if (!list)
			continue;
		list++;
		path = memchr(list, ':', (size_t)(eol - list));
		if (!path)
			continue;
		if (hierarchy == CGROUP_V2)
			found = path == list;
		else if ((size_t)hierarchy < ARRAY_SIZE(controllers))
			found = list_has(list, (size_t)(path - list), controllers[hierarchy]);
		else
			found = false;
		path++;
		if (!found || path == eol || *path != '/')
			continue;
		n = (size_t)(eol - path);
		if (n > strlen(deleted) && memcmp(eol - strlen(deleted), deleted, strlen(deleted)) == 0)
			n -= strlen(deleted);
		copy = strndup(path, n);
		if (!copy)
			return -ENOMEM;
		*ret = copy;
		return 0;
	}
	return -ENOENT;
}

int proc_cgroup_shown_path(const char *text, size_t len, char **ret)
{
	static const enum cgroup_hierarchy order[] = {CGROUP_V2, CGROUP_V1_MEMORY, CGROUP_V1_CPU, CGROUP_V1_SYSTEMD};
	_cleanup_free_ char *root = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		_cleanup_free_ char *path = NULL;
		int r = proc_cgroup_path(text, len, order[i], &path);

		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		if (strcmp(path, "/") != 0) {
			*ret = TAKE_PTR(path);
			return 0;
		}
		if (!root)
			root = TAKE_PTR(path);
	}
	if (!root)
		return -ENOENT;
	*ret = TAKE_PTR(root);
	return 0;
}

/* Length of the character at s; 0 when it is none, or a control character. */
static size_t character(const char *s, size_t len)
{
	size_t n = utf8_sequence(s, len);

	if (n == 1 && ((unsigned char)s[0] < 0x20 || s[0] == 0x7f))
		return 0;
	if (n == 2 && (unsigned char)s[0] == 0xc2 && (unsigned char)s[1] < 0xa0)
		return 0;
	return n;
}

void text_clean(const char *text, size_t len, char *ret, size_t size)
{
	size_t out = 0;

	for (size_t i = 0; i < len;) {
		size_t n = character(text + i, len - i);
		const char *from = n ? text + i : UTF8_REPLACEMENT;
		size_t bytes = n ? n : strlen(UTF8_REPLACEMENT);

		if (out + bytes >= size)
			break;
		memcpy(ret + out, from, bytes);
		out += bytes;
		i += n ? n : 1;
	}
	ret[out] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void trim(const char **s, size_t *len)
{
	while (*len > 0 && (**s == ' ' || **s == '\t')) {
		(*s)++;
		(*len)--;
	}
	while (*len > 0 && ((*s)[*len - 1] == ' ' || (*s)[*len - 1] == '\t'))
		(*len)--;
}

/* Percent decoding; what is no valid escape stays as it is. Returns the length; a longer text is cut. */
static size_t percent_decode(const char *s, size_t len, char *ret, size_t size)
{
	size_t out = 0;

	for (size_t i = 0; i < len && out < size; i++) {
		if (s[i] == '%' && i + 2 < len && hex_digit(s[i + 1]) >= 0 && hex_digit(s[i + 2]) >= 0) {
			ret[out++] = (char)(hex_digit(s[i + 1]) << 4 | hex_digit(s[i + 2]));
			i += 2;
		} else {
			ret[out++] = s[i];
		}
	}
	return out;
}

/* OTEL_RESOURCE_ATTRIBUTES: key=value,key=value with percent-encoded values. "" when the key is not there. */
static void resource_attribute(const char *list, size_t len, const char *key, char ret[ENVIRON_VALUE_BYTES])
{
	char decoded[4 * ENVIRON_VALUE_BYTES];

	ret[0] = '\0';
	while (len > 0) {
		const char *comma = memchr(list, ',', len);
		size_t item = comma ? (size_t)(comma - list) : len;
		const char *equals = memchr(list, '=', item);

		if (equals) {
			const char *name = list, *value = equals + 1;
			size_t name_len = (size_t)(equals - list), value_len = item - name_len - 1;

			trim(&name, &name_len);
			trim(&value, &value_len);
			if (name_len == strlen(key) && memcmp(name, key, name_len) == 0) {
				size_t n = percent_decode(value, value_len, decoded, sizeof(decoded));

				text_clean(decoded, n, ret, ENVIRON_VALUE_BYTES);
			}
		}
		if (!comma)
			break;
		len -= item + 1;
		list = comma + 1;
	}
}

void environ_parse(const char *text, size_t len, char ret_service_name[ENVIRON_VALUE_BYTES],
		   char ret_service_version[ENVIRON_VALUE_BYTES])
{
	static const char name_key[] = "OTEL_SERVICE_NAME=", list_key[] = "OTEL_RESOURCE_ATTRIBUTES=";
	const char *end = text + len;
	char from_list[ENVIRON_VALUE_BYTES] = "";

	ret_service_name[0] = '\0';
	ret_service_version[0] = '\0';
	while (text < end) {
		const char *nul = memchr(text, '\0', (size_t)(end - text));
		size_t n = (size_t)((nul ? nul : end) - text);
		const char *value;
		size_t value_len;

		if (n > strlen(name_key) && memcmp(text, name_key, strlen(name_key)) == 0) {
			value = text + strlen(name_key);
			value_len = n - strlen(name_key);
			trim(&value, &value_len);
			text_clean(value, value_len, ret_service_name, ENVIRON_VALUE_BYTES);
		} else if (n > strlen(list_key) && memcmp(text, list_key, strlen(list_key)) == 0) {
			value = text + strlen(list_key);
			value_len = n - strlen(list_key);
			resource_attribute(value, value_len, "service.name", from_list);
			resource_attribute(value, value_len, "service.version", ret_service_version);
		}
		if (!nul)
			break;
		text = nul + 1;
	}
	if (!ret_service_name[0])
		strcpy(ret_service_name, from_list);
}
