/* The symbol index and its sources: this program, damaged copies of it, crafted tables, kallsyms. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "daemon/image/elf.h"
#include "daemon/image/symbols.h"
#include "daemon/util/cleanup.h"

extern const char __executable_start[];

static int load_fd(int fd, struct symbols *s, struct err *e)
{
	struct elf_file f;
	int r = elf_open(fd, &f, e);

	symbols_init(s, 65536);
	if (r)
		return r;
	r = symbols_load_elf(s, &f, e);
	elf_close(&f);
	return r;
}

static int memory_file(const void *data, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	return fd;
}

static char *read_all(const char *path, size_t *ret_len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t len = lseek(fd, 0, SEEK_END);
	char *data = malloc((size_t)len);

	assert_true(fd >= 0 && len > 0);
	assert_non_null(data);
	assert_int_equal(pread(fd, data, (size_t)len, 0), len);
	*ret_len = (size_t)len;
	return data;
}

static void load_elf__own_function_is_found(void **state)
{
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	uint64_t address = (uintptr_t)load_elf__own_function_is_found - (uintptr_t)__executable_start, start;
	struct elf_file f;
	struct symbols s;
	struct err e = {0};
	const char *name;
	uint64_t offset, back;
	size_t segment;

	(void)state;
	assert_int_equal(load_fd(fd, &s, &e), 0);
	name = symbols_find(&s, address + 1, &start);
	assert_non_null(name);
	assert_string_equal(name, "load_elf__own_function_is_found");
	assert_int_equal(start, address);
	assert_null(symbols_find(&s, UINT64_MAX - 1, &start));
	symbols_deinit(&s);
	assert_int_equal(elf_open(fd, &f, &e), 0);
	assert_int_equal(elf_offset_of(&f, address, &offset), 0);
	assert_int_equal(elf_address_of(f.segments, f.segment_count, offset, &segment, &back), 0);
	assert_int_equal(back, address);
	assert_true(f.segments[segment].flags & PF_X);
	elf_close(&f);
}

static void load_elf__file_cut_anywhere_is_survived(void **state)
{
	size_t len, cut = 0;
	_cleanup_free_ char *data = read_all("/bin/true", &len);

	(void)state;
	while (cut < len) {
		_cleanup_close_ int fd = memory_file(data, cut);
		struct symbols s;
		struct err e = {0};
		int r = load_fd(fd, &s, &e);

		if (cut < sizeof(Elf64_Ehdr)) {
			assert_true(r < 0);
			assert_true(e.text[0] != '\0');
		}
		symbols_deinit(&s);
		cut += cut < 4096 ? 7 : 331;
	}
}

static void load_elf__wrong_header_fields_are_survived(void **state)
{
	static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
	size_t len;
	_cleanup_free_ char *data = read_all("/bin/true", &len);
	Elf64_Ehdr *h = (Elf64_Ehdr *)(void *)data;
	size_t sections = h->e_shoff, end = len;

	(void)state;
	/* Every byte of the ELF, program and section headers, and of a piece of the tables. */
	for (size_t at = 4; at < end; at = at == 1024 ? sections : at + 1) {
		for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
			char saved = data[at];
			struct symbols s;
			struct err e = {0};
			int fd;

			data[at] = (char)values[v];
			fd = memory_file(data, len);
			(void)load_fd(fd, &s, &e);
			symbols_deinit(&s);
			close(fd);
			data[at] = saved;
		}
	}
}

static void load_elf__huge_counts_are_refused_without_memory(void **state)
{
	size_t len;
	_cleanup_free_ char *data = read_all("/bin/true", &len);
	Elf64_Ehdr *h = (Elf64_Ehdr *)(void *)data;
	Elf64_Shdr *sh = (Elf64_Shdr *)(void *)(data + h->e_shoff);
	struct symbols s;
	struct err e = {0};
	int fd;

	(void)state;
	for (size_t i = 0; i < h->e_shnum; i++) {
		sh[i].sh_size = 4ull << 30;
		sh[i].sh_link = i % 2 ? 0xffffffff : (uint32_t)i; /* cyclic, or nowhere */
	}
	fd = memory_file(data, len);
	assert_int_equal(load_fd(fd, &s, &e), 0);
	assert_int_equal(s.count, 0);
	assert_string_equal(e.text, "the symbol table is damaged");
	close(fd);
	h->e_phnum = 0xfff0;
	fd = memory_file(data, len);
	assert_int_equal(load_fd(fd, &s, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "program headers"));
	close(fd);
	/* A real file of 4 GiB of nothing. */
	assert_int_equal(ftruncate((fd = memory_file("", 0)), 4ll << 30), 0);
	assert_int_equal(load_fd(fd, &s, &e), -ENOEXEC);
	assert_string_equal(e.text, "not an ELF file");
	close(fd);
}

