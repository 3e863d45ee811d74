/* Labels of samples: where each comes from, waiting, what is known when nothing can be read, allow and deny. */
#include "tests/unit/target/fixture.h"

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void mkdir_at(enum cgroup_hierarchy h, uint64_t id, const char *path)
{
	struct record_cgroup r = {.head = {.type = RECORD_CGROUP_MKDIR, .hierarchy = (abi_u8)h}, .cgroup_id = id};

	strncpy(r.path, path, sizeof(r.path) - 1);
	targets_on_cgroup(fix.targets, &r);
}

static intern_id comm_id(const char *comm)
{
	intern_id id;

	assert_int_equal(intern_puts(fix.strings, comm, &id), 0);
	return id;
}

static void check(series_id id, const char *name, const char *want)
{
	const char *value = labels_value(fix.labels, id, name);

	if (strcmp(value, want) != 0)
		fail_msg("label %s is '%s', should be '%s'", name, value, want);
}

/* The label as it is once everything was answered. */
static int label(struct process *p, enum cgroup_hierarchy h, uint64_t id, const char *comm, series_id *ret)
{
	int r = target_label(fix.targets, p, h, id, comm_id(comm), 100 * S, false, ret);

	if (r != -EAGAIN)
		return r;
	fake_answer();
	return target_label(fix.targets, p, h, id, comm_id(comm), 100 * S + 1, false, ret);
}

static struct process *make(uint32_t pid)
{
	fork_at(1 * S, pid, 100, 1, 0);
	return targets_get(fix.targets, pid, 100, 2 * S);
}

static void label__service_name_order(void **state)
{
	static const char both[] =
		"OTEL_RESOURCE_ATTRIBUTES=service.name=attr,service.version=7\0OTEL_SERVICE_NAME=named";
	static const char attribute[] = "OTEL_RESOURCE_ATTRIBUTES=service.name=attr,service.version=7";
	static const struct {
		const char *environ;
		size_t len;
		uint64_t cgroup;
		const char *service;
	} cases[] = {
		{both, sizeof(both), 10, "named"},
		{attribute, sizeof(attribute), 10, "attr"},
		{"A=b", 4, 10, "nginx"},
		{"A=b", 4, 11, "box1"},
		{"A=b", 4, 12, "prog"},
		{"A=b", 4, 13, "prog"},
	};

	(void)state;
	mkdir_at(CGROUP_V2, 10, "/system.slice/nginx.service");
	mkdir_at(CGROUP_V2, 11, "/lxc.payload.box1");
	mkdir_at(CGROUP_V2, 12, "/system.slice/docker-" ID ".scope");
	mkdir_at(CGROUP_V2, 13, "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service");
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct process *p = make(20 + i);
		series_id id;

		fake_put(20 + i, PROC_FILE_ENVIRON, cases[i].environ, cases[i].len);
		assert_int_equal(label(p, CGROUP_V2, cases[i].cgroup, "prog", &id), 0);
		check(id, "service_name", cases[i].service);
		check(id, "service_version", i < 2 ? "7" : "");
		check(id, "host", "box");
		check(id, "comm", "prog");
		check(id, "container", cases[i].cgroup == 12 ? ID : "");
	}
	/* v2 told all: /proc/PID/cgroup isn't needed. */
	assert_int_equal(fake.requests_made[PROC_FILE_CGROUP], 0);
}

static void label__one_series_a_process_and_name(void **state)
{
	struct process *p = make(7);
	series_id a, b, c;
	size_t reads;

	(void)state;
	fake_puts(7, PROC_FILE_ENVIRON, "");
	mkdir_at(CGROUP_V2, 10, "/a");
	assert_int_equal(label(p, CGROUP_V2, 10, "one", &a), 0);
	reads = fake.requests_made[PROC_FILE_ENVIRON];
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("one"), 101 * S, false, &b), 0);
	assert_int_equal(a, b);
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("two"), 101 * S, false, &c), 0);
	assert_true(a != c);
	check(c, "comm", "two");
	/* Many names don't make the cache grow without limit, nor its answers wrong. */
	for (unsigned i = 0; i < 40; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id(name), 101 * S, false, &c), 0);
		check(c, "comm", name);
	}
	assert_int_equal(fake.requests_made[PROC_FILE_ENVIRON], reads);
	/* Without a name from the sample, the one of the fork. */
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, INTERN_EMPTY, 101 * S, false, &c), 0);
	check(c, "comm", "forked");
}

static void label__waits_a_second(void **state)
{
	struct process *p = make(7);
	series_id id = SERIES_NONE;

	(void)state;
	mkdir_at(CGROUP_V2, 10, "/a");
	fake_puts(7, PROC_FILE_ENVIRON, "OTEL_SERVICE_NAME=late");
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 100 * S, false, &id), -EAGAIN);
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 101 * S - 1, false, &id), -EAGAIN);
	assert_int_equal(id, SERIES_NONE);
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 101 * S, false, &id), 0);
	check(id, "service_name", "x");
	fake_answer();
	/* What came late counts from the next second on. */
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 102 * S, false, &id), 0);
	check(id, "service_name", "late");
}

