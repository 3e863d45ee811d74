/* Images with both children, for tests: the test program itself is started again, so its main() serves
 * --internal-opener and --internal-parser. */
#ifndef BAROSCOPE_TESTS_UNIT_IMAGE_IMAGE_FIXTURE_H
#define BAROSCOPE_TESTS_UNIT_IMAGE_IMAGE_FIXTURE_H

#include <fcntl.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "daemon/image/image.h"
#include "daemon/util/cleanup.h"
#include "daemon/util/clock.h"

static struct {
	struct event_base *base;
	struct opener *opener;
	struct intern *strings;
	struct images *images;
	char dir[64];
} fix;

static inline void start(const struct images_options *options)
{
	fix.base = event_base_new();
	assert_int_equal(
		opener_create(fix.base, &(struct opener_options){.timeout_ns = 500 * NS_PER_MS}, &fix.opener, NULL), 0);
	assert_int_equal(intern_create(16u << 20, &fix.strings), 0);
	assert_int_equal(images_create(fix.base, fix.opener, fix.strings, options, &fix.images, NULL), 0);
}

static inline int setup(void **state)
{
	(void)state;
	strcpy(fix.dir, "/tmp/baroscope-image-XXXXXX");
	assert_non_null(mkdtemp(fix.dir));
	return 0;
}

static inline void stop(void)
{
	images_destroy(fix.images);
	opener_destroy(fix.opener);
	intern_destroy(fix.strings);
	event_base_free(fix.base);
	fix.images = NULL;
}

static inline int teardown(void **state)
{
	char command[128];

	(void)state;
	stop();
	unsetenv("BAROSCOPE_CHILD_FAULT");
	clock_fake(0, 0);
	snprintf(command, sizeof(command), "rm -rf '%s'", fix.dir);
	return system(command);
}

static inline void on_idle(void *user, bool idle)
{
	*(int *)user = idle ? 1 : -1;
}

static inline void wait_idle(void)
{
	int done = 0;

	assert_int_equal(images_when_idle(fix.images, 20 * NS_PER_S, on_idle, &done), 0);
	while (!done)
		assert_int_equal(event_base_loop(fix.base, EVLOOP_ONCE), 0);
	assert_int_equal(done, 1);
}

static inline image_id ref_pid(const char *path, uint32_t pid)
{
	struct image_key key = {.path = path};
	struct opener_file file = {.pid = pid, .path = path};
	struct stat st;
	image_id id;

	if (!lstat(path, &st)) {
		key.inode = file.inode = st.st_ino;
		key.dev_major = file.dev_major = major(st.st_dev);
		key.dev_minor = file.dev_minor = minor(st.st_dev);
	}
	assert_int_equal(images_ref(fix.images, &key, &file, &id), 0);
	return id;
}

static inline image_id ref(const char *path)
{
	return ref_pid(path, (uint32_t)getpid());
}

static inline frame_id frame_of(image_id image, uint64_t offset)
{
	frame_id id;

	assert_int_equal(images_frame(fix.images, image, offset, &id), 0);
	return id;
}

static inline const struct frame *get(frame_id id)
{
	return images_get_frame(fix.images, id);
}

static inline const char *name_of(frame_id id)
{
	const struct frame *f = get(id);

	return f->line_count ? intern_str(fix.strings, f->lines[0].function) : "";
}

static inline const char *problem_of(image_id id)
{
	return intern_str(fix.strings, images_get(fix.images, id)->problem);
}

static inline const char *self_path(void)
{
	static char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	assert_true(n > 0);
	path[n] = '\0';
	return path;
}

struct find_offset {
	uintptr_t address;
	uint64_t offset;
};

static inline int find_offset(struct dl_phdr_info *info, size_t size, void *user)
{
	struct find_offset *f = user;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + p->p_vaddr;

		if (p->p_type != PT_LOAD || f->address < start || f->address >= start + p->p_filesz)
			continue;
		f->offset = f->address - start + p->p_offset;
		return 1;
	}
	return 0;
}

static inline uint64_t offset_of(const void *code)
{
	struct find_offset f = {.address = (uintptr_t)code};

	assert_int_equal(dl_iterate_phdr(find_offset, &f), 1);
	return f.offset;
}

static inline void write_file(const char *name, const void *data, size_t len, char *ret_path, size_t size)
{
	_cleanup_close_ int fd = -1;

	snprintf(ret_path, size, "%s/%s", fix.dir, name);
	fd = open(ret_path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
}

#endif
