/* The loader of unwind tables with real maps, looked up by the walker's own search (bpf/unwind.h compiled for user
 * space) in the maps' memory. Needs root; no programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/bpf.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bpf/track/track_tables.h"
#include "bpf/unwind_abi.h"
#include "daemon/util/cleanup.h"

/* libbpf's functions, before the shim takes their names for the helpers. */
static int map_get(int fd, const void *key, void *value)
{
	return bpf_map_lookup_elem(fd, key, value);
}

static int map_put(int fd, const void *key, const void *value)
{
	return bpf_map_update_elem(fd, key, value, BPF_ANY);
}

#include "tests/bpf/shim.h"

#define __array(name, value) __typeof__(value) *name[]
#define bpf_probe_read_user(to, bytes, from) ((void)(to), (void)(bytes), (void)(from), -14)
#define bpf_tail_call(ctx, map, slot) ((void)(ctx), (void)(map), (void)(slot))
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "bpf/unwind.h"

#define GRACE_NS 1000000
#define MAX_IMAGES 4096
#define MIB (1ull << 20)

struct fixture {
	int images_fd, infos_fd, segments_fd;
	struct tables *tables;
	const struct unwind_info *infos;
	uint64_t now_ns;
	image_id evicted[MAX_IMAGES];
	size_t evicted_count;
	/* The segments as the walker finds them. */
	struct {
		uint32_t id; /* of the inner map */
		void *memory;
		uint64_t looked_up;
	} view[UNWIND_MAX_SEGMENTS];
	uint64_t changes; /* calls that may change which segments there are */
};

static struct fixture f;

/* Walker's side */

static void *segment_memory(uint32_t segment)
{
	uint32_t id = 0;

	if (segment >= UNWIND_MAX_SEGMENTS)
		return NULL;
	if (f.view[segment].looked_up == f.changes)
		return f.view[segment].memory;
	if (map_get(f.segments_fd, &segment, &id))
		return NULL;
	if (f.view[segment].id != id) {
		int fd = bpf_map_get_fd_by_id(id);
		void *memory;

		assert_true(fd >= 0);
		memory = mmap(NULL, sizeof(struct unwind_segment), PROT_READ, MAP_SHARED, fd, 0);
		assert_true(memory != MAP_FAILED);
		close(fd);
		if (f.view[segment].memory)
			munmap(f.view[segment].memory, sizeof(struct unwind_segment));
		f.view[segment].memory = memory;
		f.view[segment].id = id;
	}
	f.view[segment].looked_up = f.changes;
	return f.view[segment].memory;
}

void *shim_map_lookup(const void *map, const void *key)
{
	if (map == &unwind_segments)
		return segment_memory(*(const uint32_t *)key);
	return (void *)(uintptr_t)map; /* an inner map's only value */
}

long shim_map_update(const void *map, const void *key, const void *value)
{
	(void)map, (void)key, (void)value;
	return -14;
}

long shim_get_stack(void *buffer, uint32_t size, uint64_t flags)
{
	(void)buffer, (void)size, (void)flags;
	return -14;
}

long shim_ringbuf_output(const void *data, uint64_t size)
{
	(void)data, (void)size;
	return -14;
}

/* As unwind_by_table and unwind_apply. */
static struct unwind_info walk_value(const struct unwind_image *img, uint64_t offset)
{
	uint32_t index = (uint32_t)(offset >> UNWIND_PAGE_BITS) - img->first_page;
	struct unwind_info info = {0};
	uint64_t page, row;

	if (offset >> 32 || index >= img->page_count)
		return info;
	page = unwind_page(img->segment, img->start + index);
	if (!UNWIND_PAGE_COUNT(page))
		return info;
	assert_true(UNWIND_PAGE_START(page) + UNWIND_PAGE_COUNT(page) <= UNWIND_SEGMENT_WORDS);
	row = unwind_row(UNWIND_PAGE_SEGMENT(page), UNWIND_PAGE_START(page), UNWIND_PAGE_COUNT(page),
			 (uint32_t)offset & UNWIND_PAGE_MASK);
	assert_true(row != UNWIND_ROW_BROKEN);
	info = f.infos[row & 0xffff];
	if (info.merge) {
		if ((uint32_t)(row >> 16) >= (info.merge & UNWIND_MERGE_BYTES))
			info.offset += info.merge & UNWIND_MERGE_LESS ? -8 : 8;
		info.merge = 0;
	}
	return info;
}

