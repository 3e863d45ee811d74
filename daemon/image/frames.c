/* The table of frames, see frames.h. */
#include "daemon/image/frames.h"

#include <errno.h>
#include <string.h>

#define CHUNK_FRAMES 4096u
#define CHUNK_FUNCTIONS 1024u

static struct frame *place(const struct frames *f, frame_id id)
{
	return &f->chunks[id / CHUNK_FRAMES][id % CHUNK_FRAMES];
}

static struct function *function_place(const struct frames *f, uint32_t id)
{
	return &f->function_chunks[id / CHUNK_FUNCTIONS][id % CHUNK_FUNCTIONS];
}

static uint64_t hash_key(const struct frames *f, image_id image, uint64_t offset)
{
	return hash_mix(hash_mix(f->seed, image), offset);
}

static uint64_t hash_of_frame(const void *user, uint32_t id)
{
	const struct frames *f = user;

	return hash_key(f, place(f, id)->image, place(f, id)->offset);
}

static uint64_t hash_names(const struct frames *f, intern_id function, intern_id system_name)
{
	return hash_mix(hash_mix(f->seed, function), system_name);
}

static uint64_t hash_of_function(const void *user, uint32_t id)
{
	const struct frames *f = user;
	const struct frame_line *line = &function_place(f, id)->line;

	return hash_names(f, line->function, line->system_name);
}

void frames_init(struct frames *f, size_t max)
{
	*f = (struct frames){.max = max, .seed = hash_seed(), .end = 1, .function_end = 1};
}

void frames_deinit(struct frames *f)
{
	for (size_t i = 0; i < f->chunk_count; i++)
		free(f->chunks[i]);
	for (size_t i = 0; i < f->function_chunk_count; i++)
		free(f->function_chunks[i]);
	free(f->chunks);
	free(f->function_chunks);
	free(f->marks);
	index_deinit(&f->by_key);
	index_deinit(&f->by_names);
	*f = (struct frames){0};
}

static int add_chunk(struct frames *f)
{
	size_t n = f->chunk_count + 1;
	struct frame **chunks = realloc(f->chunks, n * sizeof(*chunks));
	uint8_t *marks;

	if (!chunks)
		return -ENOMEM;
	f->chunks = chunks;
	marks = realloc(f->marks, n * CHUNK_FRAMES / 8);
	if (!marks)
		return -ENOMEM;
	f->marks = marks;
	memset(marks + f->chunk_count * CHUNK_FRAMES / 8, 0, CHUNK_FRAMES / 8);
	chunks[f->chunk_count] = malloc(CHUNK_FRAMES * sizeof(**chunks));
	if (!chunks[f->chunk_count])
		return -ENOMEM;
	f->chunk_count = n;
	return 0;
}

static void set_mark(struct frames *f, frame_id id)
{
	f->marks[id / 8] |= (uint8_t)(1u << id % 8);
}

static bool has_mark(const struct frames *f, frame_id id)
{
	return f->marks[id / 8] & (1u << id % 8);
}

int frames_put(struct frames *f, image_id image, uint64_t offset, frame_id *ret, bool *ret_new)
{
	uint64_t hash = hash_key(f, image, offset);
	frame_id id;
	int r;

	INDEX_EACH(&f->by_key, hash, i)
	{
		id = INDEX_ID(&f->by_key, i);
		if (place(f, id)->image == image && place(f, id)->offset == offset) {
			*ret = id;
			*ret_new = false;
			return 0;
		}
	}
	if (f->count >= f->max)
		return -ENOSPC;
	r = index_reserve(&f->by_key, f->count + 1, hash_of_frame, f);
	if (r)
		return r;
	if (!f->free_id && f->end >= f->chunk_count * CHUNK_FRAMES) {
		r = add_chunk(f);
		if (r)
			return r;
	}
	if (f->free_id) {
		id = f->free_id;
		f->free_id = (uint32_t)place(f, id)->address;
	} else {
		id = f->end++;
	}
	*place(f, id) = (struct frame){.image = image, .offset = offset, .address = offset, .state = FRAME_PENDING};
	index_insert(&f->by_key, hash, id);
	set_mark(f, id); /* a mark phase under way does not know it */
	f->count++;
	f->pending++;
	*ret = id;
	*ret_new = true;
	return 0;
}

struct frame *frames_get(const struct frames *f, frame_id id)
{
	struct frame *frame;

	if (id == 0 || id >= f->end)
		return NULL;
	frame = place(f, id);
	return frame->image == IMAGE_NONE && frame->offset == FRAME_FREE ? NULL : frame;
}

