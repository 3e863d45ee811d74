/* Walks a YAML document along tables of keys into structs; the inner header of config*.c.
 *
 * libyaml's document API and not libcyaml: a schema of libcyaml knows types only, and gives no position for what is
 * wrong in meaning (a unit, a duplicate name, two keys that contradict each other); every complaint here names its
 * line. Single-threaded; a walk lives for one config_load. */
#ifndef BAROSCOPE_CONFIG_WALK_H
#define BAROSCOPE_CONFIG_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yaml.h>

#include "daemon/config.h"

#define WALK_MAX_FILE_BYTES (1024 * 1024)
/* Aliases let a small file say much; this bounds what one file may come to. */
#define WALK_MAX_NODES 20000
#define WALK_MAX_LIST 1024

struct walk {
	const char *file;
	yaml_document_t doc;
	bool has_doc;
	size_t visits;
	struct err *e;
};

struct walk_key;
typedef int walk_read_fn(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field);

struct walk_key {
	const char *name;
	walk_read_fn *read;
	size_t offset;	   /* of the field in the struct that the mapping fills */
	uint64_t min, max; /* for numbers, durations and sizes */
};

/* Loads the file's only document; an empty file has none (has_doc stays false). */
int walk_init(struct walk *w, const char *file, struct err *e);
/* The same from memory; `file` is only the name in messages. */
int walk_init_bytes(struct walk *w, const char *file, const char *text, size_t len, struct err *e);
void walk_deinit(struct walk *w);

/* Fills the error with `FILE:LINE: ...` and returns -EINVAL. */
int walk_fail(struct walk *w, const yaml_node_t *n, const char *fmt, ...) _printf_(3, 4);
/* NULL (with the error filled) once the document came to more than WALK_MAX_NODES. */
const yaml_node_t *walk_node(struct walk *w, int id);
bool walk_is_null(const yaml_node_t *n);
/* The name among the candidates that was probably meant, or NULL. */
const char *walk_nearest(const char *name, const char *const *names, size_t count);

/* Reads a mapping; *ret_seen has bit i set when keys[i] was there with a value. `what` names the mapping in messages.
 */
int walk_map(struct walk *w, const yaml_node_t *n, const char *what, const struct walk_key *keys, size_t count,
	     void *base, uint32_t *ret_seen);
/* The text of a scalar; borrowed from the document. */
int walk_text(struct walk *w, const yaml_node_t *n, const char *what, const char *example, const char **ret);

/* Readers of one field each. */
walk_read_fn walk_string;      /* char * */
walk_read_fn walk_bool;	       /* bool */
walk_read_fn walk_u32;	       /* uint32_t within min..max */
walk_read_fn walk_duration;    /* uint64_t of ns within min..max */
walk_read_fn walk_size;	       /* uint64_t of bytes within min..max */
walk_read_fn walk_percent;     /* double, a ratio above 0 up to 1 */
walk_read_fn walk_string_list; /* char **, NULL-terminated */
walk_read_fn walk_glob_list;   /* the same, of absolute paths */
walk_read_fn walk_label_map;   /* struct config_label *, followed by its size_t count */

/* Text forms, shared with the rules. 0, or -EINVAL for another form, -ERANGE. */
int walk_parse_duration(const char *text, uint64_t *ret_ns);
int walk_parse_size(const char *text, uint64_t *ret_bytes);
int walk_parse_percent(const char *text, double *ret_ratio);
int walk_parse_uint(const char *text, uint64_t *ret);

void config_strv_free(char **v);
void config_labels_free(struct config_label *labels, size_t count);
void config_triggers_free(struct config_trigger *triggers, size_t count);

/* config_triggers.c: the list of rules into c->triggers. */
int config_read_triggers(struct walk *w, const yaml_node_t *n, struct config *c);

#endif
