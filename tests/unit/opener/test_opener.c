/* The opener with its real child: this program itself, started again. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "daemon/opener/opener.h"
#include "daemon/util/cleanup.h"

struct fixture {
	struct event_base *base;
	struct opener *opener;
	char dir[64];
};

struct answer {
	int calls;
	int error;
	int fd;
	struct stat st;
	size_t len;
};

static struct fixture fix;

static void start(const struct opener_options *options)
{
	fix.base = event_base_new();
	assert_non_null(fix.base);
	assert_int_equal(opener_create(fix.base, options, &fix.opener, NULL), 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(fix.dir, "/tmp/baroscope-opener-XXXXXX");
	assert_non_null(mkdtemp(fix.dir));
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	opener_destroy(fix.opener);
	fix.opener = NULL;
	event_base_free(fix.base);
	unsetenv("BAROSCOPE_CHILD_FAULT");
	snprintf(command, sizeof(command), "rm -rf '%s'", fix.dir);
	return system(command);
}

static const char *path_of(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", fix.dir, name);
	return path;
}

static void write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void on_file(void *user, int error, int fd, const struct stat *st)
{
	struct answer *a = user;

	a->calls++;
	a->error = error;
	a->fd = fd;
	if (st)
		a->st = *st;
}

static void on_text(void *user, int error, const char *text, size_t len)
{
	struct answer *a = user;

	(void)text;
	a->calls++;
	a->error = error;
	a->len = len;
}

static void wait_for(const struct answer *a)
{
	while (!a->calls)
		assert_int_equal(event_base_loop(fix.base, EVLOOP_ONCE), 0);
}

static struct answer open_path(const char *path, uint64_t inode, uint32_t dev_major, uint32_t dev_minor)
{
	struct opener_file file = {.path = path, .inode = inode, .dev_major = dev_major, .dev_minor = dev_minor};
	struct answer a = {.fd = -1};

	assert_int_equal(opener_open_file(fix.opener, &file, on_file, &a), 0);
	assert_int_equal(a.calls, 0);
	wait_for(&a);
	return a;
}

static void open_file__regular_file_gives_its_descriptor(void **state)
{
	struct answer a;
	char text[8] = {0};

	(void)state;
	start(NULL);
	write_file(path_of("f"), "hello");
	a = open_path(path_of("f"), 0, 0, 0);
	assert_int_equal(a.error, 0);
	assert_int_equal(a.st.st_size, 5);
	assert_int_equal(pread(a.fd, text, sizeof(text), 0), 5);
	assert_string_equal(text, "hello");
	assert_int_equal(fcntl(a.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	close(a.fd);
}

static void open_file__fifo_and_link_and_directory_are_refused(void **state)
{
	(void)state;
	start(NULL);
	assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
	assert_int_equal(open_path(path_of("fifo"), 0, 0, 0).error, -EINVAL);
	assert_int_equal(symlink("/bin/sh", path_of("link")), 0);
	assert_int_equal(open_path(path_of("link"), 0, 0, 0).error, -EINVAL);
	assert_int_equal(open_path(fix.dir, 0, 0, 0).error, -EINVAL);
	assert_int_equal(open_path("/dev/null", 0, 0, 0).error, -EINVAL);
	assert_int_equal(open_path(path_of("none"), 0, 0, 0).error, -ENOENT);
}

static void open_file__another_inode_is_stale(void **state)
{
	struct stat st;
	struct answer a;

	(void)state;
	start(NULL);
	write_file(path_of("f"), "x");
	assert_int_equal(stat(path_of("f"), &st), 0);
	assert_int_equal(open_path(path_of("f"), st.st_ino + 1, major(st.st_dev), minor(st.st_dev)).error, -ESTALE);
	a = open_path(path_of("f"), st.st_ino, major(st.st_dev), minor(st.st_dev));
	assert_int_equal(a.error, 0);
	close(a.fd);
}

static void open_file__deleted_mapping_is_read_through_map_files(void **state)
{
	struct opener_file file = {.pid = (uint32_t)getpid()};
	struct answer a = {.fd = -1};
	char path[300], text[4] = {0};
	struct stat st;
	void *map;
	int fd;

	(void)state;
	start(NULL);
	write_file(path_of("gone"), "abc");
	fd = open(path_of("gone"), O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	close(fd);
	unlink(path_of("gone"));
	snprintf(path, sizeof(path), "%s (deleted)", path_of("gone"));
	file.path = path;
	file.start = (uintptr_t)map;
	file.end = file.start + 4096;
	file.inode = st.st_ino;
	assert_int_equal(opener_open_file(fix.opener, &file, on_file, &a), 0);
	wait_for(&a);
	munmap(map, 4096);
	assert_int_equal(a.error, 0);
	assert_int_equal(pread(a.fd, text, 3, 0), 3);
	assert_string_equal(text, "abc");
	close(a.fd);
}

static void open_file__absolute_link_on_the_way_stays_in_the_root(void **state)
{
	char link[256], path[300];
	struct opener_file file = {.pid = (uint32_t)getpid(), .path = path};
	struct answer a = {.fd = -1};

	(void)state;
	start(NULL);
	write_file(path_of("f"), "x");
	snprintf(link, sizeof(link), "%s", path_of("dir"));
	assert_int_equal(symlink(fix.dir, link), 0);
	snprintf(path, sizeof(path), "%s/f", link);
	assert_int_equal(opener_open_file(fix.opener, &file, on_file, &a), 0);
	wait_for(&a);
	assert_int_equal(a.error, 0);
	close(a.fd);
	/* Magic links lead out of a root. */
	snprintf(path, sizeof(path), "/proc/self/root%s", path_of("f"));
	a = (struct answer){.fd = -1};
	assert_int_equal(opener_open_file(fix.opener, &file, on_file, &a), 0);
	wait_for(&a);
	assert_int_equal(a.error, -ELOOP);
}

