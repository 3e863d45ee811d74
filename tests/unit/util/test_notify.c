#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/util/notify.h"

static int listener(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	memcpy(sa.sun_path, name, strlen(name));
	if (name[0] == '@')
		sa.sun_path[0] = '\0';
	else
		len++;
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

static void notify__reaches_the_manager(void **state)
{
	char path[128], text[256];
	const char *names[2] = {path, NULL};
	char abstract[64];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/notify-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", getpid());
	(void)snprintf(abstract, sizeof(abstract), "@baroscope-notify-%d", getpid());
	names[1] = abstract;
	for (size_t i = 0; i < 2; i++) {
		int fd = listener(names[i]);
		ssize_t n;

		setenv("NOTIFY_SOCKET", names[i], 1);
		assert_int_equal(notify_ready(), 0);
		n = recv(fd, text, sizeof(text), 0);
		assert_int_equal(n, strlen("READY=1"));
		assert_memory_equal(text, "READY=1", (size_t)n);
		assert_int_equal(notify_reloading(), 0);
		n = recv(fd, text, sizeof(text) - 1, 0);
		assert_true(n > 0);
		text[n] = '\0';
		assert_int_equal(strncmp(text, "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
		assert_true(strtoull(text + 27, NULL, 10) > 0);
		assert_int_equal(notify_stopping(), 0);
		assert_true(recv(fd, text, sizeof(text), 0) > 0);
		close(fd);
	}
	unlink(path);
}

static void notify__without_a_manager_nothing_happens(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_ready(), 0);
	setenv("NOTIFY_SOCKET", "not a path", 1);
	assert_true(notify_ready() < 0);
	setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
	assert_true(notify_ready() < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(notify__reaches_the_manager),
		cmocka_unit_test(notify__without_a_manager_nothing_happens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
