/* bpf/unwind.h compiled for user space: made stacks for every way to end, and real processes, stopped anywhere, whose
 * frames must be those of elfutils' unwinder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<elfutils/libdwfl.h>)
#include <elfutils/libdwfl.h>
#define HAVE_LIBDW 1
#endif

#include "daemon/util/cleanup.h"
#include "tests/bpf/unwind_user.h"

#define MAX_MAPPINGS 512
#define MAX_IMAGES 64

static struct unwind_user *walker;
static struct unwind_walk result;
static struct mapping_value table[MAX_MAPPINGS];
static uint32_t mapping_count;

/* User memory: of a stopped process, or made. */
#define STACK_BASE 0x7ffd00000000ull
#define CODE_BASE 0x400000ull
#define NO_SEGMENT 1000
static pid_t remote;
static uint64_t stack_words[4096];
static uint8_t code_bytes[0x40000];

static int read_user(void *user, void *to, uint32_t bytes, uint64_t from)
{
	(void)user;
	if (remote) {
		struct iovec here = {to, bytes}, there = {(void *)(uintptr_t)from, bytes};

		return process_vm_readv(remote, &here, 1, &there, 1, 0) == (ssize_t)bytes ? 0 : -14;
	}
	if (from >= STACK_BASE && from - STACK_BASE <= sizeof(stack_words) - bytes) {
		memcpy(to, (char *)stack_words + (from - STACK_BASE), bytes);
		return 0;
	}
	if (from >= CODE_BASE && from - CODE_BASE <= sizeof(code_bytes) - bytes) {
		memcpy(to, code_bytes + (from - CODE_BASE), bytes);
		return 0;
	}
	return -14;
}

static int reset(void **state)
{
	(void)state;
	unwind_user_destroy(walker);
	walker = NULL;
	assert_int_equal(unwind_user_create(&walker), 0);
	unwind_user_memory(walker, read_user, NULL);
	memset(stack_words, 0, sizeof(stack_words));
	memset(code_bytes, 0x90, sizeof(code_bytes));
	mapping_count = 0;
	remote = 0;
	return 0;
}

static int finish(void **state)
{
	(void)state;
	unwind_user_destroy(walker);
	walker = NULL;
	remote = 0;
	return 0;
}

static enum unwind_end walk_with(uint64_t pc, uint64_t sp, uint64_t bp, const uint64_t *registers, uint32_t max_frames)
{
	unwind_user_mappings(walker, table, mapping_count);
	unwind_user_walk(walker, pc, sp, bp, registers, max_frames, &result);
	return result.end;
}

static enum unwind_end walk(uint64_t pc, uint64_t sp, uint64_t bp, uint32_t max_frames)
{
	return walk_with(pc, sp, bp, NULL, max_frames);
}

/* --- made stacks ---------------------------------------------------------------------------------------------------*/

static void map_code(uint32_t image)
{
	table[mapping_count++] =
		(struct mapping_value){.start = CODE_BASE, .pages = sizeof(code_bytes) >> 12, .image = image};
}

/* One image at CODE_BASE whose page 0 has rows 16 bytes apart: row i has info i of what is given. */
static void load_rules(const struct cfi_info *rules, uint32_t count)
{
	struct cfi_row rows[32];
	struct cfi_page page = {.count = count};
	struct cfi_tables t = {.rows = rows, .pages = &page, .row_count = count, .page_count = 1, .info_count = count};

	assert_true(count <= ARRAY_SIZE(rows));
	for (uint32_t i = 0; i < count; i++)
		rows[i] = (struct cfi_row){.low = (uint16_t)(i * 16), .info = (uint16_t)i};
	t.infos = (struct cfi_info *)(uintptr_t)rules;
	assert_int_equal(unwind_user_load(walker, 20, &t), 0);
	map_code(20);
}

#define AT(row) (CODE_BASE + (row)*16)
#define SP(word) (STACK_BASE + (word)*8)

static void unwind_row__agrees_with_a_linear_search(void **state)
{
	const uint32_t counts[] = {1, 2, 3, 5, 16, 1000, 65535, 65536};
	uint32_t segment;

	(void)state;
	for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
		uint32_t start, expected = 0, step = 65536 / counts[c];
		struct unwind_row *rows;

		assert_int_equal(unwind_user_take(walker, counts[c], &segment, &start), 0);
		rows = unwind_user_segment(walker, segment)->rows + start;
		for (uint32_t i = 0; i < counts[c]; i++)
			rows[i] = (struct unwind_row){.low = (uint16_t)(i * step), .info = (uint16_t)i};
		for (uint32_t low = 0; low < 65536; low += 1 + low % 3) {
			while (expected + 1 < counts[c] && rows[expected + 1].low <= low)
				expected++;
			assert_int_equal(unwind_user_row(walker, segment, start, counts[c], low),
					 expected | (uint64_t)(low - rows[expected].low) << 16);
		}
	}
	assert_true(unwind_user_row(walker, NO_SEGMENT, 0, 1, 0) == ~0ull);
}