static void add(struct symbols *s, uint64_t start, uint64_t bytes, enum symbol_rank rank, const char *name)
{
	assert_int_equal(symbols_add(s, start, bytes, rank, name, strlen(name)), 0);
}

static const char *at(const struct symbols *s, uint64_t address)
{
	uint64_t start;
	const char *name = symbols_find(s, address, &start);

	return name ? name : "";
}

static void find__chooses_by_rank_size_and_nesting(void **state)
{
	struct symbols s;

	(void)state;
	symbols_init(&s, 0x1000);
	add(&s, 0x3000, 0, SYMBOL_LABEL, "tail");
	add(&s, 0x1000, 0x100, SYMBOL_LOCAL, "local");
	add(&s, 0x1000, 0x100, SYMBOL_GLOBAL, "__global");
	add(&s, 0x1000, 0x100, SYMBOL_GLOBAL, "global@@V_2");
	add(&s, 0x1000, 0x100, SYMBOL_WEAK, "weak");
	add(&s, 0x1020, 0x10, SYMBOL_LOCAL, "inner");
	add(&s, 0x1050, 0, SYMBOL_LABEL, "label_within");
	add(&s, 0x2000, 0, SYMBOL_LABEL, "unsized");
	assert_int_equal(symbols_finish(&s), 0);
	assert_string_equal(at(&s, 0xfff), "");
	assert_string_equal(at(&s, 0x1000), "global");
	assert_string_equal(at(&s, 0x1025), "inner");
	assert_string_equal(at(&s, 0x1030), "global");
	assert_string_equal(at(&s, 0x1055), "global");
	assert_string_equal(at(&s, 0x10ff), "global");
	assert_string_equal(at(&s, 0x1100), "");
	assert_string_equal(at(&s, 0x2fff), "unsized");
	assert_string_equal(at(&s, 0x3fff), "tail");
	assert_string_equal(at(&s, 0x4000), "");
	symbols_deinit(&s);
}

static void find__starts_in_several_4_gib_blocks(void **state)
{
	static const uint64_t starts[] = {0x1000,	  0xfffff000,	      0x100000000,
					  0x7f0000001000, 0xffffffff81000000, 0xffffffffffffff00};
	char name[32];
	struct symbols s;

	(void)state;
	symbols_init(&s, 0x1000);
	for (size_t i = ARRAY_SIZE(starts); i-- > 0;) {
		snprintf(name, sizeof(name), "f%zu", i);
		add(&s, starts[i], 0, SYMBOL_GLOBAL, name);
	}
	assert_int_equal(symbols_finish(&s), 0);
	assert_int_equal(s.count, ARRAY_SIZE(starts));
	for (size_t i = 0; i < ARRAY_SIZE(starts); i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		assert_int_equal(symbols_start(&s, i), starts[i]);
		assert_string_equal(at(&s, starts[i]), name);
		assert_string_equal(at(&s, starts[i] + 0xff), name);
	}
	assert_string_equal(at(&s, 0x100000fff), "f2");
	assert_string_equal(at(&s, 0x100001000), "");
	assert_string_equal(at(&s, 0xfff), "");
	assert_string_equal(at(&s, 0x500000000000), "");
	symbols_deinit(&s);
	/* A size that reaches over the border. */
	symbols_init(&s, 0x1000);
	add(&s, 0xfffffff0, 0x20, SYMBOL_GLOBAL, "across");
	add(&s, 0x200000000, 0x20, SYMBOL_GLOBAL, "behind");
	assert_int_equal(symbols_finish(&s), 0);
	assert_string_equal(at(&s, 0x10000000f), "across");
	assert_string_equal(at(&s, 0x100000010), "");
	symbols_deinit(&s);
}

