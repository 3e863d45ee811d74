/* baroctl top: the functions or lines with the most of a type. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/client.h"
#include "ctl/ctl.h"
#include "ctl/format.h"

#define LIMIT_MAX 100000
/* Below this a name would tell nothing; the line wraps instead. */
#define NAME_MIN_COLUMNS 20

enum { OPTION_LIMIT = 0x200, OPTION_BY };

struct arguments {
	struct ctl_globals globals;
	struct ctl_range range;
	unsigned long limit;
	const char *by;
};

static const struct argp_option options[] = {
	{"limit", OPTION_LIMIT, "N", 0, "At most N rows (default: 30)", 1},
	{"by", OPTION_BY, "WHAT", 0, "A row for each: function (the default) or line", 1},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	char *end;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->range;
		state->child_inputs[1] = &a->globals;
		return 0;
	case OPTION_LIMIT:
		errno = 0;
		a->limit = strtoul(arg, &end, 10);
		if (errno || *end || arg[0] < '0' || arg[0] > '9' || !a->limit || a->limit > LIMIT_MAX)
			argp_error(state, "--limit %s: write a number from 1 to %d", arg, LIMIT_MAX);
		return 0;
	case OPTION_BY:
		if (strcmp(arg, "function") && strcmp(arg, "line"))
			argp_error(state, "--by %s: write function or line", arg);
		a->by = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void print_row(const json_t *row, const char *type, bool lines, size_t width)
{
	char self[FORMAT_MAX], total[FORMAT_MAX], place[512] = "";
	const char *function = json_string_value(json_object_get(row, "function"));
	const char *file = json_string_value(json_object_get(row, "file"));
	json_int_t line = json_integer_value(json_object_get(row, "line"));
	size_t name_width = 0;
	int used;

	format_value(type, json_number_value(json_object_get(row, "self")), self);
	format_value(type, json_number_value(json_object_get(row, "total")), total);
	used = printf("%10s %6.2f%% %10s %6.2f%%  ", self, json_number_value(json_object_get(row, "self_percent")),
		      total, json_number_value(json_object_get(row, "total_percent")));
	if (lines && file && *file)
		(void)snprintf(place, sizeof(place), line ? "  %s:%" JSON_INTEGER_FORMAT : "  %s", file, line);
	if (width) {
		size_t taken = (size_t)used + strlen(place);

		name_width = width > taken + NAME_MIN_COLUMNS ? width - taken : NAME_MIN_COLUMNS;
	}
	format_text(stdout, function ? function : "?", name_width);
	format_text(stdout, place, 0);
	printf("\n");
}

static int run(const struct ctl_globals *globals, int argc, char **argv)
{
	static const struct argp_child children[] = {
		{&ctl_range_argp, 0, NULL, 0}, {&ctl_globals_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {
		options,
		parse,
		"TYPE [SELECTOR]",
		"The functions with the most of TYPE, such as process_cpu, among what SELECTOR "
		"such as '{service_name=\"redis\"}' selects.",
		children,
		NULL,
		NULL};
	struct arguments a = {.globals = *globals};
	struct err e = {0};
	json_t *parameters, *reply;
	const json_t *row, *rows;
	size_t i, width;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CTL_USAGE;
	parameters = json_object();
	if (!ctl_range_put(&a.range, parameters) ||
	    (a.limit && json_object_set_new(parameters, "limit", json_integer((json_int_t)a.limit)) < 0) ||
	    (a.by && json_object_set_new(parameters, "by", json_string(a.by)) < 0)) {
		json_decref(parameters);
		(void)err_set(&e, -EINVAL, "an argument is not UTF-8 text");
		return ctl_fail(&e);
	}
	if (ctl_ask(a.globals.socket_path, "Top", parameters, &reply, &e) < 0)
		return ctl_fail(&e);
	ctl_note(reply);
	rows = json_object_get(reply, "rows");
	if (a.globals.json) {
		(void)ctl_print_json(rows);
	} else {
		width = format_width(stdout);
		printf("%10s %7s %10s %7s  %s\n", "SELF", "", "TOTAL", "",
		       a.by && !strcmp(a.by, "line") ? "LINE" : "FUNCTION");
		json_array_foreach(rows, i, row) print_row(row, a.range.type, a.by && !strcmp(a.by, "line"), width);
	}
	json_decref(reply);
	return ctl_finish_output();
}

const struct ctl_verb ctl_verb_top = {"top", "the functions or lines with the most of a type", run};
