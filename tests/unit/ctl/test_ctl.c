/* baroctl: the command line, exit codes and output, against a daemon of the test's own that answers one canned reply;
 * and the humanised forms. The program runs in a child of the test, as it may exit. */
#include "ctl/ctl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/format.h"

static char dir[] = "/tmp/baroscope-ctl-XXXXXX", path[80], out_path[80], err_path[80], file_path[80];
static char output[65536], errors[65536], request[4096];

static void slurp(const char *file, char *text, size_t size)
{
	_cleanup_fclose_ FILE *f = fopen(file, "r");

	assert_non_null(f);
	text[fread(text, 1, size - 1, f)] = 0;
}

static pid_t spawn(char **argv)
{
	int argc = 0;
	pid_t pid;

	while (argv[argc])
		argc++;
	(void)fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	if (!freopen(out_path, "w", stdout) || !freopen(err_path, "w", stderr))
		_exit(99);
	argc = ctl_main(argc, argv);
	(void)fflush(NULL);
	_exit(argc);
}

/* Runs `baroctl ARGS`; a daemon that answers `reply` is there when that is not NULL. Gives the exit code. */
static int run(const char *reply, const char *args)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char text[512], *argv[32] = {NULL}, *save = NULL;
	int fd = -1, status, n = 0;
	pid_t pid;

	(void)snprintf(text, sizeof(text), "%s", args);
	argv[n++] = (char *)"baroctl";
	for (char *a = strtok_r(text, " ", &save); a; a = strtok_r(NULL, " ", &save))
		argv[n++] = a;
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	(void)unlink(path);
	request[0] = 0;
	if (reply) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		assert_int_equal(listen(fd, 1), 0);
	}
	pid = spawn(argv);
	assert_true(pid > 0);
	if (reply) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		size_t len = 0;
		int peer;

		assert_int_equal(poll(&p, 1, 10000), 1);
		peer = accept(fd, NULL, NULL);
		assert_true(peer >= 0);
		while (len < sizeof(request) && read(peer, request + len, 1) == 1 && request[len])
			len++;
		assert_int_equal(write(peer, reply, strlen(reply) + 1), strlen(reply) + 1);
		close(peer);
		close(fd);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	slurp(out_path, output, sizeof(output));
	slurp(err_path, errors, sizeof(errors));
	return WEXITSTATUS(status);
}

static void ctl_main__usage_errors(void **state)
{
	static const char *const lines[] = {
		"",
		"dance",
		"enable cpu",
		"--nonsense",
		"status extra",
		"top",
		"export",
		"top process_cpu {} extra",
		"top process_cpu --limit 0",
		"top process_cpu --limit x",
		"top process_cpu --by colour",
		"export process_cpu --format svgz",
		"export process_cpu --json --format pprof",
		"top process_cpu --since 5m --from now-1h",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		if (run(NULL, lines[i]) != CTL_USAGE)
			fail_msg("baroctl %s: not exit 2", lines[i]);
		assert_string_equal(output, "");
		assert_true(errors[0]);
	}
}

static void ctl_main__help_and_version(void **state)
{
	(void)state;
	assert_int_equal(run(NULL, "--help"), CTL_OK);
	assert_non_null(strstr(output, "export"));
	assert_null(strstr(output, "enable"));
	assert_int_equal(run(NULL, "status --help"), CTL_OK);
	assert_non_null(strstr(output, "--watch"));
	assert_int_equal(run(NULL, "top --help"), CTL_OK);
	assert_non_null(strstr(output, "--limit"));
	assert_int_equal(run(NULL, "export --help"), CTL_OK);
	assert_non_null(strstr(output, "--format"));
	assert_int_equal(run(NULL, "--version"), CTL_OK);
	assert_string_equal(output, "baroctl " BAROSCOPE_VERSION "\n");
}

