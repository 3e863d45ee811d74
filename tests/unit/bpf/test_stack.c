/* bpf/stack.h compiled for user space: mapping search, normalisation, ids, sending once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/cleanup.h"
#include "tests/bpf/shim.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#include "bpf/stack.h"

static struct mapping_value table[1 << 14];
static struct scratch scratch_memory;
static struct range_value range;
static uint64_t known_stacks[64];
static size_t known_stack_count, sent, ring_room = 1000;
static uint64_t kernel_ips[130], user_ips[130];
static long kernel_result, user_result;
static uint64_t last_sent_bytes;

void *shim_map_lookup(const void *map, const void *key)
{
	static uint32_t one = 1;

	if (map == &mappings) {
		uint32_t i = *(const uint32_t *)key;

		return i < ARRAY_SIZE(table) ? &table[i] : NULL;
	}
	if (map == &scratch)
		return &scratch_memory;
	if (map == &proc_ranges)
		return &range;
	if (map == &stacks)
		for (size_t i = 0; i < known_stack_count; i++)
			if (known_stacks[i] == *(const uint64_t *)key)
				return &one;
	return NULL;
}

long shim_map_update(const void *map, const void *key, const void *value)
{
	(void)value;
	if (map == &stacks)
		known_stacks[known_stack_count++] = *(const uint64_t *)key;
	return 0;
}

long shim_get_stack(void *buffer, uint32_t size, uint64_t flags)
{
	long result = flags & BPF_F_USER_STACK ? user_result : kernel_result;

	if (result > (long)size)
		result = size;
	if (result > 0)
		memcpy(buffer, flags & BPF_F_USER_STACK ? user_ips : kernel_ips, (size_t)result);
	return result;
}

long shim_ringbuf_output(const void *data, uint64_t size)
{
	(void)data;
	if (!ring_room)
		return -11;
	ring_room--;
	sent++;
	last_sent_bytes = size;
	return 0;
}

static int reset(void **state)
{
	(void)state;
	memset(table, 0, sizeof(table));
	memset(&scratch_memory, 0, sizeof(scratch_memory));
	known_stack_count = sent = 0;
	ring_room = 1000;
	kernel_result = user_result = -14;
	range = (struct range_value){0};
	return 0;
}

/* A whole stack by the kernel's helper; the number of frames. */
static uint32_t take(const struct proc_value *proc, uint32_t pid, uint64_t time_ns, bool has_user)
{
	struct range_value mine;

	stack_kernel(NULL, 0, &scratch_memory, proc, pid, time_ns, 1);
	stack_range(proc, pid, &mine);
	if (has_user)
		stack_user_helper(NULL, 0, &scratch_memory, &mine);
	else
		stack_seal(&scratch_memory, 0);
	return (uint32_t)scratch_memory.stack.kernel_frames + scratch_memory.stack.user_frames;
}

static void find_mapping__agrees_with_a_linear_search(void **state)
{
	const uint32_t start = 100, counts[] = {0, 1, 2, 3, 7, 64, 1000, 16000};

	(void)state;
	for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
		uint64_t at = 0x1000;

		for (uint32_t i = 0; i < counts[c]; i++) {
			at += (uint64_t)(1 + i % 3) << 12;
			table[start + i] = (struct mapping_value){.start = at, .pages = 1 + i % 2, .image = 16 + i};
			at += (uint64_t)table[start + i].pages << 12;
		}
		for (uint64_t address = 0; address < at + 0x3000; address += 0x800) {
			int expected = -1, found = find_mapping(start, counts[c], address);

			for (uint32_t i = 0; i < counts[c] && table[start + i].start <= address; i++)
				expected = (int)(start + i);
			assert_int_equal(found, expected);
		}
	}
}

static void stack__normalises_what_is_mapped_and_keeps_the_rest_raw(void **state)
{
	struct proc_value proc = {.generation = 9};

	(void)state;
	table[5] = (struct mapping_value){.start = 0x400000, .pages = 16, .offset = 0x1000, .image = 20};
	table[6] = (struct mapping_value){.start = 0x600000, .pages = 16, .offset = 0x600000, .image = IMAGE_JIT};
	table[7] = (struct mapping_value){.start = 0x7f0000000000, .pages = 256, .offset = 0, .image = 21};
	range = (struct range_value){.generation = 9, .start = 5, .count = 3, .pid = 77};
	user_ips[0] = 0x400123; /* the leaf: as it is */
	user_ips[1] = 0x400201; /* a return address: moved into the call */
	user_ips[2] = 0x7f0000000abd;
	user_ips[3] = 0x500000; /* behind the end of the first mapping */
	user_ips[4] = 0x600101; /* generated code */
	user_result = 5 * 8;
	kernel_ips[0] = 0xffffffff81000010;
	kernel_ips[1] = 0xffffffff81000100;
	kernel_result = 2 * 8;

	assert_int_equal(take(&proc, 77, 1, 1), 7);
	assert_int_equal(scratch_memory.frames[0], ABI_FRAME(IMAGE_KERNEL, 0xffffffff81000010));
	assert_int_equal(scratch_memory.frames[1], ABI_FRAME(IMAGE_KERNEL, 0xffffffff810000ff));
	assert_int_equal(scratch_memory.frames[2], ABI_FRAME(20, 0x1123));
	assert_int_equal(scratch_memory.frames[3], ABI_FRAME(20, 0x1200));
	assert_int_equal(scratch_memory.frames[4], ABI_FRAME(21, 0xabc));
	assert_int_equal(scratch_memory.frames[5], ABI_FRAME_RAW | 0x4fffff);
	assert_int_equal(scratch_memory.frames[6], ABI_FRAME_RAW | 0x600100);
	assert_int_equal(scratch_memory.stack.kernel_frames, 2);
	assert_int_equal(scratch_memory.stack.user_frames, 5);
	assert_int_equal(scratch_memory.stack.incomplete, 1u << INCOMPLETE_NO_MAPPINGS);
}

