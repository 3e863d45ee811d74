/* The CFI compiler: real files against binutils' own reading of them, and hostile input made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "bpf/unwind_abi.h"
#include "daemon/image/cfi.h"
#include "daemon/util/cleanup.h"

/* The loader copies rows and infos: one layout, one numbering. */
_Static_assert(sizeof(struct cfi_row) == sizeof(struct unwind_row) &&
		       sizeof(struct cfi_info) == sizeof(struct unwind_info) &&
		       offsetof(struct cfi_info, bp_offset) == offsetof(struct unwind_info, bp_offset) &&
		       offsetof(struct cfi_info, rules) == offsetof(struct unwind_info, rules) &&
		       offsetof(struct cfi_info, merge) == offsetof(struct unwind_info, merge),
	       "cfi.h and unwind_abi.h agree on the layout");
#define SAME(a, b) _Static_assert((int)(a) == (int)(b), #a)
SAME(CFI_CFA_NONE, UNWIND_CFA_NONE);
SAME(CFI_CFA_INVALID, UNWIND_CFA_INVALID);
SAME(CFI_CFA_END, UNWIND_CFA_END);
SAME(CFI_CFA_SP, UNWIND_CFA_SP);
SAME(CFI_CFA_BP, UNWIND_CFA_BP);
SAME(CFI_CFA_SP_DEREF, UNWIND_CFA_SP_DEREF);
SAME(CFI_CFA_BP_DEREF, UNWIND_CFA_BP_DEREF);
SAME(CFI_CFA_PLT, UNWIND_CFA_PLT);
SAME(CFI_CFA_SIGNAL, UNWIND_CFA_SIGNAL);
SAME(CFI_BP_SAME, UNWIND_BP_SAME);
SAME(CFI_BP_AT_CFA, UNWIND_BP_AT_CFA);
SAME(CFI_BP_AT_BP, UNWIND_BP_AT_BP);
SAME(CFI_BP_UNDEFINED, UNWIND_BP_UNDEFINED);
SAME(CFI_PAGE_BITS, UNWIND_PAGE_BITS);
SAME(CFI_MAX_PAGES, UNWIND_MAX_PAGES);
SAME(CFI_MAX_INFOS, UNWIND_MAX_INFOS);
SAME(CFI_MERGE_LESS, UNWIND_MERGE_LESS);
SAME(CFI_MERGE_BYTES, UNWIND_MERGE_BYTES);

/* --- files made here
 * ------------------------------------------------------------------------------------------------*/

#define CODE_BYTES 0x7fffffffu

#define NAMES "\0.eh_frame\0.debug_frame\0.shstrtab\0.zdebug_frame\0.plt"
#define PLT_BYTES 0x40

struct craft {
	uint8_t frame[1 << 20];
	size_t bytes;
	const char *section; /* one of NAMES; NULL is .eh_frame */
	uint64_t flags;	     /* SHF_* */
	uint32_t plt;	     /* not 0: a .plt in the file at this place, which is also its address */
};

static void put(struct craft *c, const void *data, size_t bytes)
{
	assert_true(c->bytes + bytes <= sizeof(c->frame));
	memcpy(c->frame + c->bytes, data, bytes);
	c->bytes += bytes;
}

static void put32(struct craft *c, uint32_t v)
{
	put(c, &v, sizeof(v));
}

/* A CIE "zR" with absolute 4-byte pointers: CFA = rsp + 8, return address at CFA - 8. */
static void put_cie(struct craft *c)
{
	static const uint8_t body[] = {1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x03, 0x0c, 7, 8, 0x80 | 16, 1, 0, 0};

	put32(c, 4 + sizeof(body));
	put32(c, 0);
	put(c, body, sizeof(body));
}

static void put_fde(struct craft *c, uint32_t start, uint32_t bytes, const void *program, size_t program_bytes)
{
	put32(c, (uint32_t)(4 + 8 + 1 + program_bytes));
	put32(c, (uint32_t)c->bytes); /* the CIE is at 0 */
	put32(c, start);
	put32(c, bytes);
	put(c, "", 1);
	put(c, program, program_bytes);
}

static uint32_t name_at(const char *name)
{
	static const char names[] = NAMES;
	size_t at = 1;

	while (strcmp(names + at, name) != 0)
		at += strlen(names + at) + 1;
	return (uint32_t)at;
}

