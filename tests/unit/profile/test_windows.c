/* Windows: alignment, closing, limits, merge, what holds marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "daemon/profile/packed.h"
#include "daemon/profile/profile.h"
#include "daemon/util/clock.h"
#include "tests/unit/query/fake_images.h"

#define T0 (1700000000 * NS_PER_S) /* a multiple of 10 s */
#define S NS_PER_S

static struct windows *make(size_t keep, size_t max_bytes)
{
	const struct windows_options o = {.span_ns = 10 * S,
					  .close_delay_ns = 3 * S / 2,
					  .keep = keep,
					  .max_bytes = max_bytes,
					  .period = 10000000};
	struct windows *t;

	assert_int_equal(windows_create(profile_type_cpu(), &o, &t), 0);
	return t;
}

static int add(struct windows *t, uint64_t wall_ns, series_id series, node_id node, uint32_t pid, uint64_t value)
{
	const struct labelled_sample s = {.wall_ns = wall_ns,
					  .series = series,
					  .node = node,
					  .pid = pid,
					  .comm = 5,
					  .thread = 6,
					  .count = 1,
					  .value = value};

	return windows_add(t, &s);
}

static struct profile *merge(struct windows *t, uint64_t from, uint64_t until)
{
	struct profile *p;

	assert_int_equal(windows_merge(t, from, until, NULL, NULL, &p), 0);
	return p;
}

static void type_find__short_name_and_id(void **state)
{
	(void)state;
	assert_ptr_equal(profile_type_find("process_cpu"), profile_type_cpu());
	assert_ptr_equal(profile_type_find("process_cpu:cpu:nanoseconds:cpu:nanoseconds"), profile_type_cpu());
	assert_null(profile_type_find("alloc_space"));
	assert_null(profile_type_find(""));
}

static void merge__takes_overlapping_windows_whole(void **state)
{
	struct windows *t = make(90, 1 << 20);
	struct profile *p;

	(void)state;
	windows_advance(t, T0);
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(add(t, T0 + i * 10 * S + 9 * S, 1, 7, 100, 1000 + i), 0);
	p = merge(t, T0 + 19 * S, T0 + 21 * S);
	assert_int_equal(p->from_ns, T0 + 10 * S);
	assert_int_equal(p->until_ns, T0 + 30 * S);
	assert_int_equal(p->total, 2003);
	assert_int_equal(p->samples, 2);
	assert_int_equal(p->entry_count, 1);
	assert_int_equal(p->period, 10000000);
	profile_destroy(p);
	/* Half open: a range that ends at a boundary does not take the window that begins there. */
	p = merge(t, T0, T0 + 10 * S);
	assert_int_equal(p->total, 1000);
	assert_int_equal(p->until_ns, T0 + 10 * S);
	profile_destroy(p);
	p = merge(t, T0 - 100 * S, T0);
	assert_int_equal(p->from_ns, 0);
	assert_int_equal(p->until_ns, 0);
	assert_int_equal(p->entry_count, 0);
	profile_destroy(p);
	windows_destroy(t);
}

static void merge__open_window_reaches_to_now(void **state)
{
	struct windows *t = make(90, 1 << 20);
	struct profile *p;

	(void)state;
	assert_int_equal(add(t, T0 + S, 1, 7, 100, 10), 0);
	windows_advance(t, T0 + 4 * S);
	p = merge(t, T0, T0 + 100 * S);
	assert_int_equal(p->from_ns, T0);
	assert_int_equal(p->until_ns, T0 + 4 * S);
	profile_destroy(p);
	windows_destroy(t);
}