static bool get_image(image_id image, struct unwind_image *ret)
{
	return map_get(f.images_fd, &image, ret) == 0;
}

static void assert_same(const struct unwind_image *img, const struct cfi_tables *t, uint64_t offset)
{
	struct cfi_info want = cfi_lookup(t, offset);
	struct unwind_info got = walk_value(img, offset);

	if (cfi_cfa_of(want) == CFI_CFA_NONE || cfi_cfa_of(want) == CFI_CFA_INVALID)
		assert_int_equal(got.rules & 15, cfi_cfa_of(want));
	else
		assert_memory_equal(&got, &want, sizeof(got));
}

static void assert_all_rows(image_id image, const struct cfi_tables *t)
{
	struct unwind_image img;

	assert_true(get_image(image, &img));
	assert_int_equal(img.page_count, t->page_count);
	for (uint32_t p = 0; p < t->page_count; p++)
		for (uint32_t i = 0; i < t->pages[p].count; i++)
			assert_same(&img, t, (uint64_t)(t->first_page + p) << 16 | t->rows[t->pages[p].start + i].low);
}

/* Set-up */

static void start(uint64_t budget_bytes)
{
	struct tables_options options = {.images_fd = f.images_fd,
					 .infos_fd = f.infos_fd,
					 .segments_fd = f.segments_fd,
					 .budget_bytes = budget_bytes,
					 .grace_ns = GRACE_NS};
	struct err e;

	assert_int_equal(tables_create(&options, &f.tables, &e), 0);
}

static int setup(void **state)
{
	LIBBPF_OPTS(bpf_map_create_opts, mmapable, .map_flags = BPF_F_MMAPABLE);
	LIBBPF_OPTS(bpf_map_create_opts, outer);
	void *infos;
	int inner;

	(void)state;
	memset(&f, 0, sizeof(f));
	f.now_ns = 5ull << 30;
	f.changes = 1;
	f.images_fd =
		bpf_map_create(BPF_MAP_TYPE_HASH, "unwind_images", 4, sizeof(struct unwind_image), MAX_IMAGES, NULL);
	f.infos_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "unwind_infos", 4, sizeof(struct unwind_info), UNWIND_MAX_INFOS,
				    &mmapable);
	inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, "unwind_segment", 4, sizeof(struct unwind_segment), 1, &mmapable);
	assert_true(f.images_fd >= 0 && f.infos_fd >= 0 && inner >= 0);
	outer.inner_map_fd = (uint32_t)inner;
	f.segments_fd =
		bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "unwind_segments", 4, 4, UNWIND_MAX_SEGMENTS, &outer);
	close(inner);
	assert_true(f.segments_fd >= 0);
	infos = mmap(NULL, UNWIND_MAX_INFOS * sizeof(struct unwind_info), PROT_READ, MAP_SHARED, f.infos_fd, 0);
	assert_true(infos != MAP_FAILED);
	f.infos = infos;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tables_destroy(f.tables);
	for (size_t i = 0; i < UNWIND_MAX_SEGMENTS; i++)
		if (f.view[i].memory)
			munmap(f.view[i].memory, sizeof(struct unwind_segment));
	munmap((void *)(uintptr_t)f.infos, UNWIND_MAX_INFOS * sizeof(struct unwind_info));
	close(f.images_fd);
	close(f.infos_fd);
	close(f.segments_fd);
	return 0;
}

static void on_evicted(void *user, image_id image)
{
	(void)user;
	assert_true(f.evicted_count < MAX_IMAGES);
	f.evicted[f.evicted_count++] = image;
}

static int load(image_id image, const struct cfi_tables *t)
{
	struct table *block;
	int r;

	assert_int_equal(table_make(t, t ? 0 : TABLE_FRAME_POINTER, &block), 0);
	assert_int_equal(table_check(block, block->bytes), 0);
	f.changes++;
	r = tables_load(f.tables, image, block, f.now_ns, on_evicted, NULL);
	free(block);
	return r;
}

