/* Texts of /proc, whole and broken. */
#include "daemon/target/proc_text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct lines {
	size_t count;
	struct maps_line line[8];
	char path[8][128];
};

static int collect(void *user, const struct maps_line *line)
{
	struct lines *l = user;

	assert_true(l->count < 8);
	l->line[l->count] = *line;
	snprintf(l->path[l->count++], 128, "%s", line->path);
	return 0;
}

static void maps_parse__executable_lines(void **state)
{
	static const char text[] =
		"55e4c0a00000-55e4c0a02000 r--p 00000000 fe:01 1835107                    /usr/bin/cat\n"
		"55e4c0a02000-55e4c0a06000 r-xp 00002000 fe:01 1835107                    /usr/bin/cat\n"
		"7f0000000000-7f0000010000 rwxp 00000000 00:00 0 \n"
		"7f1000000000-7f1000001000 r-xp 00001000 103:0a 99     /opt/a b\\012c (deleted)\n"
		"7ffd5e5f0000-7ffd5e5f2000 r-xp 00000000 00:00 0                          [vdso]\n"
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
	struct lines l = {0};

	(void)state;
	assert_int_equal(maps_parse(text, strlen(text), collect, &l), 0);
	assert_int_equal(l.count, 5);
	assert_int_equal(l.line[0].start, 0x55e4c0a02000);
	assert_int_equal(l.line[0].end, 0x55e4c0a06000);
	assert_int_equal(l.line[0].offset, 0x2000);
	assert_int_equal(l.line[0].dev_major, 0xfe);
	assert_int_equal(l.line[0].dev_minor, 1);
	assert_int_equal(l.line[0].inode, 1835107);
	assert_string_equal(l.path[0], "/usr/bin/cat");
	assert_string_equal(l.path[1], "");
	assert_int_equal(l.line[2].dev_major, 0x103);
	assert_int_equal(l.line[2].dev_minor, 0x0a);
	assert_string_equal(l.path[2], "/opt/a b\nc (deleted)");
	assert_string_equal(l.path[3], "[vdso]");
	assert_int_equal(l.line[4].start, 0xffffffffff600000);
}

static void maps_parse__broken_lines(void **state)
{
	static const char text[] = "\n"
				   "zz\n"
				   "1000-\n"
				   "1000-2000 r-xp\n"
				   "2000-1000 r-xp 0 0:0 0 /backwards\n"
				   "11112222333344445-2 r-xp 0 0:0 0 /large\n"
				   "1000-2000 r-xp 0 0:0 x /inode\n"
				   "3000-4000 r-xp 0 8:1 5 /good\n"
				   "5000-6000 r-xp 0 8:1 5 /cut";
	struct lines l = {0};

	(void)state;
	assert_int_equal(maps_parse(text, strlen(text), collect, &l), 0);
	assert_int_equal(l.count, 1);
	assert_string_equal(l.path[0], "/good");
}

/* No end of the text may be overrun: each prefix in memory of its own, for the sanitizer. */
static void maps_parse__every_prefix(void **state)
{
	static const char text[] = "7f1000000000-7f1000001000 r-xp 00001000 103:0a 99     /opt/a\\012c\n";

	(void)state;
	for (size_t n = 0; n <= strlen(text); n++) {
		char *copy = malloc(n + !n);
		struct lines l = {0};

		memcpy(copy, text, n);
		assert_int_equal(maps_parse(copy, n, collect, &l), 0);
		assert_int_equal(l.count, n == strlen(text));
		free(copy);
	}
}

static int refuse(void *user, const struct maps_line *line)
{
	(void)line;
	(*(int *)user)++;
	return -ENOMEM;
}

static void maps_parse__callback_ends_it(void **state)
{
	static const char text[] = "1000-2000 r-xp 0 0:0 0 \n3000-4000 r-xp 0 0:0 0 \n";
	int calls = 0;

	(void)state;
	assert_int_equal(maps_parse(text, strlen(text), refuse, &calls), -ENOMEM);
	assert_int_equal(calls, 1);
}