static void advance__closed_window_refuses_and_keeps_its_total(void **state)
{
	struct windows *t = make(90, 1 << 20);
	struct profile *p;

	(void)state;
	assert_int_equal(add(t, T0 + S, 1, 7, 100, 10), 0);
	/* Two windows are open around a boundary. */
	windows_advance(t, T0 + 11 * S);
	assert_int_equal(add(t, T0 + 9 * S, 1, 7, 100, 10), 0);
	assert_int_equal(add(t, T0 + 11 * S, 1, 7, 100, 5), 0);
	windows_advance(t, T0 + 23 * S / 2);
	assert_int_equal(add(t, T0 + 9 * S, 1, 7, 100, 10), -ESTALE);
	assert_int_equal(add(t, T0 - 5 * S, 1, 7, 100, 10), -ESTALE);
	assert_int_equal(add(t, T0 + 12 * S, 1, 7, 100, 5), 0);
	p = merge(t, T0, T0 + 10 * S);
	assert_int_equal(p->total, 20);
	assert_int_equal(p->samples, 2);
	assert_int_equal(p->entries[0].node, 7);
	assert_int_equal(p->entries[0].pid, 100);
	assert_int_equal(p->entries[0].comm, 5);
	assert_int_equal(p->entries[0].thread, 6);
	profile_destroy(p);
	windows_destroy(t);
}

static void advance__old_windows_leave(void **state)
{
	struct windows *t = make(3, 1 << 20);
	struct windows_stats stats;

	(void)state;
	for (uint64_t i = 0; i < 10; i++) {
		windows_advance(t, T0 + i * 10 * S);
		assert_int_equal(add(t, T0 + i * 10 * S, 1, 7, 100, 1), 0);
	}
	windows_get_stats(t, &stats);
	assert_int_equal(stats.windows, 4);
	assert_int_equal(stats.oldest_ns, T0 + 60 * S);
	assert_int_equal(stats.samples, 10);
	assert_int_equal(stats.evicted_early, 0);
	windows_advance(t, T0 + 1000 * S);
	windows_get_stats(t, &stats);
	assert_int_equal(stats.windows, 0);
	assert_int_equal(stats.bytes, 0);
	assert_int_equal(stats.oldest_ns, 0);
	windows_destroy(t);
}

static void merge__adds_equal_keys_over_open_and_closed(void **state)
{
	struct windows *t = make(90, 4 << 20);
	uint64_t total = 0, samples = 0;
	struct profile *p;

	(void)state;
	for (uint64_t w = 0; w < 3; w++) {
		windows_advance(t, T0 + w * 10 * S);
		for (uint32_t i = 0; i < 3000; i++) {
			uint64_t value = 10000000 + i;

			assert_int_equal(
				add(t, T0 + w * 10 * S + i, 1 + i % 3, (node_id)(i * 2654435761u % 500), i % 7, value),
				0);
			total += value;
			samples++;
		}
	}
	p = merge(t, T0, T0 + 60 * S);
	assert_int_equal(p->total, total);
	assert_int_equal(p->samples, samples);
	for (size_t i = 0; i < p->entry_count; i++) {
		const struct profile_entry *e = &p->entries[i];

		assert_true(e->count % 3 == 0);
		total -= e->value;
		samples -= e->count;
		if (i)
			assert_false(e[-1].series == e->series && e[-1].pid == e->pid && e[-1].node == e->node);
	}
	assert_int_equal(total, 0);
	assert_int_equal(samples, 0);
	profile_destroy(p);
	windows_destroy(t);
}

static bool only_2(void *user, series_id series)
{
	++*(unsigned int *)user;
	return series == 2;
}

static void merge__match_is_asked_once_a_series(void **state)
{
	struct windows *t = make(90, 1 << 20);
	unsigned int asked = 0;
	struct profile *p;

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(add(t, T0 + i, 1 + i % 2, i, 0, 1 + i % 2), 0);
	assert_int_equal(windows_merge(t, 0, UINT64_MAX, only_2, &asked, &p), 0);
	assert_int_equal(p->total, 100);
	assert_int_equal(p->samples, 50);
	assert_int_equal(asked, 2);
	profile_destroy(p);
	windows_destroy(t);
}

