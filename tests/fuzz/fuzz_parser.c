/* Fuzzer of everything that reads foreign bytes in the parser: an input is a file that is an ELF image, and the text of
 * a kallsyms. Whatever table the parser makes of it is one that the daemon takes. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/elf.h"
#include "daemon/image/parser_table.h"
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

/* As the daemon does: the parts have to fill the block that the first one names. */
static int take_part(void *user, uint32_t total_bytes, uint32_t offset, const struct iovec *pieces, size_t piece_count)
{
	struct table **block = user;

	if (!*block)
		*block = malloc(total_bytes);
	if (!*block)
		return -ENOMEM;
	for (size_t i = 0; i < piece_count; i++) {
		if (offset > total_bytes || pieces[i].iov_len > total_bytes - offset)
			abort();
		memcpy((char *)*block + offset, pieces[i].iov_base, pieces[i].iov_len);
		offset += (uint32_t)pieces[i].iov_len;
	}
	return 0;
}

static void compile_table(const struct elf_file *f)
{
	_cleanup_free_ struct table *block = NULL;
	char key[TABLE_KEY_BYTES], compiled_key[TABLE_KEY_BYTES];
	struct err e = {0};

	if (parser_table_key(f, 1, key) || parser_table_compile(f, 1, 1000, take_part, &block, compiled_key, &e))
		return;
	/* The file has not changed between the two. */
	if (table_check(block, block->bytes) || strcmp(key, compiled_key) != 0)
		abort();
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
		compile_table(&f);
		elf_close(&f);
	}
	lseek(fd, 0, SEEK_SET);
	symbols_init(&s, 1 << 20);
	if (!kallsyms_load(&s, fd, &hidden))
		look_up(&s);
	symbols_deinit(&s);
	return 0;
}
