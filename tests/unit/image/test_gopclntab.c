/* Go's function tables of each format and pointer width, made here byte by byte; and ELF images of both classes whose
 * sections overlap. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/image/symbols.h"
#include "daemon/util/cleanup.h"
#include "tests/unit/image/elf_maker.h"

#define TEXT LOAD_ADDRESS
#define FUNCTIONS 3
#define TEXT_BYTES 0x300

static const char *const names[FUNCTIONS] = {"main.main", "main.(*engine).turn", "runtime.goexit"};

struct table {
	unsigned char bytes[1024];
	size_t len;
};

static void put(struct table *t, uint64_t value, size_t width)
{
	memcpy(t->bytes + t->len, &value, width); /* the host is little-endian, as the images are */
	t->len += width;
}

static void put_names(struct table *t)
{
	for (size_t i = 0; i < FUNCTIONS; i++) {
		memcpy(t->bytes + t->len, names[i], strlen(names[i]) + 1);
		t->len += strlen(names[i]) + 1;
	}
}

/* Table of (entry, function) and its end, then the functions: entry and place of the name. */
static void put_functions(struct table *t, size_t width, uint64_t text, size_t functions_at, size_t names_at)
{
	size_t each = width + 4, name = names_at;

	for (size_t i = 0; i < FUNCTIONS; i++) {
		put(t, text + i * 0x100, width);
		put(t, functions_at + (2 * FUNCTIONS + 1) * width + i * each, width);
	}
	put(t, text + TEXT_BYTES, width);
	for (size_t i = 0; i < FUNCTIONS; i++) {
		put(t, text + i * 0x100, width);
		put(t, name, 4);
		name += strlen(names[i]) + 1;
	}
}

static void make_table(struct table *t, uint32_t magic, size_t pointer, uint64_t text)
{
	size_t names_bytes = 0, words = magic == 0xfffffffa ? 7 : 8, header = 8 + words * pointer;

	for (size_t i = 0; i < FUNCTIONS; i++)
		names_bytes += strlen(names[i]) + 1;
	*t = (struct table){.len = 0};
	put(t, magic, 4);
	put(t, 0, 2);
	put(t, 1, 1);
	put(t, pointer, 1);
	put(t, FUNCTIONS, pointer);
	if (magic == 0xfffffffb) {
		size_t at = t->len;

		put_functions(t, pointer, TEXT, at, at + (2 * FUNCTIONS + 1) * pointer + FUNCTIONS * (pointer + 4));
		put_names(t);
		return;
	}
	put(t, 1, pointer); /* files */
	if (magic != 0xfffffffa)
		put(t, text, pointer);
	put(t, header, pointer); /* names */
	for (int i = 0; i < 3; i++)
		put(t, 0, pointer); /* cu, file and pc tables */
	put(t, header + names_bytes, pointer);
	put_names(t);
	/* From here on, offsets count from the table of functions, and since 1.18 entries from the text's start. */
	put_functions(t, magic == 0xfffffffa ? pointer : 4, magic == 0xfffffffa ? TEXT : 0, 0, 0);
}

static int load(const struct made *m, size_t len, struct symbols *s, struct err *e)
{
	_cleanup_close_ int fd = memfd_create("test", MFD_CLOEXEC);
	struct elf_file f;
	int r;

	symbols_init(s, 0x1000);
	assert_int_equal(write(fd, m->bytes, len), (ssize_t)len);
	r = elf_open(fd, &f, e);
	if (r)
		return r;
	r = symbols_load_elf(s, &f, e);
	elf_close(&f);
	return r;
}

static const char *at(const struct symbols *s, uint64_t address)
{
	uint64_t start;
	const char *name = symbols_find(s, address, &start);

	return name ? name : "";
}

static void wrap(struct made *m, bool is64, const struct table *t, size_t bytes)
{
	const struct made_section sections[] = {
		{.name = ".gopclntab", .type = SHT_PROGBITS, .flags = SHF_ALLOC, .data = t->bytes, .bytes = bytes},
	};

	make_elf(m, is64, sections, 1);
}

