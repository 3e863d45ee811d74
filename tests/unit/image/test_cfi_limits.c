/* Shapes of files that the CFI compiler and the key of its tables have to bear: rules whose places in the index are
 * chosen, PLTs side by side, program headers by the dozen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/cfi.h"
#include "daemon/image/parser_table.h"
#include "daemon/util/cleanup.h"
#include "tests/unit/image/elf_maker.h"

static void tables_freep(struct cfi_tables *t)
{
	cfi_free(t);
}
#define _cleanup_tables_ _cleanup_(tables_freep)

struct frame {
	uint8_t bytes[12000];
	size_t len;
};

static void put(struct frame *f, const void *data, size_t bytes)
{
	assert_true(f->len + bytes <= sizeof(f->bytes));
	memcpy(f->bytes + f->len, data, bytes);
	f->len += bytes;
}

static void put32(struct frame *f, uint32_t v)
{
	put(f, &v, sizeof(v));
}

/* "zR" with absolute 4-byte pointers: CFA = rsp + 8, return address at CFA - 8. */
static void put_cie(struct frame *f)
{
	static const uint8_t body[] = {1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x03, 0x0c, 7, 8, 0x80 | 16, 1, 0, 0};

	put32(f, 4 + sizeof(body));
	put32(f, 0);
	put(f, body, sizeof(body));
}

static void put_fde(struct frame *f, uint32_t offset, uint32_t bytes, const void *program, size_t program_bytes)
{
	put32(f, (uint32_t)(4 + 8 + 1 + program_bytes));
	put32(f, (uint32_t)f->len);
	put32(f, LOAD_ADDRESS + offset);
	put32(f, bytes);
	put(f, "", 1);
	put(f, program, program_bytes);
}

