/* baroctl export: a profile as a file. A file appears whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/ctl.h"
#include "daemon/util/base64.h"

#define OPTION_FORMAT 0x200

static const char *const formats[] = {"pprof", "folded", "json"};

struct arguments {
	struct ctl_globals globals;
	struct ctl_range range;
	const char *format, *output;
};

static const struct argp_option options[] = {
	{"format", OPTION_FORMAT, "FORMAT", 0, "pprof (the default), folded or json", 1},
	{"output", 'o', "FILE", 0, "Write FILE, whole or not at all (default: standard output)", 1},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	size_t i;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->range;
		state->child_inputs[1] = &a->globals;
		return 0;
	case OPTION_FORMAT:
		for (i = 0; i < ARRAY_SIZE(formats) && strcmp(formats[i], arg); i++)
			;
		if (i == ARRAY_SIZE(formats))
			argp_error(state, "unknown format \"%s\"; write pprof, folded or json", arg);
		a->format = arg;
		return 0;
	case 'o':
		if (!*arg)
			argp_error(state, "-o needs the name of a file");
		a->output = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->globals.json && a->format && strcmp(a->format, "json"))
			argp_error(state, "--json contradicts --format %s", a->format);
		if (!a->format)
			a->format = a->globals.json ? "json" : "pprof";
		if (!strcmp(a->format, "pprof") && (!a->output || !strcmp(a->output, "-")) && isatty(STDOUT_FILENO))
			argp_error(state, "a pprof profile is not for a terminal; give -o FILE, or --format folded");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* A temporary file beside the target, renamed over it once it is whole. */
static int replace_file(const char *path, const char *data, size_t len)
{
	_cleanup_free_ char *temp = NULL;
	mode_t mask;
	int fd, r;

	if (asprintf(&temp, "%s.XXXXXX", path) < 0) {
		temp = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	mask = umask(0);
	(void)umask(mask);
	r = write_all(fd, data, len);
	if (r >= 0 && fchmod(fd, 0644 & ~mask) < 0)
		r = -errno;
	if (close(fd) < 0 && r >= 0)
		r = -errno;
	if (r >= 0 && rename(temp, path) < 0)
		r = -errno;
	if (r < 0)
		(void)unlink(temp);
	return r;
}

static int write_file(const char *path, const char *data, size_t len)
{
	_cleanup_free_ char *real = NULL;
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == ENOENT ? replace_file(path, data, len) : -errno;
	if (S_ISREG(st.st_mode)) {
		/* Through a symbolic link, so that the link stays one. */
		real = realpath(path, NULL);
		return real ? replace_file(real, data, len) : -errno;
	}
	/* A device or a pipe must not be replaced by a file. */
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : write_all(fd, data, len);
}

static int put(const struct arguments *a, const char *data, size_t len)
{
	bool to_stdout = !a->output || !strcmp(a->output, "-");
	struct err e = {0};
	int r;

	r = to_stdout ? write_all(STDOUT_FILENO, data, len) : write_file(a->output, data, len);
	if (r >= 0)
		return CTL_OK;
	(void)err_errno(&e, r, "cannot write %s", to_stdout ? "to standard output" : a->output);
	return ctl_fail(&e);
}

static int put_reply(const struct arguments *a, const json_t *reply)
{
	const json_t *data = json_object_get(reply, "data");
	const char *encoding = json_string_value(json_object_get(reply, "encoding"));
	struct err e = {0};
	struct buf bytes;
	int r;

	if (!json_is_string(data)) {
		(void)err_set(&e, -EBADMSG, "baroscoped answered without data; is it an older version?");
		return ctl_fail(&e);
	}
	if (!encoding)
		return put(a, json_string_value(data), json_string_length(data));
	buf_init(&bytes);
	r = strcmp(encoding, "base64") ? -EINVAL
				       : base64_decode(&bytes, json_string_value(data), json_string_length(data));
	if (r < 0 || bytes.failed) {
		buf_deinit(&bytes);
		(void)err_set(&e, -EBADMSG, "baroscoped answered with data that cannot be decoded");
		return ctl_fail(&e);
	}
	r = put(a, bytes.data ? bytes.data : "", bytes.len);
	buf_deinit(&bytes);
	return r;
}

static int run(const struct ctl_globals *globals, int argc, char **argv)
{
	static const struct argp_child children[] = {
		{&ctl_range_argp, 0, NULL, 0}, {&ctl_globals_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {options,
					 parse,
					 "TYPE [SELECTOR]",
					 "The profile of TYPE, such as process_cpu, of what SELECTOR such as "
					 "'{service_name=\"redis\"}' selects.",
					 children,
					 NULL,
					 NULL};
	struct arguments a = {.globals = *globals};
	struct err e = {0};
	json_t *parameters, *reply;
	int r;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CTL_USAGE;
	parameters = json_object();
	if (!ctl_range_put(&a.range, parameters) ||
	    json_object_set_new(parameters, "format", json_string(a.format)) < 0) {
		json_decref(parameters);
		(void)err_set(&e, -EINVAL, "an argument is not UTF-8 text");
		return ctl_fail(&e);
	}
	if (ctl_ask(a.globals.socket_path, "Export", parameters, &reply, &e) < 0)
		return ctl_fail(&e);
	r = put_reply(&a, reply);
	if (r == CTL_OK)
		ctl_note(reply);
	json_decref(reply);
	return r;
}

const struct ctl_verb ctl_verb_export = {"export", "a profile as a file: pprof, folded or json", run};