static const uint32_t magics[] = {0xfffffffb, 0xfffffffa, 0xfffffff0, 0xfffffff1};

static void gopclntab__each_format_and_width_gives_names(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++)
		for (size_t pointer = 4; pointer <= 8; pointer += 4) {
			struct err e = {0};
			struct symbols s;
			struct table t;
			struct made m;

			make_table(&t, magics[i], pointer, TEXT);
			wrap(&m, pointer == 8, &t, t.len);
			assert_int_equal(load(&m, m.len, &s, &e), 0);
			assert_string_equal(e.text, "");
			assert_int_equal(s.count, FUNCTIONS);
			for (size_t k = 0; k < FUNCTIONS; k++) {
				assert_string_equal(at(&s, TEXT + k * 0x100), names[k]);
				assert_string_equal(at(&s, TEXT + k * 0x100 + 0xff), names[k]);
			}
			assert_string_equal(at(&s, TEXT + TEXT_BYTES), "");
			assert_string_equal(at(&s, TEXT - 1), "");
			symbols_deinit(&s);
		}
}

/* Go 1.26 leaves the start of the text 0 in the header. */
static void gopclntab__text_start_comes_from_the_text_section(void **state)
{
	struct made_section sections[2] = {{.name = ".text", .type = SHT_PROGBITS, .flags = SHF_ALLOC | SHF_EXECINSTR}};
	static const unsigned char text[TEXT_BYTES];
	struct err e = {0};
	struct symbols s;
	struct table t;
	struct made m;

	(void)state;
	make_table(&t, 0xfffffff1, 8, 0);
	sections[0].data = text;
	sections[0].bytes = sizeof(text);
	sections[0].at = 0x1000;
	sections[1] = (struct made_section){
		.name = ".gopclntab", .type = SHT_PROGBITS, .flags = SHF_ALLOC, .data = t.bytes, .bytes = t.len};
	make_elf(&m, true, sections, 2);
	assert_int_equal(load(&m, m.len, &s, &e), 0);
	assert_string_equal(at(&s, LOAD_ADDRESS + 0x1000), names[0]);
	assert_string_equal(at(&s, LOAD_ADDRESS + 0x1150), names[1]);
	symbols_deinit(&s);
}

static void gopclntab__table_cut_anywhere_is_said_or_gives_what_is_whole(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		struct table t;
		struct made m;

		make_table(&t, magics[i], 8, TEXT);
		for (size_t bytes = 0; bytes < t.len; bytes++) {
			struct err e = {0};
			struct symbols s;

			wrap(&m, true, &t, bytes);
			assert_int_equal(load(&m, m.len, &s, &e), 0);
			assert_true(s.count <= FUNCTIONS);
			if (bytes < 16)
				assert_string_equal(e.text, "the Go function table is damaged");
			for (size_t k = 0; k < s.count; k++)
				assert_int_equal(
					strncmp(at(&s, TEXT + k * 0x100), names[k], strlen(at(&s, TEXT + k * 0x100))),
					0);
			symbols_deinit(&s);
		}
	}
}

static void gopclntab__wrong_fields_are_survived(void **state)
{
	static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++)
		for (size_t byte = 0; byte < 8 + 8 * 8 + 64; byte++)
			for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
				struct err e = {0};
				struct symbols s;
				struct table t;
				struct made m;

				make_table(&t, magics[i], 8, TEXT);
				t.bytes[byte] = values[v];
				wrap(&m, true, &t, t.len);
				assert_int_equal(load(&m, m.len, &s, &e), 0);
				assert_true(s.count <= FUNCTIONS);
				symbols_deinit(&s);
			}
}

static const char strings[] = "\0first\0second";