static void label__opener_is_busy(void **state)
{
	struct process *p = make(7);
	series_id id;

	(void)state;
	fake_answer();
	mkdir_at(CGROUP_V2, 10, "/a");
	fake_puts(7, PROC_FILE_ENVIRON, "OTEL_SERVICE_NAME=svc");
	fake.refuse = true;
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 100 * S, false, &id), -EAGAIN);
	fake.refuse = false;
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 100 * S + 1, false, &id), -EAGAIN);
	fake_answer();
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 100 * S + 2, false, &id), 0);
	check(id, "service_name", "svc");
}

static void label__process_is_gone(void **state)
{
	struct process *p = make(7);
	series_id id;

	(void)state;
	mkdir_at(CGROUP_V2, 10, "/system.slice/job.service");
	exit_at(3 * S, 7, 100);
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 4 * S, false, &id), 0);
	check(id, "service_name", "job");
	check(id, "cgroup", "/system.slice/job.service");
	assert_int_equal(fake.requests_made[PROC_FILE_ENVIRON], 0);
	/* Nobody at all, in a cgroup that nobody told of. */
	assert_int_equal(target_label(fix.targets, targets_get(fix.targets, 0, 0, 1), CGROUP_V2, 99, comm_id("y"),
				      4 * S, false, &id),
			 0);
	check(id, "service_name", "y");
	check(id, "cgroup", "");
}

/* A fork has its parent's environment, read or not; an exec has one of its own. */
static void label__environment_of_fork_and_exec(void **state)
{
	struct process *parent = make(7), *child;
	series_id id;

	(void)state;
	mkdir_at(CGROUP_V2, 10, "/a");
	fake_puts(7, PROC_FILE_ENVIRON, "OTEL_SERVICE_NAME=svc");
	assert_int_equal(label(parent, CGROUP_V2, 10, "x", &id), 0);
	fork_at(10 * S, 8, 200, 7, 100);
	child = targets_get(fix.targets, 8, 200, 10 * S);
	assert_int_equal(target_label(fix.targets, child, CGROUP_V2, 10, comm_id("x"), 10 * S, false, &id), 0);
	check(id, "service_name", "svc");
	exec_at(11 * S, 8, 300, 200, "y");
	child = targets_get(fix.targets, 8, 300, 11 * S);
	fake_puts(8, PROC_FILE_ENVIRON, "");
	assert_int_equal(label(child, CGROUP_V2, 10, "y", &id), 0);
	check(id, "service_name", "y");
	/* The parent failed to be read, the child does not. */
	fork_at(12 * S, 9, 400, 1, 0);
	fork_at(13 * S, 12, 500, 9, 400);
	parent = targets_get(fix.targets, 9, 400, 13 * S);
	fake_puts(12, PROC_FILE_ENVIRON, "OTEL_SERVICE_NAME=child");
	assert_int_equal(label(parent, CGROUP_V2, 10, "p", &id), 0);
	check(id, "service_name", "p");
	assert_int_equal(label(targets_get(fix.targets, 12, 500, 13 * S), CGROUP_V2, 10, "c", &id), 0);
	check(id, "service_name", "child");
}

static void label__cgroup_of_v1_and_unknown(void **state)
{
	static const char v1[] = "4:memory:/\n2:cpu,cpuacct:/\n1:name=systemd:/system.slice/db.service\n0::/\n";
	struct process *p = make(7), *child;
	series_id id;

	(void)state;
	fake_puts(7, PROC_FILE_ENVIRON, "");
	fake_puts(7, PROC_FILE_CGROUP, v1);
	mkdir_at(CGROUP_V2, 1, "/");
	assert_int_equal(label(p, CGROUP_V2, 1, "x", &id), 0);
	check(id, "cgroup", "/system.slice/db.service");
	check(id, "service_name", "db");
	/* A fork that is gone before it could be read. */
	fork_at(10 * S, 8, 200, 7, 100);
	child = targets_get(fix.targets, 8, 200, 10 * S);
	assert_int_equal(label(child, CGROUP_V2, 1, "x", &id), 0);
	check(id, "cgroup", "/system.slice/db.service");
	/* The kernel's word is the label; systemd's hierarchy still names the service. */
	p = make(9);
	fake_puts(9, PROC_FILE_ENVIRON, "");
	fake_puts(9, PROC_FILE_CGROUP, v1);
	mkdir_at(CGROUP_V1_MEMORY, 5, "/system.slice");
	assert_int_equal(label(p, CGROUP_V1_MEMORY, 5, "x", &id), 0);
	check(id, "cgroup", "/system.slice");
	check(id, "service_name", "db");
	/* Its mkdir was lost. */
	p = make(10);
	fake_puts(10, PROC_FILE_ENVIRON, "");
	fake_puts(10, PROC_FILE_CGROUP, "0::/docker/" ID "\n");
	assert_int_equal(label(p, CGROUP_V2, 4242, "x", &id), 0);
	check(id, "cgroup", "/docker/" ID);
	check(id, "container", ID);
}