static int craft_compile(const struct craft *c, const struct cfi_options *options, struct cfi_tables *ret)
{
	static const char names[] = NAMES;
	_cleanup_close_ int fd = memfd_create("crafted", MFD_CLOEXEC);
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p;
		Elf64_Shdr s[4];
		char names[sizeof(names)];
	} h = {.e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		     .e_type = ET_DYN,
		     .e_machine = EM_X86_64,
		     .e_phoff = offsetof(__typeof__(h), p),
		     .e_phentsize = sizeof(h.p),
		     .e_phnum = 1,
		     .e_shoff = offsetof(__typeof__(h), s),
		     .e_shentsize = sizeof(h.s[0]),
		     .e_shnum = c->plt ? 4 : 3,
		     .e_shstrndx = 2},
	       .p = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = CODE_BYTES, .p_memsz = CODE_BYTES}};
	struct elf_file file;
	struct err e = {0};
	int r;

	memcpy(h.names, names, sizeof(names));
	h.s[1] = (Elf64_Shdr){.sh_name = name_at(c->section ? c->section : ".eh_frame"),
			      .sh_type = SHT_PROGBITS,
			      .sh_flags = c->flags,
			      .sh_addr = 0x80000000,
			      .sh_offset = sizeof(h),
			      .sh_size = c->bytes};
	h.s[2] = (Elf64_Shdr){.sh_name = name_at(".shstrtab"),
			      .sh_type = SHT_STRTAB,
			      .sh_offset = offsetof(__typeof__(h), names),
			      .sh_size = sizeof(names)};
	h.s[3] = (Elf64_Shdr){.sh_name = name_at(".plt"),
			      .sh_type = SHT_PROGBITS,
			      .sh_addr = c->plt,
			      .sh_offset = c->plt,
			      .sh_size = PLT_BYTES};
	assert_int_equal(write(fd, &h, sizeof(h)), sizeof(h));
	assert_int_equal(write(fd, c->frame, c->bytes), c->bytes);
	assert_int_equal(elf_open(fd, &file, &e), 0);
	r = cfi_compile(&file, options, ret, &e);
	elf_close(&file);
	if (r)
		assert_int_equal(e.code, r);
	return r;
}

static void tables_freep(struct cfi_tables *t)
{
	cfi_free(t);
}
#define _cleanup_tables_ _cleanup_(tables_freep)

static void craft_freep(struct craft **c)
{
	free(*c);
}
#define CRAFT(name) _cleanup_(craft_freep) struct craft *name = calloc(1, sizeof(*name))

/* Whatever the input, what comes out can be searched. */
static void check_tables(const struct cfi_tables *t)
{
	uint64_t rows = 0;

	assert_true(t->info_count >= 2 && t->info_count <= CFI_MAX_INFOS);
	assert_true(t->page_count <= CFI_MAX_PAGES);
	for (uint32_t i = 0; i < t->page_count; i++) {
		const struct cfi_page *p = &t->pages[i];

		rows += p->count;
		assert_true((uint64_t)p->start + p->count <= t->row_count);
		for (uint32_t j = 0; j < p->count; j++) {
			const struct cfi_row *row = &t->rows[p->start + j];

			assert_true(j ? row->low > row[-1].low : row->low == 0);
			assert_true(row->info < t->info_count);
		}
	}
	assert_int_equal(rows, t->row_count);
}

static void assert_rule(const struct cfi_tables *t, uint64_t at, enum cfi_cfa cfa, int32_t offset, enum cfi_bp bp,
			int bp_offset)
{
	struct cfi_info i = cfi_lookup(t, at);

	if (cfi_cfa_of(i) != cfa || i.offset != offset || cfi_bp_of(i) != bp || i.bp_offset != bp_offset)
		fail_msg("at %#lx: cfa %d %d, bp %d %d", (unsigned long)at, cfi_cfa_of(i), i.offset, cfi_bp_of(i),
			 i.bp_offset);
}

/* --- real files against readelf
 * -------------------------------------------------------------------------------------*/

struct compared {
	bool go; /* .debug_frame of Go's linker, which says nothing of rbp, and is wrong where rsp is set */
	size_t rows, bad, expressions, invalid, left_out;
};

/* Where the kernel's struct pt_regs has the register that a rule of readelf's begins with. */
static int word_of_register(const char *rule)
{
	static const char *const names[] = {"r15", "r14",      "r13", "r12", "rbp",    "rbx", "r11",
					    "r10", "r9",       "r8",  "rax", "rcx",    "rdx", "rsi",
					    "rdi", "orig_rax", "rip", "cs",  "eflags", "rsp"};
	size_t len = strcspn(rule, "+-");

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i]) == len && !strncmp(rule, names[i], len))
			return (int)i;
	return -1;
}

static void compare_row(const struct cfi_tables *t, const struct elf_file *f, uint64_t address, const char *cfa,
			const char *bp, const char *ra, struct compared *sum)
{
	struct cfi_info got;
	uint64_t offset;
	bool good;

	if (elf_offset_of(f, address, &offset))
		return;
	sum->rows++;
	got = cfi_lookup(t, offset);
	if (sum->go && (cfi_cfa_of(got) == CFI_CFA_NONE || cfi_cfa_of(got) == CFI_CFA_END)) {
		sum->left_out++;
		return;
	}
	if (!strcmp(ra, "u")) {
		good = cfi_cfa_of(got) == CFI_CFA_END;
	} else if (!strcmp(cfa, "exp")) {
		sum->expressions++;
		sum->invalid += cfi_cfa_of(got) == CFI_CFA_INVALID;
		good = cfi_cfa_of(got) != CFI_CFA_NONE && cfi_cfa_of(got) != CFI_CFA_END;
	} else if (strcmp(ra, "c-8") != 0) {
		sum->invalid++;
		good = cfi_cfa_of(got) == CFI_CFA_INVALID;
	} else {
		if (!strncmp(cfa, "rsp", 3) || !strncmp(cfa, "rbp", 3))
			good = cfi_cfa_of(got) == (cfa[1] == 's' ? CFI_CFA_SP : CFI_CFA_BP) &&
			       got.offset == atoi(cfa + 3);
		else
			good = cfi_cfa_of(got) == CFI_CFA_IN_REGISTER && (got.offset & 31) == word_of_register(cfa) &&
			       got.offset >> 5 == atoi(cfa + strcspn(cfa, "+-"));
		if (bp[0] == 'c')
			good &= cfi_bp_of(got) == CFI_BP_AT_CFA && got.bp_offset == atoi(bp + 1);
		else if (sum->go && got.offset >= 16)
			good &= (cfi_bp_of(got) == CFI_BP_AT_CFA && got.bp_offset == -16) ||
				cfi_bp_of(got) == CFI_BP_UNDEFINED;
		else if (!strcmp(bp, "u"))
			good &= cfi_bp_of(got) == CFI_BP_SAME || cfi_bp_of(got) == CFI_BP_UNDEFINED;
		else
			good &= cfi_bp_of(got) != CFI_BP_SAME;
	}
	if (!good && sum->bad++ < 10)
		print_message("%#lx: readelf %s bp %s ra %s; ours: cfa %d %d bp %d %d\n", (unsigned long)address, cfa,
			      bp, ra, cfi_cfa_of(got), got.offset, cfi_bp_of(got), got.bp_offset);
}

