/* A load takes everything first (infos, ranges, perhaps new segments), writes, and names the image last; if anything
 * fails on the way, what was taken goes back as if nothing had happened. What was evicted rests before it is room. So
 * a part of the budget is kept free ahead, and a load that finds no room evicts and is told to come again. */
#include "bpf/track/track_tables.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "bpf/track/track_infos.h"
#include "bpf/track/track_segments.h"
#include "bpf/unwind_abi.h"
#include "daemon/util/clock.h"

#define DEFAULT_BUDGET_BYTES (48ull << 20)
#define DEFAULT_GRACE_NS (2 * NS_PER_S)
#define USED_SHIFT 30			 /* unwind_image.used */
#define AHEAD 16			 /* one part in so many is kept free or resting */
#define MAX_INFOS (UNWIND_MAX_INFOS / 4) /* of one image: as many as the compiler gives */
#define MAX_SHARE                                                                                                      \
	4 /* no image has more than one part in so many: two that don't fit together would drive all others out */
#define MIN_CHUNK 4096u /* words: smaller holes are not filled with a part of an image */

_Static_assert(sizeof(struct cfi_info) == sizeof(struct unwind_info) &&
		       offsetof(struct cfi_info, merge) == offsetof(struct unwind_info, merge),
	       "infos are copied as they are");
_Static_assert((int)CFI_CFA_SIGNAL == UNWIND_CFA_SIGNAL && (int)CFI_BP_UNDEFINED == UNWIND_BP_UNDEFINED &&
		       CFI_MERGE_LESS == UNWIND_MERGE_LESS && CFI_PAGE_BITS == UNWIND_PAGE_BITS,
	       "rules and pages mean the same on both sides");

struct loaded {
	image_id id;
	uint64_t sequence; /* of its load */
	uint32_t rows, pages;
	uint32_t info_count, range_count, range_cap;
	uint16_t *infos;
	struct segment_range *ranges; /* the page entries' first, if it has pages */
	UT_hash_handle hh;
};

struct tables {
	int images_fd;
	uint32_t max_images;
	struct segments *segments;
	struct infos *infos;
	struct loaded *images;
	uint64_t next_sequence;
	uint32_t max_segments;
	struct tables_stats stats;
};

/* Who is told of evictions, and when they happen. */
struct eviction {
	tables_evicted_fn *fn;
	void *user;
	uint64_t now_ns;
	const struct loaded *keep; /* never this one */
};

/* What is to be spare: free, or resting and free soon. */
struct goal {
	uint64_t words;
	uint32_t infos, images;
};

int tables_create(const struct tables_options *options, struct tables **ret, struct err *e)
{
	uint64_t grace_ns = options->grace_ns ? options->grace_ns : DEFAULT_GRACE_NS;
	uint64_t segments =
		(options->budget_bytes ? options->budget_bytes : DEFAULT_BUDGET_BYTES) / sizeof(struct unwind_segment);
	struct tables *t = calloc(1, sizeof(*t));
	struct bpf_map_info info = {0};
	uint32_t bytes = sizeof(info);
	int r;

	if (!t)
		return err_set(e, -ENOMEM, "out of memory");
	t->images_fd = options->images_fd;
	t->max_segments = segments < 1 ? 1 : segments > UNWIND_MAX_SEGMENTS ? UNWIND_MAX_SEGMENTS : (uint32_t)segments;
	t->stats.budget_bytes = t->max_segments * sizeof(struct unwind_segment);
	r = bpf_obj_get_info_by_fd(options->images_fd, &info, &bytes) ? -errno : 0;
	t->max_images = info.max_entries;
	if (!r)
		r = segments_create(options->segments_fd, t->max_segments, grace_ns, &t->segments);
	if (!r)
		r = infos_create(options->infos_fd, grace_ns, &t->infos);
	if (r) {
		tables_destroy(t);
		return err_errno(e, r, "cannot prepare the maps of unwind tables");
	}
	*ret = t;
	return 0;
}

