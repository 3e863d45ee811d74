/* Table blocks: made, checked, and changed in every way that a cut, old or forged one may be. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "daemon/image/table.h"

#define RULES(cfa, bp) ((uint8_t)((cfa) | (bp) << 4))

/* Three pages, the second without rows. */
static struct cfi_info infos[] = {
	{0, 0, RULES(CFI_CFA_NONE, 0), 0},
	{0, 0, RULES(CFI_CFA_INVALID, 0), 0},
	{8, 0, RULES(CFI_CFA_SP, CFI_BP_SAME), 0},
	{16, -16, RULES(CFI_CFA_BP, CFI_BP_AT_CFA), 5},
};
static struct cfi_page pages[] = {{0, 3}, {3, 0}, {3, 2}};
static struct cfi_row rows[] = {{0, 0}, {0x10, 2}, {0xffff, 3}, {0, 3}, {1, 1}};
static const struct cfi_tables sample = {
	.rows = rows,
	.infos = infos,
	.pages = pages,
	.row_count = ARRAY_SIZE(rows),
	.info_count = ARRAY_SIZE(infos),
	.first_page = 7,
	.page_count = ARRAY_SIZE(pages),
	.counts = {1, 2, 3},
};

static struct table *make(const struct cfi_tables *tables, uint32_t flags)
{
	struct table *t = NULL;

	assert_int_equal(table_make(tables, flags, &t), 0);
	return t;
}

static void seal(struct table *t, size_t bytes)
{
	t->checksum = 0;
	t->checksum = XXH3_64bits(t, bytes);
}

/* What the loader relies on, by another way of counting. */
static void assert_safe(const struct table *t, size_t bytes)
{
	_cleanup_free_ uint8_t *used = calloc(1, t->row_count + 1);
	size_t in_pages = 0;

	assert_int_equal((const char *)(table_rows(t) + t->row_count) - (const char *)t, bytes);
	assert_true((uint64_t)t->first_page + t->page_count <= CFI_MAX_PAGES);
	for (uint32_t i = 0; i < t->info_count; i++) {
		assert_true((table_infos(t)[i].rules & 15) <= 9);
		assert_true(table_infos(t)[i].rules >> 4 <= 3);
	}
	for (uint32_t i = 0; i < t->page_count; i++) {
		const struct cfi_page *page = &table_pages(t)[i];

		assert_true((uint64_t)page->start + page->count <= t->row_count);
		assert_true(page->count <= 65536);
		for (uint32_t j = page->start; j < page->start + page->count; j++) {
			assert_int_equal(used[j]++, 0);
			assert_true(table_rows(t)[j].info < t->info_count);
			if (j == page->start)
				assert_int_equal(table_rows(t)[j].low, 0);
			else
				assert_true(table_rows(t)[j].low > table_rows(t)[j - 1].low);
		}
		in_pages += page->count;
	}
	assert_int_equal(in_pages, t->row_count);
}

static void make__holds_what_was_compiled(void **state)
{
	_cleanup_free_ struct table *t = make(&sample, 0);

	(void)state;
	assert_memory_equal(t->magic, TABLE_MAGIC, 8);
	assert_int_equal(t->bytes, sizeof(*t) + sizeof(infos) + sizeof(pages) + sizeof(rows));
	assert_int_equal(t->first_page, 7);
	assert_memory_equal(t->counts, sample.counts, sizeof(t->counts));
	assert_memory_equal(table_infos(t), infos, sizeof(infos));
	assert_memory_equal(table_pages(t), pages, sizeof(pages));
	assert_memory_equal(table_rows(t), rows, sizeof(rows));
	assert_int_equal(table_check(t, t->bytes), 0);
	assert_safe(t, t->bytes);
}

static void make__flags_alone_and_too_large(void **state)
{
	_cleanup_free_ struct table *t = make(NULL, TABLE_FRAME_POINTER);
	struct cfi_tables large = {.row_count = TABLE_MAX_BYTES / sizeof(struct cfi_row)};
	struct table *none = NULL;

	(void)state;
	assert_int_equal(t->bytes, sizeof(*t));
	assert_int_equal(t->flags, TABLE_FRAME_POINTER);
	assert_int_equal(table_check(t, t->bytes), 0);
	assert_int_equal(table_make(&large, 0, &none), -EFBIG);
	assert_null(none);
}

static void check__real_files(void **state)
{
	static const char *const paths[] = {"/proc/self/exe", "/lib/x86_64-linux-gnu/libc.so.6", "/bin/bash"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		_cleanup_close_ int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		_cleanup_free_ struct table *t = NULL;
		struct cfi_tables tables;
		struct elf_file f;

		assert_true(fd >= 0);
		assert_int_equal(elf_open(fd, &f, NULL), 0);
		assert_int_equal(cfi_compile(&f, NULL, &tables, NULL), 0);
		t = make(&tables, 0);
		assert_int_equal(table_check(t, t->bytes), 0);
		assert_safe(t, t->bytes);
		assert_true(t->row_count > 100);
		cfi_free(&tables);
		elf_close(&f);
	}
}

