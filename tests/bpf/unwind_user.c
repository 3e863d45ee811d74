/* See unwind_user.h. The only file that includes bpf/unwind.h for user space: its maps are variables here, found by
 * their addresses, and its helpers are functions of the walker that is `current`. */
#include "tests/bpf/unwind_user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/cleanup.h"
#include "tests/bpf/shim.h"

static long shim_read_user(void *to, uint32_t bytes, uint64_t from);
static bool shim_tail_call(void);
#define __array(name, value) __typeof__(value) *name[]
#define bpf_probe_read_user(to, bytes, from) shim_read_user(to, bytes, (uint64_t)(uintptr_t)(from))
/* The program that calls itself is the loop in unwind_user_walk. */
#define bpf_tail_call(ctx, map, slot)                                                                                  \
	do {                                                                                                           \
		(void)(ctx), (void)(map), (void)(slot);                                                                \
		if (shim_tail_call())                                                                                  \
			return;                                                                                        \
	} while (0)

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "bpf/unwind.h"

_Static_assert(UNWIND_USER_REGISTERS <= SCRATCH_REGISTERS, "scratch.registers");

#define MAX_IMAGES 4096
#define MAX_SEGMENTS 256
#define INFO_SLOTS (2 * UNWIND_MAX_INFOS)

struct unwind_user {
	unwind_user_read read;
	void *read_user;
	const struct mapping_value *mappings;
	uint32_t mapping_count;
	struct scratch scratch;
	struct unwind_image images[MAX_IMAGES];
	bool loaded[MAX_IMAGES];
	struct unwind_info infos[UNWIND_MAX_INFOS];
	uint32_t info_slots[INFO_SLOTS]; /* index + 1 */
	uint32_t info_count;
	struct unwind_segment *segments[MAX_SEGMENTS];
	uint32_t segment_used[MAX_SEGMENTS]; /* words */
	bool tail_calls_fail;
	uint32_t tail_calls;
};

static struct unwind_user *current;

/* --- helpers and maps ----------------------------------------------------------------------------------------------*/

static long shim_read_user(void *to, uint32_t bytes, uint64_t from)
{
	return current->read(current->read_user, to, bytes, from) ? -EFAULT : 0;
}

static bool shim_tail_call(void)
{
	if (current->tail_calls_fail)
		return false;
	current->tail_calls++;
	return true;
}

void *shim_map_lookup(const void *map, const void *key)
{
	struct unwind_user *u = current;
	uint32_t i = *(const uint32_t *)key;

	if (map == &mappings)
		return i < u->mapping_count ? (void *)(uintptr_t)&u->mappings[i] : NULL;
	if (map == &scratch)
		return &u->scratch;
	if (map == &unwind_images)
		return i < MAX_IMAGES && u->loaded[i] ? &u->images[i] : NULL;
	if (map == &unwind_infos)
		return i < UNWIND_MAX_INFOS ? &u->infos[i] : NULL;
	if (map == &unwind_segments)
		return i < MAX_SEGMENTS && u->segments[i] ? &u->segments[i] : NULL;
	for (size_t s = 0; s < MAX_SEGMENTS; s++)
		if (map == &u->segments[s])
			return u->segments[s];
	return NULL;
}

/* The walker writes to no map and sends nothing; the headers' other functions would. */
long shim_map_update(const void *map, const void *key, const void *value)
{
	(void)map, (void)key, (void)value;
	return 0;
}

long shim_get_stack(void *buffer, uint32_t size, uint64_t flags)
{
	(void)buffer, (void)size, (void)flags;
	return -EFAULT;
}

long shim_ringbuf_output(const void *data, uint64_t size)
{
	(void)data, (void)size;
	return 0;
}

/* --- loading -------------------------------------------------------------------------------------------------------*/

static uint32_t *info_slot(struct unwind_user *u, const struct unwind_info *info)
{
	uint64_t key;
	uint32_t slot;

	memcpy(&key, info, sizeof(key));
	slot = (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32) % INFO_SLOTS;
	while (u->info_slots[slot] && memcmp(&u->infos[u->info_slots[slot] - 1], info, sizeof(*info)) != 0)
		slot = (slot + 1) % INFO_SLOTS;
	return &u->info_slots[slot];
}

static int info_add(struct unwind_user *u, struct cfi_info info, uint16_t *ret)
{
	struct unwind_info own;
	uint32_t *slot;

	memcpy(&own, &info, sizeof(own));
	slot = info_slot(u, &own);
	if (!*slot) {
		if (u->info_count == UNWIND_MAX_INFOS)
			return -ENOSPC;
		u->infos[u->info_count++] = own;
		*slot = u->info_count;
	}
	*ret = (uint16_t)(*slot - 1);
	return 0;
}

int unwind_user_create(struct unwind_user **ret)
{
	struct unwind_user *u = calloc(1, sizeof(*u));
	uint16_t index;

	if (!u)
		return -ENOMEM;
	info_add(u, (struct cfi_info){0}, &index);
	info_add(u, (struct cfi_info){.rules = UNWIND_CFA_INVALID}, &index);
	*ret = u;
	return 0;
}

void unwind_user_destroy(struct unwind_user *u)
{
	if (!u)
		return;
	for (size_t i = 0; i < MAX_SEGMENTS; i++)
		free(u->segments[i]);
	free(u);
}

void unwind_user_memory(struct unwind_user *u, unwind_user_read read, void *user)
{
	u->read = read;
	u->read_user = user;
}

void unwind_user_mappings(struct unwind_user *u, const struct mapping_value *mapping_values, uint32_t count)
{
	u->mappings = mapping_values;
	u->mapping_count = count;
}

