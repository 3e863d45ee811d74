/* The exports: pprof decoded again and read by `go tool pprof`, folded, JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <zlib.h>

#include "daemon/export/export.h"
#include "proto/profile.pb-c.h"
#include "tests/unit/query/fake_images.h"

typedef Perftools__Profiles__Profile pb_profile;
typedef Perftools__Profiles__Sample pb_sample;
typedef Perftools__Profiles__Location pb_location;
typedef Perftools__Profiles__Mapping pb_mapping;

#define FILE_IMAGE IMAGE_FIRST_FILE
#define KERNEL_ADDRESS 0xffffffff81001000ull
#define MAX_ENTRIES 200000

static struct images images;
static struct intern *strings;
static struct labels *labels;
static struct trie *trie;
static struct profile_entry *entries;
static struct profile profile;
static struct export_context context;

static int setup(void **state)
{
	(void)state;
	memset(&images, 0, sizeof(images));
	assert_int_equal(intern_create(16 << 20, &strings), 0);
	assert_int_equal(labels_create(strings, 10, &labels), 0);
	assert_int_equal(trie_create(1 << 20, &trie), 0);
	images.strings = strings;
	images.images[FILE_IMAGE].segment =
		(struct image_segment){.vaddr = 0x401000, .file_offset = 0x1000, .bytes = 0x2000};
	intern_puts(strings, "/usr/bin/app", &images.images[FILE_IMAGE].path);
	intern_puts(strings, "abcdef12", &images.images[FILE_IMAGE].build_id);
	intern_puts(strings, "[kernel.kallsyms]", &images.images[IMAGE_KERNEL].path);
	entries = calloc(MAX_ENTRIES, sizeof(*entries));
	assert_non_null(entries);
	profile = (struct profile){.type = profile_type_cpu(),
				   .entries = entries,
				   .from_ns = 1700000000000000000ull,
				   .until_ns = 1700000010000000000ull,
				   .period = 10000000,
				   .ticks = 2000,
				   .idle = 1500};
	profile.drops[DROP_NOT_RUN] = 12;
	context = (struct export_context){
		.profile = &profile, .trie = trie, .images = &images, .labels = labels, .strings = strings};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(entries);
	trie_destroy(trie);
	labels_destroy(labels);
	intern_destroy(strings);
	return 0;
}

static void add(const frame_id *stack, size_t depth, series_id series, uint32_t pid, const char *comm, uint64_t count,
		uint64_t value)
{
	struct profile_entry *e = &entries[profile.entry_count++];

	*e = (struct profile_entry){.series = series, .pid = pid, .count = count, .value = value};
	assert_int_equal(trie_stack(trie, stack, depth, &e->node), 0);
	assert_int_equal(intern_puts(strings, comm, &e->comm), 0);
	e->thread = e->comm;
	profile.samples += count;
	profile.total += value;
}

/* main -> work with an inlined leaf -> kernel; a nameless frame; [not_run]. */
static void fill(void)
{
	frame_id outer = fake_frame(&images, FILE_IMAGE, 0x401100), work = fake_frame(&images, FILE_IMAGE, 0x401200);
	frame_id kernel = fake_frame(&images, IMAGE_KERNEL, KERNEL_ADDRESS);
	frame_id nameless = fake_frame(&images, FILE_IMAGE, 0x401300);
	frame_id not_run = fake_frame(&images, IMAGE_SPECIAL, SPECIAL_NOT_RUN);
	const frame_id deep[] = {outer, work, kernel}, flat[] = {outer}, none[] = {outer, nameless}, lost[] = {not_run};

	fake_line(&images, outer, "main", "app.c", 10);
	fake_line(&images, work, "leaf<int;2>", "work.h", 5);
	fake_line(&images, work, "work", "work.c", 50);
	fake_line(&images, kernel, "sys_read", "", 0);
	add(deep, 3, 1, 100, "app", 3, 30);
	add(deep, 3, 2, 100, "app", 2, 20);
	add(deep, 3, 1, 101, "app", 1, 10);
	add(flat, 1, 1, 100, "bad\377", 1, 10);
	add(none, 2, 1, 100, "app", 1, 10);
	add(lost, 1, 3, 0, "", 0, 120);
}

static void gunzip(const struct buf *in, struct buf *out)
{
	static unsigned char block[65536];
	z_stream z = {0};
	int r;

	assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
	z.next_in = (unsigned char *)in->data;
	z.avail_in = (unsigned int)in->len;
	do {
		z.next_out = block;
		z.avail_out = sizeof(block);
		r = inflate(&z, Z_NO_FLUSH);
		assert_true(r == Z_OK || r == Z_STREAM_END);
		buf_add(out, block, sizeof(block) - z.avail_out);
	} while (r != Z_STREAM_END);
	assert_int_equal(z.avail_in, 0);
	inflateEnd(&z);
}