static void label__allow_and_deny(void **state)
{
	const char *allow[] = {"/system.slice/**", "/secret.slice/**", NULL}, *deny[] = {"/secret.slice/**", NULL};
	struct targets_options options = {.host = "box", .allow = allow, .deny = deny};
	struct process *p;
	series_id id = SERIES_NONE;

	(void)state;
	assert_int_equal(targets_reconfigure(fix.targets, &options, NULL), 0);
	p = make(7);
	fake_puts(7, PROC_FILE_ENVIRON, "");
	mkdir_at(CGROUP_V2, 10, "/system.slice/a.service");
	mkdir_at(CGROUP_V2, 11, "/secret.slice/x");
	mkdir_at(CGROUP_V2, 12, "/other");
	assert_int_equal(label(p, CGROUP_V2, 10, "x", &id), 0);
	id = SERIES_NONE;
	assert_int_equal(label(p, CGROUP_V2, 11, "x", &id), -EACCES);
	assert_int_equal(label(p, CGROUP_V2, 11, "x", &id), -EACCES);
	assert_int_equal(label(p, CGROUP_V2, 12, "x", &id), -EACCES);
	/* Not known what it is: not shown. */
	assert_int_equal(label(p, CGROUP_V2, 99, "x", &id), -EACCES);
	assert_int_equal(id, SERIES_NONE);
	/* After a reload without the rules the cached answer is no more. */
	options = (struct targets_options){.host = "box2"};
	assert_int_equal(targets_reconfigure(fix.targets, &options, NULL), 0);
	assert_int_equal(label(p, CGROUP_V2, 11, "x", &id), 0);
	check(id, "cgroup", "/secret.slice/x");
	check(id, "host", "box2");
}

static void label__static_labels_and_host_series(void **state)
{
	struct label_set set = {0};
	struct targets_options options = {.host = "box", .static_labels = &set};
	struct process *p = make(7);
	series_id id;

	(void)state;
	assert_int_equal(label_set_put(&set, fix.strings, "region", "eu"), 0);
	assert_int_equal(targets_reconfigure(fix.targets, &options, NULL), 0);
	fake_puts(7, PROC_FILE_ENVIRON, "");
	mkdir_at(CGROUP_V2, 10, "/a");
	assert_int_equal(label(p, CGROUP_V2, 10, "x", &id), 0);
	check(id, "region", "eu");
	assert_int_equal(targets_host_series(fix.targets, &id), 0);
	assert_int_equal(labels_get(fix.labels, id)->count, 1);
	check(id, "host", "box");
}

/* The label table forgets what no window holds; the strings that the cache compares by must stay what they are. */
static void label__after_a_sweep(void **state)
{
	struct process *p = make(7);
	series_id before, after;

	(void)state;
	fake_puts(7, PROC_FILE_ENVIRON, "OTEL_SERVICE_NAME=svc");
	mkdir_at(CGROUP_V2, 10, "/a");
	assert_int_equal(label(p, CGROUP_V2, 10, "x", &before), 0);
	intern_begin_mark(fix.strings);
	labels_begin_mark(fix.labels);
	targets_mark_strings(fix.targets, fix.strings);
	labels_sweep(fix.labels);
	intern_sweep(fix.strings);
	assert_null(labels_get(fix.labels, before));
	assert_int_equal(target_label(fix.targets, p, CGROUP_V2, 10, comm_id("x"), 200 * S, false, &after), 0);
	check(after, "service_name", "svc");
	check(after, "comm", "x");
	check(after, "cgroup", "/a");
}

static void label__limit_of_series(void **state)
{
	struct process *p = make(7);
	series_id id;
	int r = 0;

	(void)state;
	fake_puts(7, PROC_FILE_ENVIRON, "");
	mkdir_at(CGROUP_V2, 10, "/a");
	for (unsigned i = 0; i < 101 && r == 0; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		r = label(p, CGROUP_V2, 10, name, &id);
	}
	assert_int_equal(r, -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(label__service_name_order),
		CASE(label__one_series_a_process_and_name),
		CASE(label__waits_a_second),
		CASE(label__opener_is_busy),
		CASE(label__process_is_gone),
		CASE(label__environment_of_fork_and_exec),
		CASE(label__cgroup_of_v1_and_unknown),
		CASE(label__allow_and_deny),
		CASE(label__static_labels_and_host_series),
		CASE(label__after_a_sweep),
		CASE(label__limit_of_series),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
