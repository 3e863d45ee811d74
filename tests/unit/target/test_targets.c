/* The table of processes: who had a pid when, with which mappings, whatever the kernel's events leave out. */
#include "tests/unit/target/fixture.h"

static const char maps_one[] = "400000-401000 r-xp 00000000 08:01 11 /bin/one\n"
			       "500000-501000 r-xp 00000000 08:01 12 /lib/c\n";

static void get__generations_of_one_pid(void **state)
{
	struct process *a, *b, *c;

	(void)state;
	fork_at(10 * S, 7, 100, 1, 0);
	exec_at(11 * S, 7, 200, 100, "prog");
	exit_at(12 * S, 7, 200);
	fork_at(13 * S, 7, 300, 1, 0);
	a = targets_get(fix.targets, 7, 100, 13 * S);
	b = targets_get(fix.targets, 7, 200, 13 * S);
	c = targets_get(fix.targets, 7, 300, 13 * S);
	assert_true(a != b && b != c && a != c);
	/* By time where the generation isn't known. */
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 10 * S + 1), a);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 11 * S), b);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 12 * S + 5), b);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 99 * S), c);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 9 * S), a);
}

static void tick__forgets_after_the_grace(void **state)
{
	struct targets_stats stats;
	struct process *p;

	(void)state;
	fork_at(10 * S, 7, 100, 1, 0);
	mmap_at(10 * S, 7, 0x1000, 0x1000, 5, "/bin/x");
	p = targets_hold(targets_get(fix.targets, 7, 100, 10 * S));
	fake_answer();
	exit_at(20 * S, 7, 100);
	targets_tick(fix.targets, 25 * S - 1);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 1);
	targets_tick(fix.targets, 25 * S);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 0);
	/* Who holds it still finds what was mapped. */
	assert_int_equal(inode_at(p, 0x1000), 5);
	targets_release(fix.targets, p);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.address_spaces, 0);
	assert_int_equal(fake_image_refs(5), 0);
}

static void fork__shares_until_one_maps(void **state)
{
	struct targets_stats stats;
	struct process *parent, *child;

	(void)state;
	fake_puts(1, PROC_FILE_MAPS, maps_one);
	parent = targets_get(fix.targets, 1, 50, 1 * S);
	fake_answer();
	fork_at(2 * S, 2, 60, 1, 50);
	child = targets_get(fix.targets, 2, 60, 2 * S);
	assert_int_equal(inode_at(child, 0x400000), 11);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.address_spaces, 1);
	assert_int_equal(fake_image_refs(11), 1);
	mmap_at(3 * S, 2, 0x600000, 0x1000, 13, "/lib/new");
	assert_int_equal(inode_at(child, 0x600000), 13);
	assert_int_equal(inode_at(parent, 0x600000), 0);
	assert_int_equal(inode_at(child, 0x400000), 11);
	assert_int_equal(fake_image_refs(11), 2);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.address_spaces, 2);
	assert_int_equal(stats.mappings, 5);
	/* Alone now: no further copy. */
	mmap_at(4 * S, 1, 0x700000, 0x1000, 14, "/lib/other");
	assert_int_equal(inode_at(child, 0x700000), 0);
	assert_int_equal(inode_at(parent, 0x700000), 14);
	assert_int_equal(fake.requests_made[PROC_FILE_MAPS], 1);
}

/* perf tells of the new program's mappings before the record of the exec comes. */
static void exec__keeps_what_was_mapped_since_its_beginning(void **state)
{
	struct process *old, *new;

	(void)state;
	fake_puts(1, PROC_FILE_MAPS, maps_one);
	targets_get(fix.targets, 1, 50, 1 * S);
	fake_answer();
	fork_at(2 * S, 2, 60, 1, 50);
	mmap_at(2 * S + 1, 2, 0x900000, 0x1000, 19, "/lib/late");
	targets_on_exec_begin(fix.targets, 2, 2 * S + 10);
	mmap_at(2 * S + 11, 2, 0x400000, 0x1000, 21, "/bin/two");
	mmap_at(2 * S + 12, 2, 0x7000000, 0x1000, 0, "[vdso]");
	exec_at(2 * S + 20, 2, 70, 60, "two");
	mmap_at(2 * S + 30, 2, 0x800000, 0x1000, 22, "/lib/two");
	old = targets_get(fix.targets, 2, 60, 2 * S);
	new = targets_get(fix.targets, 2, 70, 2 * S + 21);
	assert_int_equal(inode_at(new, 0x400000), 21);
	assert_int_equal(inode_at(new, 0x800000), 22);
	assert_int_equal(inode_at(new, 0x500000), 0);
	assert_int_equal(inode_at(new, 0x900000), 0);
	assert_int_equal(inode_at(old, 0x500000), 12);
	assert_int_equal(inode_at(old, 0x900000), 19);
	assert_int_equal(fake.requests_made[PROC_FILE_MAPS], 1);
}