static pb_profile *export_and_decode(void)
{
	struct buf packed = {0}, plain = {0};
	struct err e = {0};
	pb_profile *p;

	if (export_pprof(&context, &packed, &e) < 0)
		fail_msg("%s", e.text);
	gunzip(&packed, &plain);
	p = perftools__profiles__profile__unpack(NULL, plain.len, (const uint8_t *)plain.data);
	assert_non_null(p);
	buf_deinit(&plain);
	buf_deinit(&packed);
	return p;
}

static const char *str(const pb_profile *p, int64_t i)
{
	assert_true(i >= 0 && (size_t)i < p->n_string_table);
	return p->string_table[i];
}

static bool has_comment(const pb_profile *p, const char *text)
{
	for (size_t i = 0; i < p->n_comment; i++)
		if (!strcmp(str(p, p->comment[i]), text))
			return true;
	return false;
}

static const pb_location *location(const pb_profile *p, uint64_t id)
{
	assert_true(id >= 1 && id <= p->n_location);
	assert_int_equal(p->location[id - 1]->id, id);
	return p->location[id - 1];
}

static const Perftools__Profiles__Function *function(const pb_profile *p, const pb_location *l, size_t i)
{
	assert_true(i < l->n_line);
	return p->function[l->line[i]->function_id - 1];
}

static const pb_mapping *mapping(const pb_profile *p, uint64_t id)
{
	for (size_t i = 0; i < p->n_mapping; i++)
		if (p->mapping[i]->id == id)
			return p->mapping[i];
	fail_msg("no mapping");
	return NULL;
}

static void pprof__head_and_comments(void **state)
{
	static const char *const comments[] = {
		"samples=8",	  "total_nanoseconds=200", "total_ci95_nanoseconds=139", "host_ticks=2000",
		"host_idle=1500", "dropped_not_run=12",	   "dropped_ring_full=0",	 "budget=always-on",
		"mode=sampling",  "scale_factors=1",	   "incomplete_depth=0",
	};
	pb_profile *p;

	(void)state;
	fill();
	p = export_and_decode();
	assert_int_equal(p->n_sample_type, 2);
	assert_string_equal(str(p, p->sample_type[0]->type), "samples");
	assert_string_equal(str(p, p->sample_type[0]->unit), "count");
	assert_string_equal(str(p, p->sample_type[1]->type), "cpu");
	assert_string_equal(str(p, p->sample_type[1]->unit), "nanoseconds");
	assert_string_equal(str(p, p->default_sample_type), "cpu");
	assert_string_equal(str(p, p->period_type->type), "cpu");
	assert_int_equal(p->period, 10000000);
	assert_int_equal(p->time_nanos, 1700000000000000000ll);
	assert_int_equal(p->duration_nanos, 10000000000ll);
	assert_string_equal(p->string_table[0], "");
	for (size_t i = 0; i < ARRAY_SIZE(comments); i++)
		if (!has_comment(p, comments[i]))
			fail_msg("no comment %s", comments[i]);
	perftools__profiles__profile__free_unpacked(p, NULL);
}