static void ctl_main__no_daemon(void **state)
{
	char expected[300];

	(void)state;
	assert_int_equal(run(NULL, "status"), CTL_FAILED);
	(void)snprintf(expected, sizeof(expected),
		       "baroctl: cannot reach baroscoped at %s: No such file or directory; is it running? "
		       "(systemctl start baroscope)\n",
		       path);
	assert_string_equal(errors, expected);
	assert_int_equal(run(NULL, "--socket /nonexistent/s status"), CTL_FAILED);
	assert_non_null(strstr(errors, "at /nonexistent/s:"));
	assert_int_equal(run(NULL, "status --socket /nonexistent/t"), CTL_FAILED);
	assert_non_null(strstr(errors, "at /nonexistent/t:"));
}

static void status__human_and_json(void **state)
{
	static const char reply[] =
		"{\"parameters\":{\"version\":\"9\",\"uptime_seconds\":90,\"profilers\":[{\"profiler\":\"cpu\","
		"\"state\":"
		"\"running\",\"rate\":\"100Hz\",\"samples\":1234,\"cost_percent\":0.125,\"drops\":{\"not_run\":5,"
		"\"ring_full\":0}}],\"sessions\":[],\"drops\":{\"not_run\":5,\"ring_full\":0},\"memory\":{\"rss_"
		"bytes\":"
		"10485760,\"map_bytes\":2048},\"targets\":3,\"series\":2}}";

	(void)state;
	assert_int_equal(run(reply, "status"), CTL_OK);
	assert_string_equal(request, "{\"method\":\"io.baroscope.Control.Status\",\"parameters\":{}}");
	assert_non_null(strstr(output, "baroscoped 9, up 1m 30s\n"));
	assert_non_null(strstr(output, "10.0 MiB resident, 2.0 KiB in BPF maps"));
	assert_non_null(strstr(output, "not_run=5\n"));
	assert_null(strstr(output, "ring_full"));
	assert_non_null(strstr(output, "1234    0.1"));
	assert_int_equal(run(reply, "status --json"), CTL_OK);
	assert_memory_equal(output, "{\"version\":\"9\",\"uptime_seconds\":90,", 35);
	assert_int_equal(run(reply, "--json status"), CTL_OK);
	assert_memory_equal(output, "{\"version\":\"9\",\"uptime_seconds\":90,", 35);
}

static void top__rows_notes_and_whole_names(void **state)
{
	char reply[2048], name[301];

	(void)state;
	memset(name, 'n', 300);
	name[300] = 0;
	(void)snprintf(
		reply, sizeof(reply),
		"{\"parameters\":{\"rows\":[{\"function\":\"%s\",\"file\":\"a.c\",\"line\":7,\"self\":1500000000,"
		"\"total\":3000000,\"self_percent\":50,\"total_percent\":75.5,\"ci95\":null}],\"note\":\"hm\"}}",
		name);
	assert_int_equal(run(reply, "top process_cpu {comm=\"x\"} --limit 5 --by line --since 1m"), CTL_OK);
	assert_string_equal(request,
			    "{\"method\":\"io.baroscope.Control.Top\",\"parameters\":{\"type\":\"process_cpu\","
			    "\"selector\":\"{comm=\\\"x\\\"}\",\"since\":\"1m\",\"limit\":5,\"by\":\"line\"}}");
	assert_non_null(strstr(output, name));
	assert_non_null(strstr(output, "    1.50 s  50.00%    3.00 ms  75.50%  "));
	assert_non_null(strstr(output, "  a.c:7\n"));
	assert_string_equal(errors, "baroctl: note: hm\n");
	assert_int_equal(run("{\"parameters\":{\"rows\":[]}}", "top process_cpu --json"), CTL_OK);
	assert_string_equal(output, "[]\n");
}