static void compare_file(const char *path, struct compared *sum)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *line = NULL;
	_cleanup_tables_ struct cfi_tables t = {0};
	int bp_column = -1, ra_column = -1;
	uint64_t from = 0, to = 0;
	char command[512];
	struct elf_file f;
	struct err e = {0};
	size_t size = 0;
	FILE *pipe;

	assert_true(fd >= 0);
	assert_int_equal(elf_open(fd, &f, &e), 0);
	if (cfi_compile(&f, NULL, &t, &e))
		fail_msg("%s: %s", path, e.text);
	check_tables(&t);
	snprintf(command, sizeof(command), "LC_ALL=C readelf --debug-dump=frames-interp '%s' 2>/dev/null", path);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	while (getline(&line, &size, pipe) > 0) {
		char *save = NULL, *words[40], *pc = strstr(line, " pc=");
		int count = 0;

		if (strstr(line, ".debug_frame section") && !sum->go)
			break;
		if (pc) {
			char *dots = strstr(pc, "..");

			from = strtoull(pc + 4, NULL, 16);
			to = dots ? strtoull(dots + 2, NULL, 16) : 0;
			/* Columns of the CIE hold until the next header. */
			bp_column = ra_column = -1;
			continue;
		}
		/* "r9 (r9)" is one column. */
		for (char *w = strtok_r(line, " \n", &save); w && count < 40; w = strtok_r(NULL, " \n", &save))
			if (*w != '(')
				words[count++] = w;
		if (count >= 2 && !strcmp(words[0], "LOC")) {
			for (int i = 2; i < count; i++) {
				if (!strcmp(words[i], "rbp"))
					bp_column = i;
				if (!strcmp(words[i], "ra"))
					ra_column = i;
			}
		} else if (count >= 2 && strlen(words[0]) == 16 && ra_column > 0 && ra_column < count) {
			uint64_t address = strtoull(words[0], NULL, 16);

			if (address >= from && address < to)
				compare_row(&t, &f, address, words[1], bp_column > 0 ? words[bp_column] : "u",
					    words[ra_column], sum);
		} else if (strstr(line, " CIE ")) {
			from = to = 0;
		}
	}
	pclose(pipe);
	elf_close(&f);
	print_message("%s: %zu rows compared, %zu differ, %zu expressions, %zu not expressible\n", path, sum->rows,
		      sum->bad, sum->expressions, sum->invalid);
}

static void cfi_compile__agrees_with_readelf(void **state)
{
	static const char *const files[] = {"/usr/lib/*-linux-gnu/libc.so.6", "/usr/bin/python3", "/proc/self/exe",
					    "/usr/lib/*-linux-gnu/libcrypto.so.3",
					    "/usr/lib/*-linux-gnu/libstdc++.so.6"};
	size_t compared = 0;

	(void)state;
	if (system("command -v readelf >/dev/null")) {
		print_message("skip %s: machine: no readelf\n", __func__);
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		struct compared sum = {0};
		char self[256] = "";
		glob_t found;

		if (!strcmp(files[i], "/proc/self/exe")) {
			assert_true(readlink(files[i], self, sizeof(self) - 1) > 0);
			compare_file(self, &sum);
		} else {
			if (glob(files[i], 0, NULL, &found))
				continue;
			compare_file(found.gl_pathv[0], &sum);
			globfree(&found);
		}
		assert_true(sum.rows > 100);
		assert_int_equal(sum.bad, 0);
		/* The rules that occur in practice are known; hand-written prologues of libcrypto have 1 % of others.
		 */
		assert_true(sum.invalid * 1000 <= sum.rows * 15);
		compared++;
	}
	assert_true(compared >= 2);
}

/* The rule at a function of a Go program, by its symbol. */
static enum cfi_cfa cfa_at(const char *path, const struct elf_file *f, const struct cfi_tables *t, const char *function)
{
	char command[512], text[64] = "";
	uint64_t offset;
	FILE *pipe;

	snprintf(command, sizeof(command), "LC_ALL=C readelf -sW '%s' | awk '$8 == \"%s\" { print $2 }'", path,
		 function);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	if (!fgets(text, sizeof(text), pipe))
		fail_msg("%s has no %s", path, function);
	pclose(pipe);
	assert_int_equal(elf_offset_of(f, strtoull(text, NULL, 16), &offset), 0);
	return cfi_cfa_of(cfi_lookup(t, offset));
}

