/* Recorded stacks of real programs (tests/unit/bpf/stacks), compiled and walked again: frames and end must be those of
 * the recording. Each is also spoilt, and must not pass then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/bpf/stack_case.h"

#define FOLDER "tests/unit/bpf/stacks"
#define MIN_CASES 20
#define MIN_REGISTER_CASES 2

static struct unwind_walk result;

static struct stack_case *read_case(const char *name)
{
	struct stack_case *c = NULL;
	struct err e = {0};
	char path[512];

	snprintf(path, sizeof(path), FOLDER "/%s", name);
	if (stack_case_read(path, &c, &e))
		fail_msg("%s", e.text);
	return c;
}

static int is_case(const struct dirent *d)
{
	const char *dot = strrchr(d->d_name, '.');

	return dot && !strcmp(dot, ".stack");
}

static size_t each(void (*check)(const char *name, struct stack_case *c))
{
	struct dirent **list;
	int count = scandir(FOLDER, &list, is_case, alphasort);

	if (count < 0)
		fail_msg(FOLDER " is not there: tests run in the repository's root");
	for (int i = 0; i < count; i++) {
		struct stack_case *c = read_case(list[i]->d_name);

		check(list[i]->d_name, c);
		stack_case_free(c);
		free(list[i]);
	}
	free(list);
	return (size_t)count;
}

static bool passes(const struct stack_case *c, stack_case_spoil spoil, void *user, struct err *e)
{
	return !stack_case_walk(c, spoil, user, &result, e) && !stack_case_judge(c, &result, e);
}

static void check_equal(const char *name, struct stack_case *c)
{
	struct err e = {0};

	if (!passes(c, NULL, NULL, &e))
		fail_msg("%s: %s", name, e.text);
}

static void replay__gives_the_recorded_frames(void **state)
{
	size_t count;

	(void)state;
	count = each(check_equal);
	print_message("%zu recorded stacks\n", count);
	assert_true(count >= MIN_CASES);
}

/* --- spoilt ones ---------------------------------------------------------------------------------------------------*/

static size_t spoilt;

/* A return address that the walk has found moves by one byte: the frame does. */
static void check_word(const char *name, struct stack_case *c)
{
	struct err e = {0};

	for (size_t i = 0; i < c->word_count && c->frame_count > 1; i++) {
		for (size_t m = 0; m < c->mapping_count; m++) {
			const struct mapping_value *map = &c->mappings[m];
			uint64_t address = c->words[i] - 1;
			abi_frame frame = map->image == IMAGE_JIT
						  ? ABI_FRAME_RAW | address
						  : ABI_FRAME(map->image, address - map->start + map->offset);

			if (address - map->start >= (uint64_t)map->pages << 12 || frame != c->frames[1])
				continue;
			c->words[i] += 8;
			e.code = 0;
			/* The word may be an older copy, which nobody reads. */
			if (!passes(c, NULL, NULL, &e)) {
				spoilt++;
				return;
			}
			c->words[i] -= 8;
		}
	}
	/* Without such a word, one more frame is asked for. */
	c->frame_count--;
	if (passes(c, NULL, NULL, &e))
		fail_msg("%s passes with a frame less", name);
}

static void replay__a_wrong_stack_word_is_seen(void **state)
{
	size_t count;

	(void)state;
	spoilt = 0;
	count = each(check_word);
	/* Some stacks have one frame only, or got their second one from a signal frame. */
	assert_true(spoilt * 4 >= count * 3);
}

/* The CFA of every rule is 8 bytes further. */
static void spoil_rules(struct cfi_tables *t, void *user)
{
	bool *any = user;

	for (uint32_t i = 0; i < t->info_count; i++)
		if (cfi_cfa_of(t->infos[i]) == CFI_CFA_SP || cfi_cfa_of(t->infos[i]) == CFI_CFA_BP) {
			t->infos[i].offset += 8;
			*any = true;
		}
}

static void check_rules(const char *name, struct stack_case *c)
{
	struct err e = {0};
	bool any = false;

	/* An end in the first frame needs no rule, and the last frame's is not used. */
	if (!passes(c, spoil_rules, &any, &e)) {
		spoilt++;
		return;
	}
	if (any && unwind_end_whole(c->end) && c->frame_count > 4)
		fail_msg("%s passes with wrong rules", name);
}

static void replay__a_wrong_row_is_seen(void **state)
{
	size_t count;

	(void)state;
	spoilt = 0;
	count = each(check_rules);
	assert_true(spoilt * 4 >= count * 3);
}