static void loaded_free(struct loaded *l)
{
	free(l->infos);
	free(l->ranges);
	free(l);
}

void tables_destroy(struct tables *t)
{
	struct loaded *l, *next;

	if (!t)
		return;
	HASH_ITER (hh, t->images, l, next) {
		HASH_DEL(t->images, l);
		loaded_free(l);
	}
	segments_destroy(t->segments);
	infos_destroy(t->infos);
	free(t);
}

/* Takes the image out of the kernel; nothing names its rows from here on. */
static void unload(struct tables *t, struct loaded *l, uint64_t now_ns)
{
	bpf_map_delete_elem(t->images_fd, &l->id);
	for (uint32_t i = 0; i < l->range_count; i++)
		segments_give(t->segments, l->ranges[i], now_ns);
	for (uint32_t i = 0; i < l->info_count; i++)
		infos_unref(t->infos, l->infos[i], now_ns);
	t->stats.rows -= l->rows;
	t->stats.used_bytes -= l->rows * sizeof(struct unwind_row) + l->pages * sizeof(uint64_t);
	HASH_DEL(t->images, l);
	loaded_free(l);
}

void tables_drop(struct tables *t, image_id image, uint64_t now_ns)
{
	struct loaded *l;

	HASH_FIND(hh, t->images, &image, sizeof(image), l);
	if (l)
		unload(t, l, now_ns);
}

void tables_tick(struct tables *t, uint64_t now_ns)
{
	segments_wake(t->segments, now_ns);
	infos_wake(t->infos, now_ns);
	segments_release(t->segments);
}

void tables_get_stats(const struct tables *t, struct tables_stats *ret)
{
	*ret = t->stats;
	ret->images = HASH_COUNT(t->images);
	ret->infos = infos_count(t->infos);
	ret->segments = segments_count(t->segments);
}

/* Eviction */

struct candidate {
	uint32_t used;
	struct loaded *image;
};

static int by_age(const void *pa, const void *pb)
{
	const struct candidate *a = pa, *b = pb;

	if (a->used != b->used)
		return a->used < b->used ? -1 : 1;
	return a->image->sequence < b->image->sequence ? -1 : 1;
}

static bool reached(const struct tables *t, const struct goal *g)
{
	return segments_spare_words(t->segments) >= g->words && infos_spare(t->infos) >= g->infos &&
	       t->max_images - HASH_COUNT(t->images) >= g->images;
}

static void evict_until(struct tables *t, const struct goal *g, const struct eviction *how)
{
	_cleanup_free_ struct candidate *all = NULL;
	struct loaded *l, *next;
	size_t count = 0;

	if (reached(t, g) || !t->images)
		return;
	all = malloc(HASH_COUNT(t->images) * sizeof(*all));
	if (!all)
		return;
	HASH_ITER (hh, t->images, l, next) {
		struct unwind_image value = {0};

		if (l == how->keep)
			continue;
		(void)bpf_map_lookup_elem(t->images_fd, &l->id, &value);
		all[count++] = (struct candidate){value.used, l};
	}
	qsort(all, count, sizeof(*all), by_age);
	for (size_t i = 0; i < count && !reached(t, g); i++) {
		image_id id = all[i].image->id;

		unload(t, all[i].image, how->now_ns);
		t->stats.evictions++;
		if (how->fn)
			how->fn(how->user, id);
	}
}

/* How many segments the table takes if all are empty: what place_rows does then. */
static uint32_t segments_needed(const struct table *table)
{
	const struct cfi_page *pages = table_pages(table);
	uint32_t room = UNWIND_SEGMENT_WORDS - table->page_count * 2, needed = table->page_count ? 1 : 0;

	for (uint32_t i = 0; i < table->page_count; i++) {
		if (pages[i].count > room) {
			needed++;
			room = UNWIND_SEGMENT_WORDS;
		}
		room -= pages[i].count;
	}
	return needed;
}

/* Loading */

struct load {
	const struct table *table;
	struct loaded *image;
	uint64_t now_ns;
	uint16_t *host; /* infos' indexes on the host by the table's */
	uint32_t infos_missing;
};