static void cfi_compile__of_go_agrees_with_readelf(void **state)
{
	static const char path[] = "build/workloads/w_go";
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_tables_ struct cfi_tables t = {0};
	struct compared sum = {.go = true};
	struct err e = {0};
	struct elf_file f;

	(void)state;
	if (system("command -v readelf >/dev/null && command -v go >/dev/null")) {
		print_message("skip %s: machine: no readelf or no go\n", __func__);
		skip();
	}
	assert_true(fd >= 0); /* make workloads */
	compare_file(path, &sum);
	assert_true(sum.rows > 5000);
	assert_int_equal(sum.bad, 0);
	/* Few functions switch stacks or are the outermost ones, and those are known. */
	assert_true(sum.left_out > 0 && sum.left_out * 50 <= sum.rows);
	assert_int_equal(elf_open(fd, &f, &e), 0);
	assert_int_equal(cfi_compile(&f, NULL, &t, &e), 0);
	assert_int_equal(cfa_at(path, &f, &t, "runtime.goexit.abi0"), CFI_CFA_END);
	assert_int_equal(cfa_at(path, &f, &t, "runtime.mstart.abi0"), CFI_CFA_END);
	assert_int_equal(cfa_at(path, &f, &t, "runtime.systemstack.abi0"), CFI_CFA_NONE);
	assert_int_equal(cfa_at(path, &f, &t, "runtime.mcall"), CFI_CFA_NONE);
	assert_int_equal(cfa_at(path, &f, &t, "runtime.nanotime1.abi0"), CFI_CFA_NONE);
	assert_int_equal(cfa_at(path, &f, &t, "main.main"), CFI_CFA_SP);
	elf_close(&f);
}

static void cfi_compile__merging_changes_no_rule(void **state)
{
	_cleanup_tables_ struct cfi_tables merged = {0}, plain = {0};
	const struct cfi_options no_merge = {.no_merge = true};
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct err e = {0};
	struct elf_file f;

	(void)state;
	assert_int_equal(elf_open(fd, &f, &e), 0);
	assert_int_equal(cfi_compile(&f, NULL, &merged, &e), 0);
	assert_int_equal(cfi_compile(&f, &no_merge, &plain, &e), 0);
	elf_close(&f);
	assert_int_equal(merged.counts[CFI_ROWS], plain.counts[CFI_ROWS]);
	assert_true(merged.row_count < plain.row_count);
	assert_int_equal(merged.page_count, plain.page_count);
	for (uint64_t at = 0; at < (uint64_t)(plain.page_count + 2) << CFI_PAGE_BITS; at++) {
		struct cfi_info a, b;
		uint64_t offset = ((uint64_t)plain.first_page << CFI_PAGE_BITS) + at;

		a = cfi_lookup(&merged, offset);
		b = cfi_lookup(&plain, offset);
		assert_memory_equal(&a, &b, sizeof(a));
	}
}

static void cfi_compile__knows_the_signal_frame_of_libc(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	size_t signals = 0;
	struct err e = {0};
	struct elf_file f;
	glob_t found;
	int fd;

	(void)state;
	if (glob("/usr/lib/x86_64-linux-gnu/libc.so.6", 0, NULL, &found)) {
		print_message("skip %s: machine: no glibc at the usual place\n", __func__);
		skip();
	}
	fd = open(found.gl_pathv[0], O_RDONLY | O_CLOEXEC);
	globfree(&found);
	assert_int_equal(elf_open(fd, &f, &e), 0);
	assert_int_equal(cfi_compile(&f, NULL, &t, &e), 0);
	elf_close(&f);
	close(fd);
	for (uint32_t i = 0; i < t.row_count; i++)
		signals += cfi_cfa_of(t.infos[t.rows[i].info]) == CFI_CFA_SIGNAL;
	assert_true(signals > 0);
}

/* --- made input: what rows say
 * --------------------------------------------------------------------------------------*/