static void unwind__follows_each_kind_of_rule(void **state)
{
	const struct cfi_info rules[] = {
		{.rules = UNWIND_RULES(UNWIND_CFA_SP, UNWIND_BP_SAME), .offset = 8},
		{.rules = UNWIND_RULES(UNWIND_CFA_SP, UNWIND_BP_AT_CFA), .offset = 24, .bp_offset = -24},
		{.rules = UNWIND_RULES(UNWIND_CFA_BP, UNWIND_BP_AT_CFA), .offset = 16, .bp_offset = -16},
		{.rules = UNWIND_RULES(UNWIND_CFA_SP_DEREF, UNWIND_BP_SAME), .offset = 8 * 256 + 8},
		{.rules = UNWIND_RULES(UNWIND_CFA_SP, UNWIND_BP_SAME), .offset = 8, .merge = 4},
		{.rules = UNWIND_RULES(UNWIND_CFA_SP, UNWIND_BP_SAME), .offset = 16, .merge = 4 | UNWIND_MERGE_LESS},
		{.rules = UNWIND_CFA_END},
	};

	(void)state;
	load_rules(rules, ARRAY_SIZE(rules));
	stack_words[0] = AT(1) + 5; /* from row 0 */
	stack_words[1] = SP(6);	    /* row 1: the caller's bp, return address at 3 */
	stack_words[3] = AT(2) + 5;
	stack_words[6] = SP(100); /* row 2: by bp */
	stack_words[7] = AT(3) + 5;
	stack_words[9] = SP(12);     /* row 3: CFA = *(sp + 8) + 8 = SP(13) */
	stack_words[12] = AT(4) + 3; /* row 4 at byte 2: not merged yet: CFA = sp + 8 */
	stack_words[13] = AT(4) + 5; /* at byte 4: CFA = sp + 16 */
	stack_words[15] = AT(5) + 5; /* at byte 4: CFA = sp + 8 */
	stack_words[16] = AT(6) + 5;
	assert_int_equal(walk(AT(0), SP(0), 0x1234, UNWIND_MAX_FRAMES), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frame_count, 8);
	assert_int_equal(result.frames[0], ABI_FRAME(20, 0));
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x14));
	assert_int_equal(result.frames[2], ABI_FRAME(20, 0x24));
	assert_int_equal(result.frames[3], ABI_FRAME(20, 0x34));
	assert_int_equal(result.frames[4], ABI_FRAME(20, 0x42));
	assert_int_equal(result.frames[5], ABI_FRAME(20, 0x44));
	assert_int_equal(result.frames[6], ABI_FRAME(20, 0x54));
	assert_int_equal(result.frames[7], ABI_FRAME(20, 0x64));
	assert_int_equal(result.bp, SP(100));
	assert_int_equal(result.by_frame_pointer, 0);
}

