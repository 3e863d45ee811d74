/* Address spaces: what an overlapping mapping leaves of the older ones, and who holds which image. */
#include "tests/unit/target/fakes.h"

#include "daemon/target/space.h"

static struct spaces spaces;

static int setup(void **state)
{
	(void)state;
	fake_reset();
	spaces = (struct spaces){.max_mappings = 100};
	return 0;
}

static struct space *make(void)
{
	struct space *s;

	assert_int_equal(space_create(&spaces, SPACE_READY, &s), 0);
	return s;
}

static int add(struct space *s, uint64_t start, uint64_t end, uint64_t offset, uint64_t inode, uint64_t born_ns)
{
	struct mapping m = {.start = start, .end = end, .offset = offset, .image = IMAGE_JIT};

	if (inode) {
		struct image_key key = {.inode = inode, .path = "/x"};

		assert_int_equal(images_ref(NULL, &key, NULL, &m.image), 0);
	} else {
		m.offset = start;
	}
	return space_insert(s, &m, born_ns);
}

static void check(const struct space *s, size_t i, uint64_t start, uint64_t end, uint64_t offset, uint64_t inode)
{
	assert_true(i < s->count);
	assert_int_equal(s->maps[i].start, start);
	assert_int_equal(s->maps[i].end, end);
	assert_int_equal(s->maps[i].offset, offset);
	assert_int_equal(fake_image_inode(s->maps[i].image), inode);
}

static void space_insert__sorted(void **state)
{
	struct space *s = make();

	(void)state;
	add(s, 0x3000, 0x4000, 0, 3, 1);
	add(s, 0x1000, 0x2000, 0, 1, 1);
	add(s, 0x2000, 0x3000, 0, 2, 1);
	assert_int_equal(s->count, 3);
	check(s, 0, 0x1000, 0x2000, 0, 1);
	check(s, 1, 0x2000, 0x3000, 0, 2);
	check(s, 2, 0x3000, 0x4000, 0, 3);
	assert_int_equal(spaces.mappings, 3);
	space_unref(s);
	assert_int_equal(spaces.mappings, 0);
	assert_int_equal(spaces.count, 0);
	assert_int_equal(fake_image_refs(1) + fake_image_refs(2) + fake_image_refs(3), 0);
}

static void space_insert__splits_an_older_one(void **state)
{
	struct space *s = make();

	(void)state;
	add(s, 0x1000, 0x9000, 0x100000, 1, 1);
	add(s, 0x3000, 0x5000, 0x7000, 2, 2);
	assert_int_equal(s->count, 3);
	check(s, 0, 0x1000, 0x3000, 0x100000, 1);
	check(s, 1, 0x3000, 0x5000, 0x7000, 2);
	check(s, 2, 0x5000, 0x9000, 0x104000, 1);
	assert_int_equal(fake_image_refs(1), 2);
	assert_int_equal(fake_image_refs(2), 1);
	space_unref(s);
	assert_int_equal(fake_image_refs(1), 0);
}

static void space_insert__cuts_both_sides_and_covers_the_middle(void **state)
{
	struct space *s = make();

	(void)state;
	add(s, 0x1000, 0x3000, 0, 1, 1);
	add(s, 0x4000, 0x5000, 0, 2, 1);
	add(s, 0x6000, 0x9000, 0, 3, 1);
	add(s, 0x2000, 0x7000, 0, 4, 2);
	assert_int_equal(s->count, 3);
	check(s, 0, 0x1000, 0x2000, 0, 1);
	check(s, 1, 0x2000, 0x7000, 0, 4);
	check(s, 2, 0x7000, 0x9000, 0x1000, 3);
	assert_int_equal(fake_image_refs(2), 0);
	space_unref(s);
	assert_int_equal(fake_image_refs(1) + fake_image_refs(3) + fake_image_refs(4), 0);
}

static void space_insert__same_range_again(void **state)
{
	struct space *s = make();

	(void)state;
	add(s, 0x1000, 0x3000, 0, 1, 1);
	add(s, 0x1000, 0x3000, 0, 2, 2);
	assert_int_equal(s->count, 1);
	check(s, 0, 0x1000, 0x3000, 0, 2);
	assert_int_equal(fake_image_refs(1), 0);
	space_unref(s);
}

static void space_insert__joins_what_continues(void **state)
{
	struct space *s = make();

	(void)state;
	add(s, 0x1000, 0x2000, 0, 0, 1);
	add(s, 0x3000, 0x4000, 0, 0, 1);
	add(s, 0x2000, 0x3000, 0, 0, 1);
	assert_int_equal(s->count, 1);
	check(s, 0, 0x1000, 0x4000, 0x1000, 0);
	add(s, 0x10000, 0x11000, 0x5000, 7, 1);
	add(s, 0x11000, 0x12000, 0x6000, 7, 1);
	assert_int_equal(s->count, 2);
	assert_int_equal(fake_image_refs(7), 1);
	/* Neighbours that don't continue each other stay apart. */
	add(s, 0x12000, 0x13000, 0x9000, 7, 1);
	assert_int_equal(s->count, 3);
	assert_int_equal(spaces.mappings, 3);
	space_unref(s);
	assert_int_equal(fake_image_refs(7), 0);
}

static void space_insert__limit(void **state)
{
	struct space *s = make();

	(void)state;
	spaces.max_mappings = 3;
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(add(s, 0x10000 * (i + 1), 0x10000 * (i + 1) + 0x3000, 0, 1, 1), 0);
	assert_int_equal(add(s, 0x90000, 0x91000, 0, 2, 1), -ENOSPC);
	assert_int_equal(fake_image_refs(2), 0);
	assert_int_equal(spaces.mappings_full, 1);
	/* Replacing needs no room. */
	assert_int_equal(add(s, 0x10000, 0x13000, 0, 2, 2), 0);
	assert_int_equal(s->count, 3);
	space_unref(s);
}