static void cfi_compile__rules_of_a_function(void **state)
{
	static const uint8_t program[] = {
		0x41, 0x0e, 16, 0x86, 2,		/* +1: push %rbp */
		0x43, 0x0d, 6,				/* +4: mov %rsp, %rbp */
		0x44, 0x0a,				/* +8: remember */
		0x41, 0x0c, 7,	8,    0xc6,		/* +9: leave */
		0x41, 0x0b,				/* +10: restore the state */
		0x42, 0x0c, 10, 0,			/* +12: CFA in r10 */
		0x42, 0x2e, 32, 0x0c, 7,    0x80, 0x20, /* +14: rsp + 4096, with an argument size before */
		0x42, 0x0f, 3,	0x76, 0x78, 0x06,	/* +16: *(rbp - 8) */
		0x42, 0x10, 6,	2,    0x76, 0,		/* +18: rbp at rbp */
		0x42, 0x0f, 11, 0x77, 8,    0x80, 0,	0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22, /* +20: PLT */
		0x42, 0x0f, 5,	0x77, 40,   0x06, 0x23, 8, /* +22: *(rsp + 40) + 8 */
		0x42, 0x0f, 2,	0x73, 0,		   /* +24: rbx */
		0x42, 0x07, 16,				   /* +26: the end */
	};
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	put_fde(c, 0x1fff0, 32, program, sizeof(program)); /* over a page's border */
	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0x1ffef, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1fff0, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1fff1, CFI_CFA_SP, 16, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x1fff4, CFI_CFA_BP, 16, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x1fff7, CFI_CFA_BP, 16, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x1fff9, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1fffa, CFI_CFA_BP, 16, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x1fffc, CFI_CFA_IN_REGISTER, 7, CFI_BP_AT_CFA, -16); /* r10 */
	assert_rule(&t, 0x1fffe, CFI_CFA_SP, 4096, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x20000, CFI_CFA_BP_DEREF, -8 * 256, CFI_BP_AT_CFA, -16);
	assert_rule(&t, 0x20002, CFI_CFA_BP_DEREF, -8 * 256, CFI_BP_AT_BP, 0);
	assert_rule(&t, 0x20004, CFI_CFA_PLT, 11, CFI_BP_AT_BP, 0);
	assert_rule(&t, 0x20006, CFI_CFA_SP_DEREF, 40 * 256 + 8, CFI_BP_AT_BP, 0);
	assert_rule(&t, 0x20008, CFI_CFA_INVALID, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x2000a, CFI_CFA_END, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x2000f, CFI_CFA_END, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x20010, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_CFA_REGISTER], 1);
	assert_int_equal(t.counts[CFI_CFA_EXPRESSION], 1);
	assert_rule(&t, 0x9999999999, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
}

static void cfi_compile__holes_and_padding(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	put_fde(c, 0x90000, 0x40000, "\x41\x0e\x20", 3); /* out of order, over pages */
	put_fde(c, 0x1000, 0x11, "\x41\x0e\x10", 3);
	put_fde(c, 0x1020, 0x10, "", 0);
	put_fde(c, 0x1050, 0x10, "", 0);
	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0xfff, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1010, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	assert_rule(&t, 0x101f, CFI_CFA_SP, 16, CFI_BP_SAME, 0); /* 15 bytes of padding */
	assert_rule(&t, 0x1020, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1030, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x104f, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1050, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1060, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x50000, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x90000, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x90001, CFI_CFA_SP, 32, CFI_BP_SAME, 0);
	assert_rule(&t, 0xa0000, CFI_CFA_SP, 32, CFI_BP_SAME, 0);
	assert_rule(&t, 0xcffff, CFI_CFA_SP, 32, CFI_BP_SAME, 0);
	assert_rule(&t, 0xd0000, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
}

/* A .debug_frame of one function, 0x4000 to 0x40ff: rsp + 8, from byte 4 on rsp + 24. */
static void put_debug_frame(struct craft *c)
{
	static const uint8_t cie[] = {4, 0, 8, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x80 | 16, 1};
	uint64_t start = 0x4000, bytes = 0x100;

	put32(c, 4 + sizeof(cie));
	put32(c, UINT32_MAX);
	put(c, cie, sizeof(cie));
	put32(c, 4 + 16 + 3);
	put32(c, 0);
	put(c, &start, 8);
	put(c, &bytes, 8);
	put(c, "\x44\x0e\x18", 3);
}

static void assert_debug_frame(const struct craft *c)
{
	_cleanup_tables_ struct cfi_tables t = {0};

	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0x4003, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x4004, CFI_CFA_SP, 24, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_SECTIONS], 0);
}

static void cfi_compile__debug_frame_fills_what_eh_frame_leaves(void **state)
{
	CRAFT(c);

	(void)state;
	c->section = ".debug_frame";
	put_debug_frame(c);
	assert_debug_frame(c);
}

/* As .debug_frame with SHF_COMPRESSED, or as .zdebug_frame; claims to inflate to `claim` bytes. */
static void put_compressed(struct craft *c, bool zdebug, const void *data, size_t bytes, uint64_t claim)
{
	_cleanup_free_ uint8_t *packed = malloc(compressBound(bytes));
	uLongf packed_bytes = compressBound(bytes);

	assert_int_equal(compress2(packed, &packed_bytes, data, bytes, 9), Z_OK);
	if (zdebug) {
		uint64_t size = htobe64(claim);

		c->section = ".zdebug_frame";
		put(c, "ZLIB", 4);
		put(c, &size, 8);
	} else {
		Elf64_Chdr head = {.ch_type = ELFCOMPRESS_ZLIB, .ch_size = claim, .ch_addralign = 1};

		c->section = ".debug_frame";
		c->flags = SHF_COMPRESSED;
		put(c, &head, sizeof(head));
	}
	put(c, packed, packed_bytes);
}

static void cfi_compile__compressed_debug_frame(void **state)
{
	CRAFT(plain);

	(void)state;
	put_debug_frame(plain);
	for (int zdebug = 0; zdebug < 2; zdebug++) {
		CRAFT(c);

		put_compressed(c, zdebug, plain->frame, plain->bytes, plain->bytes);
		assert_debug_frame(c);
	}
}