static void merge__counters_add_up_even_after_the_close(void **state)
{
	struct windows *t = make(90, 1 << 20);
	struct profile *p;

	(void)state;
	windows_advance(t, T0);
	windows_count_ticks(t, T0 + S, 100, 40);
	windows_count_ticks(t, T0 + 11 * S, 100, 50);
	windows_count_lost(t, T0 + S, DROP_NOT_RUN, 3);
	windows_count_incomplete(t, T0 + S, INCOMPLETE_DEPTH, 2);
	windows_advance(t, T0 + 15 * S);
	windows_count_lost(t, T0 + S, DROP_LATE, 1);
	windows_count_lost(t, T0 + 12 * S, DROP_NOT_RUN, 4);
	p = merge(t, T0, T0 + 20 * S);
	assert_int_equal(p->ticks, 200);
	assert_int_equal(p->idle, 90);
	assert_int_equal(p->drops[DROP_NOT_RUN], 7);
	assert_int_equal(p->drops[DROP_LATE], 1);
	assert_int_equal(p->incomplete[INCOMPLETE_DEPTH], 2);
	assert_int_equal(p->samples, 0);
	profile_destroy(p);
	windows_destroy(t);
}

static void add__memory_limit_evicts_the_oldest_then_refuses(void **state)
{
	struct windows *t = make(90, 64 * 1024);
	struct windows_stats stats;
	int r = 0;

	(void)state;
	for (uint64_t w = 0; w < 30; w++) {
		windows_advance(t, T0 + w * 10 * S);
		for (uint32_t i = 0; i < 400; i++)
			assert_int_equal(add(t, T0 + w * 10 * S + i, 1, i, i, 10000000), 0);
		windows_get_stats(t, &stats);
		assert_true(stats.bytes <= 64 * 1024);
	}
	assert_true(stats.evicted_early > 0);
	assert_true(stats.windows > 3);
	assert_int_equal(stats.oldest_ns, T0 + (30 - stats.windows) * 10 * S);
	for (uint32_t i = 0; i < 100000 && r == 0; i++)
		r = add(t, T0 + 290 * S + 1, 1, i, 1, 1);
	assert_int_equal(r, -ENOSPC);
	windows_get_stats(t, &stats);
	/* Only the two that are open around the boundary are left. */
	assert_int_equal(stats.windows, 2);
	assert_true(stats.bytes <= 64 * 1024);
	/* What is there already goes on counting. */
	assert_int_equal(add(t, T0 + 290 * S + 1, 1, 0, 1, 1), 0);
	windows_destroy(t);
}

static void bytes__quarter_of_an_hour_of_180000_samples(void **state)
{
	struct windows *t = make(90, 16 << 20);
	struct windows_stats stats;
	uint32_t random = 1;

	(void)state;
	for (uint64_t w = 0; w < 90; w++) {
		windows_advance(t, T0 + w * 10 * S);
		for (uint32_t i = 0; i < 2000; i++) {
			random = random * 1664525u + 1013904223u;
			assert_int_equal(add(t, T0 + w * 10 * S + i * 1000000ull, random >> 8 & 31,
					     random >> 10 & 0xffff, 300000 + (random >> 12 & 63),
					     9900000 + (random & 0xffff)),
					 0);
		}
	}
	windows_get_stats(t, &stats);
	assert_int_equal(stats.windows, 90);
	assert_true(stats.bytes < 5 << 20);
	print_message("bytes of 180,000 samples in 90 windows: %llu\n", (unsigned long long)stats.bytes);
	windows_destroy(t);
}

static void advance__clock_set_back_goes_on(void **state)
{
	struct windows *t = make(3, 1 << 20);
	struct windows_stats stats;

	(void)state;
	windows_advance(t, T0 + 86400 * S);
	assert_int_equal(add(t, T0 + 86400 * S, 1, 7, 1, 1), 0);
	windows_advance(t, T0);
	assert_int_equal(add(t, T0, 1, 7, 1, 1), 0);
	windows_get_stats(t, &stats);
	assert_int_equal(stats.windows, 1);
	assert_int_equal(stats.oldest_ns, T0);
	windows_destroy(t);
}