static void read_proc__gives_text(void **state)
{
	char *text = NULL;
	size_t len;

	(void)state;
	start(NULL);
	assert_int_equal(opener_read_proc_sync(fix.opener, (uint32_t)getpid(), PROC_FILE_MAPS, &text, &len), 0);
	assert_non_null(strstr(text, "[stack]"));
	assert_int_equal(strlen(text), len);
	free(text);
	assert_int_equal(opener_read_proc_sync(fix.opener, 0x7ffffff0, PROC_FILE_STAT, &text, &len), -ENOENT);
}

static void request__timeout_kills_the_child_and_the_next_is_served(void **state)
{
	struct opener_file slow = {.path = "/nowhere/stalls-here"};
	struct answer a = {.fd = -1}, b = {0};
	int before;

	(void)state;
	setenv("BAROSCOPE_CHILD_FAULT", "opener.stall=stalls-here", 1);
	start(&(struct opener_options){.timeout_ns = 300000000});
	before = opener_child_pid(fix.opener);
	assert_int_equal(opener_open_file(fix.opener, &slow, on_file, &a), 0);
	assert_int_equal(opener_read_proc(fix.opener, (uint32_t)getpid(), PROC_FILE_STAT, on_text, &b), 0);
	wait_for(&b);
	assert_int_equal(a.calls, 1);
	assert_int_equal(a.error, -ETIMEDOUT);
	assert_int_equal(b.error, 0);
	assert_true(b.len > 0);
	assert_int_not_equal(opener_child_pid(fix.opener), before);
	assert_int_equal(opener_restarts(fix.opener), 1);
}

static void request__killed_child_is_replaced(void **state)
{
	struct answer a = {0};

	(void)state;
	start(NULL);
	assert_true(opener_child_pid(fix.opener) > 0); /* kill(-1) would be for everyone */
	assert_int_equal(kill(opener_child_pid(fix.opener), SIGKILL), 0);
	assert_int_equal(opener_read_proc(fix.opener, (uint32_t)getpid(), PROC_FILE_STAT, on_text, &a), 0);
	wait_for(&a);
	assert_int_equal(a.error, 0);
	assert_int_equal(opener_restarts(fix.opener), 1);
}

static void request__child_that_cannot_run_fails_clearly(void **state)
{
	struct answer a = {0};

	(void)state;
	start(&(struct opener_options){.exe = "/nonexistent"});
	assert_int_equal(opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a), 0);
	wait_for(&a);
	assert_int_equal(a.error, -EIO);
}

static void cancel__calls_back_once(void **state)
{
	struct answer a = {0}, b = {0};

	(void)state;
	start(NULL);
	assert_int_equal(opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a), 0);
	assert_int_equal(opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a), 0);
	opener_cancel(fix.opener, &a);
	assert_int_equal(a.calls, 2);
	assert_int_equal(a.error, -ECANCELED);
	assert_int_equal(opener_read_proc(fix.opener, (uint32_t)getpid(), PROC_FILE_CGROUP, on_text, &b), 0);
	wait_for(&b);
	assert_int_equal(b.error, 0);
	assert_int_equal(a.calls, 2);
}

static void request__queue_is_bounded(void **state)
{
	struct answer a = {0};
	int accepted = 0;

	(void)state;
	start(&(struct opener_options){.max_queued = 4});
	while (accepted < 100 && !opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a))
		accepted++;
	assert_int_equal(accepted, 5); /* one in flight, four waiting */
	assert_int_equal(opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a), -EAGAIN);
	opener_destroy(TAKE_PTR(fix.opener));
	assert_int_equal(a.calls, 5);
	assert_int_equal(a.error, -ECANCELED);
}

static void child__keeps_no_other_descriptors(void **state)
{
	char command[128];
	struct answer a = {0};

	(void)state;
	start(NULL);
	assert_int_equal(opener_read_proc(fix.opener, 1, PROC_FILE_STAT, on_text, &a), 0);
	wait_for(&a);
	snprintf(command, sizeof(command), "test $(ls /proc/%d/fd | wc -l) = 4 && grep -q baro-opener /proc/%d/comm",
		 opener_child_pid(fix.opener), opener_child_pid(fix.opener));
	assert_int_equal(system(command), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(open_file__regular_file_gives_its_descriptor),
		T(open_file__fifo_and_link_and_directory_are_refused),
		T(open_file__another_inode_is_stale),
		T(open_file__deleted_mapping_is_read_through_map_files),
		T(open_file__absolute_link_on_the_way_stays_in_the_root),
		T(read_proc__gives_text),
		T(request__timeout_kills_the_child_and_the_next_is_served),
		T(request__killed_child_is_replaced),
		T(request__child_that_cannot_run_fails_clearly),
		T(cancel__calls_back_once),
		T(request__queue_is_bounded),
		T(child__keeps_no_other_descriptors),
#undef T
	};

	if (argc > 1 && !strcmp(argv[1], "--internal-opener"))
		return opener_child_main();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
