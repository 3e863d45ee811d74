/* The command line before the verb, the table of verbs, and what all verbs share: common options, a range's options,
 * the printing of JSON and failures. */
#include "ctl/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"

static const struct ctl_verb *const verbs[] = {&ctl_verb_status, &ctl_verb_top, &ctl_verb_export};

enum { OPTION_SINCE = 0x100, OPTION_FROM, OPTION_UNTIL, OPTION_JSON };

static const struct argp_option globals_options[] = {
	{"socket", 's', "S", 0, "The daemon's socket (default: $BAROSCOPE_SOCKET, then " CONFIG_DEFAULT_SOCKET ")", 10},
	{"json", OPTION_JSON, NULL, 0, "Print JSON", 10},
	{0},
};

static error_t parse_globals(int key, char *arg, struct argp_state *state)
{
	struct ctl_globals *g = state->input;

	switch (key) {
	case 's':
		g->socket_path = arg;
		return 0;
	case OPTION_JSON:
		g->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp ctl_globals_argp = {globals_options, parse_globals, NULL, NULL, NULL, NULL, NULL};

static const struct argp_option range_options[] = {
	{"since", OPTION_SINCE, "DURATION", 0, "The last DURATION, such as 5m (the default)", 2},
	{"from", OPTION_FROM, "TIME", 0, "From TIME: Unix seconds, RFC 3339 or now-1h", 2},
	{"until", OPTION_UNTIL, "TIME", 0, "Until TIME (default: now)", 2},
	{0},
};

static error_t parse_range(int key, char *arg, struct argp_state *state)
{
	struct ctl_range *r = state->input;

	switch (key) {
	case OPTION_SINCE:
		r->since = arg;
		return 0;
	case OPTION_FROM:
		r->from = arg;
		return 0;
	case OPTION_UNTIL:
		r->until = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			r->type = arg;
		else if (state->arg_num == 1)
			r->selector = arg;
		else
			argp_error(state, "too many arguments: \"%s\"; a SELECTOR is one argument, quote it", arg);
		return 0;
	case ARGP_KEY_END:
		if (!r->type || !*r->type)
			argp_error(state, "TYPE is missing; give one such as process_cpu");
		if (r->since && (r->from || r->until))
			argp_error(state, "--since excludes --from and --until");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp ctl_range_argp = {range_options, parse_range, NULL, NULL, NULL, NULL, NULL};

bool ctl_range_put(const struct ctl_range *r, json_t *parameters)
{
	const struct {
		const char *name, *value;
	} all[] = {{"type", r->type},
		   {"selector", r->selector},
		   {"since", r->since},
		   {"from", r->from},
		   {"until", r->until}};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].value && json_object_set_new(parameters, all[i].name, json_string(all[i].value)) < 0)
			return false;
	return true;
}

int ctl_fail(const struct err *e)
{
	(void)fflush(stdout);
	(void)fprintf(stderr, "baroctl: %s\n", e->text);
	return CTL_FAILED;
}

void ctl_note(const json_t *reply)
{
	const char *note = json_string_value(json_object_get(reply, "note"));

	if (note)
		(void)fprintf(stderr, "baroctl: note: %s\n", note);
}

int ctl_print_json(const json_t *value)
{
	if (json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY) < 0 || fputc('\n', stdout) == EOF)
		return errno ? -errno : -EIO;
	return 0;
}

int ctl_finish_output(void)
{
	struct err e;

	if (fflush(stdout) == 0 && !ferror(stdout))
		return CTL_OK;
	(void)err_errno(&e, errno ? -errno : -EIO, "cannot write to standard output");
	return ctl_fail(&e);
}

struct arguments {
	struct ctl_globals globals;
	const struct ctl_verb *verb;
	int verb_at;
};

static error_t parse_main(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->globals;
		return 0;
	case ARGP_KEY_ARG:
		for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
			if (!strcmp(arg, verbs[i]->name))
				a->verb = verbs[i];
		if (!a->verb)
			argp_error(state, "unknown verb \"%s\"", arg);
		/* The rest is the verb's. */
		a->verb_at = state->next - 1;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!a->verb)
			argp_error(state, "the verb is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* The verbs, after the options, from the table. */
static char *help_filter(int key, const char *text, void *input)
{
	static const char head[] = "Verbs (baroctl VERB --help for each):\n";
	char *help;
	size_t used;

	(void)input;
	if (key != ARGP_KEY_HELP_POST_DOC)
		return (char *)text;
	help = malloc(4096);
	if (!help)
		return NULL;
	used = (size_t)snprintf(help, 4096, "%s", head);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		used += (size_t)snprintf(help + used, 4096 - used, "  %-8s %s\n", verbs[i]->name, verbs[i]->summary);
	return help;
}

static void print_version(FILE *f, struct argp_state *state)
{
	(void)state;
	(void)fprintf(f, "baroctl %s\n", BAROSCOPE_VERSION);
}

int ctl_main(int argc, char **argv)
{
	static const struct argp_child children[] = {{&ctl_globals_argp, 0, NULL, 0}, {0}};
	static const struct argp main_argp = {NULL,
					      parse_main,
					      "VERB [ARGUMENTS...]",
					      "Asks and operates baroscoped, the profiler of this host.\v",
					      children,
					      help_filter,
					      NULL};
	const char *from_env = getenv("BAROSCOPE_SOCKET");
	struct arguments a = {.globals.socket_path = from_env && *from_env ? from_env : CONFIG_DEFAULT_SOCKET};
	char name[32], *name_at;

	argp_err_exit_status = CTL_USAGE;
	argp_program_version_hook = print_version;
	if (argp_parse(&main_argp, argc, argv, ARGP_IN_ORDER, NULL, &a))
		return CTL_USAGE;
	/* So that the verb's usage lines say what was typed. */
	(void)snprintf(name, sizeof(name), "baroctl %s", a.verb->name);
	name_at = argv[a.verb_at];
	argv[a.verb_at] = name;
	argc = a.verb->run(&a.globals, argc - a.verb_at, argv + a.verb_at);
	argv[a.verb_at] = name_at;
	return argc;
}