static void mapping_kind__table(void **state)
{
	static const struct {
		const char *path;
		uint64_t inode;
		enum abi_image kind;
	} cases[] = {
		{"/usr/bin/cat", 5, IMAGE_FIRST_FILE},
		{"/usr/bin/cat (deleted)", 5, IMAGE_FIRST_FILE},
		{"//anon", 0, IMAGE_JIT},
		{"", 0, IMAGE_JIT},
		{"[heap]", 0, IMAGE_JIT},
		{"[stack]", 0, IMAGE_JIT},
		{"[anon:v8]", 0, IMAGE_JIT},
		{"/memfd:doublemapper (deleted)", 2049, IMAGE_JIT},
		{"/dev/zero (deleted)", 7, IMAGE_JIT},
		{"/SYSV00000000 (deleted)", 7, IMAGE_JIT},
		{"[vdso]", 0, IMAGE_VDSO},
		{"[vsyscall]", 0, IMAGE_NONE},
		{"[uprobes]", 0, IMAGE_NONE},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (mapping_kind(cases[i].path, cases[i].inode) != cases[i].kind)
			fail_msg("%s", cases[i].path);
}

static void stat_parse__name_with_brackets(void **state)
{
	static const char text[] = "4242 (a) S (b) S 17 4242 4242 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3\n";
	char comm[COMM_BYTES];
	uint64_t start = 0;
	uint32_t parent = 0;

	(void)state;
	assert_int_equal(stat_parse(text, strlen(text), comm, &parent, &start), 0);
	assert_string_equal(comm, "a) S (b");
	assert_int_equal(parent, 17);
	assert_int_equal(start, 987654);
}

static void stat_parse__cut(void **state)
{
	static const char text[] = "1 (init) S 0 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 ";
	char comm[COMM_BYTES];
	uint64_t start = 77;
	uint32_t parent = 66;

	(void)state;
	for (size_t n = 0; n <= strlen(text); n++) {
		char *copy = malloc(n + !n);

		memcpy(copy, text, n);
		assert_int_equal(stat_parse(copy, n, comm, &parent, &start), -EINVAL);
		free(copy);
	}
	assert_int_equal(start, 77);
	assert_int_equal(parent, 66);
}

static const char hybrid[] = "12:cpu,cpuacct:/fast\n"
			     "4:memory:/big:colon\n"
			     "3:freezer:/\n"
			     "1:name=systemd:/system.slice/x.service\n"
			     "0::/\n";

static void check_shown(const char *text, const char *want)
{
	char *path = NULL;

	assert_int_equal(proc_cgroup_shown_path(text, strlen(text), &path), 0);
	assert_string_equal(path, want);
	free(path);
}

static void proc_cgroup_path__hierarchies(void **state)
{
	static const char *const want[] = {
		[CGROUP_V2] = "/",
		[CGROUP_V1_MEMORY] = "/big:colon",
		[CGROUP_V1_CPU] = "/fast",
		[CGROUP_V1_SYSTEMD] = "/system.slice/x.service",
	};
	char *path;

	(void)state;
	for (unsigned h = 0; h < 4; h++) {
		path = NULL;
		assert_int_equal(proc_cgroup_path(hybrid, strlen(hybrid), (enum cgroup_hierarchy)h, &path), 0);
		assert_string_equal(path, want[h]);
		free(path);
	}
	assert_int_equal(proc_cgroup_path(hybrid, strlen(hybrid), CGROUP_V1_OTHER, &path), -ENOENT);
	assert_int_equal(proc_cgroup_path("", 0, CGROUP_V2, &path), -ENOENT);
	assert_int_equal(proc_cgroup_path("0::\n0\n::\n:", 9, CGROUP_V2, &path), -ENOENT);
}

static void proc_cgroup_shown_path__order(void **state)
{
	char *path;

	(void)state;
	check_shown("4:memory:/m\n2:cpu:/c\n0::/user.slice\n", "/user.slice");
	check_shown(hybrid, "/big:colon");
	check_shown("4:memory:/\n2:cpu,cpuacct:/c\n1:name=systemd:/s\n0::/\n", "/c");
	check_shown("4:memory:/\n2:cpuacct,cpu:/\n1:name=systemd:/s\n0::/\n", "/s");
	check_shown("4:memory:/\n2:cpuset:/wrong\n1:name=systemd:/\n", "/");
	check_shown("0::/gone.slice (deleted)\n", "/gone.slice");
	assert_int_equal(proc_cgroup_shown_path("", 0, &path), -ENOENT);
}

#define ENVIRON(text) text, sizeof(text) - 1

static void environ_parse__table(void **state)
{
	static const struct {
		const char *text;
		size_t len;
		const char *name, *version;
	} cases[] = {
		{ENVIRON("HOME=/\0OTEL_SERVICE_NAME=shop\0X=1\0"), "shop", ""},
		{ENVIRON("OTEL_SERVICE_NAME= shop \0"), "shop", ""},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES=service.version=1.2,service.name=cart\0"), "cart", "1.2"},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES=service.name=cart\0OTEL_SERVICE_NAME=shop\0"), "shop", ""},
		{ENVIRON("OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=service.name=cart\0"), "cart", ""},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES= a=b , service.name = my%20shop%2C%zz , x\0"), "my shop,%zz", ""},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES=service.name=a%00b%ffc\0"),
		 "a\xef\xbf\xbd"
		 "b\xef\xbf\xbd"
		 "c",
		 ""},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES=myservice.name=a,service.named=b,=c,,service.name\0"), "", ""},
		{ENVIRON("OTEL_RESOURCE_ATTRIBUTES=service.name=a=b\0"), "a=b", ""},
		{ENVIRON("XOTEL_SERVICE_NAME=no\0OTEL_SERVICE_NAMES=no\0"), "", ""},
		{ENVIRON("OTEL_SERVICE_NAME=unended"), "unended", ""},
		{ENVIRON("OTEL_SERVICE_NAME=caf\xc3\xa9\xc3\0"), "caf\xc3\xa9\xef\xbf\xbd", ""},
		{ENVIRON("\0\0\0"), "", ""},
		{ENVIRON(""), "", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char name[ENVIRON_VALUE_BYTES], version[ENVIRON_VALUE_BYTES], *copy;

		copy = malloc(cases[i].len + 1);
		memcpy(copy, cases[i].text, cases[i].len);
		environ_parse(copy, cases[i].len, name, version);
		free(copy);
		assert_string_equal(name, cases[i].name);
		assert_string_equal(version, cases[i].version);
	}
}