int unwind_user_take(struct unwind_user *u, uint32_t words, uint32_t *ret_segment, uint32_t *ret_start)
{
	for (uint32_t i = 0; i < MAX_SEGMENTS; i++) {
		if (!u->segments[i])
			u->segments[i] = calloc(1, sizeof(*u->segments[i]));
		if (!u->segments[i])
			return -ENOMEM;
		if (u->segment_used[i] + words <= UNWIND_SEGMENT_WORDS) {
			*ret_segment = i;
			*ret_start = u->segment_used[i];
			u->segment_used[i] += words;
			return 0;
		}
	}
	return -ENOSPC;
}

static int load_page(struct unwind_user *u, const struct cfi_tables *t, const struct cfi_page *p,
		     const uint16_t *renumbered, uint64_t *ret)
{
	uint32_t segment = 0, start = 0;
	int r;

	if (p->count) {
		r = unwind_user_take(u, p->count, &segment, &start);
		if (r)
			return r;
	}
	for (uint32_t i = 0; i < p->count; i++)
		u->segments[segment]->rows[start + i] = (struct unwind_row){
			.low = t->rows[p->start + i].low, .info = renumbered[t->rows[p->start + i].info]};
	*ret = UNWIND_PAGE(segment, start, p->count);
	return 0;
}

int unwind_user_load(struct unwind_user *u, uint32_t image, const struct cfi_tables *t)
{
	_cleanup_free_ uint16_t *renumbered = NULL;
	struct unwind_image img = {.flags = UNWIND_IMAGE_FLAGS(image, 0)};
	uint32_t start;
	int r = 0;

	if (image >= MAX_IMAGES)
		return -ENOSPC;
	if (!t) {
		u->images[image] =
			(struct unwind_image){.flags = UNWIND_IMAGE_FLAGS(image, UNWIND_IMAGE_FRAME_POINTER)};
		u->loaded[image] = true;
		return 0;
	}
	renumbered = malloc((t->info_count + 1) * sizeof(*renumbered));
	if (!renumbered)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->info_count && !r; i++)
		r = info_add(u, t->infos[i], &renumbered[i]);
	/* Page entries are two words, aligned to two. */
	if (!r)
		r = unwind_user_take(u, t->page_count * 2 + 1, &img.segment, &start);
	if (r)
		return r;
	img.start = (start + 1) / 2;
	img.first_page = t->first_page;
	img.page_count = t->page_count;
	for (uint32_t i = 0; i < t->page_count && !r; i++)
		r = load_page(u, t, &t->pages[i], renumbered, &u->segments[img.segment]->pages[img.start + i]);
	if (r)
		return r;
	u->images[image] = img;
	u->loaded[image] = true;
	return 0;
}

bool unwind_user_loaded(const struct unwind_user *u, uint32_t image)
{
	return image < MAX_IMAGES && u->loaded[image];
}

struct unwind_image *unwind_user_image(struct unwind_user *u, uint32_t image)
{
	return unwind_user_loaded(u, image) ? &u->images[image] : NULL;
}

struct unwind_segment *unwind_user_segment(struct unwind_user *u, uint32_t segment)
{
	return segment < MAX_SEGMENTS ? u->segments[segment] : NULL;
}

/* --- walking -------------------------------------------------------------------------------------------------------*/

void unwind_user_tail_calls_work(struct unwind_user *u, bool work)
{
	u->tail_calls_fail = !work;
}

uint64_t unwind_user_row(struct unwind_user *u, uint32_t segment, uint32_t start, uint32_t count, uint32_t low)
{
	current = u;
	return unwind_row(segment, start, count, low);
}

int unwind_user_find_mapping(struct unwind_user *u, uint64_t address)
{
	int at;

	current = u;
	at = find_mapping(0, u->mapping_count, address);
	if (at < 0 || address - u->mappings[at].start >= (uint64_t)u->mappings[at].pages << 12)
		return -1;
	return at;
}

void unwind_user_walk(struct unwind_user *u, uint64_t pc, uint64_t sp, uint64_t bp, const uint64_t *registers,
		      uint32_t max_frames, struct unwind_walk *ret)
{
	struct unwind_state *st = &u->scratch.walk;

	current = u;
	u->tail_calls = 0;
	u->scratch.stack = (struct record_stack){0};
	unwind_begin(&u->scratch, pc, sp, bp, 0, u->mapping_count, max_frames, 0);
	/* Without, those of the walk before stay, as they do in the kernel. */
	if (registers) {
		memcpy(u->scratch.registers, registers, UNWIND_USER_REGISTERS * sizeof(*registers));
		st->has_registers = 1;
	}
	unwind_next(NULL, 0, NULL);
	while (st->end == UNWIND_END_RUNNING)
		if (!unwind_run(0))
			unwind_next(NULL, 0, NULL);
	ret->end = (enum unwind_end)st->end;
	ret->frame_count = st->frame_count;
	memcpy(ret->frames, u->scratch.frames, st->frame_count * sizeof(ret->frames[0]));
	ret->pc = st->pc;
	ret->sp = st->sp;
	ret->bp = st->bp;
	ret->tail_calls = u->tail_calls;
	ret->by_frame_pointer = st->by_frame_pointer;
	ret->no_table = st->no_table;
}

bool unwind_end_whole(enum unwind_end end)
{
	return end > UNWIND_END_RUNNING && end < UNWIND_END_WHOLE_COUNT;
}

const char *unwind_end_name(enum unwind_end end)
{
	static const char *const end_names[] = {
		"running",
#define X(sym, name, help) name,
		UNWIND_WHOLE_ENDS(X) INCOMPLETE_CAUSES(X)
#undef X
	};

	return (size_t)end < ARRAY_SIZE(end_names) ? end_names[end] : "?";
}
