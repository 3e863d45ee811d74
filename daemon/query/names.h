/* What the lines of a frame are called, nameless ones too, as ids that are equal exactly when the texts are. Shared by
 * what computes from and writes out a profile. */
#ifndef BAROSCOPE_QUERY_NAMES_H
#define BAROSCOPE_QUERY_NAMES_H

#include "daemon/profile/profile.h"

/* An id of the string table, or with NAME_LOCAL of the own table. */
typedef uint32_t name_id;
#define NAME_LOCAL 0x80000000u

struct names {
	const struct images *images;
	const struct intern *strings;
	struct intern *local;
	bool folded; /* ';' and line ends can't stand in a name: replaced */
};

int names_init(struct names *n, const struct images *images, const struct intern *strings, bool folded);
void names_deinit(struct names *n);
/* Lines of a frame: at least 1, a nameless frame has one line. f may be NULL (an empty stack). */
uint32_t names_line_count(const struct frame *f);
int names_line(struct names *n, const struct frame *f, uint32_t line, name_id *ret);
const char *names_str(const struct names *n, name_id id);

#endif
