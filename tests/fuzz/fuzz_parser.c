/* Fuzzer of everything that reads foreign bytes in the parser: an input is a file that is an ELF image, and the text of
 * a kallsyms. Build: clang -fsanitize=fuzzer,address,undefined with daemon/image/{elf,symbols,gopclntab,kallsyms,
 * demangle}.c, daemon/util/err.c and -liberty. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/elf.h"
#include "daemon/image/symbols.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_up(const struct symbols *s)
{
	static char text[16384];

	for (size_t i = 0; i < s->count && i < 64; i++) {
		uint64_t start;
		const char *name = symbols_find(s, symbols_start(s, i), &start);

		if (name)
			(void)demangle(name, text, sizeof(text));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct elf_file f;
	struct symbols s;
	struct err e = {0};
	char build_id[2 * BUILD_ID_MAX_BYTES + 1];
	bool hidden;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		return 0;
	if (!elf_open(fd, &f, &e)) {
		elf_build_id(&f, build_id, sizeof(build_id));
		for (uint64_t offset = 0; offset < 1 << 20; offset += 4096) {
			uint64_t address;
			size_t segment;

			(void)elf_address_of(f.segments, f.segment_count, offset, &segment, &address);
		}
		symbols_init(&s, 65536);
		if (!symbols_load_elf(&s, &f, &e))
			look_up(&s);
		symbols_deinit(&s);
		elf_close(&f);
	}
	lseek(fd, 0, SEEK_SET);
	symbols_init(&s, 1 << 20);
	if (!kallsyms_load(&s, fd, &hidden))
		look_up(&s);
	symbols_deinit(&s);
	return 0;
}