static void pprof__samples_locations_and_mappings(void **state)
{
	const pb_sample *deep = NULL, *lost = NULL, *bad = NULL, *none = NULL;
	const pb_location *l;
	const pb_mapping *m;
	int64_t total = 0;
	pb_profile *p;

	(void)state;
	fill();
	p = export_and_decode();
	/* Six entries, two of which differ in their series only. */
	assert_int_equal(p->n_sample, 5);
	for (size_t i = 0; i < p->n_sample; i++) {
		const pb_sample *s = p->sample[i];

		assert_int_equal(s->n_value, 2);
		total += s->value[1];
		if (s->value[1] == 50)
			deep = s;
		else if (s->value[1] == 120)
			lost = s;
		else if (s->n_location_id == 1)
			bad = s;
		else if (s->n_location_id == 2)
			none = s;
	}
	assert_int_equal(total, 200);
	assert_true(deep && lost && bad && none);
	assert_int_equal(deep->value[0], 5);
	assert_int_equal(deep->n_location_id, 3);
	assert_int_equal(deep->n_label, 3);
	assert_string_equal(str(p, deep->label[0]->key), "pid");
	assert_int_equal(deep->label[0]->num, 100);
	assert_string_equal(str(p, deep->label[1]->key), "comm");
	assert_string_equal(str(p, deep->label[1]->str), "app");
	assert_string_equal(str(p, deep->label[2]->key), "thread");
	assert_string_equal(str(p, bad->label[1]->str), "bad\357\277\275");
	assert_int_equal(lost->value[0], 0);
	assert_int_equal(lost->n_label, 0);

	l = location(p, deep->location_id[0]);
	assert_true(l->address == KERNEL_ADDRESS);
	assert_string_equal(str(p, function(p, l, 0)->name), "sys_read");
	m = mapping(p, l->mapping_id);
	assert_string_equal(str(p, m->filename), "[kernel.kallsyms]");
	assert_true(m->memory_start <= KERNEL_ADDRESS && KERNEL_ADDRESS < m->memory_limit);
	assert_true(m->has_functions);

	l = location(p, deep->location_id[1]);
	assert_int_equal(l->n_line, 2);
	assert_string_equal(str(p, function(p, l, 0)->name), "leaf<int;2>");
	assert_string_equal(str(p, function(p, l, 1)->name), "work");
	assert_string_equal(str(p, function(p, l, 1)->filename), "work.c");
	assert_int_equal(function(p, l, 1)->start_line, 49);
	assert_int_equal(l->line[1]->line, 50);
	assert_int_equal(l->address, 0x401200);
	m = mapping(p, l->mapping_id);
	assert_ptr_equal(m, p->mapping[0]);
	assert_string_equal(str(p, m->filename), "/usr/bin/app");
	assert_string_equal(str(p, m->build_id), "abcdef12");
	assert_int_equal(m->memory_start, 0x401000);
	assert_int_equal(m->memory_limit, 0x403000);
	assert_int_equal(m->file_offset, 0x1000);
	assert_false(m->has_functions);
	assert_true(m->has_inline_frames);

	l = location(p, none->location_id[0]);
	assert_int_equal(l->n_line, 0);
	assert_int_equal(l->mapping_id, m->id);
	l = location(p, lost->location_id[0]);
	assert_int_equal(l->mapping_id, 0);
	assert_string_equal(str(p, function(p, l, 0)->name), "[not_run]");
	perftools__profiles__profile__free_unpacked(p, NULL);
}

static void pprof__empty_profile_is_valid(void **state)
{
	pb_profile *p;

	(void)state;
	profile.from_ns = profile.until_ns = 0;
	p = export_and_decode();
	assert_int_equal(p->n_sample, 0);
	assert_int_equal(p->n_sample_type, 2);
	assert_true(has_comment(p, "total_ci95_nanoseconds=0"));
	perftools__profiles__profile__free_unpacked(p, NULL);
}

static void pprof__200000_entries(void **state)
{
	frame_id frames[50];
	uint32_t random = 7;
	int64_t total = 0;
	pb_profile *p;

	(void)state;
	for (int i = 0; i < 50; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%d", i);
		frames[i] = fake_function(&images, name);
	}
	for (uint32_t i = 0; i < MAX_ENTRIES; i++) {
		frame_id stack[12];

		for (unsigned int k = 0; k < 12; k++) {
			random = random * 1664525u + 1013904223u;
			stack[k] = frames[k < 7 ? k : (random >> 16) % 50];
		}
		add(stack, 12, 1, i, "app", 1, 10000000 + i);
	}
	p = export_and_decode();
	assert_int_equal(p->n_sample, MAX_ENTRIES);
	assert_int_equal(p->n_location, 50);
	assert_int_equal(p->n_function, 50);
	for (size_t i = 0; i < p->n_sample; i++)
		total += p->sample[i]->value[1];
	assert_int_equal(total, profile.total);
	perftools__profiles__profile__free_unpacked(p, NULL);
}

static void pprof__go_tool_reads_it(void **state)
{
	char path[] = "/tmp/test_export.XXXXXX", command[128], line[512], all[8192] = "";
	struct buf packed = {0};
	FILE *out;
	int fd;

	(void)state;
	if (system("go version >/dev/null 2>&1") != 0) {
		print_message("skip %s: machine: no go on PATH\n", __func__);
		skip();
	}
	fill();
	assert_int_equal(export_pprof(&context, &packed, NULL), 0);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, packed.data, packed.len), packed.len);
	close(fd);
	buf_deinit(&packed);
	snprintf(command, sizeof(command), "go tool pprof -symbolize=none -top -unit=ns %s 2>&1", path);
	out = popen(command, "r");
	assert_non_null(out);
	while (fgets(line, sizeof(line), out))
		strncat(all, line, sizeof(all) - strlen(all) - 1);
	assert_int_equal(pclose(out), 0);
	unlink(path);
	if (!strstr(all, "sys_read") || !strstr(all, "[not_run]") || !strstr(all, "File: app") ||
	    !strstr(all, "Type: cpu") || !strstr(all, "of 200ns total"))
		fail_msg("%s", all);
}

static void folded__root_first_merged_and_sorted(void **state)
{
	struct buf out = {0};

	(void)state;
	fill();
	assert_int_equal(export_folded(&context, &out, NULL), 0);
	assert_string_equal(out.data, "[not_run] 120\n"
				      "main 10\n"
				      "main;[/usr/bin/app] 10\n"
				      "main;work;leaf<int:2>;sys_read 60\n");
	buf_deinit(&out);
}