static void exec__without_its_beginning(void **state)
{
	struct process *p;

	(void)state;
	fork_at(10 * S, 2, 60, 1, 0);
	mmap_at(11 * S, 2, 0x900000, 0x1000, 19, "/lib/old");
	mmap_at(13 * S - 100, 2, 0x400000, 0x1000, 21, "/bin/two");
	exec_at(13 * S, 2, 70, 60, "two");
	p = targets_get(fix.targets, 2, 70, 13 * S);
	assert_int_equal(inode_at(p, 0x400000), 21);
	assert_int_equal(inode_at(p, 0x900000), 0);
}

/* All of its mmap events were lost: /proc is asked. */
static void exec__no_mapping_seen(void **state)
{
	struct process *p;
	struct mapping m;

	(void)state;
	fork_at(10 * S, 2, 60, 1, 0);
	exec_at(13 * S, 2, 70, 60, "two");
	fake_puts(2, PROC_FILE_MAPS, maps_one);
	p = targets_get(fix.targets, 2, 70, 13 * S);
	assert_int_equal(process_find_mapping(p, 0x400000, &m), -EAGAIN);
	fake_answer();
	assert_int_equal(inode_at(p, 0x400000), 11);
	assert_int_equal(process_find_mapping(p, 0x900000, &m), -ENOENT);
}

static void get__unknown_reads_its_maps(void **state)
{
	struct process *p;
	struct mapping m;

	(void)state;
	fake_puts(9, PROC_FILE_MAPS, maps_one);
	p = targets_get(fix.targets, 9, 90, 5 * S);
	assert_int_equal(process_find_mapping(p, 0x400000, &m), -EAGAIN);
	/* Newer than the text that is about to come. */
	mmap_at(6 * S, 9, 0x500000, 0x800, 77, "/lib/replaced");
	assert_int_equal(inode_at(p, 0x500000), 77);
	fake_answer();
	assert_int_equal(inode_at(p, 0x400000), 11);
	assert_int_equal(inode_at(p, 0x500000), 77);
	assert_int_equal(inode_at(p, 0x500800), 12);
	assert_ptr_equal(targets_get(fix.targets, 9, 90, 7 * S), p);
	assert_int_equal(fake.requests_made[PROC_FILE_MAPS], 1);
}

static void get__unknown_and_gone(void **state)
{
	struct targets_stats stats;
	struct process *p;
	struct mapping m;

	(void)state;
	clock_fake(6 * S, 6 * S);
	p = targets_get(fix.targets, 9, 90, 5 * S);
	fake_answer();
	assert_int_equal(process_find_mapping(p, 0x400000, &m), -ENOENT);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.reads_failed, 1);
	/* Nothing will tell of its end: it leaves by itself. */
	targets_tick(fix.targets, 11 * S);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 0);
	clock_fake(0, 0);
}

static void get__opener_is_busy(void **state)
{
	struct process *p;
	struct mapping m;

	(void)state;
	fake_puts(9, PROC_FILE_MAPS, maps_one);
	fake.refuse = true;
	p = targets_get(fix.targets, 9, 90, 5 * S);
	assert_int_equal(process_find_mapping(p, 0x400000, &m), -EAGAIN);
	fake.refuse = false;
	targets_tick(fix.targets, 6 * S);
	fake_answer();
	assert_int_equal(inode_at(p, 0x400000), 11);
}