static void unwind__plt_and_signal_frames(void **state)
{
	const struct cfi_info rules[] = {
		{.rules = UNWIND_CFA_PLT, .offset = 11}, {.rules = UNWIND_CFA_SIGNAL}, {.rules = UNWIND_CFA_END}};

	(void)state;
	load_rules(rules, ARRAY_SIZE(rules));
	stack_words[0] = stack_words[1] = AT(2) + 1;
	assert_int_equal(walk(AT(0) + 10, SP(0), 0, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.sp, SP(1));
	assert_int_equal(walk(AT(0) + 11, SP(0), 0, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.sp, SP(2));

	/* The interrupted place is exact: its row is that of its own first byte. */
	stack_words[15] = 77;
	stack_words[20] = SP(200);
	stack_words[21] = AT(2);
	assert_int_equal(walk(AT(1) + 1, SP(0), 0, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x20));
	assert_int_equal(result.bp, 77);
	assert_int_equal(result.sp, SP(200));
	/* Returned to by a handler, the trampoline is named by its own address. */
	stack_words[0] = AT(1);
	stack_words[11] = AT(1) + 2;
	stack_words[33] = AT(2);
	assert_int_equal(walk(AT(0), SP(11), 0, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x12));
}

static void unwind__a_signal_trampoline_without_a_table(void **state)
{
	static const uint8_t trampoline[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
	const struct cfi_info rules[] = {{.rules = UNWIND_CFA_END}, {.rules = 0}};

	(void)state;
	load_rules(rules, 2);
	memcpy(code_bytes + 0x20, trampoline, sizeof(trampoline));
	stack_words[21] = AT(0);
	assert_int_equal(walk(CODE_BASE + 0x20, SP(0), 1, 528), UNWIND_END_OUTERMOST);
}

static void put_call(uint64_t return_address)
{
	code_bytes[return_address - CODE_BASE - 5] = 0xe8;
}

static void unwind__frame_pointers_are_judged(void **state)
{
	const uint64_t ret = CODE_BASE + 0x30000;

	(void)state;
	map_code(20); /* no table */
	put_call(ret);
	stack_words[10] = SP(20);
	stack_words[11] = ret;
	stack_words[20] = 0;
	stack_words[21] = ret;
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 3);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x2ffff));
	assert_int_equal(result.by_frame_pointer, 1);

	assert_int_equal(walk(CODE_BASE + 0x100, SP(11), SP(10), 528), UNWIND_END_NO_TABLE);	/* below sp */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10) + 4, 528), UNWIND_END_NO_TABLE); /* not aligned */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(5000), 528), UNWIND_END_NO_TABLE);	/* unreadable */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5) - (17 << 20), SP(10), 528), UNWIND_END_NO_TABLE); /* too far */
	stack_words[11] = ret + 8; /* no call before it: the saved frame pointer must go on */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x30007));
	stack_words[10] = SP(20) + 4; /* not aligned */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	stack_words[10] = SP(11); /* inside the frame */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	stack_words[10] = SP(10) + (64 << 20); /* too far */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	stack_words[10] = 0; /* may be anything */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	table[0].image = 21; /* the first function's frame, where frame pointers are kept */
	assert_int_equal(unwind_user_load(walker, 21, NULL), 0);
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 2);
	table[0].image = IMAGE_JIT; /* no thread begins there */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_JIT);
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), 0, 528), UNWIND_END_JIT);
	table[0].image = 20;
	stack_words[10] = SP(20);
	stack_words[11] = 0x1000; /* not executable */
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	/* Zeros end a stack only in a caller's frame: interrupted code may have the register for anything. */
	stack_words[11] = 0;
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), 0, 528), UNWIND_END_NO_TABLE);
	stack_words[11] = ret;
	stack_words[20] = stack_words[21] = 0;
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_RETURN_ZERO);
	stack_words[20] = SP(30);
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), SP(10), 528), UNWIND_END_NO_TABLE);

	table[0].image = IMAGE_JIT;
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), 1, 528), UNWIND_END_JIT);
	assert_int_equal(result.frames[0], ABI_FRAME_RAW | (CODE_BASE + 0x100));
	table[0].image = 21;
	assert_int_equal(unwind_user_load(walker, 21, NULL), 0);
	assert_int_equal(walk(CODE_BASE + 0x100, SP(5), 1, 528), UNWIND_END_FRAME_POINTER);
}