static struct tables_stats stats(void)
{
	struct tables_stats s;

	tables_get_stats(f.tables, &s);
	return s;
}

static void tick(void)
{
	f.changes++;
	tables_tick(f.tables, f.now_ns);
}

static void rest(void)
{
	f.now_ns += GRACE_NS;
	tick();
}

static void set_used(image_id image, uint32_t used)
{
	struct unwind_image img;

	assert_true(get_image(image, &img));
	img.used = used;
	assert_int_equal(map_put(f.images_fd, &image, &img), 0);
}

/* A made table: each page has the same number of rows, infos are made from `seed` on. */
static struct cfi_tables make(uint32_t pages, uint32_t rows_a_page, uint32_t infos, uint32_t seed)
{
	struct cfi_tables t = {
		.row_count = pages * rows_a_page, .info_count = infos + 2, .first_page = seed % 7, .page_count = pages};

	t.rows = calloc(t.row_count + 1, sizeof(*t.rows));
	t.infos = calloc(t.info_count, sizeof(*t.infos));
	t.pages = calloc(pages + 1, sizeof(*t.pages));
	assert_true(t.rows && t.infos && t.pages);
	t.infos[1].rules = CFI_CFA_INVALID;
	for (uint32_t i = 0; i < infos; i++)
		t.infos[i + 2] = (struct cfi_info){.offset = (int32_t)(seed + i), .rules = CFI_CFA_SP};
	for (uint32_t p = 0; p < pages; p++) {
		t.pages[p] = (struct cfi_page){.start = p * rows_a_page, .count = rows_a_page};
		for (uint32_t i = 0; i < rows_a_page; i++)
			t.rows[p * rows_a_page + i] = (struct cfi_row){
				.low = (uint16_t)(65536ull * i / rows_a_page),
				.info = (uint16_t)(infos ? 2 + (p * rows_a_page + i) % infos : i & 1),
			};
	}
	return t;
}

static bool compile(const char *pattern, struct cfi_tables *ret)
{
	struct elf_file file;
	glob_t files = {0};
	struct err e = {0};
	int fd = -1;

	if (!glob(pattern, 0, NULL, &files))
		fd = open(files.gl_pathv[0], O_RDONLY | O_CLOEXEC);
	globfree(&files);
	if (fd < 0)
		return false;
	assert_int_equal(elf_open(fd, &file, &e), 0);
	assert_int_equal(cfi_compile(&file, NULL, ret, &e), 0);
	elf_close(&file);
	close(fd);
	return true;
}

/* Cases */

