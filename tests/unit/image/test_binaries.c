/* Names of real programs, built here: Go's plain, stripped and position-independent, against `go tool nm`; C++ and Rust
 * demangled. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/image/symbols.h"
#include "daemon/util/cleanup.h"

static char dir[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/baroscope-binaries-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

static __attribute__((format(printf, 1, 2))) int shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

static bool missing(const char *tool, const char *test)
{
	if (shell("command -v %s >/dev/null", tool) == 0)
		return false;
	printf("skip %s: machine: no %s on PATH\n", test, tool);
	return true;
}

static void write_source(const char *name, const char *text)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
}

static void load(const char *name, struct symbols *s)
{
	_cleanup_close_ int fd = -1;
	struct elf_file f;
	struct err e = {0};
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(elf_open(fd, &f, &e), 0);
	symbols_init(s, 65536);
	assert_int_equal(symbols_load_elf(s, &f, &e), 0);
	assert_string_equal(e.text, "");
	elf_close(&f);
}

static const char go_source[] =
	"package main\n"
	"type engine struct{ factor uint64 }\n"
	"//go:noinline\n"
	"func (e *engine) turn(n uint64) uint64 { for i := uint64(0); i < n; i++ { e.factor *= i }; return e.factor }\n"
	"//go:noinline\n"
	"func call(f func(uint64) uint64) uint64 { return f(7) }\n"
	"func main() { e := &engine{3}; println(e.turn(9), call(func(n uint64) uint64 { return n + e.turn(n) })) }\n";

/* Type parameters are written otherwise in the function table, and the linker adds symbols that are no functions. */
static bool comparable(const char *name)
{
	return !strchr(name, '[') && (!strncmp(name, "main.", 5) || !strncmp(name, "runtime.", 8));
}

/* The linker marks functions of the old calling convention; the function table does not. */
static bool same_name(const char *found, const char *name)
{
	size_t len = strlen(found);

	return !strncmp(found, name, len) && (!name[len] || !strcmp(name + len, ".abi0"));
}

/* Each function that `go tool nm` finds in the whole program, by its name in this one. */
static void compare_with_nm(const char *whole, const struct symbols *s)
{
	size_t compared = 0, same = 0, own = 0;
	char command[256], line[1024];
	FILE *nm;

	snprintf(command, sizeof(command), "go tool nm '%s/%s'", dir, whole);
	nm = popen(command, "r");
	assert_non_null(nm);
	while (fgets(line, sizeof(line), nm)) {
		unsigned long long address;
		const char *found;
		uint64_t start;
		char type, name[512];

		if (sscanf(line, "%llx %c %511s", &address, &type, name) != 3 || toupper(type) != 'T' ||
		    !comparable(name))
			continue;
		found = symbols_find(s, address, &start);
		compared++;
		same += found && start == address && same_name(found, name);
		if (!strncmp(name, "main.", 5)) {
			assert_non_null(found);
			assert_string_equal(found, name);
			assert_int_equal(start, address);
			own++;
		}
	}
	assert_int_equal(pclose(nm), 0);
	assert_true(own >= 4); /* main, turn, call, the closure */
	assert_true(compared > 500);
	/* Aliases at one address differ: runtime.text and the first function. */
	assert_in_range(compared - same, 0, 4);
}

static void go(const char *test, const char *mode)
{
	static const char build[] =
		"cd '%s' && HOME=\"${HOME:-$PWD}\" GOFLAGS=-mod=mod GOTOOLCHAIN=local CGO_ENABLED=0 "
		"go build %s %s -o %s main.go >&2";
	struct symbols s;

	if (missing("go", test))
		skip();
	write_source("main.go", go_source);
	assert_int_equal(shell(build, dir, mode, "", "whole"), 0);
	assert_int_equal(shell(build, dir, mode, "-ldflags='-s -w'", "stripped"), 0);
	load("whole", &s);
	compare_with_nm("whole", &s);
	symbols_deinit(&s);
	load("stripped", &s);
	compare_with_nm("whole", &s);
	symbols_deinit(&s);
}

static void go__names_are_those_of_nm(void **state)
{
	(void)state;
	go("go__names_are_those_of_nm", "");
}

static void go__names_of_pie_are_those_of_nm(void **state)
{
	(void)state;
	go("go__names_of_pie_are_those_of_nm", "-buildmode=pie");
}

