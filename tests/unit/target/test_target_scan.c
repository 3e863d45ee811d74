/* The scan of a made-up /proc: who is entered, what a second scan keeps, what it ends. */
#include "tests/unit/target/fixture.h"

#include <sys/stat.h>

static char root[64];
static uint32_t entered[16];
static size_t entered_count;
static uint32_t in_force; /* generation that the kernel side has already; 0 = none */

static const char maps_one[] = "400000-401000 r-xp 00000000 08:01 11 /bin/one\n";
static const char maps_two[] = "400000-401000 r-xp 00000000 08:01 22 /bin/two\n";

static int enter(void *user, uint32_t pid, uint32_t *ret_generation)
{
	(void)user;
	assert_true(entered_count < 16);
	entered[entered_count++] = pid;
	*ret_generation = in_force ? in_force : GENERATION_SCANNED;
	return 0;
}

static void add(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

static void add_mountinfo(void)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/self/mountinfo", root);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fclose(f), 0);
}

static void drop(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(rmdir(path), 0);
}

#define STAT(pid, comm, parent, start)                                                                                 \
	pid " (" comm ") S " parent " 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 " start " 1 2 3\n"

static int setup(void **state)
{
	snprintf(root, sizeof(root), "%s/test_scan.XXXXXX", P_tmpdir);
	if (!mkdtemp(root))
		return -1;
	entered_count = 0;
	in_force = 0;
	if (fix_setup(state) < 0)
		return -1;
	clock_fake(100 * S, 100 * S);
	fix_recreate(&(struct targets_options){.proc_root = root});
	add("10");
	add("11");
	add("2");
	add("self");
	add_mountinfo();
	add("10x");
	add("0");
	fake_puts(10, PROC_FILE_STAT, STAT("10", "one", "1", "500"));
	fake_puts(10, PROC_FILE_MAPS, maps_one);
	fake_puts(11, PROC_FILE_STAT, STAT("11", "one", "10", "600"));
	fake_puts(11, PROC_FILE_MAPS, maps_one);
	fake_puts(2, PROC_FILE_STAT, STAT("2", "kthreadd", "0", "1"));
	fake_puts(2, PROC_FILE_MAPS, "");
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	clock_fake(0, 0);
	snprintf(command, sizeof(command), "rm -rf %s", root);
	if (system(command) != 0)
		return -1;
	return fix_teardown(state);
}

static void scan__enters_everybody(void **state)
{
	struct targets_stats stats;
	struct process *p;
	struct mapping m;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	assert_int_equal(entered_count, 3);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 3);
	assert_int_equal(stats.rescans, 0);
	p = targets_get(fix.targets, 10, GENERATION_SCANNED, 100 * S);
	assert_int_equal(inode_at(p, 0x400000), 11);
	/* A kernel thread has no mappings, and nobody tries again to find some. */
	p = targets_get(fix.targets, 2, GENERATION_SCANNED, 100 * S);
	assert_int_equal(process_find_mapping(p, 0x400000, &m), -ENOENT);
	assert_int_equal(fake.request_count, 0);
}

/* Workers of one server look alike: one copy of their mappings is enough. */
static void scan__forks_share_their_mappings(void **state)
{
	struct process *parent, *child;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	parent = targets_get(fix.targets, 10, GENERATION_SCANNED, 100 * S);
	child = targets_get(fix.targets, 11, GENERATION_SCANNED, 100 * S);
	assert_int_equal(fake_image_refs(11), 1);
	mmap_at(101 * S, 11, 0x400000, 0x1000, 33, "/bin/three");
	assert_int_equal(inode_at(child, 0x400000), 33);
	assert_int_equal(inode_at(parent, 0x400000), 11);
}

