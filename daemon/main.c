/* baroscoped: arguments, configuration, signals, the loop. */
#include <argp.h>
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "bpf/track/track.h"
#include "daemon/config.h"
#include "daemon/control/control.h"
#include "daemon/core/daemon.h"
#include "daemon/core/profiler.h"
#include "daemon/image/image.h"
#include "daemon/opener/opener.h"
#include "daemon/util/log.h"
#include "daemon/util/notify.h"

struct arguments {
	const char *config, *state_dir, *socket, *listen;
	bool insecure, check_config;
};

struct program {
	struct arguments args;
	struct event_base *base;
	struct daemon *daemon;
	struct control *control;
	bool stopping;
};

enum { OPTION_CONFIG = 256, OPTION_STATE_DIR, OPTION_SOCKET, OPTION_LISTEN, OPTION_INSECURE, OPTION_CHECK_CONFIG };

const char *argp_program_version = "baroscoped " BAROSCOPE_VERSION;

static const struct argp_option options[] = {
	{"config", OPTION_CONFIG, "FILE", 0, "configuration (default " CONFIG_DEFAULT_FILE "; it may be missing)", 0},
	{"state-dir", OPTION_STATE_DIR, "DIR", 0, "where state is kept (default " CONFIG_DEFAULT_STATE_DIR ")", 0},
	{"socket", OPTION_SOCKET, "PATH", 0, "control socket (default " CONFIG_DEFAULT_SOCKET ")", 0},
	{"listen", OPTION_LISTEN, "ADDRESS:PORT", 0, "HTTP address (default " CONFIG_DEFAULT_LISTEN ")", 0},
	{"insecure", OPTION_INSECURE, NULL, 0, "allow a listening address that is not loopback without TLS", 0},
	{"check-config", OPTION_CHECK_CONFIG, NULL, 0, "check the configuration and exit: 0 = good, 1 = not", 0},
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case OPTION_CONFIG:
		a->config = arg;
		return 0;
	case OPTION_STATE_DIR:
		a->state_dir = arg;
		return 0;
	case OPTION_SOCKET:
		a->socket = arg;
		return 0;
	case OPTION_LISTEN:
		a->listen = arg;
		return 0;
	case OPTION_INSECURE:
		a->insecure = true;
		return 0;
	case OPTION_CHECK_CONFIG:
		a->check_config = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", arg);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.doc = "Samples every CPU of this host, always, and answers baroctl.\v"
	       "Runs in the foreground and logs to stderr. SIGHUP reloads the configuration, SIGTERM and SIGINT end "
	       "it. "
	       "Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYSLOG and "
	       "CAP_CHECKPOINT_RESTORE (CAP_SYS_ADMIN on Linux before 5.9).",
};

static int load_config(const struct arguments *a, struct config **ret, struct err *e)
{
	struct config *config;
	int err = config_load(a->config, &config, e);

	if (err)
		return err;
	if (a->listen) {
		char *listen = strdup(a->listen);

		if (!listen) {
			config_destroy(config);
			return err_set(e, -ENOMEM, "out of memory");
		}
		free(config->listen);
		config->listen = listen;
	}
	config->insecure |= a->insecure;
	err = config_check_listen(config, e);
	if (err) {
		config_destroy(config);
		return err;
	}
	*ret = config;
	return 0;
}

static void on_stop(evutil_socket_t sig, short what _unused_, void *user)
{
	struct program *p = user;

	log_info("main", "stopping signal=%d", (int)sig);
	p->stopping = true; /* the scan at start runs the loop too, and ends it */
	event_base_loopbreak(p->base);
}

static void on_reload(evutil_socket_t sig _unused_, short what _unused_, void *user)
{
	struct program *p = user;
	struct config *config = NULL;
	const char *note = NULL;
	struct err e = {0};

	notify_reloading();
	if (load_config(&p->args, &config, &e) || daemon_reload(p->daemon, config, &note, &e))
		log_error("config", "reload refused, the old configuration stays: %s", e.text);
	else
		log_info("config", "reloaded%s%s", note ? ": " : "", note ? note : "");
	config_destroy(config);
	notify_ready();
}

/* Files: one per CPU and event, and what parser and opener pass around. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int run(struct program *p)
{
	static const struct {
		int number;
		event_callback_fn handler;
	} signals[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_reload}};
	struct event *events[ARRAY_SIZE(signals)] = {0};
	struct config *config = NULL;
	struct err e = {0};
	int err;

	err = load_config(&p->args, &config, &e);
	if (!err) {
		struct daemon_options daemon_options = {.config = config, .state_dir = p->args.state_dir};
		struct control_options control_options = {.socket_path = p->args.socket};

		p->base = event_base_new();
		if (!p->base)
			err = err_set(&e, -ENOMEM, "cannot make an event loop");
		for (size_t i = 0; !err && i < ARRAY_SIZE(signals); i++) {
			events[i] = evsignal_new(p->base, signals[i].number, signals[i].handler, p);
			if (!events[i] || event_add(events[i], NULL))
				err = err_set(&e, -ENOMEM, "cannot handle signals");
		}
		if (!err)
			err = daemon_create(p->base, &daemon_options, &p->daemon, &e);
		if (!err)
			err = control_create(p->base, daemon_service(p->daemon), &control_options, &p->control, &e);
		if (!err)
			err = daemon_start(p->daemon, &e);
	}
	if (!err && p->stopping) {
		notify_stopping();
	} else if (!err) {
		log_info("main", "ready version=%s rate_hz=%u socket=%s", BAROSCOPE_VERSION, config->cpu.rate_hz,
			 p->args.socket);
		notify_ready();
		event_base_dispatch(p->base);
		notify_stopping();
	} else {
		log_error("main", "%s", e.text);
	}
	control_destroy(p->control);
	daemon_destroy(p->daemon);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
	if (p->base)
		event_base_free(p->base);
	libevent_global_shutdown();
	config_destroy(config);
	return err ? 1 : 0;
}

/* Loads every program, attaches none, and prints what the verifier took (for `make kernels`). */
static int verify(void)
{
	struct track_options track_options = {.log_verifier = true};
	struct profiler_options profiler_options = {.target = {.kind = TARGET_HOST}, .rate_hz = 100};
	struct track *track = NULL;
	struct err e = {0};
	int err = track_open(&track_options, &track, &e);

	for (size_t i = 0; !err && profilers[i]; i++) {
		struct profiler *profiler;

		err = profilers[i]->open(track, &profiler_options, &profiler, &e);
		if (!err)
			profilers[i]->close(profiler);
	}
	if (err)
		fprintf(stderr, "%s\n", e.text);
	track_print_verified(track, stdout);
	track_close(track);
	return err ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct program program = {
		.args =
			{
				.state_dir = CONFIG_DEFAULT_STATE_DIR,
				.socket = CONFIG_DEFAULT_SOCKET,
			},
	};

	/* The children are this same file, so that they always fit. */
	if (argc == 2 && !strcmp(argv[1], "--internal-opener"))
		return opener_child_main();
	if (argc == 2 && !strcmp(argv[1], "--internal-parser"))
		return parser_child_main();
	if (argc == 2 && !strcmp(argv[1], "--internal-verify"))
		return verify();
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &program.args);
	signal(SIGPIPE, SIG_IGN);
	if (program.args.check_config) {
		struct config *config = NULL;
		struct err e = {0};
		int err = load_config(&program.args, &config, &e);

		if (err)
			fprintf(stderr, "%s\n", e.text);
		config_destroy(config);
		return err ? 1 : 0;
	}
	raise_file_limit();
	return run(&program);
}