/* If the parent is gone before its maps were read, the fork asks itself. */
static void fork__of_one_that_is_being_read(void **state)
{
	struct process *child;

	(void)state;
	fake_puts(2, PROC_FILE_MAPS, maps_one);
	targets_get(fix.targets, 1, 50, 1 * S);
	fork_at(2 * S, 2, 60, 1, 50);
	child = targets_get(fix.targets, 2, 60, 2 * S);
	fake_answer();
	assert_int_equal(inode_at(child, 0x400000), 0);
	child = targets_get(fix.targets, 2, 60, 3 * S);
	fake_answer();
	assert_int_equal(inode_at(child, 0x400000), 11);
}

/* A copy on write while the maps are being read: both get them. */
static void mmap__while_a_shared_space_is_read(void **state)
{
	struct process *parent, *child;

	(void)state;
	fake_puts(1, PROC_FILE_MAPS, maps_one);
	fake_puts(2, PROC_FILE_MAPS, maps_one);
	parent = targets_get(fix.targets, 1, 50, 1 * S);
	fork_at(2 * S, 2, 60, 1, 50);
	mmap_at(3 * S, 1, 0x600000, 0x1000, 13, "/lib/new");
	child = targets_get(fix.targets, 2, 60, 3 * S);
	fake_answer();
	assert_int_equal(inode_at(parent, 0x400000), 11);
	assert_int_equal(inode_at(parent, 0x600000), 13);
	assert_int_equal(inode_at(child, 0x400000), 11);
	assert_int_equal(inode_at(child, 0x600000), 0);
}

/* An answer that is of the next program must not become the old one's mappings. */
static void maps__answered_after_an_exec(void **state)
{
	struct process *old, *new;

	(void)state;
	fake_puts(9, PROC_FILE_MAPS, maps_one);
	old = targets_get(fix.targets, 9, 90, 5 * S);
	exec_at(6 * S, 9, 91, 90, "next");
	fake_answer();
	assert_int_equal(inode_at(old, 0x400000), 0);
	new = targets_get(fix.targets, 9, 91, 7 * S);
	fake_answer();
	assert_int_equal(inode_at(new, 0x400000), 11);
}

static void events__lost_and_late(void **state)
{
	struct process *a, *b;
	struct targets_stats stats;

	(void)state;
	/* Exits and mappings of nobody. */
	exit_at(1 * S, 5, 1);
	mmap_at(1 * S, 5, 0x1000, 0x1000, 1, "/x");
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 0);
	/* The exit of the first is lost. */
	fork_at(10 * S, 7, 100, 1, 0);
	a = targets_get(fix.targets, 7, 100, 10 * S);
	fork_at(20 * S, 7, 200, 1, 0);
	b = targets_get(fix.targets, 7, 0, 21 * S);
	assert_true(a != b);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 15 * S), a);
	/* Late ones don't touch who lives now. */
	exit_at(15 * S, 7, 100);
	fork_at(12 * S, 7, 150, 1, 0);
	exec_at(13 * S, 7, 160, 150, "late");
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 30 * S), b);
	assert_ptr_equal(targets_get(fix.targets, 7, 200, 30 * S), b);
	/* The exec is lost: a sample tells of the new generation. */
	assert_true(targets_get(fix.targets, 7, 300, 31 * S) != b);
	assert_ptr_equal(targets_get(fix.targets, 7, 0, 30 * S), b);
	/* A sample by pid alone, then the record of its fork. */
	a = targets_get(fix.targets, 8, 0, 40 * S);
	assert_ptr_equal(targets_get(fix.targets, 8, 400, 41 * S), a);
	fork_at(40 * S, 8, 400, 1, 0);
	assert_ptr_equal(targets_get(fix.targets, 8, 400, 42 * S), a);
}