static void scan__again_keeps_and_refreshes(void **state)
{
	struct targets_stats stats;
	struct process *p, *q;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 10, GENERATION_SCANNED, 100 * S);
	q = targets_get(fix.targets, 11, GENERATION_SCANNED, 100 * S);
	/* 10 mapped something else, 11's pid was used again, 2 ended; all events of it were lost. */
	fake_puts(10, PROC_FILE_MAPS, maps_two);
	fake_puts(11, PROC_FILE_STAT, STAT("11", "other", "1", "900"));
	drop("2");
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	assert_ptr_equal(targets_get(fix.targets, 10, GENERATION_SCANNED, 201 * S), p);
	assert_int_equal(inode_at(p, 0x400000), 22);
	assert_true(targets_get(fix.targets, 11, 0, 201 * S) != q);
	assert_ptr_equal(targets_get(fix.targets, 11, 0, 150 * S), q);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.rescans, 1);
	assert_int_equal(stats.processes, 4);
	targets_tick(fix.targets, 205 * S);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 2);
}

/* The kernel side knows it already; its record is still in the ring. */
static void scan__generation_in_force(void **state)
{
	struct process *p;

	(void)state;
	in_force = 777;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 10, 777, 100 * S);
	assert_int_equal(inode_at(p, 0x400000), 11);
	fork_at(99 * S, 10, 777, 1, 0);
	assert_ptr_equal(targets_get(fix.targets, 10, 777, 100 * S), p);
	assert_int_equal(inode_at(p, 0x400000), 11);
}

/* One is gone, of another one only a part can be read. */
static void scan__gone_meanwhile(void **state)
{
	struct targets_stats stats;

	(void)state;
	fake_remove(10);
	fake_puts(11, PROC_FILE_STAT, "11 (cut");
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 1);
}

static uint64_t rescans(void)
{
	struct targets_stats stats;

	targets_get_stats(fix.targets, &stats);
	return stats.rescans;
}

/* The first request that waits is answered with an error. */
static void fail_first(int error)
{
	struct fake_request r = fake.requests[0];

	assert_true(fake.request_count > 0);
	memmove(fake.requests, fake.requests + 1, --fake.request_count * sizeof(r));
	r.fn(r.user, error, "", 0);
}

static void rescan__by_callbacks(void **state)
{
	struct process *p, *q, *gone;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 10, GENERATION_SCANNED, 100 * S);
	q = targets_get(fix.targets, 11, GENERATION_SCANNED, 100 * S);
	gone = targets_get(fix.targets, 2, GENERATION_SCANNED, 100 * S);
	fake_puts(10, PROC_FILE_MAPS, maps_two);
	fake_puts(11, PROC_FILE_STAT, STAT("11", "other", "1", "900"));
	drop("2");
	clock_fake(200 * S, 200 * S);
	entered_count = 0;
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	/* Nothing is read from within the call, and one read at a time is under way. */
	assert_int_equal(entered_count, 0);
	assert_int_equal(fake.request_count, 1);
	assert_int_equal(fake_answer(), 6);
	assert_int_equal(entered_count, 2);
	assert_ptr_equal(targets_get(fix.targets, 10, 0, 201 * S), p);
	assert_int_equal(inode_at(p, 0x400000), 22);
	assert_true(targets_get(fix.targets, 11, 0, 201 * S) != q);
	assert_ptr_equal(targets_get(fix.targets, 2, 0, 201 * S), gone);
	assert_true(targets_get(fix.targets, 2, 0, 206 * S) != gone);
	assert_int_equal(rescans(), 1);
}

/* A read that fails is no sign that the process ended. */
static void rescan__what_cannot_be_read_is_kept(void **state)
{
	struct process *p;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 2, GENERATION_SCANNED, 100 * S);
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	fail_first(-EIO);
	fake_answer();
	targets_tick(fix.targets, 206 * S);
	assert_ptr_equal(targets_get(fix.targets, 2, GENERATION_SCANNED, 206 * S), p);
	assert_ptr_equal(targets_get(fix.targets, 2, 0, 300 * S), p);
}

/* The event is newer than the text, which was asked for before it. */
static void rescan__what_was_mapped_meanwhile_stays(void **state)
{
	struct process *p;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 10, GENERATION_SCANNED, 100 * S);
	fake_puts(10, PROC_FILE_MAPS, maps_two);
	drop("2");
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	clock_fake(201 * S, 201 * S);
	mmap_at(201 * S, 10, 0x700000, 0x1000, 33, "/lib/three");
	fake_answer();
	assert_int_equal(inode_at(p, 0x400000), 22);
	assert_int_equal(inode_at(p, 0x700000), 33);
}