static size_t put_symbols(unsigned char *table, bool is64)
{
	const Elf64_Sym wide[] = {
		{0},
		{.st_name = 1, .st_info = STT_FUNC | STB_GLOBAL << 4, .st_shndx = 1, .st_value = TEXT, .st_size = 16},
		{.st_name = 7, .st_info = STT_FUNC, .st_shndx = 1, .st_value = TEXT + 16, .st_size = 16},
	};
	const Elf32_Sym narrow[] = {
		{0},
		{.st_name = 1, .st_info = STT_FUNC | STB_GLOBAL << 4, .st_shndx = 1, .st_value = TEXT, .st_size = 16},
		{.st_name = 7, .st_info = STT_FUNC, .st_shndx = 1, .st_value = TEXT + 16, .st_size = 16},
	};
	size_t bytes = is64 ? sizeof(wide) : sizeof(narrow);

	memcpy(table, is64 ? (const void *)wide : (const void *)narrow, bytes);
	return bytes;
}

/* The names and the symbols lie within the text section. */
static void load_elf__overlapping_sections_of_both_classes(void **state)
{
	(void)state;
	for (int is64 = 0; is64 < 2; is64++) {
		static unsigned char text[0x800];
		unsigned char table[128];
		size_t bytes = put_symbols(table, is64);
		const struct made_section sections[] = {
			{.name = ".text",
			 .type = SHT_PROGBITS,
			 .flags = SHF_ALLOC | SHF_EXECINSTR,
			 .data = text,
			 .bytes = sizeof(text),
			 .at = 0x800},
			{.name = ".strtab", .type = SHT_STRTAB, .data = strings, .bytes = sizeof(strings), .at = 0x900},
			{.name = ".symtab",
			 .type = SHT_SYMTAB,
			 .link = 2,
			 .data = table,
			 .bytes = bytes,
			 .at = 0xa00,
			 .entry_bytes = bytes / 3},
		};
		struct err e = {0};
		struct symbols s;
		struct made m;

		make_elf(&m, is64, sections, ARRAY_SIZE(sections));
		assert_int_equal(load(&m, m.len, &s, &e), 0);
		assert_string_equal(e.text, "");
		assert_int_equal(s.count, 2);
		assert_string_equal(at(&s, TEXT + 15), "first");
		assert_string_equal(at(&s, TEXT + 16), "second");
		assert_string_equal(at(&s, TEXT + 32), "");
		symbols_deinit(&s);
	}
}

/* The symbol table is its own string table, or links to one that is none. */
static void load_elf__sections_that_are_each_other(void **state)
{
	(void)state;
	for (uint32_t link = 0; link < 5; link++) {
		unsigned char table[128];
		size_t bytes = put_symbols(table, true);
		const struct made_section sections[] = {
			{.name = ".strtab", .type = SHT_STRTAB, .data = table, .bytes = bytes, .at = 0x800},
			{.name = ".symtab",
			 .type = SHT_SYMTAB,
			 .link = link,
			 .data = table,
			 .bytes = bytes,
			 .at = 0x800,
			 .entry_bytes = bytes / 3},
		};
		struct err e = {0};
		struct symbols s;
		struct made m;

		make_elf(&m, true, sections, ARRAY_SIZE(sections));
		assert_int_equal(load(&m, m.len, &s, &e), 0);
		if (link == 0 || link == 2 || link == 4) {
			assert_string_equal(e.text, "the symbol table is damaged");
			assert_int_equal(s.count, 0);
		}
		symbols_deinit(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gopclntab__each_format_and_width_gives_names),
		cmocka_unit_test(gopclntab__text_start_comes_from_the_text_section),
		cmocka_unit_test(gopclntab__table_cut_anywhere_is_said_or_gives_what_is_whole),
		cmocka_unit_test(gopclntab__wrong_fields_are_survived),
		cmocka_unit_test(load_elf__overlapping_sections_of_both_classes),
		cmocka_unit_test(load_elf__sections_that_are_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
