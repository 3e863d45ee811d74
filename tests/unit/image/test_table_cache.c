#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/image/table_cache.h"
#include "daemon/util/fault.h"

#define KEY "0123456789abcdef0123456789abcdef01234567-fedcba9876543210"

static char dir[256], cache_dir[300];

static const char *path_of(const char *name)
{
	static char path[600];

	(void)snprintf(path, sizeof(path), "%s/%s", cache_dir, name);
	return path;
}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "%s/table-cache-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	assert_non_null(mkdtemp(dir));
	(void)snprintf(cache_dir, sizeof(cache_dir), "%s/tables", dir);
	return 0;
}

static int teardown(void **state)
{
	DIR *d = opendir(cache_dir);
	struct dirent *e;

	(void)state;
	while (d && (e = readdir(d)))
		if (unlink(path_of(e->d_name)) && e->d_name[0] != '.')
			rmdir(path_of(e->d_name));
	if (d)
		closedir(d);
	rmdir(cache_dir);
	unlink(cache_dir);
	rmdir(dir);
	unsetenv("BAROSCOPE_FAULT");
#ifdef BAROSCOPE_FAULTS
	fault_reload();
#endif
	return 0;
}

static size_t files(void)
{
	DIR *d = opendir(cache_dir);
	struct dirent *e;
	size_t count = 0;

	assert_non_null(d);
	while ((e = readdir(d)))
		count += e->d_name[0] != '.';
	closedir(d);
	return count;
}

static struct table *make(uint32_t rows)
{
	struct cfi_info infos[3] = {{0}, {.rules = CFI_CFA_INVALID}, {.offset = 8, .rules = CFI_CFA_SP}};
	struct cfi_page page = {.count = rows};
	struct cfi_tables t = {.rows = calloc(rows + 1, sizeof(*t.rows)),
			       .infos = infos,
			       .pages = &page,
			       .row_count = rows,
			       .info_count = 3,
			       .page_count = 1};
	struct table *ret;

	assert_true(t.rows && rows <= 65536);
	for (uint32_t i = 0; i < rows; i++)
		t.rows[i] = (struct cfi_row){.low = (uint16_t)i, .info = (uint16_t)(i % 3)};
	assert_int_equal(table_make(&t, 0, &ret), 0);
	free(t.rows);
	return ret;
}

static struct table_cache *open_cache(uint64_t max_bytes)
{
	struct table_cache *c = NULL;
	struct err e = {0};

	if (table_cache_open(cache_dir, max_bytes, &c, &e))
		fail_msg("%s", e.text);
	return c;
}

static struct table_cache_stats stats(const struct table_cache *c)
{
	struct table_cache_stats s;

	table_cache_get_stats(c, &s);
	return s;
}

static void table_cache_get__what_was_put(void **state)
{
	struct table_cache *c = open_cache(0);
	struct table *a = make(1000), *b = make(5), *got = NULL;
	struct stat st;

	(void)state;
	assert_int_equal(stat(cache_dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_null(got);
	assert_int_equal(table_cache_put(c, KEY, a), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), 0);
	assert_memory_equal(got, a, a->bytes);
	free(got);
	assert_int_equal(stats(c).bytes, 8192);
	/* Replaced, and still there after a restart. */
	assert_int_equal(table_cache_put(c, KEY, b), 0);
	assert_int_equal(stats(c).bytes, 4096);
	table_cache_close(c);
	c = open_cache(0);
	assert_int_equal(stats(c).bytes, 4096);
	assert_int_equal(table_cache_get(c, KEY, &got), 0);
	assert_memory_equal(got, b, b->bytes);
	free(got);
	assert_int_equal(stats(c).hits, 1);
	assert_int_equal(stats(c).misses, 0);
	assert_int_equal(files(), 1);
	table_cache_close(c);
	table_cache_close(NULL);
	free(a);
	free(b);
}

static void table_cache__keys_are_no_paths(void **state)
{
	static const char *const bad[] = {"", "../x", "a/b", ".", "..", "a.b", "a b", "a\n", "\xc3\xa4"};
	struct table_cache *c = open_cache(0);
	struct table *t = make(5), *got = NULL;
	char key[TABLE_KEY_BYTES + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(table_cache_put(c, bad[i], t), -EINVAL);
		assert_int_equal(table_cache_get(c, bad[i], &got), -EINVAL);
	}
	memset(key, 'a', sizeof(key));
	key[TABLE_KEY_BYTES] = 0;
	assert_int_equal(table_cache_put(c, key, t), -EINVAL);
	key[TABLE_KEY_BYTES - 1] = 0;
	assert_int_equal(table_cache_put(c, key, t), 0);
	assert_int_equal(table_cache_get(c, key, &got), 0);
	free(got);
	assert_int_equal(files(), 1);
	table_cache_close(c);
	free(t);
}

static void write_file(const char *name, const void *data, size_t bytes)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), bytes);
	close(fd);
}

