/* Rows of a table under construction: merges neighbours, repeats the row in effect at each page's start, keeps each
 * rule once. Rows come in ascending order. A row waits in `pending` until the next one is known not to merge with it.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/image/cfi_internal.h"
#include "daemon/util/index.h"

static uint64_t info_key(struct cfi_info info)
{
	uint64_t key;

	memcpy(&key, &info, sizeof(key));
	return key;
}

/* Rules come from a file: neither may it choose their places, nor would many at one place cost more than a bit. */
#define MAX_PROBES 256u

static uint32_t info_slot(const struct cfi_build *b, struct cfi_info info)
{
	return (uint32_t)(hash_mix(hash_mix(b->seed, info_key(info)), b->seed) >> 32) % INFO_SLOTS;
}

static bool info_equal(struct cfi_info a, struct cfi_info b)
{
	return info_key(a) == info_key(b);
}

static int info_append(struct cfi_build *b, struct cfi_info info)
{
	if (b->out.info_count == b->info_cap) {
		size_t cap = b->info_cap ? b->info_cap * 2 : 256;
		struct cfi_info *infos = realloc(b->out.infos, cap * sizeof(*infos));

		if (!infos)
			return -ENOMEM;
		b->out.infos = infos;
		b->info_cap = cap;
	}
	b->out.infos[b->out.info_count++] = info;
	return 0;
}

/* Index of a rule; of CFI_CFA_INVALID when there is no room for another one. */
static int info_index(struct cfi_build *b, struct cfi_info info, uint32_t *ret)
{
	uint32_t slot = info_slot(b, info), probes = 1;
	int r;

	if (info_equal(info, b->last_info)) {
		*ret = b->last_index;
		return 0;
	}
	for (; b->info_slots[slot] && probes < MAX_PROBES; probes++) {
		if (info_equal(b->out.infos[b->info_slots[slot] - 1], info))
			break;
		slot = (slot + 1) % INFO_SLOTS;
	}
	b->probes += probes;
	if (!b->info_slots[slot] || !info_equal(b->out.infos[b->info_slots[slot] - 1], info)) {
		if (b->info_slots[slot] || b->out.info_count >= b->options.max_infos) {
			b->out.counts[CFI_INFOS_FULL]++;
			*ret = CFI_CFA_INVALID;
			return 0;
		}
		r = info_append(b, info);
		if (r)
			return r;
		b->info_slots[slot] = b->out.info_count;
	}
	*ret = b->last_index = b->info_slots[slot] - 1;
	b->last_info = info;
	return 0;
}

int cfi_rows_init(struct cfi_build *b, uint32_t row_estimate)
{
	struct cfi_info invalid = {.rules = CFI_CFA_INVALID};
	uint32_t index;
	int r;

	if (row_estimate < 1024)
		row_estimate = 1024;
	if (row_estimate > b->options.max_rows)
		row_estimate = b->options.max_rows;
	b->seed = hash_seed();
	b->info_slots = calloc(INFO_SLOTS, sizeof(*b->info_slots));
	b->out.rows = malloc(row_estimate * sizeof(*b->out.rows));
	if (!b->info_slots || !b->out.rows)
		return -ENOMEM;
	b->row_cap = row_estimate;
	b->last_info.rules = 0xff;
	r = info_index(b, (struct cfi_info){0}, &index);
	if (!r)
		r = info_index(b, invalid, &index);
	return r;
}

