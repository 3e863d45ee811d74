/* The CPU profiler's filter in the kernel: all, a set of processes, a cgroup's subtree on v2, v1 memory and v1 cpu.
 * Needs root. Two busy children; one of them is the target. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf/cpu/cpu.h"
#include "bpf/track/track.h"
#include "daemon/util/clock.h"

#define ENOUGH 60
#define DEADLINE_NS (30 * NS_PER_S)

struct fixture {
	pid_t target, other;
	char cgroup[512], child[600]; /* made by a case, removed by teardown */
};

static pid_t busy_child(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		volatile uint64_t n = 0;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			n++;
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){0};
	f.target = busy_child();
	f.other = busy_child();
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		pid_t pid = i ? f->other : f->target;

		if (pid > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
	}
	if (f->child[0])
		rmdir(f->child);
	if (f->cgroup[0])
		rmdir(f->cgroup);
	return 0;
}

struct seen {
	uint64_t target, other, elsewhere;
	struct profiler_drops drops;
};

/* Samples with the filter until there are enough of the target. */
static struct seen sample(const struct fixture *f, const struct profiler_target *target)
{
	struct track_options track_options = {0};
	struct profiler_options options = {.target = *target, .rate_hz = 400};
	struct track *track = NULL;
	struct profiler *profiler = NULL;
	struct seen seen = {0};
	struct err e = {0};
	uint64_t until_ns = clock_mono_ns() + DEADLINE_NS;

	assert_int_equal(track_open(&track_options, &track, &e), 0);
	assert_int_equal(track_start(track, &e), 0);
	assert_int_equal(cpu_profiler.open(track, &options, &profiler, &e), 0);
	assert_int_equal(cpu_profiler.start(profiler, &e), 0);
	while (seen.target < ENOUGH && clock_mono_ns() < until_ns) {
		struct track_event *events;
		size_t count;
		bool lost;

		poll(NULL, 0, 50);
		assert_int_equal(cpu_profiler.drain(profiler, &e), 0);
		assert_int_equal(track_drain(track, &events, &count, &lost, &e), 0);
		for (size_t i = 0; i < count; i++) {
			if (events[i].kind != TRACK_RECORD || events[i].record->type != RECORD_SAMPLE)
				continue;
			if (events[i].pid == (uint32_t)f->target)
				seen.target++;
			else if (events[i].pid == (uint32_t)f->other)
				seen.other++;
			else
				seen.elsewhere++;
		}
	}
	cpu_profiler.stop(profiler);
	assert_int_equal(cpu_profiler.read_drops(profiler, &seen.drops), 0);
	cpu_profiler.close(profiler);
	track_close(track);
	return seen;
}

static void assert_only_target(const struct seen *seen)
{
	uint64_t lost = 0;

	assert_true(seen->target >= ENOUGH);
	assert_int_equal(seen->other, 0);
	assert_int_equal(seen->elsewhere, 0);
	assert_true(seen->drops.filtered > 0);
	for (size_t i = 0; i < DROP_CAUSE_COUNT; i++)
		lost += seen->drops.lost[i];
	assert_int_equal(seen->drops.reported + seen->drops.idle + seen->drops.filtered + lost, seen->drops.ticks);
}

static void cpu_filter__host_sees_all(void **state)
{
	const struct fixture *f = *state;
	struct profiler_target target = {.kind = TARGET_HOST};
	struct seen seen = sample(f, &target);

	assert_true(seen.target >= ENOUGH);
	assert_true(seen.other > 0);
	assert_int_equal(seen.drops.filtered, 0);
}

static void cpu_filter__a_set_of_processes(void **state)
{
	const struct fixture *f = *state;
	const uint32_t pids[] = {(uint32_t)f->target, 4000000};
	struct profiler_target target = {.kind = TARGET_PIDS, .pids = pids, .pid_count = 2};
	struct seen seen = sample(f, &target);

	assert_only_target(&seen);
}

/* Mount point of the first hierarchy of this type that has this option. */
static bool find_mount(const char *type, const char *option, char *ret_dir, size_t size)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	struct mntent *m;
	bool found = false;

	while (mounts && !found && (m = getmntent(mounts)))
		if (!strcmp(m->mnt_type, type) && (!option || hasmntopt(m, option))) {
			(void)snprintf(ret_dir, size, "%s", m->mnt_dir);
			found = true;
		}
	if (mounts)
		endmntent(mounts);
	return found;
}

static void cgroup_case(struct fixture *f, const char *name, const char *type, const char *option,
			enum cgroup_hierarchy hierarchy)
{
	struct profiler_target target = {.kind = TARGET_CGROUP, .hierarchy = hierarchy, .cgroup_level = 1};
	char mount[256], procs[700];
	struct seen seen;
	struct stat st;
	FILE *file;

	if (!find_mount(type, option, mount, sizeof(mount))) {
		print_message("skip %s: machine: no such cgroup hierarchy is mounted\n", name);
		skip();
	}
	(void)snprintf(f->cgroup, sizeof(f->cgroup), "%s/baroscope-test-%d", mount, getpid());
	(void)snprintf(f->child, sizeof(f->child), "%s/below", f->cgroup);
	assert_int_equal(mkdir(f->cgroup, 0755), 0);
	assert_int_equal(mkdir(f->child, 0755), 0);
	(void)snprintf(procs, sizeof(procs), "%s/cgroup.procs", f->child);
	file = fopen(procs, "w");
	assert_non_null(file);
	fprintf(file, "%d\n", f->target);
	assert_int_equal(fclose(file), 0);
	/* The subtree is meant: the target process is in a cgroup below. */
	assert_int_equal(stat(f->cgroup, &st), 0);
	target.cgroup_id = st.st_ino;
	seen = sample(f, &target);
	assert_only_target(&seen);
}

static void cpu_filter__a_cgroup_on_v2(void **state)
{
	cgroup_case(*state, __func__, "cgroup2", NULL, CGROUP_V2);
}

static void cpu_filter__a_cgroup_on_v1_memory(void **state)
{
	cgroup_case(*state, __func__, "cgroup", "memory", CGROUP_V1_MEMORY);
}

static void cpu_filter__a_cgroup_on_v1_cpu(void **state)
{
	cgroup_case(*state, __func__, "cgroup", "cpu", CGROUP_V1_CPU);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(cpu_filter__host_sees_all, setup, teardown),
		cmocka_unit_test_setup_teardown(cpu_filter__a_set_of_processes, setup, teardown),
		cmocka_unit_test_setup_teardown(cpu_filter__a_cgroup_on_v2, setup, teardown),
		cmocka_unit_test_setup_teardown(cpu_filter__a_cgroup_on_v1_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(cpu_filter__a_cgroup_on_v1_cpu, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