/* An entry that is cut off is none: its function has no rows. */
static void check_entries(const char *name, struct stack_case *c)
{
	struct err e = {0};
	bool any = false;

	(void)name;
	for (size_t i = 0; i < c->image_count; i++)
		for (size_t s = 0; s < 2; s++)
			for (size_t j = 0; j < c->images[i].sections[s].entry_count; j++) {
				/* The program: a rule that rows cannot express. */
				struct case_bytes *entry = &c->images[i].sections[s].entries[j];

				if (entry->bytes > 24) {
					memset(entry->data + 17, 0x3f, entry->bytes - 17);
					any = true;
				}
			}
	if (any && !passes(c, NULL, NULL, &e))
		spoilt++;
}

static void replay__wrong_entries_are_seen(void **state)
{
	(void)state;
	spoilt = 0;
	each(check_entries);
	assert_true(spoilt >= MIN_CASES / 2);
}

/* Where a register is the CFA, nothing else says where the caller is. */
static void check_registers(const char *name, struct stack_case *c)
{
	struct err e = {0};

	if (!strstr(name, "-register"))
		return;
	c->has_registers = false;
	if (passes(c, NULL, NULL, &e))
		fail_msg("%s passes without registers", name);
	spoilt++;
}

static void replay__missing_registers_are_seen(void **state)
{
	(void)state;
	spoilt = 0;
	each(check_registers);
	assert_true(spoilt >= MIN_REGISTER_CASES);
}

/* --- files ---------------------------------------------------------------------------------------------------------*/

static int memory_file(char *path, size_t bytes)
{
	int fd = memfd_create("case", MFD_CLOEXEC);

	assert_true(fd >= 0);
	snprintf(path, bytes, "/proc/self/fd/%d", fd);
	return fd;
}

static void stack_case_read__what_is_written_is_read(void **state)
{
	struct stack_case *c = stack_case_new(), *again = NULL;
	char path[64];
	int fd = memory_file(path, sizeof(path));
	struct err e = {0};

	(void)state;
	assert_non_null(c);
	strcpy(c->name, "a name");
	c->pc = 0x401000;
	c->sp = c->stack_start = 0x7000;
	c->end = UNWIND_END_UNMAPPED;
	*CASE_ADD(c->frames, c->frame_count) = ABI_FRAME_RAW | 0x401000;
	c->word_count = 4;
	c->words = calloc(4, sizeof(*c->words));
	c->words[2] = 0x1234;
	for (size_t i = 0; i < ARRAY_SIZE(c->registers); i++)
		c->registers[i] = i * i;
	c->has_registers = true;
	assert_int_equal(stack_case_write(c, path, &e), 0);
	assert_int_equal(stack_case_read(path, &again, &e), 0);
	assert_string_equal(again->name, "a name");
	assert_int_equal(again->word_count, 4);
	assert_int_equal(again->words[2], 0x1234);
	assert_true(again->has_registers);
	assert_memory_equal(again->registers, c->registers, sizeof(c->registers));
	assert_true(passes(again, NULL, NULL, &e));
	close(fd);
	stack_case_free(c);
	stack_case_free(again);
}

static void stack_case_read__refuses_what_is_no_case(void **state)
{
	static const char *const texts[] = {
		"",
		"something else\n",
		"baroscope-stack 1\n",
		"baroscope-stack 1\nextent 1000 2000\nend outermost\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend nothing\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend outermost\nstack 800 1\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend outermost\nentry 16 eh 0 00\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend outermost\nregs 1 2\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend outermost\nregisters 1 2 3\n",
		"baroscope-stack 1\nextent 1000 fffffffff000\nframe 16 10\nend outermost\n",
		"baroscope-stack 1\nextent 1000 2000\nframe 16 10\nend outermost\ncode 10 0z\n",
	};
	char path[64];
	int fd = memory_file(path, sizeof(path));

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct stack_case *c = NULL;
		struct err e = {0};

		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, texts[i], strlen(texts[i]), 0), strlen(texts[i]));
		if (!stack_case_read(path, &c, &e))
			fail_msg("%s is read", texts[i]);
		assert_true(e.code < 0);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replay__gives_the_recorded_frames),
		cmocka_unit_test(replay__a_wrong_stack_word_is_seen),
		cmocka_unit_test(replay__a_wrong_row_is_seen),
		cmocka_unit_test(replay__wrong_entries_are_seen),
		cmocka_unit_test(replay__missing_registers_are_seen),
		cmocka_unit_test(stack_case_read__what_is_written_is_read),
		cmocka_unit_test(stack_case_read__refuses_what_is_no_case),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