static void cfi_compile__a_section_that_does_not_inflate_is_left_out(void **state)
{
	static const int64_t wrong[] = {-1, 1, -1000000, 100ll << 20, INT64_MAX};
	CRAFT(plain);

	(void)state;
	put_debug_frame(plain);
	for (int zdebug = 0; zdebug < 2; zdebug++)
		for (size_t i = 0; i < ARRAY_SIZE(wrong) + 3; i++) {
			_cleanup_tables_ struct cfi_tables t = {0};
			CRAFT(c);

			put_compressed(c, zdebug, plain->frame, plain->bytes,
				       plain->bytes + (i < ARRAY_SIZE(wrong) ? (uint64_t)wrong[i] : 0));
			if (i == ARRAY_SIZE(wrong)) /* cut off */
				c->bytes -= 3;
			else if (i == ARRAY_SIZE(wrong) + 1) /* not even a head */
				c->bytes = 10;
			else if (i == ARRAY_SIZE(wrong) + 2) /* the head's magic, or a kind that is not known */
				c->frame[0] = 'x';
			assert_int_equal(craft_compile(c, NULL, &t), -EBADMSG);
		}
}

/* c's PLT begins as a lazy one if its head is there. */
static void cfi_compile__a_plt_without_entries(void **state)
{
	for (int lazy = 0; lazy < 2; lazy++) {
		_cleanup_tables_ struct cfi_tables t = {0}, covered = {0};
		static const uint8_t head[] = {0xff, 0x35};
		CRAFT(c);

		(void)state;
		c->plt = 0x8000;
		put_cie(c);
		put_fde(c, 0x7000, 0x100, "\x41\x0e\x10", 3);
		put_fde(c, 0x9000, 0x100, "\x41\x0e\x10", 3);
		/* Where 0x8000 of the file is, behind the headers. */
		c->bytes = 0x8100;
		for (size_t at = 0x7000; lazy && at + sizeof(head) < c->bytes; at += sizeof(head))
			memcpy(c->frame + at, head, sizeof(head));
		assert_int_equal(craft_compile(c, NULL, &t), 0);
		check_tables(&t);
		assert_rule(&t, 0x7fff, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
		assert_rule(&t, 0x8000, CFI_CFA_SP, lazy ? 16 : 8, CFI_BP_SAME, 0);
		assert_rule(&t, 0x8006, CFI_CFA_SP, lazy ? 24 : 8, CFI_BP_SAME, 0);
		assert_rule(&t, 0x8010, lazy ? CFI_CFA_PLT : CFI_CFA_SP, lazy ? 11 : 8, CFI_BP_SAME, 0);
		assert_rule(&t, 0x803f, lazy ? CFI_CFA_PLT : CFI_CFA_SP, lazy ? 11 : 8, CFI_BP_SAME, 0);
		assert_rule(&t, 0x8040, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
		assert_rule(&t, 0x9001, CFI_CFA_SP, 16, CFI_BP_SAME, 0);

		/* What is described is not overridden. */
		c->plt = 0x7080;
		assert_int_equal(craft_compile(c, NULL, &covered), 0);
		assert_rule(&covered, 0x7080, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
		assert_rule(&covered, 0x70ff, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	}
}

static void cfi_compile__set_loc(void **state)
{
	/* +0x10; the place of the row before: nothing between; back: not believed. Absolute 4-byte pointers. */
	static const uint8_t program[] = {0x01, 0x10, 0x10, 0,	  0, 0x0e, 16,	 0x01, 0x10, 0x10, 0,	 0, 0x0e,
					  24,	0x01, 0x20, 0x10, 0, 0,	   0x0e, 32,   0x01, 0x1f, 0x10, 0, 0};
	_cleanup_tables_ struct cfi_tables t = {0}, t2 = {0};
	CRAFT(c);
	CRAFT(d);

	(void)state;
	put_cie(c);
	put_fde(c, 0x1000, 0x100, program, sizeof(program));
	put_fde(c, 0x1100, 0x100, "\x01\x00\x20\x00\x00\x0e\x28", 7); /* beyond the function */
	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0x100f, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1010, CFI_CFA_SP, 24, CFI_BP_SAME, 0);
	assert_rule(&t, 0x101f, CFI_CFA_SP, 24, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1020, CFI_CFA_INVALID, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1100, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x11ff, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_BROKEN], 1);

	/* In a CIE there is no place to go to. */
	put_cie(d);
	d->frame[22] = 0x01;
	put_fde(d, 0x1000, 0x100, "", 0);
	assert_int_equal(craft_compile(d, NULL, &t2), -EBADMSG);
}

/* --- hostile input
 * --------------------------------------------------------------------------------------------------*/

static void cfi_compile__overlapping_functions_are_cut(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	put_fde(c, 0x1000, 0x1000, "\x41\x0e\x10", 3);
	put_fde(c, 0x1800, 0x100, "\x41\x0e\x20", 3);
	put_fde(c, 0x1800, 0x800, "\x41\x0e\x30", 3);
	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0x17ff, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1801, CFI_CFA_SP, 32, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1900, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_OVERLAPS], 2);
}

