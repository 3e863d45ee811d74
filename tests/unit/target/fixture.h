/* A table of processes over the fakes, and the events in short. Included by one test file each. */
#ifndef BAROSCOPE_TEST_TARGET_FIXTURE_H
#define BAROSCOPE_TEST_TARGET_FIXTURE_H

#include "tests/unit/target/fakes.h"

#include "daemon/target/target.h"
#include "daemon/util/clock.h"

#define S NS_PER_S

static struct {
	struct intern *strings;
	struct labels *labels;
	struct targets *targets;
	struct {
		uint32_t pid, generation;
		size_t count;
		uint64_t first_start;
		bool retired;
	} published[32];
	size_t publish_calls, retire_calls, published_count;
	int publish_result;
	size_t inherit_calls;
	int inherit_result;
} fix;

static inline int fix_publish(void *user, uint32_t pid, uint32_t generation, const struct mapping *mappings,
			      size_t count)
{
	assert_ptr_equal(user, &fix);
	assert_true(fix.published_count < 32 && count > 0);
	fix.publish_calls++;
	if (fix.publish_result < 0)
		return fix.publish_result;
	fix.published[fix.published_count].pid = pid;
	fix.published[fix.published_count].generation = generation;
	fix.published[fix.published_count].count = count;
	fix.published[fix.published_count++].first_start = mappings[0].start;
	return 0;
}

static inline void fix_retire(void *user, uint32_t pid, uint32_t generation)
{
	assert_ptr_equal(user, &fix);
	fix.retire_calls++;
	for (size_t i = 0; i < fix.published_count; i++)
		if (fix.published[i].pid == pid && fix.published[i].generation == generation)
			fix.published[i].retired = true;
}

static inline int fix_inherit(void *user, uint32_t pid, uint32_t generation, uint32_t parent_pid,
			      uint32_t parent_generation)
{
	bool parent_published = false;

	assert_ptr_equal(user, &fix);
	assert_true(pid != parent_pid && generation != parent_generation);
	for (size_t i = 0; i < fix.published_count; i++)
		parent_published |= fix.published[i].pid == parent_pid &&
				    fix.published[i].generation == parent_generation && !fix.published[i].retired;
	assert_true(parent_published);
	fix.inherit_calls++;
	return fix.inherit_result;
}

static inline void fix_create(struct targets_options *options)
{
	struct mapping_sink sink = {.publish = fix_publish, .inherit = fix_inherit, .retire = fix_retire, .user = &fix};

	if (!options->host)
		options->host = "box";
	assert_int_equal(targets_create(NULL, NULL, fix.labels, &sink, options, &fix.targets, NULL), 0);
}

static inline int fix_setup(void **state)
{
	(void)state;
	memset(&fix, 0, sizeof(fix));
	fake_reset();
	assert_int_equal(intern_create(1 << 20, &fix.strings), 0);
	assert_int_equal(labels_create(fix.strings, 100, &fix.labels), 0);
	fix_create(&(struct targets_options){0});
	return 0;
}

/* Nothing may be left: no read, no reference to an image. */
static inline int fix_teardown(void **state)
{
	(void)state;
	targets_destroy(fix.targets);
	assert_int_equal(fake.request_count, 0);
	for (size_t i = 0; i < FAKE_IMAGES; i++)
		assert_int_equal(fake.images[i].refs, 0);
	labels_destroy(fix.labels);
	intern_destroy(fix.strings);
	return 0;
}

static inline void fix_recreate(struct targets_options *options)
{
	targets_destroy(fix.targets);
	fix_create(options);
}

static inline struct record_process fix_record(uint32_t pid, uint32_t generation, uint64_t time_ns, uint32_t parent,
					       uint32_t parent_generation, const char *comm)
{
	struct record_process r = {.head = {.pid = pid},
				   .time_ns = time_ns,
				   .generation = generation,
				   .parent_pid = parent,
				   .parent_generation = parent_generation};

	snprintf(r.comm, sizeof(r.comm), "%s", comm);
	return r;
}

static inline void fork_at(uint64_t time_ns, uint32_t pid, uint32_t generation, uint32_t parent,
			   uint32_t parent_generation)
{
	struct record_process r = fix_record(pid, generation, time_ns, parent, parent_generation, "forked");

	targets_on_fork(fix.targets, &r);
}

static inline void exec_at(uint64_t time_ns, uint32_t pid, uint32_t generation, uint32_t before, const char *comm)
{
	struct record_process r = fix_record(pid, generation, time_ns, 0, before, comm);

	targets_on_exec(fix.targets, &r);
}

static inline void exit_at(uint64_t time_ns, uint32_t pid, uint32_t generation)
{
	struct record_process r = fix_record(pid, generation, time_ns, 0, 0, "");

	targets_on_exit(fix.targets, &r);
}

static inline void mmap_at(uint64_t time_ns, uint32_t pid, uint64_t start, uint64_t bytes, uint64_t inode,
			   const char *path)
{
	struct mmap_event m = {.time_ns = time_ns,
			       .pid = pid,
			       .start = start,
			       .bytes = bytes,
			       .file_offset = inode ? 0x1000 : 0x7777,
			       .inode = inode,
			       .path = path};

	targets_on_mmap(fix.targets, &m);
}

/* The inode mapped at the address; 0 = no file. */
static inline uint64_t inode_at(const struct process *p, uint64_t address)
{
	struct mapping m;

	return process_find_mapping(p, address, &m) == 0 ? fake_image_inode(m.image) : 0;
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, fix_setup, fix_teardown)

#endif