static void mmap__kinds(void **state)
{
	struct process *p;
	struct mapping m;

	(void)state;
	fork_at(1 * S, 7, 100, 1, 0);
	mmap_at(2 * S, 7, 0x10000, 0x1000, 0, "//anon");
	mmap_at(2 * S, 7, 0x20000, 0x1000, 0, "[vdso]");
	mmap_at(2 * S, 7, 0x30000, 0x1000, 5, "/bin/x (deleted)");
	mmap_at(2 * S, 7, 0x40000, 0, 6, "/empty");
	mmap_at(2 * S, 7, UINT64_MAX - 0xfff, 0x2000, 6, "/wraps");
	p = targets_get(fix.targets, 7, 100, 2 * S);
	assert_int_equal(process_find_mapping(p, 0x10000, &m), 0);
	assert_int_equal(m.image, IMAGE_JIT);
	assert_int_equal(m.offset, 0x10000);
	assert_int_equal(process_find_mapping(p, 0x20000, &m), 0);
	assert_int_equal(m.image, IMAGE_VDSO);
	assert_int_equal(m.offset, 0);
	assert_int_equal(process_find_mapping(p, 0x30fff, &m), 0);
	assert_int_equal(m.offset, 0x1000);
	assert_string_equal(fake.images[m.image - IMAGE_FIRST_FILE].path, "/bin/x");
	assert_int_equal(fake_image_refs(6), 0);
	/* No room in the image table. */
	fake.image_limit = 1;
	mmap_at(3 * S, 7, 0x50000, 0x1000, 9, "/bin/y");
	assert_int_equal(process_find_mapping(p, 0x50000, &m), 0);
	assert_int_equal(m.image, IMAGE_NONE);
}

static void tick__publishes_what_changed(void **state)
{
	struct process *p;

	(void)state;
	fork_at(1 * S, 7, 100, 1, 0);
	exec_at(1 * S + 1, 7, 101, 100, "x");
	mmap_at(2 * S, 7, 0x10000, 0x1000, 5, "/bin/x");
	p = targets_get(fix.targets, 7, 101, 2 * S);
	targets_tick(fix.targets, 3 * S);
	assert_int_equal(fix.publish_calls, 0);
	fix.retire_calls = 0; /* a fork's */
	targets_want_published(fix.targets, p);
	targets_tick(fix.targets, 3 * S);
	targets_tick(fix.targets, 4 * S);
	assert_int_equal(fix.publish_calls, 1);
	assert_int_equal(fix.published[0].pid, 7);
	assert_int_equal(fix.published[0].generation, 101);
	assert_int_equal(fix.published[0].count, 1);
	mmap_at(5 * S, 7, 0x1000, 0x1000, 6, "/lib/y");
	targets_tick(fix.targets, 5 * S);
	assert_int_equal(fix.publish_calls, 2);
	assert_int_equal(fix.published[1].count, 2);
	assert_int_equal(fix.published[1].first_start, 0x1000);
	/* One that maps all the time does not fill the table: its old ranges rest for a while. */
	mmap_at(5 * S, 7, 0x3000, 0x1000, 8, "/lib/z");
	targets_tick(fix.targets, 5 * S + S / 20);
	assert_int_equal(fix.publish_calls, 2);
	targets_tick(fix.targets, 5 * S + S / 10);
	assert_int_equal(fix.publish_calls, 3);
	exit_at(6 * S, 7, 101);
	targets_want_published(fix.targets, p);
	targets_tick(fix.targets, 6 * S);
	targets_tick(fix.targets, 20 * S);
	assert_int_equal(fix.publish_calls, 3);
	assert_int_equal(fix.retire_calls, 1);
	assert_true(fix.published[0].retired);
}

static void fork__a_child_of_a_published_process_inherits(void **state)
{
	struct process *p;

	(void)state;
	fork_at(1 * S, 7, 100, 1, 0);
	exec_at(1 * S + 1, 7, 101, 100, "x");
	mmap_at(2 * S, 7, 0x10000, 0x1000, 5, "/bin/x");
	fix.retire_calls = 0;
	fork_at(2 * S + 1, 8, 102, 7, 101); /* the parent is not published: nothing to inherit, and nothing may stay */
	assert_int_equal(fix.inherit_calls, 0);
	assert_int_equal(fix.retire_calls, 1);
	p = targets_get(fix.targets, 7, 101, 2 * S);
	targets_want_published(fix.targets, p);
	targets_tick(fix.targets, 3 * S);
	assert_int_equal(fix.publish_calls, 1);

	fork_at(4 * S, 9, 103, 7, 101);
	targets_tick(fix.targets, 4 * S);
	assert_int_equal(fix.inherit_calls, 1);
	assert_int_equal(fix.publish_calls, 1); /* the range is shared */
	mmap_at(5 * S, 9, 0x20000, 0x1000, 6, "/lib/y");
	targets_tick(fix.targets, 5 * S);
	assert_int_equal(fix.publish_calls, 2); /* of its own from now on */
	assert_int_equal(fix.published[1].pid, 9);
	exit_at(6 * S, 9, 103);
	targets_tick(fix.targets, 6 * S);
	assert_true(fix.published[1].retired);

	/* What the kernel side gave cannot stay: it is published at once. */
	fix.inherit_result = -ENOENT;
	fork_at(7 * S, 10, 104, 7, 101);
	targets_tick(fix.targets, 7 * S);
	assert_int_equal(fix.publish_calls, 3);
	assert_int_equal(fix.published[2].pid, 10);
	/* An exec ends it. */
	fix.inherit_result = 0;
	fork_at(8 * S, 11, 105, 7, 101);
	exec_at(8 * S + 1, 11, 106, 105, "y");
	fix.retire_calls = 0;
	targets_tick(fix.targets, 8 * S + 2);
	assert_int_equal(fix.publish_calls, 3);
	assert_int_equal(fix.retire_calls, 1);
}

