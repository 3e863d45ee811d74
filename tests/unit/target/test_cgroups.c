/* cgroups: mounts of the three layouts, the walk over a tree, events, removal, limits. */
#include "daemon/target/cgroups.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#define KEEP_NS 100

static char root[64]; /* of a made-up proc and cgroup file system */

static void make(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s", root, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

static uint64_t inode(const char *name)
{
	char path[256];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s", root, name);
	assert_int_equal(lstat(path, &st), 0);
	return st.st_ino;
}

static void write_mountinfo(const char *super_options, const char *mount_root, unsigned wrong_dev)
{
	char path[256];
	struct stat st;
	FILE *f;

	assert_int_equal(stat(root, &st), 0);
	snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "30 1 %u:%u %s %s/cg rw,nosuid shared:9 master:1 - %s cgroup %s\n", major(st.st_dev) + wrong_dev,
		minor(st.st_dev), mount_root, root, strcmp(super_options, "rw") == 0 ? "cgroup2" : "cgroup",
		super_options);
	fclose(f);
}

static int setup(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "%s/test_cgroups.XXXXXX", P_tmpdir);
	if (!mkdtemp(root))
		return -1;
	make("/proc");
	make("/proc/self");
	make("/cg");
	make("/cg/system.slice");
	make("/cg/system.slice/a.service");
	make("/cg/user.slice");
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command);
}

static struct cgroups *create(size_t max)
{
	char path[256];
	struct cgroups *c;

	snprintf(path, sizeof(path), "%s/proc", root);
	assert_int_equal(cgroups_create(path, max, KEEP_NS, &c), 0);
	return c;
}

static void check_path(const struct cgroups *c, enum cgroup_hierarchy h, uint64_t id, const char *want)
{
	const char *path = cgroups_path(c, h, id);

	if (!want) {
		assert_null(path);
		return;
	}
	assert_non_null(path);
	assert_string_equal(path, want);
}

static bool event(struct cgroups *c, enum record_type type, enum cgroup_hierarchy h, uint64_t id, const char *path,
		  uint64_t time_ns)
{
	struct record_cgroup r = {
		.head = {.type = (abi_u8)type, .hierarchy = (abi_u8)h}, .time_ns = time_ns, .cgroup_id = id};
	bool renamed = false;

	strncpy(r.path, path, sizeof(r.path));
	cgroups_on_event(c, &r, &renamed);
	return renamed;
}

static void cgroup_mounts_parse__unified(void **state)
{
	static const char text[] =
		"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
		"29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
	struct cgroup_mount m[4];

	(void)state;
	assert_int_equal(cgroup_mounts_parse(text, strlen(text), m, 4), 1);
	assert_int_equal(m[0].hierarchies, 1 << CGROUP_V2);
	assert_int_equal(m[0].dev_major, 0);
	assert_int_equal(m[0].dev_minor, 26);
	assert_string_equal(m[0].point, "/sys/fs/cgroup");
	assert_string_equal(m[0].root, "");
}

static void cgroup_mounts_parse__hybrid(void **state)
{
	static const char text[] =
		"31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755\n"
		"32 31 0:29 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n"
		"33 31 0:30 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n"
		"34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n"
		"35 31 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
		"36 31 0:33 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory\n"
		"37 31 0:28 / /broken";
	struct cgroup_mount m[8];

	(void)state;
	assert_int_equal(cgroup_mounts_parse(text, strlen(text), m, 8), 4);
	assert_int_equal(m[0].hierarchies, 1 << CGROUP_V2);
	assert_int_equal(m[1].hierarchies, 1 << CGROUP_V1_SYSTEMD);
	assert_int_equal(m[2].hierarchies, 1 << CGROUP_V1_CPU);
	assert_string_equal(m[2].point, "/sys/fs/cgroup/cpu,cpuacct");
	assert_int_equal(m[3].hierarchies, 1 << CGROUP_V1_MEMORY);
	assert_int_equal(cgroup_mounts_parse(text, strlen(text), m, 2), 2);
}