static void check__cut_off(void **state)
{
	_cleanup_free_ struct table *t = make(&sample, 0);

	(void)state;
	for (size_t n = 0; n < t->bytes; n++) {
		/* Of exactly that size, so that a read behind it is found. */
		_cleanup_free_ struct table *cut = malloc(n ? n : 1);

		memcpy(cut, t, n);
		assert_int_equal(table_check(cut, n), -EBADMSG);
		if (n < sizeof(*t))
			continue;
		cut->bytes = (uint32_t)n;
		seal(cut, n);
		assert_int_equal(table_check(cut, n), -EBADMSG);
	}
	assert_int_equal(table_check(t, t->bytes + 1), -EBADMSG);
}

static void check__each_changed_byte(void **state)
{
	_cleanup_free_ struct table *t = make(&sample, 0);
	size_t bytes = t->bytes, passed = 0;
	unsigned char *data = (unsigned char *)t;

	(void)state;
	for (size_t i = 0; i < bytes; i++) {
		unsigned char was = data[i];

		for (unsigned int value = 0; value < 256; value++) {
			uint64_t checksum = t->checksum;

			if (value == was)
				continue;
			data[i] = (unsigned char)value;
			assert_int_equal(table_check(t, bytes), -EBADMSG);
			seal(t, bytes);
			if (!table_check(t, bytes)) {
				assert_safe(t, bytes);
				passed++;
			}
			t->checksum = checksum;
			data[i] = was;
		}
	}
	/* Counts, offsets, other infos, other lows: all of that is no business of the loader's safety. */
	assert_true(passed > 1000);
	assert_int_equal(table_check(t, bytes), 0);
}

static void check__many_changes_at_once(void **state)
{
	_cleanup_free_ struct table *t = make(&sample, 0), *copy = malloc(t->bytes);
	uint64_t random = 0x9e3779b97f4a7c15;
	size_t passed = 0;

	(void)state;
	for (int round = 0; round < 200000; round++) {
		memcpy(copy, t, t->bytes);
		for (int i = 0; i < 2 + round % 4; i++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			/* Small numbers, so that many changes pass. Behind magic and size. */
			((unsigned char *)copy)[12 + (random >> 32) % (t->bytes - 12)] = (unsigned char)random & 7;
		}
		seal(copy, t->bytes);
		if (!table_check(copy, t->bytes)) {
			assert_safe(copy, t->bytes);
			passed++;
		}
	}
	assert_true(passed > 1000);
}

enum change {
	OVERLAPPING_PAGES,
	PAGES_SWAPPED,
	ROW_IN_NO_PAGE,
	TOO_MANY_ROWS_IN_PAGE,
	BEYOND_LAST_PAGE,
	INFO_INDEX,
	CFA_RULE,
	BP_RULE,
	NOT_ASCENDING,
	TWICE_THE_SAME,
	PAGE_STARTS_LATE,
	UNKNOWN_FLAG,
	FRAME_POINTER_WITH_ROWS,
	CHANGE_COUNT,
};

static void change(struct table *t, enum change what)
{
	struct cfi_info *i = (struct cfi_info *)(uintptr_t)table_infos(t);
	struct cfi_page *p = (struct cfi_page *)(uintptr_t)table_pages(t);
	struct cfi_row *r = (struct cfi_row *)(uintptr_t)table_rows(t);

	switch (what) {
	case OVERLAPPING_PAGES:
		p[1] = p[0];
		break;
	case PAGES_SWAPPED:
		p[0] = (struct cfi_page){2, 3};
		p[2] = (struct cfi_page){0, 2};
		break;
	case ROW_IN_NO_PAGE:
		p[2].count = 1;
		break;
	case TOO_MANY_ROWS_IN_PAGE:
		p[2].count = 3;
		break;
	case BEYOND_LAST_PAGE:
		t->first_page = CFI_MAX_PAGES - 2;
		break;
	case INFO_INDEX:
		r[1].info = (uint16_t)t->info_count;
		break;
	case CFA_RULE:
		i[2].rules = RULES(CFI_CFA_IN_REGISTER + 1, 0);
		break;
	case BP_RULE:
		i[2].rules = RULES(CFI_CFA_SP, CFI_BP_UNDEFINED + 1);
		break;
	case NOT_ASCENDING:
		r[2].low = 1;
		break;
	case TWICE_THE_SAME:
		r[2].low = r[1].low;
		break;
	case PAGE_STARTS_LATE:
		r[3].low = r[4].low++;
		break;
	case UNKNOWN_FLAG:
		t->flags = TABLE_FRAME_POINTER << 1;
		break;
	case FRAME_POINTER_WITH_ROWS:
		t->flags = TABLE_FRAME_POINTER;
		break;
	default:
		fail();
	}
}

static void check__each_rule_that_the_loader_relies_on(void **state)
{
	(void)state;
	for (int what = 0; what < CHANGE_COUNT; what++) {
		_cleanup_free_ struct table *t = make(&sample, 0);

		change(t, (enum change)what);
		seal(t, t->bytes);
		if (table_check(t, t->bytes) != -EBADMSG)
			fail_msg("change %d passes", what);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(make__holds_what_was_compiled),
		cmocka_unit_test(make__flags_alone_and_too_large),
		cmocka_unit_test(check__real_files),
		cmocka_unit_test(check__cut_off),
		cmocka_unit_test(check__each_changed_byte),
		cmocka_unit_test(check__many_changes_at_once),
		cmocka_unit_test(check__each_rule_that_the_loader_relies_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
