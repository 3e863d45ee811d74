/* A small image room for tests: frames and images in a table. Included by one .c file of a test binary. */
#ifndef BAROSCOPE_TESTS_FAKE_IMAGES_H
#define BAROSCOPE_TESTS_FAKE_IMAGES_H

#include <stdio.h>
#include <string.h>

#include "daemon/image/image.h"

#define FAKE_FRAMES 64

struct images {
	struct frame frames[FAKE_FRAMES];
	struct frame_line lines[FAKE_FRAMES][2];
	bool marked[FAKE_FRAMES];
	struct image images[32];
	struct intern *strings;
	frame_id last;
};

static inline frame_id fake_frame(struct images *t, image_id image, uint64_t address)
{
	frame_id id = ++t->last;

	t->frames[id] = (struct frame){
		.image = image, .offset = address, .address = address, .state = FRAME_NAMELESS, .lines = t->lines[id]};
	return id;
}

/* The first call names the leaf-most line; further ones are its callers. */
static inline void fake_line(struct images *t, frame_id id, const char *function, const char *file, uint32_t line)
{
	struct frame_line *l = &t->lines[id][t->frames[id].line_count++];

	*l = (struct frame_line){.line = line, .start_line = line ? line - 1 : 0};
	if (intern_puts(t->strings, function, &l->function) < 0 || intern_puts(t->strings, file, &l->file) < 0)
		abort();
	l->system_name = l->function;
	t->frames[id].state = FRAME_NAMED;
}

static inline frame_id fake_function(struct images *t, const char *function)
{
	frame_id id = fake_frame(t, IMAGE_FIRST_FILE, 0x1000 + 16 * (t->last + 1));

	fake_line(t, id, function, "", 0);
	return id;
}

const struct frame *images_get_frame(const struct images *t, frame_id id)
{
	return id < FAKE_FRAMES ? &t->frames[id] : NULL;
}

const struct image *images_get(const struct images *t, image_id id)
{
	return id < 32 ? &t->images[id] : NULL;
}

const char *images_nameless(const struct images *t, const struct frame *f, char *text, size_t size)
{
	if (f->image == IMAGE_KERNEL)
		return "[kernel]";
	snprintf(text, size, "[%s]", intern_str(t->strings, t->images[f->image].path));
	return text;
}

void images_mark_frame(struct images *t, frame_id id)
{
	t->marked[id] = true;
}

#endif