static int file_of(const void *data, size_t bytes)
{
	int fd = memfd_create("shape", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
	return fd;
}

static void compile(const struct made_section *sections, size_t count, const struct cfi_options *options,
		    struct cfi_tables *ret)
{
	static struct made made;
	_cleanup_close_ int fd = -1;
	struct elf_file f;

	make_elf(&made, true, sections, count);
	fd = file_of(made.bytes, made.len);
	assert_int_equal(elf_open(fd, &f, NULL), 0);
	assert_int_equal(cfi_compile(&f, options, ret, NULL), 0);
	elf_close(&f);
}

static void assert_cfa(const struct cfi_tables *t, uint64_t at, enum cfi_cfa cfa, int32_t offset)
{
	struct cfi_info i = cfi_lookup(t, at);

	if (cfi_cfa_of(i) != cfa || i.offset != offset)
		fail_msg("at %#lx: cfa %d %d", (unsigned long)at, cfi_cfa_of(i), i.offset);
}

#define COLLISIONS 1000

/* Rules that had one place in an index whose hash has no secret: a multiplication. */
static void cfi_compile__rules_that_are_made_to_collide(void **state)
{
	_cleanup_free_ struct frame *f = calloc(1, sizeof(*f));
	_cleanup_tables_ struct cfi_tables t = {0};
	uint8_t program[COLLISIONS * 7];
	uint32_t offsets[COLLISIONS];
	uint64_t probes = 0;
	size_t n = 0, len = 0;

	(void)state;
	for (uint32_t offset = 16; n < COLLISIONS; offset++) {
		struct cfi_info info = {.offset = (int32_t)offset, .rules = CFI_CFA_SP};
		uint64_t key;

		memcpy(&key, &info, sizeof(key));
		if ((key * 0x9e3779b97f4a7c15ull >> 32) % (2 * CFI_MAX_INFOS) == 1)
			offsets[n++] = offset;
		assert_true(offset < INT32_MAX);
	}
	for (size_t i = 0; i < n; i++) {
		program[len++] = 0x41;
		program[len++] = 0x0e;
		for (uint32_t v = offsets[i]; v; v >>= 7)
			program[len++] = (uint8_t)(v & 0x7f) | (v >> 7 ? 0x80 : 0);
	}
	put_cie(f);
	put_fde(f, 0x40, COLLISIONS + 100, program, len);
	compile((struct made_section[]){{".eh_frame", SHT_PROGBITS, 0, SHF_ALLOC, f->bytes, f->len, 0, 0}}, 1,
		&(struct cfi_options){.ret_probes = &probes}, &t);
	assert_int_equal(t.counts[CFI_ROWS], COLLISIONS + 2);
	assert_int_equal(t.counts[CFI_INFOS_FULL], 0);
	assert_true(t.info_count > COLLISIONS);
	for (size_t i = 0; i < n; i++)
		assert_cfa(&t, 0x41 + i, CFI_CFA_SP, (int32_t)offsets[i]);
	assert_true(probes >= COLLISIONS && probes <= 2 * COLLISIONS);
}

static void cfi_compile__plts_side_by_side(void **state)
{
	static const uint8_t lazy[0x40] = {0xff, 0x35};
	_cleanup_free_ struct frame *f = calloc(1, sizeof(*f));
	_cleanup_tables_ struct cfi_tables t = {0};
	struct made_section sections[] = {
		{".eh_frame", SHT_PROGBITS, 0, SHF_ALLOC, f->bytes, 0, 0, 0},
		{".plt", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, lazy, sizeof(lazy), 0, 0x1000},
		{".iplt", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, lazy, sizeof(lazy), 0, 0x1040},
		{".plt.got", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, "\xcc\xcc\xcc\xcc", 4, 0, 0x1090},
	};

	(void)state;
	put_cie(f);
	put_fde(f, 0xf00, 0x100, "\x41\x0e\x20", 3); /* ends where .plt begins */
	put_fde(f, 0x1094, 0x20, "\x41\x0e\x30", 3); /* begins where .plt.got ends */
	sections[0].bytes = f->len;
	compile(sections, ARRAY_SIZE(sections), NULL, &t);
	assert_cfa(&t, 0xeff, CFI_CFA_NONE, 0);
	assert_cfa(&t, 0xfff, CFI_CFA_SP, 32);
	assert_cfa(&t, 0x1000, CFI_CFA_SP, 16);
	assert_cfa(&t, 0x1006, CFI_CFA_SP, 24);
	assert_cfa(&t, 0x1010, CFI_CFA_PLT, 11);
	assert_cfa(&t, 0x103f, CFI_CFA_PLT, 11);
	assert_cfa(&t, 0x1040, CFI_CFA_SP, 16);
	assert_cfa(&t, 0x1046, CFI_CFA_SP, 24);
	assert_cfa(&t, 0x107f, CFI_CFA_PLT, 11);
	assert_cfa(&t, 0x1080, CFI_CFA_NONE, 0);
	assert_cfa(&t, 0x108f, CFI_CFA_NONE, 0);
	assert_cfa(&t, 0x1090, CFI_CFA_SP, 8);
	assert_cfa(&t, 0x1094, CFI_CFA_SP, 8);
	assert_cfa(&t, 0x1095, CFI_CFA_SP, 48);
	assert_cfa(&t, 0x10b4, CFI_CFA_NONE, 0);
}

static uint64_t bytes_read(void)
{
	_cleanup_free_ char *line = NULL;
	unsigned long long n = 0;
	size_t size = 0;
	FILE *io = fopen("/proc/self/io", "re");

	assert_non_null(io);
	while (getline(&line, &size, io) > 0)
		if (sscanf(line, "rchar: %llu", &n) == 1)
			break;
	fclose(io);
	return n;
}

#define HEADERS 40
#define SEGMENT_BYTES (1u << 20)

/* No section table, as many search tables as segments, and every segment has all of the file. */
static void parser_table_key__reads_once(void **state)
{
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p[HEADERS];
		uint8_t search[8];
	} h = {.e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		     .e_type = ET_DYN,
		     .e_machine = EM_X86_64,
		     .e_phoff = offsetof(__typeof__(h), p),
		     .e_phentsize = sizeof(h.p[0]),
		     .e_phnum = HEADERS},
	       .search = {1, 0x1b, 0x03, 0x3b, 4}};
	char key[TABLE_KEY_BYTES], other[TABLE_KEY_BYTES];
	_cleanup_close_ int fd = -1;
	struct elf_file f;
	uint64_t before;

	(void)state;
	for (size_t i = 0; i < HEADERS; i++)
		h.p[i] = i % 2 ? (Elf64_Phdr){.p_type = PT_GNU_EH_FRAME,
					      .p_offset = offsetof(__typeof__(h), search),
					      .p_vaddr = offsetof(__typeof__(h), search),
					      .p_filesz = 8}
			       : (Elf64_Phdr){.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = SEGMENT_BYTES};
	fd = file_of(&h, sizeof(h));
	assert_int_equal(ftruncate(fd, SEGMENT_BYTES), 0);
	assert_int_equal(elf_open(fd, &f, NULL), 0);
	before = bytes_read();
	assert_int_equal(parser_table_key(&f, 1, key), 0);
	assert_in_range(bytes_read() - before, SEGMENT_BYTES / 2, 2 * SEGMENT_BYTES);
	/* What is behind the search table counts. */
	assert_int_equal(pwrite(fd, "x", 1, SEGMENT_BYTES - 1), 1);
	assert_int_equal(parser_table_key(&f, 1, other), 0);
	assert_string_not_equal(key, other);
	elf_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cfi_compile__rules_that_are_made_to_collide),
		cmocka_unit_test(cfi_compile__plts_side_by_side),
		cmocka_unit_test(parser_table_key__reads_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