/* Only infos that rows name: others would take places for nothing. */
static int take_infos(struct tables *t, struct load *load)
{
	const struct cfi_row *rows = table_rows(load->table);
	uint32_t count = load->table->info_count;
	_cleanup_free_ bool *named = calloc(count + 1, sizeof(*named));
	struct loaded *l = load->image;
	uint32_t kept = 0;

	load->host = calloc(count + 1, sizeof(*load->host));
	if (!named || !load->host)
		return -ENOMEM;
	for (uint32_t i = 0; i < load->table->row_count; i++)
		named[rows[i].info] = true;
	for (uint32_t i = 0; i < count; i++)
		kept += named[i];
	l->infos = malloc((kept + 1) * sizeof(*l->infos));
	if (!l->infos)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		struct unwind_info value;
		int r;

		if (!named[i])
			continue;
		memcpy(&value, &table_infos(load->table)[i], sizeof(value));
		r = infos_ref(t->infos, value, load->now_ns, &load->host[i]);
		if (r == -ENOSPC)
			load->infos_missing++; /* goes on, to know how many */
		else if (r)
			return r;
		else
			l->infos[l->info_count++] = load->host[i];
	}
	return load->infos_missing ? -ENOSPC : 0;
}

static int take_range(struct tables *t, struct load *load, uint32_t words, uint32_t at_least)
{
	struct loaded *l = load->image;
	int r;

	if (l->range_count == l->range_cap) {
		uint32_t cap = l->range_cap ? l->range_cap * 2 : 2;
		struct segment_range *grown = realloc(l->ranges, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->ranges = grown;
		l->range_cap = cap;
	}
	r = segments_take(t->segments, words, at_least, load->now_ns, &l->ranges[l->range_count]);
	if (!r)
		l->range_count++;
	return r;
}

/* Copies the rows of pages [from, to), which follow each other, into the last range taken. */
static int write_rows(struct tables *t, const struct load *load, uint64_t *entries, uint32_t from, uint32_t to)
{
	const struct segment_range *range = &load->image->ranges[load->image->range_count - 1];
	const struct cfi_page *pages = table_pages(load->table);
	const struct cfi_row *rows = table_rows(load->table);
	uint32_t at = range->start;
	struct unwind_row *out;
	void *memory;
	int r = segments_at(t->segments, *range, &memory);

	if (r)
		return r;
	out = memory;
	for (uint32_t p = from; p < to; p++) {
		entries[p] = pages[p].count ? UNWIND_PAGE(range->segment, at, pages[p].count) : 0;
		for (uint32_t i = 0; i < pages[p].count; i++) {
			const struct cfi_row *row = &rows[pages[p].start + i];

			*out++ = (struct unwind_row){.low = row->low, .info = load->host[row->info]};
		}
		at += pages[p].count;
	}
	return 0;
}

/* As many pages a range as it holds; a page is never divided. */
static int place_rows(struct tables *t, struct load *load, uint64_t *entries)
{
	const struct cfi_page *pages = table_pages(load->table);
	uint32_t left = load->table->row_count, count = load->table->page_count, page = 0;

	while (left) {
		uint32_t at_least = left < MIN_CHUNK ? left : MIN_CHUNK, words = 0, from;
		struct segment_range *range;
		int r;

		while (!pages[page].count)
			entries[page++] = 0;
		from = page;
		if (at_least < pages[page].count)
			at_least = pages[page].count;
		r = take_range(t, load, left, at_least);
		if (r)
			return r;
		range = &load->image->ranges[load->image->range_count - 1];
		for (; page < count && pages[page].count <= range->count - words; page++)
			words += pages[page].count;
		segments_trim(t->segments, range, words);
		r = write_rows(t, load, entries, from, page);
		if (r)
			return r;
		left -= words;
	}
	for (; page < count; page++)
		entries[page] = 0;
	return 0;
}

static int place(struct tables *t, struct load *load, struct unwind_image *ret)
{
	uint32_t pages = load->table->page_count;
	void *entries;
	int r;

	*ret = (struct unwind_image){
		.flags = UNWIND_IMAGE_FLAGS(load->image->id,
					    load->table->flags & TABLE_FRAME_POINTER ? UNWIND_IMAGE_FRAME_POINTER : 0),
		.used = (uint32_t)(load->now_ns >> USED_SHIFT),
	};
	if (!pages)
		return 0;
	r = take_range(t, load, pages * 2, pages * 2);
	if (!r)
		r = segments_at(t->segments, load->image->ranges[0], &entries);
	if (!r)
		r = place_rows(t, load, entries);
	if (r)
		return r;
	ret->first_page = load->table->first_page;
	ret->page_count = pages;
	ret->segment = load->image->ranges[0].segment;
	ret->start = load->image->ranges[0].start / 2;
	return 0;
}

static int load_new(struct tables *t, struct load *load)
{
	struct loaded *l = load->image;
	struct unwind_image value;
	int r;

	r = take_infos(t, load);
	if (!r)
		r = place(t, load, &value);
	if (!r)
		r = segments_publish(t->segments);
	if (!r && bpf_map_update_elem(t->images_fd, &l->id, &value, BPF_ANY))
		r = -errno;
	if (r) {
		for (uint32_t i = 0; i < l->range_count; i++)
			segments_cancel(t->segments, l->ranges[i]);
		for (uint32_t i = 0; i < l->info_count; i++)
			infos_unref(t->infos, l->infos[i], load->now_ns);
		loaded_free(l);
		load->image = NULL;
	} else {
		l->rows = load->table->row_count;
		l->pages = load->table->page_count;
		l->sequence = t->next_sequence++;
		t->stats.rows += l->rows;
		t->stats.used_bytes += l->rows * sizeof(struct unwind_row) + l->pages * sizeof(uint64_t);
		HASH_ADD(hh, t->images, id, sizeof(l->id), l);
	}
	segments_settle(t->segments);
	infos_settle(t->infos);
	return r;
}

/* Makes room for a load that found none. Nothing of it is free before the grace time is over. */
static void evict_for(struct tables *t, const struct load *load, const struct eviction *how)
{
	uint64_t words = load->table->row_count + 2ull * load->table->page_count;
	uint64_t spare = segments_spare_words(t->segments);
	struct goal goal = {.words = words, .infos = load->infos_missing};

	/* Enough, and nothing to wait for: it lies in pieces that are too small. */
	if (!load->infos_missing && spare >= words && !segments_resting_words(t->segments))
		goal.words += spare;
	evict_until(t, &goal, how);
}

int tables_load(struct tables *t, image_id image, const struct table *table, uint64_t now_ns,
		tables_evicted_fn *evicted, void *user)
{
	struct load load = {.table = table, .now_ns = now_ns};
	struct eviction how = {.fn = evicted, .user = user, .now_ns = now_ns};
	int r;

	tables_drop(t, image, now_ns);
	if (segments_needed(table) > (t->max_segments + MAX_SHARE - 1) / MAX_SHARE || table->info_count > MAX_INFOS) {
		t->stats.no_room++;
		return -EFBIG;
	}
	load.image = calloc(1, sizeof(*load.image));
	if (!load.image)
		return -ENOMEM;
	load.image->id = image;
	infos_wake(t->infos, now_ns);
	evict_until(t, &(struct goal){.images = 1}, &how);
	r = load_new(t, &load);
	if (!r) {
		how.keep = load.image;
		evict_until(t,
			    &(struct goal){.words = (uint64_t)t->max_segments * UNWIND_SEGMENT_WORDS / AHEAD,
					   .infos = UNWIND_MAX_INFOS / AHEAD},
			    &how);
	} else if (r == -ENOSPC) {
		t->stats.infos_full += load.infos_missing > 0;
		t->stats.no_room += !load.infos_missing;
		evict_for(t, &load, &how);
	}
	free(load.host);
	return r;
}