static void leave_state(struct frames *f, const struct frame *frame)
{
	if (frame->state == FRAME_PENDING)
		f->pending--;
	else if (frame->state == FRAME_NAMELESS)
		f->nameless--;
}

static int put_function(struct frames *f, intern_id function, intern_id system_name, const struct frame_line **ret)
{
	uint64_t hash = hash_names(f, function, system_name);
	struct function *y;
	uint32_t id;
	int r;

	INDEX_EACH(&f->by_names, hash, i)
	{
		y = function_place(f, INDEX_ID(&f->by_names, i));
		if (y->line.function == function && y->line.system_name == system_name) {
			*ret = &y->line;
			return 0;
		}
	}
	r = index_reserve(&f->by_names, f->by_names.count + 1, hash_of_function, f);
	if (r)
		return r;
	if (f->function_free) {
		id = f->function_free;
		f->function_free = function_place(f, id)->line.function;
	} else {
		if (f->function_end >= f->function_chunk_count * CHUNK_FUNCTIONS) {
			size_t n = f->function_chunk_count + 1;
			struct function **chunks = realloc(f->function_chunks, n * sizeof(*chunks));

			if (!chunks)
				return -ENOMEM;
			f->function_chunks = chunks;
			chunks[n - 1] = calloc(CHUNK_FUNCTIONS, sizeof(**chunks));
			if (!chunks[n - 1])
				return -ENOMEM;
			f->function_chunk_count = n;
		}
		id = f->function_end++;
	}
	y = function_place(f, id);
	*y = (struct function){.line = {.function = function, .system_name = system_name}, .used = true};
	index_insert(&f->by_names, hash, id);
	*ret = &y->line;
	return 0;
}

int frames_set_name(struct frames *f, struct frame *frame, uint64_t address, intern_id function, intern_id system_name)
{
	const struct frame_line *line;
	int r = put_function(f, function, system_name, &line);

	if (r)
		return r;
	leave_state(f, frame);
	frame->state = FRAME_NAMED;
	frame->address = address;
	frame->lines = line;
	frame->line_count = 1;
	return 0;
}

void frames_set_nameless(struct frames *f, struct frame *frame, uint64_t address)
{
	leave_state(f, frame);
	frame->state = FRAME_NAMELESS;
	frame->address = address;
	frame->lines = NULL;
	frame->line_count = 0;
	f->nameless++;
}

void frames_set_pending(struct frames *f, struct frame *frame)
{
	leave_state(f, frame);
	frame->state = FRAME_PENDING;
	frame->address = frame->offset;
	frame->lines = NULL;
	frame->line_count = 0;
	f->pending++;
}

void frames_begin_mark(struct frames *f)
{
	if (f->marks)
		memset(f->marks, 0, f->chunk_count * CHUNK_FRAMES / 8);
}

void frames_mark(struct frames *f, frame_id id)
{
	if (id < f->end)
		set_mark(f, id);
}

static void sweep_functions(struct frames *f, struct intern *strings)
{
	size_t kept = 0;

	for (uint32_t id = 1; id < f->function_end; id++) {
		struct function *y = function_place(f, id);

		if (y->used && !y->marked) {
			*y = (struct function){.line = {.function = f->function_free}};
			f->function_free = id;
		}
		kept += y->used;
	}
	index_clear(&f->by_names, kept);
	for (uint32_t id = 1; id < f->function_end; id++) {
		struct function *y = function_place(f, id);

		if (!y->used)
			continue;
		y->marked = false;
		index_insert(&f->by_names, hash_names(f, y->line.function, y->line.system_name), id);
		intern_mark(strings, y->line.function);
		intern_mark(strings, y->line.system_name);
	}
}

void frames_sweep(struct frames *f, struct intern *strings, frames_dropped_fn *dropped, void *user)
{
	for (frame_id id = 1; id < f->end; id++) {
		struct frame *frame = frames_get(f, id);

		if (!frame)
			continue;
		if (has_mark(f, id)) {
			/* The line is the first member of its function. */
			if (frame->lines)
				((struct function *)(void *)(uintptr_t)frame->lines)->marked = true;
			continue;
		}
		leave_state(f, frame);
		f->count--;
		dropped(user, frame);
		*frame = (struct frame){.image = IMAGE_NONE, .offset = FRAME_FREE, .address = f->free_id};
		f->free_id = id;
	}
	index_clear(&f->by_key, f->count);
	for (frame_id id = 1; id < f->end; id++)
		if (frames_get(f, id))
			index_insert(&f->by_key, hash_of_frame(f, id), id);
	sweep_functions(f, strings);
}