static void environ_parse__long_value_is_cut_between_characters(void **state)
{
	char text[2000] = "OTEL_SERVICE_NAME=x", name[ENVIRON_VALUE_BYTES], version[ENVIRON_VALUE_BYTES];

	(void)state;
	for (size_t i = 0; i < 300; i++)
		strcat(text, "\xc3\xa9");
	environ_parse(text, strlen(text) + 1, name, version);
	/* 1 + 127 characters of 2 bytes: one more would be 257 bytes. */
	assert_int_equal(strlen(name), 255);
	assert_memory_equal(name + 253, "\xc3\xa9", 3);
}

static void text_clean__bad_bytes(void **state)
{
	char text[32];

	(void)state;
	text_clean("a\x01\x7f\xc0\x80"
		   "b",
		   6, text, sizeof(text));
	assert_string_equal(text, "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
				  "b");
	text_clean("\xed\xa0\x80", 3, text, sizeof(text));
	assert_string_equal(text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	text_clean("\xf0\x9f\x98\x80", 4, text, sizeof(text));
	assert_string_equal(text, "\xf0\x9f\x98\x80");
	text_clean("abcdef", 6, text, 4);
	assert_string_equal(text, "abc");
	text_clean("ab\xf0\x9f\x98\x80", 6, text, 6);
	assert_string_equal(text, "ab");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_parse__executable_lines),
		cmocka_unit_test(maps_parse__broken_lines),
		cmocka_unit_test(maps_parse__every_prefix),
		cmocka_unit_test(maps_parse__callback_ends_it),
		cmocka_unit_test(mapping_kind__table),
		cmocka_unit_test(stat_parse__name_with_brackets),
		cmocka_unit_test(stat_parse__cut),
		cmocka_unit_test(proc_cgroup_path__hierarchies),
		cmocka_unit_test(proc_cgroup_shown_path__order),
		cmocka_unit_test(environ_parse__table),
		cmocka_unit_test(environ_parse__long_value_is_cut_between_characters),
		cmocka_unit_test(text_clean__bad_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