static void folded__same_names_of_other_addresses_are_one_line(void **state)
{
	frame_id a = fake_function(&images, "a"), other = fake_function(&images, "a"), b = fake_function(&images, "b");
	frame_id lines = fake_function(&images, "two\nlines");
	const frame_id one[] = {a, b}, two[] = {other, b}, three[] = {lines};
	struct buf out = {0};

	(void)state;
	add(one, 2, 1, 1, "x", 1, 1);
	add(two, 2, 1, 1, "x", 1, 2);
	add(three, 1, 1, 1, "x", 1, 4);
	add(NULL, 0, 1, 1, "x", 1, 8);
	assert_int_equal(export_folded(&context, &out, NULL), 0);
	assert_string_equal(out.data, "[unknown] 8\na;b 3\ntwo lines 4\n");
	buf_deinit(&out);
}

static json_int_t at(const json_t *stacks, const char *array, size_t i)
{
	return json_integer_value(json_array_get(json_object_get(stacks, array), i));
}

static void json__names_and_parallel_arrays(void **state)
{
	json_t *root, *stacks, *names, *dropped;
	struct buf out = {0};
	json_int_t self = 0, roots = 0;
	unsigned int seen = 0;
	size_t count;

	(void)state;
	fill();
	assert_int_equal(export_json(&context, &out, NULL), 0);
	root = json_loadb(out.data, out.len, 0, NULL);
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "type")), profile_type_cpu()->id);
	assert_string_equal(json_string_value(json_object_get(root, "unit")), "nanoseconds");
	assert_int_equal(json_integer_value(json_object_get(root, "total")), 200);
	assert_int_equal(json_integer_value(json_object_get(root, "samples")), 8);
	dropped = json_object_get(root, "dropped");
	assert_int_equal(json_integer_value(json_object_get(dropped, "not_run")), 12);
	assert_int_equal(json_object_size(dropped), DROP_CAUSE_COUNT);
	names = json_object_get(root, "names");
	stacks = json_object_get(root, "stacks");
	count = json_array_size(json_object_get(stacks, "parent"));
	/* main, work, leaf, sys_read, the nameless one, [not_run]. */
	assert_int_equal(count, 6);
	assert_int_equal(json_array_size(names), 6);
	assert_int_equal(json_array_size(json_object_get(stacks, "ci95")), count);
	for (size_t i = 0; i < count; i++) {
		const char *name = json_string_value(json_array_get(names, (size_t)at(stacks, "name", i)));
		json_t *ci95 = json_array_get(json_object_get(stacks, "ci95"), i);
		json_int_t children = 0;

		assert_non_null(name);
		assert_true(at(stacks, "parent", i) < (json_int_t)i);
		self += at(stacks, "self", i);
		if (at(stacks, "parent", i) == -1)
			roots += at(stacks, "total", i);
		for (size_t k = 0; k < count; k++)
			if (at(stacks, "parent", k) == (json_int_t)i)
				children += at(stacks, "total", k);
		assert_int_equal(at(stacks, "total", i), at(stacks, "self", i) + children);
		if (!strcmp(name, "sys_read")) {
			seen++;
			assert_int_equal(at(stacks, "self", i), 60);
			assert_true(fabs(json_number_value(ci95) - 1.96 * 60 / sqrt(6)) < 1e-6);
		} else if (!strcmp(name, "[not_run]")) {
			seen++;
			assert_true(json_is_null(ci95));
		}
	}
	assert_int_equal(seen, 2);
	assert_int_equal(self, 200);
	assert_int_equal(roots, 200);
	json_decref(root);
	buf_deinit(&out);
}

static void format_find__by_name(void **state)
{
	(void)state;
	assert_true(export_format_find("pprof")->binary);
	assert_ptr_equal(export_format_find("folded")->write, export_folded);
	assert_ptr_equal(export_format_find("json")->write, export_json);
	assert_null(export_format_find("svg"));
	assert_null(export_format_find(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pprof__head_and_comments, setup, teardown),
		cmocka_unit_test_setup_teardown(pprof__samples_locations_and_mappings, setup, teardown),
		cmocka_unit_test_setup_teardown(pprof__empty_profile_is_valid, setup, teardown),
		cmocka_unit_test_setup_teardown(pprof__200000_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(pprof__go_tool_reads_it, setup, teardown),
		cmocka_unit_test_setup_teardown(folded__root_first_merged_and_sorted, setup, teardown),
		cmocka_unit_test_setup_teardown(folded__same_names_of_other_addresses_are_one_line, setup, teardown),
		cmocka_unit_test_setup_teardown(json__names_and_parallel_arrays, setup, teardown),
		cmocka_unit_test(format_find__by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