static void kallsyms__text_is_read_and_hidden_addresses_are_told(void **state)
{
	static const char shown[] = "ffffffff81000000 T _text\nffffffff81000000 T first\nffffffff81000100 d data\n"
				    "ffffffff81000200 t second\nffffffffc0000000 t in_module\t[mod]\njunk\n";
	static const char hidden[] = "0000000000000000 T _text\n0000000000000000 t second\n";
	struct symbols s;
	bool is_hidden;
	int fd;

	(void)state;
	fd = memory_file(shown, sizeof(shown) - 1);
	lseek(fd, 0, SEEK_SET);
	symbols_init(&s, 0x1000);
	assert_int_equal(kallsyms_load(&s, fd, &is_hidden), 0);
	assert_false(is_hidden);
	assert_string_equal(at(&s, 0xffffffff81000150), "first");
	assert_string_equal(at(&s, 0xffffffff81000210), "second");
	assert_string_equal(at(&s, 0xffffffffc0000001), "in_module");
	assert_string_equal(at(&s, 0xffffffffa0000001), "");
	symbols_deinit(&s);
	close(fd);
	fd = memory_file(hidden, sizeof(hidden) - 1);
	lseek(fd, 0, SEEK_SET);
	symbols_init(&s, 0x1000);
	assert_int_equal(kallsyms_load(&s, fd, &is_hidden), 0);
	assert_true(is_hidden);
	symbols_deinit(&s);
	close(fd);
}

static void kallsyms__own_kernel_takes_8_bytes_and_the_name(void **state)
{
	_cleanup_close_ int fd = open("/proc/kallsyms", O_RDONLY | O_CLOEXEC);
	struct symbols s;
	bool hidden;

	(void)state;
	symbols_init(&s, 1 << 20);
	assert_int_equal(kallsyms_load(&s, fd, &hidden), 0);
	assert_true(hidden || s.count > 10000);
	assert_true(symbols_bytes(&s) <= s.count * 8 + s.names_bytes + 64 * sizeof(struct symbol_block));
	symbols_deinit(&s);
}

static void demangle__cpp_rust_and_plain(void **state)
{
	static const struct {
		const char *mangled, *name;
	} cases[] = {
		{"_ZN3foo3barIiEEvT_", "void foo::bar<int>(int)"},
		{"_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"},
		{"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"},
		{"_RNvCs15kBYyAo9fc_7mycrate3foo", "mycrate::foo"},
		{"main.(*engine).turn", "main.(*engine).turn"},
		{"_Zgarbage", "_Zgarbage"},
		{"malloc", "malloc"},
	};
	char buf[16384], small[16];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(demangle(cases[i].mangled, buf, sizeof(buf)), cases[i].name);
	assert_string_equal(demangle(cases[0].mangled, small, sizeof(small)), cases[0].mangled);
}

static void demangle__name_that_explodes_is_left_alone(void **state)
{
	char name[SYMBOL_NAME_MAX_BYTES] = "_Z1fI", buf[16384];
	size_t n = strlen(name);

	(void)state;
	/* Each pair names the one before twice. */
	n += (size_t)snprintf(name + n, sizeof(name) - n, "1aIiiE");
	for (int i = 0; i < 26 && n + 32 < sizeof(name); i++)
		n += (size_t)snprintf(name + n, sizeof(name) - n, "1bIS%c_S%c_E", i < 10 ? '0' + i : 'A' + i - 10,
				      i < 10 ? '0' + i : 'A' + i - 10);
	snprintf(name + n, sizeof(name) - n, "EvT_");
	assert_non_null(demangle(name, buf, sizeof(buf)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(load_elf__own_function_is_found),
		cmocka_unit_test(load_elf__file_cut_anywhere_is_survived),
		cmocka_unit_test(load_elf__wrong_header_fields_are_survived),
		cmocka_unit_test(load_elf__huge_counts_are_refused_without_memory),
		cmocka_unit_test(find__chooses_by_rank_size_and_nesting),
		cmocka_unit_test(find__starts_in_several_4_gib_blocks),
		cmocka_unit_test(kallsyms__text_is_read_and_hidden_addresses_are_told),
		cmocka_unit_test(kallsyms__own_kernel_takes_8_bytes_and_the_name),
		cmocka_unit_test(demangle__cpp_rust_and_plain),
		cmocka_unit_test(demangle__name_that_explodes_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