/* How many symbols have this demangled name. */
static size_t count_demangled(const struct symbols *s, const char *want)
{
	static char text[16384];
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++) {
		uint64_t start;
		const char *name = symbols_find(s, symbols_start(s, i), &start);

		n += name && !strcmp(demangle(name, text, sizeof(text)), want);
	}
	return n;
}

static void demangle__names_of_a_cpp_program(void **state)
{
	static const char *const wanted[] = {
		"unsigned long work::churn<unsigned long, 29>(unsigned long)",
		"work::Engine::turn(unsigned long) const",
		"work::Engine::operator()(int, char const*) const",
		"(anonymous namespace)::hidden(work::Engine&&)",
		"std::vector<work::Engine, std::allocator<work::Engine> >::size() const",
	};
	struct symbols s;

	(void)state;
	if (missing("g++", "demangle__names_of_a_cpp_program"))
		skip();
	write_source("main.cc",
		     "#include <vector>\n"
		     "#define KEEP __attribute__((noinline, noclone, used))\n"
		     "namespace work {\n"
		     "template <typename T, int S> KEEP T churn(T a) { return a ^ a >> S; }\n"
		     "struct Engine {\n"
		     "	unsigned long f;\n"
		     "	KEEP unsigned long turn(unsigned long n) const { return f * n; }\n"
		     "	KEEP unsigned long operator()(int n, const char *p) const { return f + n + *p; }\n"
		     "};\n"
		     "}\n"
		     "namespace { KEEP unsigned long hidden(work::Engine &&e) { return e.f; } }\n"
		     "template class std::vector<work::Engine>;\n"
		     "int main(int argc, char **argv) {\n"
		     "	work::Engine e{(unsigned long)argc};\n"
		     "	return (int)(work::churn<unsigned long, 29>(e.turn(3)) + e(argc, argv[0]) + hidden({4}));\n"
		     "}\n");
	assert_int_equal(shell("cd '%s' && g++ -O1 -o cpp main.cc", dir), 0);
	load("cpp", &s);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (count_demangled(&s, wanted[i]) != 1)
			fail_msg("not one %s", wanted[i]);
	symbols_deinit(&s);
}

static void demangle__names_of_a_rust_program_in_both_schemes(void **state)
{
	static const struct {
		const char *option, *method, *generic;
	} schemes[] = {
		{"", "main::inner::Engine::turn", "main::churn"},
		{"-C symbol-mangling-version=v0", "<main::inner::Engine>::turn", "main::churn::<u64>"},
	};

	(void)state;
	if (missing("rustc", "demangle__names_of_a_rust_program_in_both_schemes"))
		skip();
	write_source("main.rs", "mod inner {\n"
				"	pub struct Engine { pub factor: u64 }\n"
				"	impl Engine {\n"
				"		#[inline(never)]\n"
				"		pub fn turn(&self, n: u64) -> u64 { self.factor.wrapping_mul(n) }\n"
				"	}\n"
				"}\n"
				"#[inline(never)]\n"
				"fn churn<T: std::ops::BitXor<Output = T> + Copy>(a: T, b: T) -> T { a ^ b }\n"
				"fn main() {\n"
				"	let n = std::env::args().count() as u64;\n"
				"	let e = inner::Engine { factor: n };\n"
				"	std::process::exit(churn(e.turn(n), n) as i32 & 1);\n"
				"}\n");
	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
		struct symbols s;

		assert_int_equal(shell("cd '%s' && rustc --edition 2021 -O %s -o rust main.rs", dir, schemes[i].option),
				 0);
		load("rust", &s);
		if (count_demangled(&s, schemes[i].method) != 1)
			fail_msg("not one %s", schemes[i].method);
		if (count_demangled(&s, schemes[i].generic) != 1)
			fail_msg("not one %s", schemes[i].generic);
		symbols_deinit(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(go__names_are_those_of_nm, setup, teardown),
		cmocka_unit_test_setup_teardown(go__names_of_pie_are_those_of_nm, setup, teardown),
		cmocka_unit_test_setup_teardown(demangle__names_of_a_cpp_program, setup, teardown),
		cmocka_unit_test_setup_teardown(demangle__names_of_a_rust_program_in_both_schemes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