static void tick__sink_is_full(void **state)
{
	struct targets_stats stats;
	struct process *p;

	(void)state;
	fork_at(1 * S, 7, 100, 1, 0);
	exec_at(1 * S + 1, 7, 101, 100, "x");
	mmap_at(2 * S, 7, 0x10000, 0x1000, 5, "/bin/x");
	p = targets_get(fix.targets, 7, 101, 2 * S);
	targets_want_published(fix.targets, p);
	fix.publish_result = -ENOSPC;
	targets_tick(fix.targets, 3 * S);
	targets_tick(fix.targets, 4 * S);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.publish_full, 1);
	fix.publish_result = 0;
	targets_tick(fix.targets, 14 * S);
	assert_int_equal(fix.published_count, 1);
	/* No room for the new state: the old one must not stay. */
	mmap_at(15 * S, 7, 0x20000, 0x1000, 6, "/bin/y");
	fix.publish_result = -ENOSPC;
	targets_tick(fix.targets, 15 * S);
	assert_true(fix.published[0].retired);
}

static void processes__limit(void **state)
{
	struct targets_stats stats;
	struct process *p;
	struct mapping m;

	(void)state;
	fix_recreate(&(struct targets_options){.max_processes = 2});
	fork_at(1 * S, 7, 100, 1, 0);
	fork_at(1 * S, 8, 100, 1, 0);
	fork_at(1 * S, 9, 100, 1, 0);
	p = targets_get(fix.targets, 9, 100, 2 * S);
	assert_non_null(p);
	assert_int_equal(process_find_mapping(p, 0x1000, &m), -ENOENT);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 2);
	assert_int_equal(stats.processes_full, 2);
	/* An ended one makes room, also if somebody holds it. */
	p = targets_hold(targets_get(fix.targets, 7, 100, 2 * S));
	exit_at(3 * S, 7, 100);
	fork_at(3 * S, 9, 300, 1, 0);
	targets_get_stats(fix.targets, &stats);
	assert_int_equal(stats.processes, 2);
	assert_true(targets_get(fix.targets, 9, 300, 3 * S) != p);
	targets_release(fix.targets, p);
	fake_answer();
}

static void destroy__with_reads_under_way(void **state)
{
	(void)state;
	targets_get(fix.targets, 9, 90, 5 * S);
	targets_get(fix.targets, 10, 90, 5 * S);
	assert_int_equal(fake.request_count, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(get__generations_of_one_pid),
		CASE(tick__forgets_after_the_grace),
		CASE(fork__shares_until_one_maps),
		CASE(exec__keeps_what_was_mapped_since_its_beginning),
		CASE(exec__without_its_beginning),
		CASE(exec__no_mapping_seen),
		CASE(get__unknown_reads_its_maps),
		CASE(get__unknown_and_gone),
		CASE(get__opener_is_busy),
		CASE(fork__of_one_that_is_being_read),
		CASE(mmap__while_a_shared_space_is_read),
		CASE(maps__answered_after_an_exec),
		CASE(events__lost_and_late),
		CASE(mmap__kinds),
		CASE(tick__publishes_what_changed),
		CASE(fork__a_child_of_a_published_process_inherits),
		CASE(tick__sink_is_full),
		CASE(processes__limit),
		CASE(destroy__with_reads_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
