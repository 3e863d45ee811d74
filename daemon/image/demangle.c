/* Demangling with libiberty, bounded: a short mangled name can stand for an endless one. Parser process only, one
 * thread.
 *
 * The callback form allocates nothing itself, so leaving it by longjmp is the one way to stop a name that grows too
 * long. */
#include "daemon/image/symbols.h"

#include <setjmp.h>
#include <string.h>

/* libiberty.h has its own. */
#undef ARRAY_SIZE
#include <libiberty/demangle.h>

struct output {
	char *text;
	size_t len, size;
	jmp_buf too_long;
};

static void append(const char *text, size_t len, void *user)
{
	struct output *o = user;

	if (len >= o->size - o->len)
		longjmp(o->too_long, 1);
	memcpy(o->text + o->len, text, len);
	o->len += len;
}

/* 0: no mangled name, or one that grows too long. */
static int run(const char *name, struct output *o)
{
	const int style = DMGL_PARAMS | DMGL_ANSI;

	/* Rust first: its old scheme is valid C++ too, but with the hash. */
	if (rust_demangle_callback(name, style, append, o))
		return 1;
	o->len = 0;
	return cplus_demangle_v3_callback(name, style, append, o);
}

const char *demangle(const char *name, char *buf, size_t size)
{
	struct output o = {.text = buf, .size = size};
	const char *volatile kept = name;

	if (strncmp(name, "_Z", 2) != 0 && strncmp(name, "_R", 2) != 0 && strncmp(name, "_GLOBAL_", 8) != 0)
		return name;
	if (strlen(name) >= SYMBOL_NAME_MAX_BYTES)
		return name;
	if (setjmp(o.too_long))
		return kept;
	if (!run(kept, &o) || !o.len)
		return kept;
	buf[o.len] = '\0';
	return buf;
}