static void table_cache_get__broken_files_are_removed(void **state)
{
	struct table_cache *c = open_cache(0);
	struct table *t = make(3000), *got = NULL;
	size_t lengths[] = {0, 1, sizeof(*t) - 1, sizeof(*t), t->bytes / 2, t->bytes - 1};
	struct stat st;

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		assert_int_equal(table_cache_put(c, KEY, t), 0);
		assert_int_equal(truncate(path_of(KEY ".table"), (off_t)lengths[i]), 0);
		assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
		assert_int_equal(stats(c).broken, i + 1);
		assert_int_equal(files(), 0);
	}
	assert_int_equal(table_cache_put(c, KEY, t), 0);
	((char *)t)[t->bytes - 1] ^= 1;
	write_file(KEY ".table", t, t->bytes);
	((char *)t)[t->bytes - 1] ^= 1;
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_int_equal(files(), 0);
	/* A link to a good one, a directory, a FIFO. */
	assert_int_equal(table_cache_put(c, "good", t), 0);
	assert_int_equal(symlink("good.table", path_of(KEY ".table")), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_int_equal(lstat(path_of(KEY ".table"), &st), -1);
	assert_int_equal(mkfifo(path_of(KEY ".table"), 0600), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_int_equal(lstat(path_of(KEY ".table"), &st), -1);
	assert_int_equal(mkdir(path_of(KEY ".table"), 0700), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_int_not_equal(table_cache_put(c, KEY, t), 0);
	assert_int_equal(stats(c).write_errors, 1);
	assert_int_equal(table_cache_get(c, "good", &got), 0);
	free(got);
	table_cache_close(c);
	free(t);
}

static void table_cache_open__leftovers_are_removed_and_strangers_stay(void **state)
{
	struct table_cache *c = open_cache(0);
	struct table *t = make(10), *got = NULL;

	(void)state;
	assert_int_equal(table_cache_put(c, KEY, t), 0);
	table_cache_close(c);
	write_file(KEY ".part", t, 100);
	write_file("other.part", t, 100);
	write_file("README.txt", "hello", 5);
	c = open_cache(0);
	assert_int_equal(files(), 2);
	assert_int_equal(access(path_of("README.txt"), F_OK), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), 0);
	free(got);
	table_cache_close(c);
	free(t);
}

static void table_cache_open__not_where_others_may_write(void **state)
{
	struct table_cache *c = NULL;
	struct err e = {0};

	(void)state;
	assert_int_equal(mkdir(cache_dir, 0700), 0);
	assert_int_equal(chmod(cache_dir, 0777), 0);
	assert_int_equal(table_cache_open(cache_dir, 0, &c, &e), -EPERM);
	assert_null(c);
	assert_non_null(strstr(e.text, cache_dir));
	rmdir(cache_dir);
	assert_int_equal(symlink(dir, cache_dir), 0);
	assert_true(table_cache_open(cache_dir, 0, &c, &e) < 0);
	unlink(cache_dir);
	assert_int_equal(table_cache_open("/proc/nothing/here", 0, &c, &e), -ENOENT);
}

static void age(const char *name, time_t seconds)
{
	const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};

	assert_int_equal(utimensat(AT_FDCWD, path_of(name), times, 0), 0);
}

static void table_cache_put__the_oldest_leave(void **state)
{
	struct table_cache *c = open_cache(10 * 4096);
	struct table *t = make(800), *large = make(60000), *got = NULL;
	char key[16], name[32];
	uint64_t removed;

	(void)state;
	for (int i = 0; i < 10; i++) {
		(void)snprintf(key, sizeof(key), "k%d", i);
		(void)snprintf(name, sizeof(name), "k%d.table", i);
		assert_int_equal(table_cache_put(c, key, t), 0);
		age(name, 1000 + i);
	}
	assert_int_equal(stats(c).bytes, 10 * 4096);
	assert_int_equal(table_cache_get(c, "k0", &got), 0); /* young now */
	free(got);
	assert_int_equal(table_cache_put(c, "k10", t), 0);
	assert_int_equal(table_cache_get(c, "k1", &got), -ENOENT);
	assert_int_equal(table_cache_get(c, "k0", &got), 0);
	free(got);
	assert_int_equal(table_cache_get(c, "k10", &got), 0);
	free(got);
	assert_true(stats(c).bytes <= 10 * 4096);
	assert_int_equal(stats(c).bytes, files() * 4096);
	assert_int_equal(stats(c).removed, 11 - files());
	/* For one that never fits nobody leaves. */
	removed = stats(c).removed;
	assert_int_equal(table_cache_put(c, "large", large), -EDQUOT);
	assert_int_equal(stats(c).write_errors, 1);
	assert_int_equal(stats(c).removed, removed);
	table_cache_close(c);
	/* A smaller limit at the next start. */
	c = open_cache(3 * 4096);
	assert_true(files() <= 3);
	assert_int_equal(stats(c).bytes, files() * 4096);
	table_cache_close(c);
	free(t);
	free(large);
}

static void table_cache_put__a_write_that_fails(void **state)
{
#ifdef BAROSCOPE_FAULTS
	struct table_cache *c = open_cache(0);
	struct table *t = make(800), *got = NULL;

	(void)state;
	assert_int_equal(table_cache_put(c, "kept", t), 0);
	setenv("BAROSCOPE_FAULT", "cache.write:1", 1);
	fault_reload();
	assert_int_equal(table_cache_put(c, KEY, t), -ENOSPC);
	assert_int_equal(stats(c).write_errors, 1);
	assert_int_equal(files(), 1);
	assert_int_equal(stats(c).bytes, 4096);
	assert_int_equal(table_cache_get(c, KEY, &got), -ENOENT);
	assert_int_equal(table_cache_put(c, KEY, t), 0);
	assert_int_equal(table_cache_get(c, KEY, &got), 0);
	free(got);
	table_cache_close(c);
	free(t);
#else
	(void)state;
	print_message("skip %s: machine: built without fault points\n", __func__);
	skip();
#endif
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(table_cache_get__what_was_put),
		CASE(table_cache__keys_are_no_paths),
		CASE(table_cache_get__broken_files_are_removed),
		CASE(table_cache_open__leftovers_are_removed_and_strangers_stay),
		CASE(table_cache_open__not_where_others_may_write),
		CASE(table_cache_put__the_oldest_leave),
		CASE(table_cache_put__a_write_that_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