/* Controllers mounted together, a part mounted elsewhere first, escapes. */
static void cgroup_mounts_parse__v1(void **state)
{
	static const char text[] = "40 1 0:31 /docker/x /mnt/part rw - cgroup cgroup rw,cpu,memory\n"
				   "41 1 0:31 / /mnt/with\\040blank rw - cgroup cgroup rw,cpu,memory\n"
				   "42 1 0:31 /docker/y /mnt/other rw - cgroup cgroup rw,cpu,memory\n";
	struct cgroup_mount m[8];

	(void)state;
	assert_int_equal(cgroup_mounts_parse(text, strlen(text), m, 8), 1);
	assert_int_equal(m[0].hierarchies, 1 << CGROUP_V1_CPU | 1 << CGROUP_V1_MEMORY);
	assert_string_equal(m[0].point, "/mnt/with blank");
	assert_string_equal(m[0].root, "");
	assert_int_equal(cgroup_mounts_parse(text, (size_t)(strchr(text, '\n') - text) + 1, m, 8), 1);
	assert_string_equal(m[0].root, "/docker/x");
}

static void cgroups_scan__unified(void **state)
{
	struct cgroups *c = create(100);

	(void)state;
	write_mountinfo("rw", "/", 0);
	assert_int_equal(cgroups_scan(c, 1, NULL), 0);
	assert_int_equal(cgroups_count(c), 4);
	check_path(c, CGROUP_V2, inode("/cg"), "/");
	check_path(c, CGROUP_V2, inode("/cg/system.slice"), "/system.slice");
	check_path(c, CGROUP_V2, inode("/cg/system.slice/a.service"), "/system.slice/a.service");
	check_path(c, CGROUP_V2, inode("/cg/user.slice"), "/user.slice");
	check_path(c, CGROUP_V1_MEMORY, inode("/cg/user.slice"), NULL);
	cgroups_destroy(c);
}

static void cgroups_scan__part_of_two_v1_hierarchies(void **state)
{
	struct cgroups *c = create(100);

	(void)state;
	write_mountinfo("rw,cpu,cpuacct,memory", "/docker", 0);
	assert_int_equal(cgroups_scan(c, 1, NULL), 0);
	check_path(c, CGROUP_V1_CPU, inode("/cg/user.slice"), "/docker/user.slice");
	check_path(c, CGROUP_V1_MEMORY, inode("/cg/user.slice"), "/docker/user.slice");
	check_path(c, CGROUP_V1_CPU, inode("/cg"), "/docker");
	/* The kernel names one of them in an event: it holds for both. */
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_CPU, 77777777777, "/docker/new", 5);
	check_path(c, CGROUP_V1_MEMORY, 77777777777, "/docker/new");
	cgroups_destroy(c);
}

static void cgroups_scan__another_device_is_not_entered(void **state)
{
	struct cgroups *c = create(100);

	(void)state;
	write_mountinfo("rw", "/", 1);
	assert_int_equal(cgroups_scan(c, 1, NULL), 0);
	assert_int_equal(cgroups_count(c), 0);
	cgroups_destroy(c);
}

static void cgroups_scan__no_mountinfo(void **state)
{
	struct cgroups *c = create(100);
	struct err e = {0};

	(void)state;
	assert_int_equal(cgroups_scan(c, 1, &e), -ENOENT);
	assert_non_null(strstr(e.text, "mountinfo"));
	cgroups_destroy(c);
}

/* Events were lost in between. */
static void cgroups_scan__again(void **state)
{
	struct cgroups *c = create(100);
	uint64_t gone = inode("/cg/user.slice");
	char path[256];

	(void)state;
	write_mountinfo("rw", "/", 0);
	assert_int_equal(cgroups_scan(c, 1, NULL), 0);
	snprintf(path, sizeof(path), "%s/cg/user.slice", root);
	assert_int_equal(rmdir(path), 0);
	make("/cg/system.slice/b.service");
	assert_int_equal(cgroups_scan(c, 1000, NULL), 0);
	check_path(c, CGROUP_V2, inode("/cg/system.slice/b.service"), "/system.slice/b.service");
	/* Its samples are still under way. */
	if (gone != inode("/cg/system.slice/b.service"))
		check_path(c, CGROUP_V2, gone, "/user.slice");
	cgroups_expire(c, 1000 + KEEP_NS);
	assert_int_equal(cgroups_count(c), 4);
	cgroups_destroy(c);
}

