/* An opener that answers from a table and images that are only counted, so that the tests of this room need no child
 * process. Included by one test file each, in place of the real rooms. */
#ifndef BAROSCOPE_TEST_TARGET_FAKES_H
#define BAROSCOPE_TEST_TARGET_FAKES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "daemon/image/image.h"
#include "daemon/opener/opener.h"

#define FAKE_TEXTS 4096
#define FAKE_IMAGES 64

struct fake_request {
	uint32_t pid;
	enum proc_file file;
	opener_text_fn *fn;
	void *user;
};

static struct {
	struct {
		uint32_t pid;
		enum proc_file file;
		const char *text;
		size_t len;
	} texts[FAKE_TEXTS];
	size_t text_count;
	struct fake_request requests[256];
	size_t request_count;
	size_t requests_made[PROC_FILE_COUNT];
	bool refuse; /* its queue is full */
	struct {
		uint64_t inode;
		uint32_t refs;
		char path[64];
	} images[FAKE_IMAGES];
	size_t image_limit;
} fake;

static inline void fake_reset(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.image_limit = FAKE_IMAGES;
}

static inline void fake_put(uint32_t pid, enum proc_file file, const char *text, size_t len)
{
	for (size_t i = 0; i < fake.text_count; i++) {
		if (fake.texts[i].pid == pid && fake.texts[i].file == file) {
			fake.texts[i].text = text;
			fake.texts[i].len = len;
			return;
		}
	}
	assert_true(fake.text_count < FAKE_TEXTS);
	fake.texts[fake.text_count].pid = pid;
	fake.texts[fake.text_count].file = file;
	fake.texts[fake.text_count].text = text;
	fake.texts[fake.text_count++].len = len;
}

static inline void fake_puts(uint32_t pid, enum proc_file file, const char *text)
{
	fake_put(pid, file, text, strlen(text));
}

static inline void fake_remove(uint32_t pid)
{
	for (size_t i = 0; i < fake.text_count; i++)
		if (fake.texts[i].pid == pid)
			fake.texts[i].pid = 0;
}

static inline int fake_find(uint32_t pid, enum proc_file file, const char **ret_text, size_t *ret_len)
{
	for (size_t i = 0; i < fake.text_count; i++) {
		if (fake.texts[i].pid == pid && fake.texts[i].file == file) {
			*ret_text = fake.texts[i].text;
			*ret_len = fake.texts[i].len;
			return 0;
		}
	}
	return -ENOENT;
}

/* Answers all requests that wait, as the loop would. */
static inline size_t fake_answer(void)
{
	size_t answered = 0;

	while (fake.request_count) {
		struct fake_request r = fake.requests[0];
		const char *text = NULL;
		size_t len = 0;
		int error = fake_find(r.pid, r.file, &text, &len);

		memmove(fake.requests, fake.requests + 1, --fake.request_count * sizeof(r));
		r.fn(r.user, error, text, len);
		answered++;
	}
	return answered;
}

int opener_read_proc(struct opener *o, uint32_t pid, enum proc_file file, opener_text_fn *fn, void *user)
{
	(void)o;
	if (fake.refuse || fake.request_count == sizeof(fake.requests) / sizeof(fake.requests[0]))
		return -EAGAIN;
	fake.requests[fake.request_count++] = (struct fake_request){pid, file, fn, user};
	fake.requests_made[file]++;
	return 0;
}

int opener_read_proc_sync(struct opener *o, uint32_t pid, enum proc_file file, char **ret_text, size_t *ret_len)
{
	const char *text;
	size_t len;
	int r = fake_find(pid, file, &text, &len);

	(void)o;
	fake.requests_made[file]++;
	if (r < 0)
		return r;
	*ret_text = malloc(len + 1);
	assert_non_null(*ret_text);
	memcpy(*ret_text, text, len);
	*ret_len = len;
	return 0;
}

void opener_cancel(struct opener *o, void *user)
{
	(void)o;
	for (size_t i = 0; i < fake.request_count; i++) {
		if (fake.requests[i].user == user) {
			struct fake_request r = fake.requests[i];

			memmove(fake.requests + i, fake.requests + i + 1, (--fake.request_count - i) * sizeof(r));
			r.fn(r.user, -ECANCELED, NULL, 0);
			return;
		}
	}
}

/* Images are numbered by their inode. */
int images_ref(struct images *t, const struct image_key *key, const struct opener_file *file, image_id *ret)
{
	(void)t;
	(void)file;
	for (size_t i = 0; i < fake.image_limit; i++) {
		if (fake.images[i].inode == key->inode || !fake.images[i].inode) {
			fake.images[i].inode = key->inode;
			fake.images[i].refs++;
			snprintf(fake.images[i].path, sizeof(fake.images[i].path), "%s", key->path);
			*ret = IMAGE_FIRST_FILE + (image_id)i;
			return 0;
		}
	}
	return -ENOSPC;
}

void images_ref_again(struct images *t, image_id id)
{
	(void)t;
	assert_true(fake.images[id - IMAGE_FIRST_FILE].refs > 0);
	fake.images[id - IMAGE_FIRST_FILE].refs++;
}

void images_unref(struct images *t, image_id id)
{
	(void)t;
	assert_true(fake.images[id - IMAGE_FIRST_FILE].refs > 0);
	fake.images[id - IMAGE_FIRST_FILE].refs--;
}

static inline uint32_t fake_image_refs(uint64_t inode)
{
	for (size_t i = 0; i < FAKE_IMAGES; i++)
		if (fake.images[i].inode == inode)
			return fake.images[i].refs;
	return 0;
}

static inline uint64_t fake_image_inode(image_id id)
{
	return id >= IMAGE_FIRST_FILE ? fake.images[id - IMAGE_FIRST_FILE].inode : 0;
}

#endif