/* Interrupted where the frame is not built yet, or gone already: the caller is not lost. */
static void unwind__prologue_and_epilogue_without_a_table(void **state)
{
	const uint64_t caller = CODE_BASE + 0x1000, outer = CODE_BASE + 0x2000, at = CODE_BASE + 0x100;

	(void)state;
	map_code(20);
	put_call(caller);
	put_call(outer);
	stack_words[10] = 0;
	stack_words[11] = outer;
	stack_words[5] = caller;
	memcpy(code_bytes + 0x100, "\xf3\x0f\x1e\xfa\x55", 5);
	assert_int_equal(walk(at, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 3);
	assert_int_equal(walk(at + 4, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 3);
	code_bytes[0x100] = 0xc3;
	assert_int_equal(walk(at, SP(5), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 3);
	memcpy(code_bytes + 0x100, "\x48\x89\xe5", 3);
	stack_words[4] = SP(10);
	assert_int_equal(walk(at, SP(4), SP(10), 528), UNWIND_END_BP_ZERO);
	assert_int_equal(result.frame_count, 3);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0xfff));
}

static void unwind__every_end_has_its_cause(void **state)
{
	const struct cfi_info rules[] = {
		{.rules = UNWIND_CFA_SP, .offset = 8},
		{.rules = UNWIND_CFA_INVALID},
		{.rules = UNWIND_CFA_NONE},
		{.rules = UNWIND_CFA_SP, .offset = -8},
		{.rules = UNWIND_RULES(UNWIND_CFA_SP, UNWIND_BP_UNDEFINED), .offset = 8},
		{.rules = UNWIND_CFA_BP, .offset = 16},
	};

	(void)state;
	load_rules(rules, ARRAY_SIZE(rules));
	assert_int_equal(walk(AT(1), SP(0), 1, 528), UNWIND_END_UNSUPPORTED);
	assert_int_equal(walk(AT(2), SP(0), 1, 528), UNWIND_END_GAP);
	assert_int_equal(walk(CODE_BASE + 0x10000, SP(0), 1, 528), UNWIND_END_GAP); /* a page without rows */
	assert_int_equal(walk(AT(3), SP(1), 1, 528), UNWIND_END_NO_PROGRESS);
	assert_int_equal(walk(AT(0), 0x5000, 1, 528), UNWIND_END_STACK_READ);
	assert_int_equal(walk(AT(0), SP(0), 1, 528), UNWIND_END_UNMAPPED);
	stack_words[0] = 0x1234;
	assert_int_equal(walk(AT(0), SP(0), 1, 528), UNWIND_END_UNMAPPED);
	assert_int_equal(result.frames[1], ABI_FRAME_RAW | 0x1233);
	stack_words[0] = AT(5) + 1;
	assert_int_equal(walk(AT(4), SP(0), SP(10), 528), UNWIND_END_NO_BP);
	stack_words[0] = AT(0) + 1;
	unwind_user_image(walker, 20)->segment = NO_SEGMENT;
	assert_int_equal(walk(AT(0), SP(0), 1, 528), UNWIND_END_GAP);
	unwind_user_image(walker, 20)->segment = 0;
	unwind_user_segment(walker, 0)->pages[unwind_user_image(walker, 20)->start] = UNWIND_PAGE(NO_SEGMENT, 0, 1);
	assert_int_equal(walk(AT(0), SP(0), 1, 528), UNWIND_END_BROKEN_TABLE);
	unwind_user_tail_calls_work(walker, false);
	assert_int_equal(walk(AT(0), SP(0), 1, 528), UNWIND_END_TAIL_CALL);
}

#define WORD_R10 7 /* of struct pt_regs */
#define WORD_RAX 10
#define IN_REGISTER(word, bytes) ((bytes)*32 + (word))
#define CHAIN_BYTES (1 << 20) /* farther than this is no CFA */

static uint64_t registers[UNWIND_USER_REGISTERS];

/* Row 0: the next word returns; 1: CFA = rax + 8; 2: CFA = r10 - 16; 3: the outermost function. */
static void load_register_rules(void)
{
	const struct cfi_info rules[] = {
		{.rules = UNWIND_CFA_SP, .offset = 8},
		{.rules = UNWIND_RULES(UNWIND_CFA_REGISTER, UNWIND_BP_AT_CFA),
		 .offset = IN_REGISTER(WORD_RAX, 8),
		 .bp_offset = -16},
		{.rules = UNWIND_CFA_REGISTER, .offset = IN_REGISTER(WORD_R10, -16)},
		{.rules = UNWIND_CFA_END},
	};

	load_rules(rules, ARRAY_SIZE(rules));
	memset(registers, 0, sizeof(registers));
	registers[WORD_RAX] = SP(40);
	registers[WORD_R10] = SP(62);
	stack_words[39] = 0x77; /* bp */
	stack_words[40] = stack_words[59] = AT(3) + 8;
}

static void unwind__a_register_is_the_first_frames_cfa(void **state)
{
	(void)state;
	load_register_rules();
	assert_int_equal(walk_with(AT(1), SP(0), 0x66, registers, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frame_count, 2);
	assert_int_equal(result.frames[1], ABI_FRAME(20, 0x37));
	assert_int_equal(result.sp, SP(41));
	assert_int_equal(result.bp, 0x77);
	assert_int_equal(walk_with(AT(2), SP(0), 0x66, registers, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.sp, SP(60));
	assert_int_equal(result.bp, 0x66);

	/* Nobody vouches for those that another walk has left behind. */
	assert_int_equal(walk(AT(1), SP(0), 0x66, 528), UNWIND_END_UNSUPPORTED);
	assert_int_equal(result.frame_count, 1);
}

static void unwind__a_register_is_the_second_frames_cfa_if_plausible(void **state)
{
	(void)state;
	load_register_rules();
	stack_words[0] = AT(1) + 5;
	assert_int_equal(walk_with(AT(0), SP(0), 0, registers, 528), UNWIND_END_UNSUPPORTED); /* not behind a call */
	assert_int_equal(result.frame_count, 2);
	put_call(AT(3) + 8);
	assert_int_equal(walk_with(AT(0), SP(0), 0, registers, 528), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frame_count, 3);
	assert_int_equal(result.frames[2], ABI_FRAME(20, 0x37));
	assert_int_equal(result.sp, SP(41));
	assert_int_equal(walk(AT(0), SP(0), 0, 528), UNWIND_END_UNSUPPORTED);

	stack_words[40] = 0x1234; /* no code */
	assert_int_equal(walk_with(AT(0), SP(0), 0, registers, 528), UNWIND_END_UNSUPPORTED);
	stack_words[40] = 0;
	assert_int_equal(walk_with(AT(0), SP(0), 0, registers, 528), UNWIND_END_UNMAPPED);
}

static void unwind__no_register_is_the_third_frames_cfa(void **state)
{
	(void)state;
	load_register_rules();
	put_call(AT(3) + 8);
	stack_words[0] = AT(0) + 5;
	stack_words[1] = AT(1) + 5;
	assert_int_equal(walk_with(AT(0), SP(0), 0, registers, 528), UNWIND_END_UNSUPPORTED);
	assert_int_equal(result.frame_count, 3);
	/* The same code one frame nearer. */
	assert_int_equal(walk_with(AT(0), SP(1), 0, registers, 528), UNWIND_END_OUTERMOST);
}

static void unwind__a_register_far_from_the_stack_is_no_cfa(void **state)
{
	(void)state;
	load_register_rules();
	registers[WORD_RAX] = SP(0) + CHAIN_BYTES - 8;
	assert_int_equal(walk_with(AT(1), SP(0), 0, registers, 528), UNWIND_END_STACK_READ);
	registers[WORD_RAX] = SP(0) + CHAIN_BYTES;
	assert_int_equal(walk_with(AT(1), SP(0), 0, registers, 528), UNWIND_END_UNSUPPORTED);
	registers[WORD_RAX] = SP(0) - 16;
	assert_int_equal(walk_with(AT(1), SP(0), 0, registers, 528), UNWIND_END_UNSUPPORTED);
	registers[WORD_RAX] = SP(0) - 8;
	assert_int_equal(walk_with(AT(1), SP(0), 0, registers, 528), UNWIND_END_NO_PROGRESS);
}

static void unwind__walks_528_frames_and_says_that_there_were_more(void **state)
{
	const struct cfi_info rules[] = {{.rules = UNWIND_CFA_SP, .offset = 16}, {.rules = UNWIND_CFA_END}};

	(void)state;
	load_rules(rules, 2);
	for (size_t i = 0; i < ARRAY_SIZE(stack_words); i++)
		stack_words[i] = AT(0) + 8;
	assert_int_equal(walk(AT(0), SP(0), 0, UNWIND_MAX_FRAMES), UNWIND_END_DEPTH);
	assert_int_equal(result.frame_count, UNWIND_MAX_FRAMES);
	assert_int_equal(result.tail_calls, UNWIND_PROGRAMS);
	assert_int_equal(walk(AT(0), SP(0), 0, 128), UNWIND_END_DEPTH);
	assert_int_equal(result.frame_count, 128);
	/* 500 whole. */
	stack_words[2 * 499 - 1] = AT(1) + 1;
	assert_int_equal(walk(AT(0), SP(0), 0, UNWIND_MAX_FRAMES), UNWIND_END_OUTERMOST);
	assert_int_equal(result.frame_count, 500);
}

/* --- real processes ------------------------------------------------------------------------------------------------*/

#ifdef HAVE_LIBDW
/* The functions of libdw, loaded at run time: the product and the other tests are not linked with it. */
static struct {
	void *library;
	__typeof__(&dwfl_begin) begin;
	__typeof__(&dwfl_end) end;
	__typeof__(&dwfl_report_begin) report_begin;
	__typeof__(&dwfl_report_end) report_end;
	__typeof__(&dwfl_linux_proc_report) proc_report;
	__typeof__(&dwfl_linux_proc_attach) proc_attach;
	__typeof__(&dwfl_getthread_frames) thread_frames;
	__typeof__(&dwfl_frame_pc) frame_pc;
	__typeof__(&dwfl_linux_proc_find_elf) find_elf;
	__typeof__(&dwfl_standard_find_debuginfo) find_debuginfo;
} dw;

static bool libdw_load(void)
{
	dw.library = dlopen("libdw.so.1", RTLD_NOW);
	if (!dw.library)
		return false;
#define GET(field, name) (dw.field = (__typeof__(dw.field))dlsym(dw.library, name))
	return GET(begin, "dwfl_begin") && GET(end, "dwfl_end") && GET(report_begin, "dwfl_report_begin") &&
	       GET(report_end, "dwfl_report_end") && GET(proc_report, "dwfl_linux_proc_report") &&
	       GET(proc_attach, "dwfl_linux_proc_attach") && GET(thread_frames, "dwfl_getthread_frames") &&
	       GET(frame_pc, "dwfl_frame_pc") && GET(find_elf, "dwfl_linux_proc_find_elf") &&
	       GET(find_debuginfo, "dwfl_standard_find_debuginfo");
#undef GET
}

struct oracle {
	uint64_t pcs[1024];
	bool exact[1024];
	size_t count;
};

static int oracle_frame(Dwfl_Frame *frame, void *user)
{
	struct oracle *o = user;
	bool activation;
	Dwarf_Addr pc;

	if (o->count == ARRAY_SIZE(o->pcs) || !dw.frame_pc(frame, &pc, &activation))
		return DWARF_CB_ABORT;
	o->pcs[o->count] = pc;
	o->exact[o->count++] = activation;
	return DWARF_CB_OK;
}

static uint32_t load_file(uint32_t image, int fd)
{
	struct cfi_tables t;
	struct elf_file f;
	struct err e = {0};

	if (fd < 0 || elf_open(fd, &f, &e))
		return image;
	if (!cfi_compile(&f, NULL, &t, &e)) {
		assert_int_equal(unwind_user_load(walker, image, &t), 0);
		cfi_free(&t);
	}
	elf_close(&f);
	return image;
}

static int copy_memory(uint64_t start, uint64_t end)
{
	_cleanup_free_ char *data = malloc(end - start);
	int fd = memfd_create("vdso", MFD_CLOEXEC);

	assert_int_equal(read_user(NULL, data, (uint32_t)(end - start), start), 0);
	assert_int_equal(write(fd, data, end - start), end - start);
	return fd;
}

static void load_process(pid_t pid)
{
	char path[64], line[4096], paths[MAX_IMAGES][512];
	uint32_t image_count = 0;
	_cleanup_fclose_ FILE *maps = NULL;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		uint64_t start, end, offset;
		uint32_t image;
		char name[512] = "";

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*2cx%*c %" SCNx64 " %*s %*s %511s", &start, &end, &offset,
			   name) < 3 ||
		    start >> 47)
			continue;
		assert_true(mapping_count < MAX_MAPPINGS);
		if (!strcmp(name, "[vdso]")) {
			_cleanup_close_ int fd = copy_memory(start, end);

			image = load_file(IMAGE_VDSO, fd);
			offset = 0;
		} else if (name[0] != '/') {
			image = IMAGE_JIT;
		} else {
			for (image = 0; image < image_count && strcmp(paths[image], name) != 0; image++)
				;
			assert_true(IMAGE_FIRST_FILE + image < MAX_IMAGES);
			if (image == image_count) {
				_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC);

				snprintf(paths[image_count++], sizeof(paths[0]), "%s", name);
				load_file(IMAGE_FIRST_FILE + image, fd);
			}
			image += IMAGE_FIRST_FILE;
		}
		table[mapping_count++] = (struct mapping_value){
			.start = start, .offset = offset, .pages = (uint32_t)((end - start) >> 12), .image = image};
	}
}