static void cfi_compile__a_broken_program_spoils_its_function_only(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	put_fde(c, 0x1000, 0x100, "\x41\x0e\x10\x41\x3f", 5); /* no such instruction */
	put_fde(c, 0x1100, 0x100, "\x41\x0b", 2);	      /* nothing was remembered */
	put_fde(c, 0x1200, 0x100, "\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a", 10);
	put_fde(c, 0x1300, 0x100, "\x0f\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10); /* an endless expression */
	put_fde(c, 0x1400, 0x100, "\x44\x0e\x18", 3);
	put_fde(c, 0xfffffff0, 0x100, "", 0); /* outside */
	put_fde(c, 0x1500, 0xffffffff, "", 0);
	assert_int_equal(craft_compile(c, NULL, &t), 0);
	check_tables(&t);
	assert_rule(&t, 0x1000, CFI_CFA_SP, 8, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1001, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1002, CFI_CFA_INVALID, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1210, CFI_CFA_INVALID, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1310, CFI_CFA_INVALID, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1404, CFI_CFA_SP, 24, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1500, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_OPCODE], 1);
	assert_int_equal(t.counts[CFI_STATES], 2);
	assert_int_equal(t.counts[CFI_BROKEN], 1);
	assert_int_equal(t.counts[CFI_OUTSIDE], 2);
}

static void cfi_compile__limits_hold(void **state)
{
	const struct cfi_options few_rows = {.max_rows = 1000}, few_entries = {.max_entries = 10},
				 small = {.max_section_bytes = 1000}, few_infos = {.max_infos = 64};
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	for (uint32_t i = 0; i < 5000; i++) {
		uint8_t program[] = {0x50, 0x0e, (uint8_t)(0x80 | (i & 0x7f)), (uint8_t)(i >> 7 & 0x7f)};

		put_fde(c, 0x1000 + i * 32, 32, program, sizeof(program));
	}
	assert_int_equal(craft_compile(c, &few_rows, &t), -EFBIG);
	assert_int_equal(craft_compile(c, &few_entries, &t), -EFBIG);
	assert_int_equal(craft_compile(c, &small, &t), -EBADMSG);
	assert_null(t.rows);
	assert_int_equal(craft_compile(c, &few_infos, &t), 0);
	check_tables(&t);
	assert_true(t.info_count <= 64);
	assert_true(t.counts[CFI_INFOS_FULL] > 4000);
}

/* What was gone through, in bytes: a few times the section, and one short CIE a function. The result may be NULL. */
static void assert_bounded(const struct craft *c, uint32_t functions, struct cfi_tables *ret)
{
	uint64_t work = UINT64_MAX;
	const struct cfi_options options = {.ret_work_bytes = &work};
	struct cfi_tables t = {0};
	int r = craft_compile(c, &options, &t);

	assert_true(work <= 2 * (uint64_t)c->bytes + (uint64_t)functions * 2 * 256 + 256);
	if (!r)
		check_tables(&t);
	else
		assert_null(t.rows);
	if (ret)
		*ret = t;
	else
		cfi_free(&t);
}

/* A function of 2 GiB with 300,000 rows. */
static void cfi_compile__a_function_that_is_all_rows(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	_cleanup_free_ uint8_t *program = malloc(900000);
	CRAFT(c);

	(void)state;
	for (size_t i = 0; i < 900000; i += 3) {
		program[i] = 0x7f; /* advance by 63 */
		program[i + 1] = 0x0e;
		program[i + 2] = (uint8_t)(i / 3 % 100);
	}
	put_cie(c);
	put_fde(c, 0, CODE_BYTES, program, 900000);
	assert_bounded(c, 1, &t);
	assert_int_equal(t.page_count, 0x8000);
}

/* Ways that claim 2^31 rows: bytes of code far beyond the program's own bytes, and programs that never get on. */
static void cfi_compile__floods_of_advances(void **state)
{
	static const uint8_t floods[] = {
		0x41 /* one byte on */, 0x40 /* none */,    0x00,
		0x0a /* remember */,	0x0b /* restore */, 0x2e /* an argument size, cut off at the end */};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(floods); i++) {
		_cleanup_free_ uint8_t *program = malloc(1000000);
		CRAFT(c);

		memset(program, floods[i], 1000000);
		put_cie(c);
		put_fde(c, 0, CODE_BYTES, program, 1000000);
		assert_bounded(c, 1, NULL);
	}
}

/* 40,000 functions out of order that all overlap. */
static void cfi_compile__everything_overlaps(void **state)
{
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	for (int i = 0; i < 40000; i++)
		put_fde(c, 0x1000 + (uint32_t)(i * 7919 % 40000) * 16, 16 + (uint32_t)i, "\x41\x0e\x10", 3);
	assert_bounded(c, 40000, &t);
	assert_int_equal(t.counts[CFI_ENTRIES], 40000);
	assert_true(t.counts[CFI_OVERLAPS] > 39000);
}

/* CIEs that take long to read, used in turn so that none stays in the cache. */
static void cfi_compile__huge_and_many_cies(void **state)
{
	static char letters[100000];
	static const uint8_t tail[] = {1, 0x78, 16, 1, 0x03, 0x0c, 7, 8, 0x80 | 16, 1, 0, 0};
	_cleanup_tables_ struct cfi_tables t = {0};
	uint32_t at[4];
	CRAFT(c);

	(void)state;
	memset(letters, 'S', sizeof(letters) - 1);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		at[i] = (uint32_t)c->bytes;
		put32(c, (uint32_t)(4 + 1 + sizeof(letters) + sizeof(tail)));
		put32(c, 0);
		put(c, "\x01", 1);
		put(c, letters, sizeof(letters));
		put(c, tail, sizeof(tail));
	}
	for (uint32_t i = 0; i < 10000; i++) {
		put32(c, 4 + 8 + 1);
		put32(c, (uint32_t)c->bytes - at[i % ARRAY_SIZE(at)]);
		put32(c, 0x1000 + i * 16);
		put32(c, 16);
		put(c, "", 1);
	}
	assert_bounded(c, 10000, &t);
	assert_null(t.rows); /* none of them is believed */
}

