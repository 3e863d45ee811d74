/* stacks.4: what compiling a file's call frame information costs. `bench_tables FILE...`, or without arguments the
 * usual large ones of the machine. One child a file, so that the peak is that file's.
 *
 * Prints: stacks.4 FILE ms (CPU, best of 5) peak (MB over the empty process) rows (before merging) stored infos, bytes
 * a row (all that the tables take, over rows before merging). Nothing here passes or fails. */
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/image/cfi.h"
#include "daemon/util/cleanup.h"

#define ROUNDS 5

static double cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double peak_mb(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_maxrss / 1024;
}

static int bench(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	double best = 1e9, before = peak_mb();
	struct cfi_tables tables;
	struct err e = {0};
	double bytes;

	if (fd < 0) {
		printf("skip %s: cannot be opened\n", path);
		return 0;
	}
	for (int i = 0; i < ROUNDS; i++) {
		struct elf_file file;
		double started = cpu_ms(), took;

		if (elf_open(fd, &file, &e) || cfi_compile(&file, NULL, &tables, &e)) {
			printf("stacks.4 %s: %s\n", path, e.text);
			return 1;
		}
		elf_close(&file);
		took = cpu_ms() - started;
		if (took < best)
			best = took;
		if (i + 1 < ROUNDS)
			cfi_free(&tables);
	}
	bytes = tables.row_count * 4.0 + tables.info_count * 8.0 + tables.page_count * 8.0;
	printf("stacks.4 %s: %.1f ms, peak %.1f MB, %lu rows, %u stored, %u infos, %.2f bytes a row, %.2f a stored "
	       "row;",
	       strrchr(path, '/') ? strrchr(path, '/') + 1 : path, best, peak_mb() - before,
	       (unsigned long)tables.counts[CFI_ROWS], tables.row_count, tables.info_count,
	       bytes / (double)tables.counts[CFI_ROWS], bytes / tables.row_count);
#define X(sym, name, help)                                                                                             \
	if (CFI_##sym != CFI_ROWS && tables.counts[CFI_##sym])                                                         \
		printf(" %s %lu", name, (unsigned long)tables.counts[CFI_##sym]);
	CFI_COUNTS(X)
#undef X
	printf("\n");
	cfi_free(&tables);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const usual[] = {
		"/usr/lib/*-linux-gnu/libc.so.6",
		"/usr/bin/python3",
		"/usr/bin/node",
		"/usr/lib/jvm/java-17-openjdk-*/lib/server/libjvm.so",
		"/usr/lib/*-linux-gnu/libLLVM-14.so.1",
		"/root/.rustup/toolchains/stable-*/lib/librustc_driver-*.so",
		"/usr/lib/*-linux-gnu/librustc_driver-*.so",
	};
	glob_t files = {0};
	int failed = 0;

	for (size_t i = 0; argc < 2 && i < ARRAY_SIZE(usual); i++)
		glob(usual[i], i ? GLOB_APPEND : 0, NULL, &files);
	for (int i = 1; i < argc; i++)
		glob(argv[i], i > 1 ? GLOB_APPEND | GLOB_NOCHECK : GLOB_NOCHECK, NULL, &files);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		pid_t child;
		int status;

		fflush(stdout);
		child = fork();
		if (child == 0) {
			status = bench(files.gl_pathv[i]);
			fflush(stdout);
			_exit(status);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0 || status)
			failed = 1;
	}
	globfree(&files);
	return failed;
}
