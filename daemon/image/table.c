/* Making and checking of table blocks, see table.h. No state; any thread.
 *
 * Infos and page entries have 8 bytes and the head a multiple of 8, so the parts follow each other without padding.
 * What the loader relies on: the pages' row ranges are neighbours that together are all rows (no row is copied twice),
 * each page's rows are strictly ascending from 0, and every index and rule is within its bounds. */
#include "daemon/image/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "daemon/image/table_internal.h"

_Static_assert(sizeof(struct table) % 8 == 0, "what follows the head is aligned");
_Static_assert(sizeof(((struct table *)0)->magic) == sizeof(TABLE_MAGIC) - 1, "the magic has no NUL");

#define TABLE_FLAGS TABLE_FRAME_POINTER
#define PAGE_MAX_ROWS (1u << CFI_PAGE_BITS)

uint64_t table_losses(const struct table *t)
{
	static const enum cfi_count losses[] = {CFI_BROKEN,   CFI_ENCODING,  CFI_CFA_EXPRESSION, CFI_RETURN_RULE,
						CFI_BP_RULE,  CFI_RANGE,     CFI_OPCODE,	 CFI_STATES,
						CFI_SECTIONS, CFI_INFOS_FULL};
	uint64_t sum = 0;

	/* The block may be forged: one that holds more than a block can is no more than that. */
	for (size_t i = 0; i < ARRAY_SIZE(losses); i++)
		sum += t->counts[losses[i]] < UINT32_MAX ? t->counts[losses[i]] : UINT32_MAX;
	return sum;
}

const struct cfi_info *table_infos(const struct table *t)
{
	return (const struct cfi_info *)(t + 1);
}

const struct cfi_page *table_pages(const struct table *t)
{
	return (const struct cfi_page *)(table_infos(t) + t->info_count);
}

const struct cfi_row *table_rows(const struct table *t)
{
	return (const struct cfi_row *)(table_pages(t) + t->page_count);
}

static uint64_t bytes_of(uint64_t info_count, uint64_t page_count, uint64_t row_count)
{
	return sizeof(struct table) + info_count * sizeof(struct cfi_info) + page_count * sizeof(struct cfi_page) +
	       row_count * sizeof(struct cfi_row);
}

/* Over the head with checksum 0, then over the rest. */
static uint64_t checksum(const struct table *head, const struct iovec *rest, size_t count)
{
	struct table copy = *head;
	XXH3_state_t state;

	copy.checksum = 0;
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, &copy, sizeof(copy));
	for (size_t i = 0; i < count; i++)
		if (rest[i].iov_len)
			XXH3_64bits_update(&state, rest[i].iov_base, rest[i].iov_len);
	return XXH3_64bits_digest(&state);
}

int table_pieces(const struct cfi_tables *t, uint32_t flags, struct table *ret_head,
		 struct iovec ret_pieces[TABLE_PIECES])
{
	static const struct cfi_tables none;
	struct table head = {.flags = flags};
	uint64_t bytes;

	if (!t)
		t = &none;
	bytes = bytes_of(t->info_count, t->page_count, t->row_count);
	if (bytes > TABLE_MAX_BYTES)
		return -EFBIG;
	memcpy(head.magic, TABLE_MAGIC, sizeof(head.magic));
	head.bytes = (uint32_t)bytes;
	head.info_count = t->info_count;
	head.row_count = t->row_count;
	head.first_page = t->first_page;
	head.page_count = t->page_count;
	memcpy(head.counts, t->counts, sizeof(head.counts));
	ret_pieces[0] = (struct iovec){ret_head, sizeof(*ret_head)};
	ret_pieces[1] = (struct iovec){t->infos, t->info_count * sizeof(*t->infos)};
	ret_pieces[2] = (struct iovec){t->pages, t->page_count * sizeof(*t->pages)};
	ret_pieces[3] = (struct iovec){t->rows, t->row_count * sizeof(*t->rows)};
	head.checksum = checksum(&head, ret_pieces + 1, TABLE_PIECES - 1);
	*ret_head = head;
	return 0;
}

int table_make(const struct cfi_tables *t, uint32_t flags, struct table **ret)
{
	struct iovec pieces[TABLE_PIECES];
	struct table head;
	char *block, *at;
	int r = table_pieces(t, flags, &head, pieces);

	if (r)
		return r;
	at = block = malloc(head.bytes);
	if (!block)
		return -ENOMEM;
	for (size_t i = 0; i < TABLE_PIECES; i++) {
		if (pieces[i].iov_len)
			memcpy(at, pieces[i].iov_base, pieces[i].iov_len);
		at += pieces[i].iov_len;
	}
	*ret = (struct table *)(void *)block;
	return 0;
}

static bool head_is_sound(const struct table *t)
{
	if (t->flags & ~(uint32_t)TABLE_FLAGS || t->info_count > CFI_MAX_INFOS)
		return false;
	if (t->page_count > CFI_MAX_PAGES || t->first_page > CFI_MAX_PAGES - t->page_count)
		return false;
	if (t->flags & TABLE_FRAME_POINTER && (t->info_count || t->page_count || t->row_count))
		return false;
	return t->bytes == bytes_of(t->info_count, t->page_count, t->row_count);
}

static bool infos_are_sound(const struct table *t)
{
	const struct cfi_info *infos = table_infos(t);

	for (uint32_t i = 0; i < t->info_count; i++)
		if (cfi_cfa_of(infos[i]) > CFI_CFA_IN_REGISTER || cfi_bp_of(infos[i]) > CFI_BP_UNDEFINED)
			return false;
	return true;
}

static bool pages_are_sound(const struct table *t)
{
	const struct cfi_page *pages = table_pages(t);
	const struct cfi_row *rows = table_rows(t);
	uint32_t next = 0;

	for (uint32_t i = 0; i < t->page_count; i++) {
		const struct cfi_row *row = rows + next;

		if (pages[i].start != next || pages[i].count > PAGE_MAX_ROWS || pages[i].count > t->row_count - next)
			return false;
		next += pages[i].count;
		for (uint32_t j = 0; j < pages[i].count; j++)
			if (row[j].info >= t->info_count || (j ? row[j].low <= row[j - 1].low : row[j].low != 0))
				return false;
	}
	return next == t->row_count;
}

int table_check(const void *data, size_t bytes)
{
	const struct table *t = data;
	struct iovec rest;

	if (bytes < sizeof(*t) || bytes > TABLE_MAX_BYTES || (uintptr_t)data % _Alignof(struct table))
		return -EBADMSG;
	if (memcmp(t->magic, TABLE_MAGIC, sizeof(t->magic)) != 0 || t->bytes != bytes || !head_is_sound(t))
		return -EBADMSG;
	rest = (struct iovec){(void *)(uintptr_t)(t + 1), bytes - sizeof(*t)};
	if (t->checksum != checksum(t, &rest, 1))
		return -EBADMSG;
	return infos_are_sound(t) && pages_are_sound(t) ? 0 : -EBADMSG;
}
