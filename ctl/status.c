/* baroctl status: what runs, on what, cost so far, drops. */
#include <string.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/ctl.h"
#include "ctl/format.h"

#define OPTION_WATCH 0x200

struct arguments {
	struct ctl_globals globals;
	bool watch;
};

static const struct argp_option options[] = {
	{"watch", OPTION_WATCH, NULL, 0, "Again every second, until interrupted", 1},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->globals;
		return 0;
	case OPTION_WATCH:
		a->watch = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "too many arguments: \"%s\"", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static double number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *v = json_string_value(json_object_get(o, key));

	return v ? v : "-";
}

/* "cause=n cause=n" of those above 0, or "none". */
static void print_drops(const json_t *drops)
{
	char count[FORMAT_MAX];
	const char *cause;
	json_t *n;
	bool any = false;

	json_object_foreach((json_t *)drops, cause, n)
	{
		if (json_number_value(n) <= 0)
			continue;
		format_count(json_number_value(n), count);
		printf("%s%s=%s", any ? " " : "", cause, count);
		any = true;
	}
	printf("%s\n", any ? "" : "none");
}

static void print_human(const json_t *s)
{
	const json_t *memory = json_object_get(s, "memory"), *store = json_object_get(s, "store");
	char a[FORMAT_MAX], b[FORMAT_MAX];
	const json_t *entry;
	size_t i;

	format_ns(number(s, "uptime_seconds") * 1e9, a);
	printf("baroscoped %s, up %s\n", text(s, "version"), a);
	format_bytes(number(memory, "rss_bytes"), a);
	format_bytes(number(memory, "map_bytes"), b);
	printf("memory   %s resident, %s in BPF maps\n", a, b);
	printf("targets  %.0f processes, %.0f series\n", number(s, "targets"), number(s, "series"));
	if (store) {
		format_bytes(number(store, "bytes"), a);
		printf("store    %s%s%s\n", a, json_object_get(store, "problem") ? ", problem: " : "",
		       json_object_get(store, "problem") ? text(store, "problem") : "");
	}
	printf("drops    ");
	print_drops(json_object_get(s, "drops"));
	printf("\n%-10s %-10s %-10s %12s %8s  %s\n", "PROFILER", "STATE", "RATE", "SAMPLES", "COST", "DROPS");
	json_array_foreach(json_object_get(s, "profilers"), i, entry)
	{
		const json_t *rate = json_object_get(entry, "rate");

		if (json_is_number(rate))
			(void)snprintf(b, sizeof(b), "%gHz", json_number_value(rate));
		else
			(void)snprintf(b, sizeof(b), "%s", text(entry, "rate"));
		format_count(number(entry, "samples"), a);
		printf("%-10s %-10s %-10s %12s %7.2f%%  ", text(entry, "profiler"), text(entry, "state"), b, a,
		       number(entry, "cost_percent"));
		print_drops(json_object_get(entry, "drops"));
	}
	if (!json_array_size(json_object_get(s, "sessions")))
		return;
	printf("\n%-10s %-10s %-10s %-30s %10s %12s %8s\n", "SESSION", "PROFILER", "STATE", "TARGET", "REMAINING",
	       "SAMPLES", "COST");
	json_array_foreach(json_object_get(s, "sessions"), i, entry)
	{
		format_ns(number(entry, "remaining_seconds") * 1e9, b);
		format_count(number(entry, "samples"), a);
		printf("%-10s %-10s %-10s %-30s %10s %12s %7.2f%%\n", text(entry, "session"), text(entry, "profiler"),
		       text(entry, "state"), text(entry, "target"), b, a, number(entry, "cost_percent"));
	}
}

static int print(const struct arguments *a, const json_t *status, bool first)
{
	if (a->globals.json) {
		(void)ctl_print_json(status);
	} else {
		if (a->watch && isatty(STDOUT_FILENO))
			printf("\033[H\033[2J");
		else if (!first)
			printf("\n");
		print_human(status);
	}
	return ctl_finish_output();
}

static int run(const struct ctl_globals *globals, int argc, char **argv)
{
	static const struct argp_child children[] = {{&ctl_globals_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {options,  parse, "",  "What runs, on what, what it costs and what was lost.",
					 children, NULL,  NULL};
	struct arguments a = {.globals = *globals};
	struct ctl_client client;
	struct err e = {0};
	bool continues = true, first = true;
	json_t *status;
	int r;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CTL_USAGE;
	if (ctl_client_init(&client, a.globals.socket_path, &e) < 0)
		return ctl_fail(&e);
	r = ctl_client_call(&client, "Status", a.watch ? json_pack("{s:b}", "watch", 1) : json_object(), a.watch, &e);
	while (r >= 0 && continues) {
		r = ctl_client_reply(&client, &status, &continues, &e);
		if (r < 0)
			break;
		if (print(&a, status, first) != CTL_OK) {
			json_decref(status);
			ctl_client_deinit(&client);
			return CTL_FAILED;
		}
		json_decref(status);
		first = false;
	}
	ctl_client_deinit(&client);
	return r < 0 ? ctl_fail(&e) : CTL_OK;
}

const struct ctl_verb ctl_verb_status = {"status", "what runs, on what, cost so far, drops", run};
