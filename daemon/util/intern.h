/* Strings of labels, images and frames: stored once, compared by id.
 *
 * Ids are stable until a sweep drops the string: the owner of the table calls intern_begin_mark(), has every holder
 * mark what it holds, then intern_sweep(); a dropped id may be given to another string later. Loop thread only. */
#ifndef BAROSCOPE_UTIL_INTERN_H
#define BAROSCOPE_UTIL_INTERN_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t intern_id;
#define INTERN_EMPTY 0u /* the empty string, always there */

struct intern;

int intern_create(size_t max_bytes, struct intern **ret);
void intern_destroy(struct intern *t);
/* -ENOSPC when the table is at its limit and the string is new; -ENOMEM. s need not be terminated. */
int intern_put(struct intern *t, const char *s, size_t len, intern_id *ret);
int intern_puts(struct intern *t, const char *s, intern_id *ret);
/* The id of a string that is there already; -ENOENT. */
int intern_find(const struct intern *t, const char *s, size_t len, intern_id *ret);
/* Valid until the id is swept. Unknown ids give "". */
const char *intern_str(const struct intern *t, intern_id id);
size_t intern_bytes(const struct intern *t);
size_t intern_count(const struct intern *t);

void intern_begin_mark(struct intern *t);
void intern_mark(struct intern *t, intern_id id);
void intern_sweep(struct intern *t);

#endif