static void export__stdout_and_file(void **state)
{
	char args[200];
	struct stat st;

	(void)state;
	assert_int_equal(run("{\"parameters\":{\"format\":\"folded\",\"data\":\"a;b 1\\n\",\"note\":\"nothing\"}}",
			     "export process_cpu --format folded"),
			 CTL_OK);
	assert_string_equal(output, "a;b 1\n");
	assert_string_equal(errors, "baroctl: note: nothing\n");
	(void)snprintf(args, sizeof(args), "export process_cpu -o %s", file_path);
	(void)umask(022);
	assert_int_equal(
		run("{\"parameters\":{\"format\":\"pprof\",\"encoding\":\"base64\",\"data\":\"YTtiIDEK\"}}", args),
		CTL_OK);
	assert_non_null(strstr(request, "\"format\":\"pprof\""));
	slurp(file_path, output, sizeof(output));
	assert_string_equal(output, "a;b 1\n");
	assert_int_equal(stat(file_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	/* A failure leaves the file as it was. */
	assert_int_equal(run("{\"parameters\":{\"format\":\"pprof\",\"encoding\":\"base64\",\"data\":\"?\"}}", args),
			 CTL_FAILED);
	slurp(file_path, output, sizeof(output));
	assert_string_equal(output, "a;b 1\n");
	assert_int_equal(run("{\"parameters\":{\"data\":\"x\"}}", "export process_cpu -o /dev/null"), CTL_OK);
	assert_int_equal(stat("/dev/null", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
}

static void ctl_ask__errors_reach_the_user(void **state)
{
	static const struct {
		const char *reply, *part;
	} cases[] = {
		{"{\"error\":\"io.baroscope.Control.NotFound\",\"parameters\":{\"what\":\"no such type: x\"}}",
		 "baroctl: no such type: x\n"},
		{"{\"error\":\"io.baroscope.Control.PermissionDenied\",\"parameters\":{\"uid\":1000}}",
		 "refuses uid 1000; run as root or join the group baroscope\n"},
		{"{\"error\":\"io.baroscope.Control.Failed\",\"parameters\":{\"message\":\"why\"}}", "baroctl: why\n"},
		{"junk", "something that is no reply"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(run(cases[i].reply, "top x"), CTL_FAILED);
		assert_non_null(strstr(errors, cases[i].part));
	}
}

static void format__values(void **state)
{
	char text[FORMAT_MAX];

	(void)state;
#define IS(call, wanted) (call, assert_string_equal(text, wanted))
	IS(format_bytes(0, text), "0 B");
	IS(format_bytes(1023, text), "1023 B");
	IS(format_bytes(1536, text), "1.5 KiB");
	IS(format_bytes(200.0 * 1048576, text), "200 MiB");
	IS(format_ns(999, text), "999 ns");
	IS(format_ns(1.5e9, text), "1.50 s");
	IS(format_ns(90e9, text), "1m 30s");
	IS(format_ns(90061e9, text), "1d 01h");
	IS(format_count(1234567, text), "1.23 M");
	IS(format_value("process_cpu:cpu:nanoseconds:cpu:nanoseconds", 2e6, text), "2.00 ms");
	IS(format_value("memory:alloc_space:bytes:space:bytes", 2048, text), "2.0 KiB");
	IS(format_value("mutex:contentions:count:contentions:count", 7, text), "7");
}

static void format_text__cut_at_characters(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	assert_non_null(f);
	format_text(f, "abcdefgh", 6);
	format_text(f, "|\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4|\033[", 5);
	format_text(f, "a\033[b", 0);
	fclose(f);
	assert_string_equal(text, "abc...|\xc3\xa4...a?[b");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ctl_main__usage_errors),
		cmocka_unit_test(ctl_main__help_and_version),
		cmocka_unit_test(ctl_main__no_daemon),
		cmocka_unit_test(status__human_and_json),
		cmocka_unit_test(top__rows_notes_and_whole_names),
		cmocka_unit_test(export__stdout_and_file),
		cmocka_unit_test(ctl_ask__errors_reach_the_user),
		cmocka_unit_test(format__values),
		cmocka_unit_test(format_text__cut_at_characters),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	(void)snprintf(out_path, sizeof(out_path), "%s/out", dir);
	(void)snprintf(err_path, sizeof(err_path), "%s/err", dir);
	(void)snprintf(file_path, sizeof(file_path), "%s/file", dir);
	(void)setenv("BAROSCOPE_SOCKET", path, 1);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)unlink(path);
	(void)unlink(out_path);
	(void)unlink(err_path);
	(void)unlink(file_path);
	(void)rmdir(dir);
	return r;
}