static void space_insert__empty_range(void **state)
{
	struct space *s = make();

	(void)state;
	assert_int_equal(add(s, 0x2000, 0x2000, 0, 1, 1), -EINVAL);
	assert_int_equal(add(s, 0x2000, 0x1000, 0, 1, 1), -EINVAL);
	assert_int_equal(s->count, 0);
	assert_int_equal(fake_image_refs(1), 0);
	space_unref(s);
}

static void space_find__edges(void **state)
{
	struct space *s = make();
	struct mapping m;

	(void)state;
	add(s, 0x1000, 0x2000, 0, 1, 1);
	add(s, 0x3000, 0x4000, 0, 2, 1);
	assert_int_equal(space_find(s, 0xfff, &m), -ENOENT);
	assert_int_equal(space_find(s, 0x1000, &m), 0);
	assert_int_equal(m.start, 0x1000);
	assert_int_equal(space_find(s, 0x1fff, &m), 0);
	assert_int_equal(space_find(s, 0x2000, &m), -ENOENT);
	assert_int_equal(space_find(s, 0x3fff, &m), 0);
	assert_int_equal(m.start, 0x3000);
	assert_int_equal(space_find(s, 0x4000, &m), -ENOENT);
	assert_int_equal(space_find(s, UINT64_MAX, &m), -ENOENT);
	space_unref(s);
}

static void space_clone__since(void **state)
{
	struct space *s = make(), *copy;

	(void)state;
	add(s, 0x1000, 0x2000, 0, 1, 10);
	add(s, 0x3000, 0x4000, 0, 2, 20);
	assert_int_equal(space_clone(s, 0, &copy), 0);
	assert_true(space_equal(s, copy));
	assert_true(s->version != copy->version);
	assert_int_equal(fake_image_refs(1), 2);
	space_unref(copy);
	assert_int_equal(fake_image_refs(1), 1);
	assert_int_equal(space_clone(s, 20, &copy), 0);
	assert_int_equal(copy->count, 1);
	check(copy, 0, 0x3000, 0x4000, 0, 2);
	assert_false(space_equal(s, copy));
	space_unref(copy);
	space_unref(s);
}

/* A text of /proc/PID/maps that comes after newer events. */
static void space_lay_over__newer_wins(void **state)
{
	struct space *s = make(), *older = make();
	uint64_t version = s->version;

	(void)state;
	add(older, 0x1000, 0x5000, 0, 1, 0);
	add(s, 0x2000, 0x3000, 0, 2, 5);
	assert_int_equal(space_lay_over(s, older), 0);
	assert_int_equal(s->count, 3);
	check(s, 0, 0x1000, 0x2000, 0, 1);
	check(s, 1, 0x2000, 0x3000, 0, 2);
	check(s, 2, 0x3000, 0x5000, 0x2000, 1);
	assert_true(s->version != version);
	assert_int_equal(spaces.mappings, 3);
	space_unref(older);
	assert_int_equal(fake_image_refs(1), 2);
	assert_int_equal(fake_image_refs(2), 1);
	space_unref(s);
	assert_int_equal(fake_image_refs(1) + fake_image_refs(2), 0);
	assert_int_equal(spaces.mappings, 0);
}

/* Against a plain model: one image per byte of a small address range. */
static void space_insert__random_against_model(void **state)
{
	enum { RANGE = 64 };
	uint64_t model[RANGE] = {0}, seed = 12345;
	struct space *s = make();

	(void)state;
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t a, b, inode;
		struct mapping m;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		a = (seed >> 33) % (RANGE - 1);
		b = a + 1 + (seed >> 45) % (RANGE - a - 1);
		inode = 1 + (seed >> 20) % 9;
		assert_int_equal(add(s, a, b, a * 3 + inode, inode, i), 0);
		for (uint64_t x = a; x < b; x++)
			model[x] = inode << 32 | (a * 3 + inode + (x - a));
		for (uint64_t x = 0; x < RANGE; x++) {
			if (!model[x]) {
				assert_int_equal(space_find(s, x, &m), -ENOENT);
				continue;
			}
			assert_int_equal(space_find(s, x, &m), 0);
			assert_int_equal(fake_image_inode(m.image) << 32 | (m.offset + (x - m.start)), model[x]);
		}
		for (size_t j = 0; j + 1 < s->count; j++)
			assert_true(s->maps[j].end <= s->maps[j + 1].start);
	}
	space_unref(s);
	for (uint64_t inode = 1; inode < 10; inode++)
		assert_int_equal(fake_image_refs(inode), 0);
	assert_int_equal(spaces.mappings, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(space_insert__sorted, setup),
		cmocka_unit_test_setup(space_insert__splits_an_older_one, setup),
		cmocka_unit_test_setup(space_insert__cuts_both_sides_and_covers_the_middle, setup),
		cmocka_unit_test_setup(space_insert__same_range_again, setup),
		cmocka_unit_test_setup(space_insert__joins_what_continues, setup),
		cmocka_unit_test_setup(space_insert__limit, setup),
		cmocka_unit_test_setup(space_insert__empty_range, setup),
		cmocka_unit_test_setup(space_find__edges, setup),
		cmocka_unit_test_setup(space_clone__since, setup),
		cmocka_unit_test_setup(space_lay_over__newer_wins, setup),
		cmocka_unit_test_setup(space_insert__random_against_model, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
