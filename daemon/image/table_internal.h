/* How a table's block is put together, for those who send it in pieces instead of making it. No state; any thread. */
#ifndef BAROSCOPE_IMAGE_TABLE_INTERNAL_H
#define BAROSCOPE_IMAGE_TABLE_INTERNAL_H

#include <sys/uio.h>

#include "daemon/image/table.h"

#define TABLE_PIECES 4

/* The block is the pieces one after the other; they point into *ret_head and t. t may be NULL. -EFBIG. */
int table_pieces(const struct cfi_tables *t, uint32_t flags, struct table *ret_head,
		 struct iovec ret_pieces[TABLE_PIECES]);

#endif