static int row_push(struct cfi_build *b, uint32_t low, struct cfi_info info)
{
	uint32_t index;
	int r = info_index(b, info, &index);

	if (r)
		return r;
	if (b->out.row_count == b->row_cap) {
		size_t cap = b->row_cap + b->row_cap / 2;
		struct cfi_row *rows;

		if (b->out.row_count >= b->options.max_rows)
			return -EFBIG;
		if (cap > b->options.max_rows)
			cap = b->options.max_rows;
		rows = realloc(b->out.rows, cap * sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		b->out.rows = rows;
		b->row_cap = cap;
	}
	b->out.rows[b->out.row_count++] = (struct cfi_row){.low = (uint16_t)low, .info = (uint16_t)index};
	b->out.pages[b->page - b->out.first_page].count++;
	return 0;
}

/* Goes on to a page, and repeats what is in effect at the start of each one on the way that is covered. */
static int page_enter(struct cfi_build *b, uint32_t page, bool starts_here)
{
	bool covered = b->before.rules != CFI_CFA_NONE;
	int r;

	if (!b->any_page) {
		b->any_page = true;
		b->out.first_page = page;
		b->page = page - 1; /* may wrap */
	}
	while (b->page != page) {
		uint32_t index = ++b->page - b->out.first_page;

		if (index >= b->page_cap) {
			size_t cap = b->page_cap ? b->page_cap * 2 : 64;
			struct cfi_page *pages = realloc(b->out.pages, cap * sizeof(*pages));

			if (!pages)
				return -ENOMEM;
			b->out.pages = pages;
			b->page_cap = cap;
		}
		b->out.pages[index] = (struct cfi_page){.start = b->out.row_count};
		b->out.page_count = index + 1;
		if (b->page == page ? !starts_here : covered) {
			r = row_push(b, 0, b->before);
			if (r)
				return r;
		}
	}
	return 0;
}

static int flush(struct cfi_build *b)
{
	uint32_t page = b->pending_at >> CFI_PAGE_BITS, low = b->pending_at & ((1u << CFI_PAGE_BITS) - 1);
	int r;

	if (!b->pending)
		return 0;
	b->pending = false;
	if (!b->any_page || page != b->page) {
		/* A hole's beginning on a page's start needs no page of its own. */
		if (b->pending_info.rules == CFI_CFA_NONE && low == 0 && b->any_page) {
			if (b->page + 1 < page) {
				r = page_enter(b, page - 1, false);
				if (r)
					return r;
			}
			b->before = b->behind;
			return 0;
		}
		r = page_enter(b, page, low == 0);
		if (r)
			return r;
	}
	b->before = b->behind;
	return row_push(b, low, b->pending_info);
}

/* What one row of two neighbours would be: they differ by a push or a pop. */
static bool merge(struct cfi_info *first, struct cfi_info second, uint32_t distance)
{
	int64_t step = (int64_t)second.offset - first->offset;

	if (distance > CFI_MERGE_BYTES || first->merge || first->rules != second.rules ||
	    first->bp_offset != second.bp_offset || (step != 8 && step != -8))
		return false;
	if (cfi_cfa_of(*first) != CFI_CFA_SP && cfi_cfa_of(*first) != CFI_CFA_BP)
		return false;
	first->merge = (uint8_t)(distance | (step < 0 ? CFI_MERGE_LESS : 0));
	return true;
}

int cfi_rows_add(struct cfi_build *b, uint32_t at, struct cfi_info info)
{
	int r;

	if (info_equal(info, b->behind))
		return 0;
	if (b->pending && at <= b->pending_at)
		return 0;
	b->out.counts[CFI_ROWS]++;
	/* Merged rules are many: they leave the last quarter of the room to plain ones. */
	if (b->pending && !b->options.no_merge && at >> CFI_PAGE_BITS == b->pending_at >> CFI_PAGE_BITS &&
	    b->out.info_count < b->options.max_infos / 4 * 3 && merge(&b->pending_info, info, at - b->pending_at)) {
		b->behind = info;
		return 0;
	}
	r = flush(b);
	if (r)
		return r;
	b->pending = true;
	b->pending_at = at;
	b->pending_info = b->behind = info;
	return 0;
}

int cfi_rows_finish(struct cfi_build *b)
{
	struct cfi_row *rows;
	int r = flush(b);

	if (r)
		return r;
	rows = realloc(b->out.rows, (b->out.row_count ? b->out.row_count : 1) * sizeof(*rows));
	if (rows)
		b->out.rows = rows;
	return 0;
}

struct cfi_info cfi_lookup(const struct cfi_tables *t, uint64_t offset)
{
	uint64_t page = (offset >> CFI_PAGE_BITS) - t->first_page;
	uint16_t low = (uint16_t)offset;
	uint32_t from, to;
	struct cfi_info info;

	if (offset >> CFI_PAGE_BITS < t->first_page || page >= t->page_count || !t->pages[page].count)
		return (struct cfi_info){0};
	from = t->pages[page].start;
	to = from + t->pages[page].count;
	while (to - from > 1) {
		uint32_t middle = from + (to - from) / 2;

		if (t->rows[middle].low <= low)
			from = middle;
		else
			to = middle;
	}
	info = t->infos[t->rows[from].info];
	if (info.merge) {
		if ((uint32_t)(low - t->rows[from].low) >= (info.merge & CFI_MERGE_BYTES))
			info.offset += info.merge & CFI_MERGE_LESS ? -8 : 8;
		info.merge = 0;
	}
	return info;
}
