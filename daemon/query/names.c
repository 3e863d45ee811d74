/* Names of frames. Owner: whoever holds the struct, for the time of one query. Texts that are no function of the string
 * table live in a table of our own, so that nothing is added to the shared one by a query. */
#include "daemon/query/names.h"

#include <errno.h>
#include <string.h>

#define LOCAL_MAX_BYTES ((size_t)16 << 20)
#define NAMELESS_BYTES 300

int names_init(struct names *n, const struct images *images, const struct intern *strings, bool folded)
{
	*n = (struct names){.images = images, .strings = strings, .folded = folded};
	return intern_create(LOCAL_MAX_BYTES, &n->local);
}

void names_deinit(struct names *n)
{
	intern_destroy(n->local);
	*n = (struct names){0};
}

uint32_t names_line_count(const struct frame *f)
{
	return f && f->line_count ? f->line_count : 1;
}

static const char *special_name(uint64_t offset)
{
	static const char *const special[] = {
#define X(sym, name) name,
		SPECIAL_FRAMES(X)
#undef X
	};

	return special[offset < SPECIAL_COUNT ? offset : SPECIAL_UNKNOWN];
}

/* The id of a text that is perhaps in the string table. */
static int put(struct names *n, const char *text, size_t len, name_id *ret)
{
	intern_id id;
	int r;

	if (intern_find(n->strings, text, len, &id) == 0) {
		*ret = id;
		return 0;
	}
	r = intern_put(n->local, text, len, &id);
	if (r < 0)
		return r;
	*ret = id | NAME_LOCAL;
	return 0;
}

static int put_folded(struct names *n, const char *text, name_id *ret)
{
	_cleanup_free_ char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	for (char *p = copy; *p; p++) {
		if (*p == ';')
			*p = ':';
		else if (*p == '\n' || *p == '\r')
			*p = ' ';
	}
	return put(n, copy, strlen(copy), ret);
}

int names_line(struct names *n, const struct frame *f, uint32_t line, name_id *ret)
{
	char text[NAMELESS_BYTES];
	const char *name;

	if (f && line < f->line_count && f->lines[line].function != INTERN_EMPTY) {
		name = intern_str(n->strings, f->lines[line].function);
		if (!n->folded || !strpbrk(name, ";\n\r")) {
			*ret = f->lines[line].function;
			return 0;
		}
	} else if (!f || f->image == IMAGE_SPECIAL) {
		name = special_name(f ? f->offset : SPECIAL_UNKNOWN);
	} else {
		name = images_nameless(n->images, f, text, sizeof(text));
	}
	if (n->folded && strpbrk(name, ";\n\r"))
		return put_folded(n, name, ret);
	return put(n, name, strlen(name), ret);
}

const char *names_str(const struct names *n, name_id id)
{
	return id & NAME_LOCAL ? intern_str(n->local, id & ~NAME_LOCAL) : intern_str(n->strings, id);
}