static void mark__holds_what_open_and_closed_windows_use(void **state)
{
	static struct images images;
	const frame_id stacks[3][2] = {{1, 2}, {1, 3}, {1, 4}};
	struct windows *t = make(90, 1 << 20);
	struct intern *strings;
	struct labels *labels;
	struct label_set set = {0};
	struct trie *trie;
	node_id nodes[3];
	series_id series[3];
	intern_id comm[3], id;

	(void)state;
	assert_int_equal(intern_create(1 << 20, &strings), 0);
	assert_int_equal(labels_create(strings, 10, &labels), 0);
	assert_int_equal(trie_create(100, &trie), 0);
	windows_advance(t, T0);
	for (int i = 0; i < 3; i++) {
		const char *const names[] = {"closed", "open", "nobody"};
		struct labelled_sample s = {.wall_ns = T0 + (uint64_t)i * 10 * S, .count = 1, .value = 1};

		assert_int_equal(trie_stack(trie, stacks[i], 2, &nodes[i]), 0);
		assert_int_equal(intern_puts(strings, names[i], &comm[i]), 0);
		label_set_put(&set, strings, "service_name", names[i]);
		assert_int_equal(labels_put(labels, &set, &series[i]), 0);
		s.series = series[i];
		s.node = nodes[i];
		s.comm = s.thread = comm[i];
		if (i < 2)
			assert_int_equal(windows_add(t, &s), 0);
		if (i == 0)
			windows_advance(t, T0 + 12 * S);
	}
	trie_begin_mark(trie);
	intern_begin_mark(strings);
	labels_begin_mark(labels);
	windows_mark(t, trie, labels, strings);
	labels_sweep(labels);
	trie_sweep(trie, &images);
	intern_sweep(strings);
	assert_int_equal(trie_count(trie), 3);
	assert_true(images.marked[1] && images.marked[2] && images.marked[3]);
	assert_false(images.marked[4]);
	assert_string_equal(intern_str(strings, comm[0]), "closed");
	assert_string_equal(labels_value(labels, series[1], "service_name"), "open");
	assert_null(labels_get(labels, series[2]));
	assert_int_equal(intern_find(strings, "nobody", 6, &id), -ENOENT);
	trie_destroy(trie);
	labels_destroy(labels);
	intern_destroy(strings);
	windows_destroy(t);
}

static void packed__keeps_extreme_values(void **state)
{
	const struct profile_entry in[] = {
		{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT64_MAX, UINT64_MAX},
		{0, 0, 0, 0, 0, 0, 0},
		{1, 2, 3, 4, 5, 6, 1ull << 63},
		{1, 1, 3, 4, 5, 1, 127},
		{1, 200, 3, 4, 5, 1, 128},
	};
	const size_t order[] = {1, 3, 2, 4, 0};
	struct entries entries = {0};
	struct packed_reader r;
	struct packed p;

	(void)state;
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(entries_append(&entries, &in[i]), 0);
	assert_int_equal(packed_create(&entries, &p), 0);
	assert_int_equal(p.count, 5);
	packed_reader_init(&r, &p);
	for (size_t i = 0; i < 5; i++) {
		const struct profile_entry *e = &in[order[i]];

		assert_true(packed_next(&r));
		assert_true(r.entry.series == e->series && r.entry.node == e->node && r.entry.pid == e->pid);
		assert_true(r.entry.comm == e->comm && r.entry.thread == e->thread);
		assert_true(r.entry.count == e->count && r.entry.value == e->value);
	}
	assert_false(packed_next(&r));
	packed_deinit(&p);
	entries_deinit(&entries);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(type_find__short_name_and_id),
		cmocka_unit_test(merge__takes_overlapping_windows_whole),
		cmocka_unit_test(merge__open_window_reaches_to_now),
		cmocka_unit_test(advance__closed_window_refuses_and_keeps_its_total),
		cmocka_unit_test(advance__old_windows_leave),
		cmocka_unit_test(merge__adds_equal_keys_over_open_and_closed),
		cmocka_unit_test(merge__match_is_asked_once_a_series),
		cmocka_unit_test(merge__counters_add_up_even_after_the_close),
		cmocka_unit_test(add__memory_limit_evicts_the_oldest_then_refuses),
		cmocka_unit_test(bytes__quarter_of_an_hour_of_180000_samples),
		cmocka_unit_test(advance__clock_set_back_goes_on),
		cmocka_unit_test(mark__holds_what_open_and_closed_windows_use),
		cmocka_unit_test(packed__keeps_extreme_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