struct score {
	size_t compared, equal, whole, no_oracle, frames, deepest, by_frame_pointer, shown;
	size_t ends[UNWIND_END_COUNT];
};

/* The stopped process's frames, by both. */
static void compare(Dwfl *dwfl, pid_t pid, struct score *score)
{
	static struct oracle o;
	struct user_regs_struct regs;
	enum unwind_end end;
	bool equal;
	int r;

	assert_int_equal(ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
	o.count = 0;
	r = dw.thread_frames(dwfl, pid, oracle_frame, &o);
	/* Begins as struct pt_regs does. */
	end = walk_with(regs.rip, regs.rsp, regs.rbp, (const uint64_t *)&regs, UNWIND_MAX_FRAMES);
	if (r && o.count < UNWIND_MAX_FRAMES) {
		score->no_oracle++;
		return;
	}
	score->compared++;
	score->ends[end]++;
	score->whole += unwind_end_whole(end);
	score->frames += result.frame_count;
	score->by_frame_pointer += result.by_frame_pointer;
	if (result.frame_count > score->deepest)
		score->deepest = result.frame_count;
	equal = o.count == result.frame_count && unwind_end_whole(end);
	for (size_t i = 0; i < o.count && equal; i++) {
		uint64_t address = o.pcs[i] - !o.exact[i], frame = ABI_FRAME_RAW | address;
		int at = unwind_user_find_mapping(walker, address);

		if (at >= 0 && table[at].image != IMAGE_JIT)
			frame = ABI_FRAME(table[at].image, address - table[at].start + table[at].offset);
		equal = frame == result.frames[i];
	}
	score->equal += equal;
	if (!equal && score->shown++ < 3) {
		print_message("differs: pc %#llx, %zu frames of libdw, %u of ours, end %s\n", regs.rip, o.count,
			      result.frame_count, unwind_end_name(end));
		for (size_t i = 0; i < o.count || i < result.frame_count; i++)
			print_message("  %#lx%s  image %u %#llx\n", i < o.count ? (unsigned long)o.pcs[i] : 0,
				      o.exact[i] ? "!" : "", ABI_FRAME_IMAGE(result.frames[i]),
				      (unsigned long long)ABI_FRAME_OFFSET(result.frames[i]));
	}
}

static pid_t start_target(char *const argv[], int *ret_ready)
{
	int pipes[2];
	pid_t pid;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(pipes[1], 1);
		close(pipes[0]);
		close(pipes[1]);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(pipes[1]);
	*ret_ready = pipes[0];
	return pid;
}

/* request is what made it run: a signal that comes first must not turn a step into a run. */
static void wait_stop(pid_t pid, enum __ptrace_request request)
{
	for (;;) {
		int status;

		assert_int_equal(waitpid(pid, &status, __WALL), pid);
		assert_true(WIFSTOPPED(status));
		/* The target's own signals go on to it. */
		if (status >> 16 == PTRACE_EVENT_STOP || WSTOPSIG(status) == SIGTRAP)
			return;
		assert_int_equal(ptrace(request, pid, NULL, (void *)(intptr_t)WSTOPSIG(status)), 0);
	}
}

/* Stops the target `stops` times at a random moment and steps on a few instructions each time, so that prologues and
 * epilogues are met. */
static struct score run_target(char *const argv[], size_t stops, size_t steps)
{
	static const Dwfl_Callbacks callbacks_without_elf = {0};
	Dwfl_Callbacks callbacks = callbacks_without_elf;
	struct score score = {0};
	uint64_t random = 0x2545f4914f6cdd1dull;
	_cleanup_close_ int ready = -1;
	pid_t pid = start_target(argv, &ready);
	Dwfl *dwfl = NULL;
	char byte;

	if (read(ready, &byte, 1) != 1)
		fail_msg("%s did not start", argv[0]);
	assert_int_equal(ptrace(PTRACE_SEIZE, pid, NULL, (void *)PTRACE_O_EXITKILL), 0);
	remote = pid;
	for (size_t i = 0; i < stops; i++) {
		/* The moment is what is random; nothing is waited for, unless the target ends. */
		struct timespec moment = {.tv_nsec = (long)(random % 1000000)};
		struct pollfd p = {.fd = ready, .events = 0};

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		ppoll(&p, 1, &moment, NULL);
		assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
		wait_stop(pid, PTRACE_CONT);
		if (!dwfl) {
			load_process(pid);
			callbacks.find_elf = dw.find_elf;
			callbacks.find_debuginfo = dw.find_debuginfo;
			dwfl = dw.begin(&callbacks);
			dw.report_begin(dwfl);
			assert_int_equal(dw.proc_report(dwfl, pid), 0);
			dw.report_end(dwfl, NULL, NULL);
			assert_int_equal(dw.proc_attach(dwfl, pid, true), 0);
		}
		compare(dwfl, pid, &score);
		for (size_t j = 0; j < steps; j++) {
			assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
			wait_stop(pid, PTRACE_SINGLESTEP);
			compare(dwfl, pid, &score);
		}
		assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, __WALL);
	remote = 0;
	dw.end(dwfl);
	print_message(
		"stacks.2 %s: %zu compared, %zu equal (%.2f %%), %zu whole, %zu frames, deepest %zu, %zu with frame "
		"pointers, %zu that libdw could not walk;",
		argv[0], score.compared, score.equal, 100.0 * (double)score.equal / (double)score.compared, score.whole,
		score.frames, score.deepest, score.by_frame_pointer, score.no_oracle);
	for (int i = 0; i < UNWIND_END_COUNT; i++)
		if (score.ends[i])
			print_message(" %s %zu", unwind_end_name((enum unwind_end)i), score.ends[i]);
	print_message("\n");
	return score;
}
#endif

static void replay(char *const argv[], size_t stops, const char *name)
{
#ifdef HAVE_LIBDW
	struct score score;

	if (!libdw_load()) {
		print_message("skip %s: machine: no libdw-dev\n", name);
		skip();
	}
	score = run_target(argv, stops, 9);
	assert_true(score.compared * 10 >= stops * 10 * 9);
	assert_true(score.equal * 100 >= score.compared * 99);
	assert_true(score.whole * 1000 >= score.compared * 995);
	assert_true(score.frames > score.compared * 4);
#else
	(void)argv, (void)stops;
	print_message("skip %s: machine: no libdw-dev\n", name);
	skip();
#endif
}

static void unwind__python_equals_libdw(void **state)
{
	char program[] = "import re, json, sys, zlib, hashlib, signal\n"
			 "signal.signal(signal.SIGALRM, lambda *_: None)\n"
			 "signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)\n"
			 "def deep(n): return sorted(range(50), key=lambda x: -x) if n == 0 else max([n], key=lambda "
			 "_: deep(n - 1))\n"
			 "sys.stdout.write('r'); sys.stdout.flush()\n"
			 "while True:\n"
			 "    deep(30)\n"
			 "    re.sub(r'(a+)+b', 'x', 'aaaaaaaab' * 20)\n"
			 "    json.loads(json.dumps({str(i): [i] * 5 for i in range(200)}))\n"
			 "    zlib.compress(b'abcdef' * 5000); hashlib.sha256(b'x' * 50000).digest()\n";
	char *argv[] = {(char[]){"/usr/bin/python3"}, (char[]){"-c"}, program, NULL};

	(void)state;
	replay(argv, 100, __func__);
}

static void unwind__this_program_equals_libdw(void **state)
{
	char *argv[] = {(char[]){"/proc/self/exe"}, (char[]){"target"}, NULL};

	(void)state;
	replay(argv, 100, __func__);
}

/* --- the target: recursion, callbacks from libc, signals, large and variable frames --------------------------------*/

static volatile unsigned int sink;

static int __attribute__((noinline)) by_value(const void *a, const void *b)
{
	sink++;
	return *(const int *)a - *(const int *)b;
}

static void on_signal(int signal_number)
{
	int values[64];

	for (int i = 0; i < 64; i++)
		values[i] = (i * 7919 + signal_number) % 64;
	qsort(values, 64, sizeof(values[0]), by_value);
}

/* NOLINTNEXTLINE(misc-no-recursion) */
static int __attribute__((noinline)) recurse(unsigned int depth, unsigned int size)
{
	char *room = __builtin_alloca(size % 200 + 1), text[64];
	int values[100];

	memset(room, (int)depth, size % 200 + 1);
	if (depth)
		return recurse(depth - 1, size * 31 + 7) + room[0];
	for (int i = 0; i < 100; i++)
		values[i] = (i * 7919 + (int)(size % 1000)) % 100;
	qsort(values, 100, sizeof(values[0]), by_value);
	return values[0] + snprintf(text, sizeof(text), "%.3f %s", (double)size, "text");
}

static int target(void)
{
	const struct itimerval every = {{0, 3000}, {0, 3000}};
	struct timespec now;

	signal(SIGALRM, on_signal);
	setitimer(ITIMER_REAL, &every, NULL);
	if (write(1, "r", 1) != 1)
		return 1;
	for (unsigned int i = 0;; i++) {
		sink += (unsigned int)recurse(i % 400, i);
		clock_gettime(CLOCK_MONOTONIC, &now);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(unwind_row__agrees_with_a_linear_search, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__follows_each_kind_of_rule, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__plt_and_signal_frames, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__a_signal_trampoline_without_a_table, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__frame_pointers_are_judged, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__prologue_and_epilogue_without_a_table, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__every_end_has_its_cause, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__a_register_is_the_first_frames_cfa, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__a_register_is_the_second_frames_cfa_if_plausible, reset,
						finish),
		cmocka_unit_test_setup_teardown(unwind__no_register_is_the_third_frames_cfa, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__a_register_far_from_the_stack_is_no_cfa, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__walks_528_frames_and_says_that_there_were_more, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__python_equals_libdw, reset, finish),
		cmocka_unit_test_setup_teardown(unwind__this_program_equals_libdw, reset, finish),
	};

	if (argc > 1 && !strcmp(argv[1], "target"))
		return target();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