static void stack__an_old_generations_mappings_are_not_used(void **state)
{
	struct proc_value proc = {.generation = 10};

	(void)state;
	table[5] = (struct mapping_value){.start = 0x400000, .pages = 16, .image = 20};
	range = (struct range_value){.generation = 9, .start = 5, .count = 1, .pid = 77};
	user_ips[0] = 0x400123;
	user_result = 8;
	assert_int_equal(take(&proc, 77, 1, 1), 1);
	assert_int_equal(scratch_memory.frames[0], ABI_FRAME_RAW | 0x400123);
}

static void stack__ids_of_raw_stacks_differ_by_process(void **state)
{
	struct proc_value proc = {.generation = 10};
	uint64_t id, normalised;

	(void)state;
	user_ips[0] = 0x400123;
	user_result = 8;
	take(&proc, 77, 1, 1);
	id = scratch_memory.stack.stack_id;
	take(&proc, 78, 1, 1);
	assert_true(id != scratch_memory.stack.stack_id);
	proc.generation = 11;
	take(&proc, 77, 1, 1);
	assert_true(id != scratch_memory.stack.stack_id);

	table[5] = (struct mapping_value){.start = 0x400000, .pages = 16, .image = 20};
	range = (struct range_value){.generation = 11, .start = 5, .count = 1, .pid = 77};
	take(&proc, 77, 1, 1);
	normalised = scratch_memory.stack.stack_id;
	take(&proc, 78, 2, 1); /* the element has become another process's since it was looked up */
	assert_true(normalised != scratch_memory.stack.stack_id);
	range.pid = 78;
	take(&proc, 78, 2, 1);
	assert_int_equal(normalised, scratch_memory.stack.stack_id);
}

static void stack__says_what_is_missing(void **state)
{
	(void)state;
	kernel_result = -22;
	user_result = -14;
	assert_int_equal(take(NULL, 77, 1, 1), 0);
	assert_int_equal(scratch_memory.stack.incomplete,
			 1u << INCOMPLETE_KERNEL_STACK | 1u << INCOMPLETE_USER_STACK | 1u << INCOMPLETE_NO_MAPPINGS);
	/* A kernel thread has no user stack, and a sample in user mode no kernel stack: nothing is missing. */
	kernel_result = -14;
	assert_int_equal(take(NULL, 77, 1, 0), 0);
	assert_int_equal(scratch_memory.stack.incomplete, 0);
	user_result = 130 * 8;
	assert_int_equal(take(NULL, 77, 1, 1), STACK_MAX_HELPER_FRAMES);
	assert_int_equal(scratch_memory.stack.incomplete, 1u << INCOMPLETE_DEPTH | 1u << INCOMPLETE_NO_MAPPINGS);
}

static void stack_send__sends_once_and_again_after_it_was_lost(void **state)
{
	uint64_t full = 0;

	(void)state;
	scratch_memory.stack.stack_id = 42;
	scratch_memory.stack.kernel_frames = 1;
	scratch_memory.stack.user_frames = 2;
	ring_room = 0;
	assert_int_equal(stack_send(&scratch_memory, &full), DROP_STACK_LOST + 1);
	ring_room = 1000;
	assert_int_equal(stack_send(&scratch_memory, &full), 0);
	assert_int_equal(sent, 1);
	assert_int_equal(last_sent_bytes, sizeof(struct record_stack) + 3 * sizeof(abi_frame));
	assert_int_equal(stack_send(&scratch_memory, &full), 0);
	assert_int_equal(sent, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(find_mapping__agrees_with_a_linear_search, reset),
		cmocka_unit_test_setup(stack__normalises_what_is_mapped_and_keeps_the_rest_raw, reset),
		cmocka_unit_test_setup(stack__an_old_generations_mappings_are_not_used, reset),
		cmocka_unit_test_setup(stack__ids_of_raw_stacks_differ_by_process, reset),
		cmocka_unit_test_setup(stack__says_what_is_missing, reset),
		cmocka_unit_test_setup(stack_send__sends_once_and_again_after_it_was_lost, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