static void tables_load__the_walker_finds_what_cfi_lookup_finds(void **state)
{
	static const char *const files[] = {
		"/usr/lib/*-linux-gnu/libc.so.6",	"/usr/bin/python3",
		"/usr/lib/*-linux-gnu/libLLVM-14.so.1", "/usr/lib/*-linux-gnu/libcrypto.so.3",
		"/usr/lib/*-linux-gnu/libstdc++.so.6",
	};
	struct cfi_tables t[ARRAY_SIZE(files)];
	uint64_t rows = 0;
	size_t count = 0;
	unsigned int seed = 11;

	(void)state;
	start(0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (compile(files[i], &t[count])) {
			assert_int_equal(load((image_id)(20 + count), &t[count]), 0);
			rows += t[count++].row_count;
		}
	assert_true(count > 0);
	assert_int_equal(f.evicted_count, 0);
	assert_int_equal(stats().images, count);
	assert_int_equal(stats().rows, rows);
	for (size_t i = 0; i < count; i++) {
		struct unwind_image img;

		assert_true(get_image((image_id)(20 + i), &img));
		assert_int_equal(img.used, f.now_ns >> 30);
		for (int n = 0; n < 20000; n++) {
			uint64_t in = ((uint64_t)rand_r(&seed) << 20 ^ (uint64_t)rand_r(&seed)) %
				      ((uint64_t)(t[i].page_count + 2) << 16);

			assert_same(&img, &t[i], ((uint64_t)t[i].first_page << 16) + in);
		}
		for (uint32_t p = 0; p < t[i].page_count; p++) {
			assert_same(&img, &t[i], (uint64_t)(t[i].first_page + p) << 16);
			assert_same(&img, &t[i], (uint64_t)(t[i].first_page + p) << 16 | 0xffff);
		}
		cfi_free(&t[i]);
	}
	printf("tables: %zu files, %lu rows, %lu infos, %lu segments\n", count, (unsigned long)stats().rows,
	       (unsigned long)stats().infos, (unsigned long)stats().segments);
	assert_true(stats().segments * MIB < stats().used_bytes + stats().used_bytes / 4 + MIB);
}

static void tables_load__full_pages_and_many_pages(void **state)
{
	struct cfi_tables full = make(9, 65536, 100, 1), sparse = make(65000, 3, 5, 0);

	(void)state;
	start(0);
	assert_int_equal(load(1, &full), 0);
	assert_int_equal(load(2, &sparse), 0);
	assert_all_rows(1, &full);
	assert_all_rows(2, &sparse);
	assert_int_equal(stats().used_bytes, (9 * 65536 + 65000 * 3) * 4 + (9 + 65000) * 8);
	cfi_free(&full);
	cfi_free(&sparse);
}

static void tables_load__pages_without_rows(void **state)
{
	struct cfi_tables t = make(12, 50000, 10, 3);

	(void)state;
	start(0);
	/* Of 12 pages the first two and the sixth lose theirs. */
	for (uint32_t p = 0, at = 0; p < 12; p++) {
		t.pages[p] = (struct cfi_page){.start = at, .count = p < 2 || p == 5 ? 0 : 50000};
		at += t.pages[p].count;
		t.row_count = at;
	}
	assert_int_equal(load(1, &t), 0);
	assert_all_rows(1, &t);
	cfi_free(&t);
}

static void tables_load__walked_by_frame_pointer(void **state)
{
	struct unwind_image img;

	(void)state;
	start(0);
	assert_int_equal(load(7, NULL), 0);
	assert_true(get_image(7, &img));
	assert_int_equal(img.flags, UNWIND_IMAGE_FLAGS(7, UNWIND_IMAGE_FRAME_POINTER));
	assert_int_equal(img.page_count, 0);
	assert_int_equal(stats().segments, 0);
	tables_drop(f.tables, 7, f.now_ns);
	assert_false(get_image(7, &img));
}

static void tables_load__the_least_recently_used_leaves(void **state)
{
	struct cfi_tables t[6];
	struct unwind_image img;

	(void)state;
	start(4 * MIB);
	/* Each a segment but for a little: room for three and what is kept free. */
	for (uint32_t i = 0; i < 6; i++)
		t[i] = make(25, 10000, 20, 1000 * i);
	for (image_id i = 0; i < 3; i++)
		assert_int_equal(load(i, &t[i]), 0);
	assert_int_equal(f.evicted_count, 0);
	set_used(0, 30);
	set_used(1, 10);
	set_used(2, 20);
	f.now_ns = 31ull << 30;
	assert_int_equal(load(3, &t[3]), 0);
	assert_int_equal(f.evicted_count, 1);
	assert_int_equal(f.evicted[0], 1);
	assert_false(get_image(1, &img));
	/* Its room rests: the next one has to come again, and makes more room for that. */
	assert_int_equal(load(4, &t[4]), -ENOSPC);
	assert_int_equal(stats().no_room, 1);
	assert_false(get_image(4, &img));
	f.now_ns += GRACE_NS - 1;
	assert_int_equal(load(4, &t[4]), -ENOSPC);
	f.now_ns += 1;
	assert_int_equal(load(4, &t[4]), 0);
	assert_true(f.evicted_count >= 2);
	assert_int_equal(f.evicted[1], 2);
	assert_int_equal(stats().evictions, f.evicted_count);
	for (image_id i = 0; i < 5; i++)
		if (get_image(i, &img))
			assert_all_rows(i, &t[i]);
	assert_true(get_image(3, &img));
	assert_true(get_image(4, &img));
	assert_true(stats().segments <= 4);
	for (uint32_t i = 0; i < 6; i++)
		cfi_free(&t[i]);
}

static void tables_load__what_never_fits_evicts_nobody(void **state)
{
	struct cfi_tables small = make(2, 1000, 20, 0), large = make(40, 20000, 20, 0);
	struct cfi_tables strange = make(1, 40000, UNWIND_MAX_INFOS / 4, 0);
	struct unwind_image img;

	(void)state;
	start(3 * MIB);
	assert_int_equal(load(1, &small), 0);
	assert_int_equal(load(2, &large), -EFBIG);
	assert_int_equal(load(3, &strange), -EFBIG);
	assert_int_equal(f.evicted_count, 0);
	assert_int_equal(stats().no_room, 2);
	assert_true(get_image(1, &img));
	assert_int_equal(stats().images, 1);
	cfi_free(&small);
	cfi_free(&large);
	cfi_free(&strange);
}

/* As large as an image may be, whatever was there before; one page more is too large, and drives nobody out. */
static void tables_load__a_quarter_of_the_budget(void **state)
{
	struct cfi_tables quarter = make(4 * 20 - 1, 13000, 20, 0), more = make(4 * 20 + 1, 13000, 20, 0);
	struct cfi_tables small = make(3, 900, 5, 0);

	(void)state;
	start(16 * MIB);
	for (image_id i = 0; i < 40; i++)
		assert_int_equal(load(i, &small), 0);
	for (image_id i = 0; i < 40; i += 2)
		tables_drop(f.tables, i, f.now_ns);
	assert_int_equal(load(99, &more), -EFBIG);
	assert_int_equal(f.evicted_count, 0);
	for (image_id i = 100; i < 106; i++) {
		for (int tries = 0; load(i, &quarter); tries++) {
			assert_true(tries < 3);
			f.now_ns += GRACE_NS;
		}
		assert_all_rows(i, &quarter);
	}
	assert_true(f.evicted_count > 0);
	assert_true(stats().segments <= 16);
	cfi_free(&quarter);
	cfi_free(&more);
	cfi_free(&small);
}

static void tables_load__replaces(void **state)
{
	struct cfi_tables a = make(4, 1000, 30, 0), b = make(9, 500, 20, 500);

	(void)state;
	start(0);
	assert_int_equal(load(1, &a), 0);
	assert_int_equal(stats().infos, 2 + 30);
	assert_int_equal(load(1, &b), 0);
	assert_all_rows(1, &b);
	assert_int_equal(stats().images, 1);
	assert_int_equal(stats().rows, b.row_count);
	assert_int_equal(stats().infos, 2 + 20);
	assert_int_equal(stats().used_bytes, b.row_count * 4 + 9 * 8);
	assert_int_equal(f.evicted_count, 0);
	cfi_free(&a);
	cfi_free(&b);
}

static void tables_drop__rows_rest_for_the_grace_time(void **state)
{
	struct cfi_tables a = make(20, 12000, 3000, 0), b = make(20, 12000, 3000, 100000);
	struct unwind_image walk;

	(void)state;
	start(2 * MIB);
	assert_int_equal(load(1, &a), 0);
	assert_true(get_image(1, &walk)); /* a walk that is under way */
	tables_drop(f.tables, 1, f.now_ns);
	f.now_ns += GRACE_NS - 1;
	tick();
	assert_int_equal(load(2, &b), 0);
	for (uint32_t p = 0; p < a.page_count; p++)
		for (uint32_t i = 0; i < 12000; i += 7)
			assert_same(&walk, &a, (uint64_t)(a.first_page + p) << 16 | a.rows[i].low);
	assert_all_rows(2, &b);
	tables_drop(f.tables, 2, f.now_ns);
	f.now_ns += GRACE_NS;
	/* And can be had again then. */
	assert_int_equal(load(3, &a), 0);
	assert_int_equal(load(4, &b), 0);
	assert_all_rows(3, &a);
	assert_all_rows(4, &b);
	assert_int_equal(stats().segments, 2);
	cfi_free(&a);
	cfi_free(&b);
}

static void tables_drop__infos_are_shared_and_counted(void **state)
{
	struct cfi_tables a = make(1, 1000, 100, 0), b = make(1, 1000, 100, 50);
	struct unwind_image img;

	(void)state;
	start(0);
	assert_int_equal(stats().infos, 2);
	assert_int_equal(load(1, &a), 0);
	assert_int_equal(load(2, &b), 0);
	assert_int_equal(stats().infos, 2 + 150);
	tables_drop(f.tables, 1, f.now_ns);
	tables_drop(f.tables, 1, f.now_ns);
	assert_int_equal(stats().infos, 2 + 100);
	assert_all_rows(2, &b);
	/* While they rest they are taken up again; later they are new ones. */
	assert_int_equal(load(1, &a), 0);
	assert_all_rows(1, &a);
	tables_drop(f.tables, 1, f.now_ns);
	rest();
	assert_int_equal(load(1, &a), 0);
	assert_all_rows(1, &a);
	assert_all_rows(2, &b);
	tables_drop(f.tables, 1, f.now_ns);
	tables_drop(f.tables, 2, f.now_ns);
	assert_int_equal(stats().infos, 2);
	assert_int_equal(stats().rows, 0);
	assert_int_equal(stats().used_bytes, 0);
	assert_int_equal(stats().images, 0);
	assert_false(get_image(2, &img));
	cfi_free(&a);
	cfi_free(&b);
}

static void tables_load__too_many_infos(void **state)
{
	enum { IMAGES = 6, INFOS = UNWIND_MAX_INFOS / 4 - 2 };
	struct unwind_image img;
	int full = 0;

	(void)state;
	start(0);
	for (image_id i = 0; i < IMAGES; i++) {
		struct cfi_tables t = make(1, 60000, INFOS, i * 20000);
		int r = load(i, &t);

		if (r) {
			assert_int_equal(r, -ENOSPC);
			full++;
			rest();
			assert_int_equal(load(i, &t), 0);
		}
		assert_all_rows(i, &t);
		cfi_free(&t);
		f.now_ns += 2ull << 30;
	}
	assert_int_equal(stats().infos_full, full);
	assert_int_equal(stats().no_room, 0);
	assert_true(f.evicted_count > 0);
	assert_int_equal(f.evicted[0], 0);
	assert_true(get_image(IMAGES - 1, &img));
	assert_true(stats().infos <= UNWIND_MAX_INFOS);
}

static void tables_tick__segments_go_back_to_the_kernel(void **state)
{
	enum { IMAGES = 12 };
	struct cfi_tables t = make(25, 10000, 20, 0);
	uint32_t there = 0;

	(void)state;
	start(0);
	for (image_id i = 0; i < IMAGES; i++)
		assert_int_equal(load(i, &t), 0);
	assert_int_equal(stats().segments, IMAGES);
	for (image_id i = 0; i < IMAGES; i++)
		tables_drop(f.tables, i, f.now_ns);
	f.now_ns += GRACE_NS - 1;
	tick();
	assert_int_equal(stats().segments, IMAGES);
	f.now_ns += 1;
	for (int i = 0; i < 3; i++)
		tick();
	assert_int_equal(stats().segments, 1);
	for (uint32_t i = 0; i < UNWIND_MAX_SEGMENTS; i++) {
		uint32_t id;

		there += map_get(f.segments_fd, &i, &id) == 0;
	}
	assert_int_equal(there, 1);
	assert_int_equal(load(1, &t), 0);
	assert_all_rows(1, &t);
	cfi_free(&t);
}

static void tables_load__2000_images_that_went_leave_nothing(void **state)
{
	(void)state;
	start(0);
	for (image_id i = 0; i < 2000; i++) {
		struct cfi_tables t = make(1 + i % 5, 1 + i * 37 % 4000, 1 + i % 50, i * 10);

		assert_int_equal(load(i, &t), 0);
		if (i % 100 == 0)
			assert_all_rows(i, &t);
		if (i >= 10)
			tables_drop(f.tables, i - 10, f.now_ns);
		f.now_ns += GRACE_NS / 20;
		if (i % 20 == 0)
			tick();
		cfi_free(&t);
	}
	for (image_id i = 1990; i < 2000; i++)
		tables_drop(f.tables, i, f.now_ns);
	rest();
	assert_int_equal(f.evicted_count, 0);
	assert_int_equal(stats().images, 0);
	assert_int_equal(stats().rows, 0);
	assert_int_equal(stats().used_bytes, 0);
	assert_int_equal(stats().infos, 2);
	assert_int_equal(stats().segments, 1);
}

static void tables_load__more_images_than_the_map_holds(void **state)
{
	struct unwind_image img;

	(void)state;
	start(0);
	for (image_id i = 0; i < MAX_IMAGES + 5; i++) {
		assert_int_equal(load(i, NULL), 0);
		assert_true(get_image(i, &img));
	}
	assert_int_equal(f.evicted_count, 5);
	for (image_id i = 0; i < 5; i++)
		assert_int_equal(f.evicted[i], i);
	assert_int_equal(stats().images, MAX_IMAGES);
}

/* Loads, drops, replaces and evicts at random under a tight budget; what the map names is right at any time. */
static void tables__random_loads_and_drops(void **state)
{
	enum { IMAGES = 24, ROUNDS = 1500 };
	struct cfi_tables t[IMAGES] = {0};
	bool there[IMAGES] = {0};
	unsigned int seed = 5;
	unsigned int loads = 0, refused = 0;

	(void)state;
	start(4 * MIB);
	for (int n = 0; n < ROUNDS; n++) {
		image_id i = (image_id)rand_r(&seed) % IMAGES;
		struct unwind_image img;

		if (rand_r(&seed) % 4 == 0) {
			tables_drop(f.tables, i, f.now_ns);
			there[i] = false;
		} else {
			int r;

			cfi_free(&t[i]);
			t[i] = make(1 + (uint32_t)rand_r(&seed) % 40, 1 + (uint32_t)rand_r(&seed) % 6000,
				    (uint32_t)rand_r(&seed) % 300, (uint32_t)rand_r(&seed) % 2000);
			f.evicted_count = 0;
			r = load(i, &t[i]);
			assert_true(r == 0 || r == -ENOSPC);
			there[i] = r == 0;
			loads += r == 0;
			refused += r != 0;
			for (size_t k = 0; k < f.evicted_count; k++) {
				assert_true(f.evicted[k] != i && there[f.evicted[k]]);
				there[f.evicted[k]] = false;
			}
		}
		f.now_ns += GRACE_NS / 3;
		if (n % 7 == 0)
			tick();
		assert_true(stats().segments <= 4);
		for (image_id k = 0; k < IMAGES; k++) {
			assert_int_equal(get_image(k, &img), there[k]);
			if (there[k] && (k == i || n % 50 == 0))
				assert_all_rows(k, &t[k]);
		}
	}
	assert_true(loads > ROUNDS / 4);
	printf("tables: %u loads, %u without room, %lu evictions\n", loads, refused, (unsigned long)stats().evictions);
	for (image_id i = 0; i < IMAGES; i++) {
		tables_drop(f.tables, i, f.now_ns);
		cfi_free(&t[i]);
	}
	rest();
	rest();
	assert_int_equal(stats().infos, 2);
	assert_int_equal(stats().segments, 1);
}

static void tables_create__without_maps(void **state)
{
	struct tables_options options = {.images_fd = -1, .infos_fd = -1, .segments_fd = -1};
	struct tables *t = NULL;
	struct err e = {0};

	(void)state;
	assert_true(tables_create(&options, &t, &e) < 0);
	assert_null(t);
	assert_true(e.code < 0);
	tables_destroy(NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(tables_load__the_walker_finds_what_cfi_lookup_finds),
		CASE(tables_load__full_pages_and_many_pages),
		CASE(tables_load__pages_without_rows),
		CASE(tables_load__walked_by_frame_pointer),
		CASE(tables_load__the_least_recently_used_leaves),
		CASE(tables_load__what_never_fits_evicts_nobody),
		CASE(tables_load__a_quarter_of_the_budget),
		CASE(tables_load__replaces),
		CASE(tables_drop__rows_rest_for_the_grace_time),
		CASE(tables_drop__infos_are_shared_and_counted),
		CASE(tables_load__too_many_infos),
		CASE(tables_tick__segments_go_back_to_the_kernel),
		CASE(tables_load__2000_images_that_went_leave_nothing),
		CASE(tables_load__more_images_than_the_map_holds),
		CASE(tables__random_loads_and_drops),
		CASE(tables_create__without_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