/* An entry that is its own CIE, two that are each other's, one whose CIE is a function, one outside, a length of 0. */
static void cfi_compile__circles_of_entries(void **state)
{
	static const int32_t cies[] = {4, 4 + 21, 4 - 21, 21, 0x7fffffff, -1};
	_cleanup_tables_ struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_cie(c);
	put_fde(c, 0x900, 0x10, "\x41\x0e\x10\0", 4);
	for (size_t i = 0; i < ARRAY_SIZE(cies); i++) {
		put32(c, 4 + 8 + 5);
		put32(c, (uint32_t)cies[i]);
		put32(c, 0x1000 + (uint32_t)i * 32);
		put32(c, 32);
		put(c, "\0\x41\x0e\x10", 5);
	}
	for (size_t i = 0; i < 10000; i++)
		put32(c, 0);
	put_fde(c, 0x2000, 0x10, "\x41\x0e\x10\0", 4);
	assert_bounded(c, 8, &t);
	assert_rule(&t, 0x901, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	assert_rule(&t, 0x1001, CFI_CFA_NONE, 0, CFI_BP_SAME, 0);
	assert_rule(&t, 0x2001, CFI_CFA_SP, 16, CFI_BP_SAME, 0);
	assert_int_equal(t.counts[CFI_BROKEN], ARRAY_SIZE(cies));
}

/* 24 MiB of zeros in 24 KiB: within the limit they are looked through, above it nothing is inflated. */
static void cfi_compile__a_compressed_bomb(void **state)
{
	const size_t bytes = 24u << 20;
	_cleanup_free_ uint8_t *zeros = calloc(1, bytes);
	const struct cfi_options small = {.max_section_bytes = 1 << 20};
	struct cfi_tables t = {0};
	CRAFT(c);

	(void)state;
	put_compressed(c, false, zeros, bytes, bytes);
	assert_true(c->bytes < 40000);
	assert_int_equal(craft_compile(c, NULL, &t), -ENODATA);
	assert_int_equal(craft_compile(c, &small, &t), -EBADMSG);
}

/* Every prefix and many damaged bytes of a real section: nothing but errors and searchable tables. */
static void cfi_compile__cut_and_damaged_sections(void **state)
{
	CRAFT(c);
	CRAFT(damaged);
	uint64_t random = 88172645463325252ull;

	(void)state;
	put_cie(c);
	for (uint32_t i = 0; i < 12; i++)
		put_fde(c, 0x1000 + i * 0x9000, 0x8000 + i,
			"\x41\x0e\x10\x86\x02\x43\x0d\x06\x0a\x02\x20\x0c\x07\x08\xc6\x41\x0b\x03\x00\x70\x0e\x20", 22);
	for (size_t cut = 0; cut <= c->bytes; cut++) {
		_cleanup_tables_ struct cfi_tables t = {0};

		*damaged = *c;
		damaged->bytes = cut;
		if (!craft_compile(damaged, NULL, &t))
			check_tables(&t);
	}
	for (int round = 0; round < 3000; round++) {
		_cleanup_tables_ struct cfi_tables t = {0};

		memcpy(damaged->frame, c->frame, c->bytes);
		damaged->bytes = c->bytes;
		for (int i = 0; i < 1 + round % 8; i++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			damaged->frame[random % c->bytes] = (uint8_t)(random >> 32);
		}
		if (!craft_compile(damaged, NULL, &t))
			check_tables(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cfi_compile__agrees_with_readelf),
		cmocka_unit_test(cfi_compile__of_go_agrees_with_readelf),
		cmocka_unit_test(cfi_compile__merging_changes_no_rule),
		cmocka_unit_test(cfi_compile__knows_the_signal_frame_of_libc),
		cmocka_unit_test(cfi_compile__rules_of_a_function),
		cmocka_unit_test(cfi_compile__holes_and_padding),
		cmocka_unit_test(cfi_compile__debug_frame_fills_what_eh_frame_leaves),
		cmocka_unit_test(cfi_compile__compressed_debug_frame),
		cmocka_unit_test(cfi_compile__a_section_that_does_not_inflate_is_left_out),
		cmocka_unit_test(cfi_compile__a_plt_without_entries),
		cmocka_unit_test(cfi_compile__set_loc),
		cmocka_unit_test(cfi_compile__overlapping_functions_are_cut),
		cmocka_unit_test(cfi_compile__a_broken_program_spoils_its_function_only),
		cmocka_unit_test(cfi_compile__limits_hold),
		cmocka_unit_test(cfi_compile__a_function_that_is_all_rows),
		cmocka_unit_test(cfi_compile__floods_of_advances),
		cmocka_unit_test(cfi_compile__everything_overlaps),
		cmocka_unit_test(cfi_compile__huge_and_many_cies),
		cmocka_unit_test(cfi_compile__circles_of_entries),
		cmocka_unit_test(cfi_compile__a_compressed_bomb),
		cmocka_unit_test(cfi_compile__cut_and_damaged_sections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