static void cgroups_on_event__life(void **state)
{
	struct cgroups *c = create(100);

	(void)state;
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 5, "/a", 10);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_MEMORY, 5, "/m", 10);
	check_path(c, CGROUP_V2, 5, "/a");
	check_path(c, CGROUP_V1_MEMORY, 5, "/m");
	event(c, RECORD_CGROUP_RMDIR, CGROUP_V2, 5, "/a", 20);
	cgroups_expire(c, 20 + KEEP_NS - 1);
	check_path(c, CGROUP_V2, 5, "/a");
	cgroups_expire(c, 20 + KEEP_NS);
	check_path(c, CGROUP_V2, 5, NULL);
	check_path(c, CGROUP_V1_MEMORY, 5, "/m");
	/* The end of one that was never known; another hierarchy; a path that is none. */
	event(c, RECORD_CGROUP_RMDIR, CGROUP_V2, 6, "/a", 20);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_OTHER, 7, "/a", 20);
	event(c, RECORD_CGROUP_MKDIR, (enum cgroup_hierarchy)200, 7, "/a", 20);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 8, "", 20);
	assert_int_equal(cgroups_count(c), 1);
	cgroups_destroy(c);
}

static void cgroups_on_event__rename_moves_what_is_below(void **state)
{
	struct cgroups *c = create(100);

	(void)state;
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_CPU, 1, "/old", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_CPU, 2, "/old/x/y", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_CPU, 3, "/older", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V1_MEMORY, 2, "/old/x/y", 1);
	assert_true(event(c, RECORD_CGROUP_RENAME, CGROUP_V1_CPU, 1, "/new", 2));
	check_path(c, CGROUP_V1_CPU, 1, "/new");
	check_path(c, CGROUP_V1_CPU, 2, "/new/x/y");
	check_path(c, CGROUP_V1_CPU, 3, "/older");
	check_path(c, CGROUP_V1_MEMORY, 2, "/old/x/y");
	assert_false(event(c, RECORD_CGROUP_RENAME, CGROUP_V1_CPU, 9, "/unknown", 2));
	check_path(c, CGROUP_V1_CPU, 9, "/unknown");
	cgroups_destroy(c);
}

static void cgroups_on_event__limit(void **state)
{
	struct cgroups *c = create(3);

	(void)state;
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 1, "/1", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 2, "/2", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 3, "/3", 1);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 4, "/4", 1);
	check_path(c, CGROUP_V2, 4, NULL);
	assert_int_equal(cgroups_full(c), 1);
	/* A removed one makes room. */
	event(c, RECORD_CGROUP_RMDIR, CGROUP_V2, 2, "/2", 2);
	event(c, RECORD_CGROUP_MKDIR, CGROUP_V2, 4, "/4", 3);
	check_path(c, CGROUP_V2, 4, "/4");
	check_path(c, CGROUP_V2, 2, NULL);
	assert_int_equal(cgroups_count(c), 3);
	assert_int_equal(cgroups_full(c), 2);
	cgroups_destroy(c);
}

static void cgroups_learn__only_what_is_there(void **state)
{
	struct cgroups *c = create(100);
	uint64_t id;

	(void)state;
	write_mountinfo("rw", "/", 0);
	assert_int_equal(cgroups_scan(c, 1, NULL), 0);
	make("/cg/late");
	id = inode("/cg/late");
	assert_false(cgroups_learn(c, CGROUP_V2, id, "/user.slice"));
	assert_false(cgroups_learn(c, CGROUP_V2, id, "/nowhere"));
	assert_false(cgroups_learn(c, CGROUP_V2, id, "/user.slice/../late"));
	assert_false(cgroups_learn(c, CGROUP_V1_CPU, id, "/late"));
	check_path(c, CGROUP_V2, id, NULL);
	assert_true(cgroups_learn(c, CGROUP_V2, id, "/late"));
	check_path(c, CGROUP_V2, id, "/late");
	cgroups_destroy(c);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cgroup_mounts_parse__unified),
		cmocka_unit_test(cgroup_mounts_parse__hybrid),
		cmocka_unit_test(cgroup_mounts_parse__v1),
		CASE(cgroups_scan__unified),
		CASE(cgroups_scan__part_of_two_v1_hierarchies),
		CASE(cgroups_scan__another_device_is_not_entered),
		CASE(cgroups_scan__no_mountinfo),
		CASE(cgroups_scan__again),
		CASE(cgroups_on_event__life),
		CASE(cgroups_on_event__rename_moves_what_is_below),
		CASE(cgroups_on_event__limit),
		CASE(cgroups_learn__only_what_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
