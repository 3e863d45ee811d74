/* baroctl: what its files share. One process, one thread; each verb reads its arguments, asks the daemon once and
 * prints. A verb returns the exit code. */
#ifndef BAROSCOPE_CTL_CTL_H
#define BAROSCOPE_CTL_CTL_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "daemon/util/err.h"

enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl_globals {
	const char *socket_path;
	bool json;
};

struct ctl_verb {
	const char *name;
	const char *summary;
	int (*run)(const struct ctl_globals *globals, int argc, char **argv);
};

extern const struct ctl_verb ctl_verb_status, ctl_verb_top, ctl_verb_export;

/* The whole program; main is nothing but this. */
int ctl_main(int argc, char **argv);

/* --socket and --json, which each verb takes too; its input is a struct ctl_globals. */
extern const struct argp ctl_globals_argp;

/* TYPE [SELECTOR], --since, --from, --until; its input is a struct ctl_range. Parsing ends in a usage error when TYPE
 * is missing, or --since comes with --from or --until. */
struct ctl_range {
	const char *type, *selector, *since, *from, *until;
};
extern const struct argp ctl_range_argp;
/* Adds what was given to a call's parameters; false = no memory. */
bool ctl_range_put(const struct ctl_range *r, json_t *parameters);

/* Prints "baroctl: TEXT" and gives CTL_FAILED. */
int ctl_fail(const struct err *e);
/* A note of the daemon, on stderr. */
void ctl_note(const json_t *reply);
/* Prints one JSON value and a newline; -errno of a failed write. */
int ctl_print_json(const json_t *value);
/* Ends standard output: CTL_OK, or CTL_FAILED with a line when something could not be written. */
int ctl_finish_output(void);

#endif