/* Its fork was lost, and it came after the pids were listed: it was not missed by the scan. */
static void rescan__placeholder_of_meanwhile_stays(void **state)
{
	struct process *p;

	(void)state;
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	p = targets_get(fix.targets, 77, 5, 201 * S);
	fake_puts(77, PROC_FILE_MAPS, maps_one);
	fake_answer();
	targets_tick(fix.targets, 207 * S);
	assert_ptr_equal(targets_get(fix.targets, 77, 0, 300 * S), p);
}

/* Ended by its event while it was read: it does not come back. */
static void rescan__what_ended_meanwhile_has_ended(void **state)
{
	struct targets_stats stats;

	(void)state;
	assert_int_equal(targets_scan(fix.targets, enter, NULL, NULL), 0);
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	exit_at(201 * S, 2, GENERATION_SCANNED);
	fake_answer();
	targets_tick(fix.targets, 207 * S);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 2);
}

static void rescan__not_all_the_time(void **state)
{
	(void)state;
	clock_fake(200 * S, 200 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	fake_answer();
	assert_int_equal(rescans(), 1);
	clock_fake(201 * S, 201 * S);
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	targets_tick(fix.targets, 201 * S);
	assert_int_equal(fake.request_count, 0);
	assert_int_equal(rescans(), 1);
	clock_fake(206 * S, 206 * S);
	targets_tick(fix.targets, 206 * S);
	fake_answer();
	assert_int_equal(rescans(), 2);
	clock_fake(220 * S, 220 * S);
	targets_tick(fix.targets, 220 * S);
	assert_int_equal(rescans(), 2);
}

static void rescan__opener_is_busy(void **state)
{
	struct process *p;

	(void)state;
	clock_fake(200 * S, 200 * S);
	fake.refuse = true;
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	targets_tick(fix.targets, 200 * S);
	fake.refuse = false;
	targets_tick(fix.targets, 200 * S);
	assert_int_equal(fake_answer(), 9);
	p = targets_get(fix.targets, 10, GENERATION_SCANNED, 200 * S);
	assert_int_equal(inode_at(p, 0x400000), 11);
}

/* The sanitizer and the fixture see what is left. */
static void targets_destroy__rescan_under_way(void **state)
{
	struct fake_request r;

	(void)state;
	assert_int_equal(targets_rescan(fix.targets, enter, NULL, NULL), 0);
	r = fake.requests[0];
	fake.request_count = 0;
	r.fn(r.user, 0, STAT("2", "kthreadd", "0", "1"), strlen(STAT("2", "kthreadd", "0", "1")));
	r = fake.requests[0];
	fake.request_count = 0;
	r.fn(r.user, 0, maps_one, strlen(maps_one));
	assert_int_equal(fake.request_count, 1);
}

static void scan__no_proc(void **state)
{
	struct err e = {0};

	(void)state;
	fix_recreate(&(struct targets_options){.proc_root = "/nonexistent"});
	assert_int_equal(targets_scan(fix.targets, enter, NULL, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent"));
	assert_int_equal(targets_scan_cgroups(fix.targets, &e), -ENOENT);
}

#define SCAN_CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCAN_CASE(scan__enters_everybody),
		SCAN_CASE(scan__forks_share_their_mappings),
		SCAN_CASE(scan__again_keeps_and_refreshes),
		SCAN_CASE(scan__generation_in_force),
		SCAN_CASE(scan__gone_meanwhile),
		SCAN_CASE(rescan__by_callbacks),
		SCAN_CASE(rescan__what_cannot_be_read_is_kept),
		SCAN_CASE(rescan__what_was_mapped_meanwhile_stays),
		SCAN_CASE(rescan__placeholder_of_meanwhile_stays),
		SCAN_CASE(rescan__what_ended_meanwhile_has_ended),
		SCAN_CASE(rescan__not_all_the_time),
		SCAN_CASE(rescan__opener_is_busy),
		SCAN_CASE(targets_destroy__rescan_under_way),
		SCAN_CASE(scan__no_proc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
