/* Compiler of call frame information (.eh_frame, .debug_frame) into unwind rows by file offset.
 *
 * Input may be hostile: time is linear in the sections' bytes (a CIE, which is short, may be gone through once for each
 * of its functions) but for one radix sort, memory is bounded by the limits below, and nothing read is believed before
 * it was checked. Parser process only; no state, any thread.
 *
 * The types are those that cross from the parser to the daemon and that the cache on disk keeps, so their numbers only
 * grow. They have the layout of bpf/unwind_abi.h, but an info's index means something in its own table only: the loader
 * renumbers it. */
#ifndef BAROSCOPE_IMAGE_CFI_H
#define BAROSCOPE_IMAGE_CFI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/elf.h"
#include "daemon/util/err.h"

/* Part of the key under which tables are kept on disk. To be raised with every change that makes the compiler's output
 * differ for any file: what it reads, which rules it knows, what it leaves out, its limits, how rows are merged. */
#define CFI_VERSION 2u
#define CFI_PAGE_BITS 16
#define CFI_MAX_PAGES 65536u /* of 64 KiB: code beyond 4 GiB of the file has no rows */
#define CFI_MAX_INFOS 65536u

enum cfi_cfa {
	CFI_CFA_NONE = 0,    /* nothing is said about this place */
	CFI_CFA_INVALID = 1, /* a rule that rows cannot express */
	CFI_CFA_END = 2,     /* the return address is undefined */
	CFI_CFA_SP = 3,
	CFI_CFA_BP = 4,
	CFI_CFA_SP_DEREF = 5, /* *(sp + (offset >> 8)) + (offset & 255) */
	CFI_CFA_BP_DEREF = 6,
	CFI_CFA_PLT = 7, /* sp + 8, 8 more from byte `offset` of a 16-byte entry on */
	CFI_CFA_SIGNAL = 8,
	CFI_CFA_IN_REGISTER = 9, /* word (offset & 31) of the kernel's pt_regs + (offset >> 5) */
};

enum cfi_bp {
	CFI_BP_SAME = 0,
	CFI_BP_AT_CFA = 1, /* at CFA + bp_offset */
	CFI_BP_AT_BP = 2,  /* at bp + bp_offset */
	CFI_BP_UNDEFINED = 3,
};

struct cfi_row {
	uint16_t low;  /* of the file offset */
	uint16_t info; /* index in infos */
};
_Static_assert(sizeof(struct cfi_row) == 4, "cfi_row");

struct cfi_info {
	int32_t offset;
	int16_t bp_offset;
	uint8_t rules; /* enum cfi_cfa | enum cfi_bp << 4 */
	uint8_t merge; /* not 0: from this many bytes (low 7 bits) behind the row on, offset is 8 more; bit 7: 8 less */
};
_Static_assert(sizeof(struct cfi_info) == 8, "cfi_info");
#define CFI_MERGE_LESS 0x80
#define CFI_MERGE_BYTES 0x7f

/* A page's rows: the first is at 0; count 0 = nothing is said about the page. */
struct cfi_page {
	uint32_t start, count;
};
_Static_assert(sizeof(struct cfi_page) == 8, "cfi_page");

/* What a table was made of and what was left out. X(symbol, name as shown, help). */
#define CFI_COUNTS(X)                                                                                                  \
	X(ENTRIES, "entries", "functions described")                                                                   \
	X(ROWS, "rows", "rows before neighbours were merged")                                                          \
	X(OVERLAPS, "overlaps", "functions cut or left out because another one covers them")                           \
	X(OUTSIDE, "outside", "functions outside the executable segments or beyond 4 GiB of the file")                 \
	X(BROKEN, "broken", "entries that are cut off or contradict themselves")                                       \
	X(ENCODING, "encoding", "entries with a pointer encoding or an augmentation that is not known")                \
	X(CFA_REGISTER, "cfa_register",                                                                                \
	  "rows whose CFA is in a register other than rsp and rbp: for interrupted code only")                         \
	X(CFA_EXPRESSION, "cfa_expression", "rows whose CFA is an expression that is not known")                       \
	X(RETURN_RULE, "return_rule", "rows whose return address is not at CFA - 8")                                   \
	X(BP_RULE, "bp_rule", "rows whose rbp is saved in a way that rows cannot express: taken as lost")              \
	X(RANGE, "range", "rows with an offset too large for a row")                                                   \
	X(OPCODE, "opcode", "functions with an instruction that is not known")                                         \
	X(STATES, "states", "functions with unbalanced or too deep remembered states")                                 \
	X(INFOS_FULL, "infos_full", "rows lost because there were too many different rules")                           \
	X(SECTIONS, "sections", "sections left out: too large, outside the file or not what they are compressed to")

enum cfi_count {
#define X(sym, name, help) CFI_##sym,
	CFI_COUNTS(X)
#undef X
		CFI_COUNT_COUNT,
};

struct cfi_tables {
	struct cfi_row *rows;
	struct cfi_info *infos; /* 0 is all zero (CFI_CFA_NONE), 1 is CFI_CFA_INVALID */
	struct cfi_page *pages; /* of file offsets from first_page << 16 on */
	uint32_t row_count, info_count, first_page, page_count;
	uint64_t counts[CFI_COUNT_COUNT];
};

/* 0 in a field stands for the default. */
struct cfi_options {
	uint64_t max_section_bytes; /* 96 MiB: a larger section is left out */
	uint32_t max_entries;	    /* 3 M: functions; more are -EFBIG */
	uint32_t max_rows;	    /* 8 M; more are -EFBIG */
	uint32_t max_infos;	    /* 16384 */
	uint32_t gap_bytes;	    /* 16: holes between functions smaller than this are padding and get no row */
	bool no_merge;		    /* neighbours that differ by 8 stay two rows */
	uint64_t *ret_work_bytes;   /* not NULL: bytes of entries gone through, each time that it is done */
	uint64_t *ret_probes;	    /* not NULL: places looked at to find rows' rules */
};

/* options may be NULL. -EOPNOTSUPP: not this architecture; -ENODATA: no call frame information of any function;
 * -EBADMSG: there is some, but none that could be read; -EFBIG: limits. */
int cfi_compile(const struct elf_file *f, const struct cfi_options *options, struct cfi_tables *ret, struct err *e);
void cfi_free(struct cfi_tables *t);
/* The rule in effect at a file offset, its merge applied. Without rows for it: CFI_CFA_NONE. */
struct cfi_info cfi_lookup(const struct cfi_tables *t, uint64_t offset);

/* Where .eh_frame is in a file without a section table: the program header of its search table leads there. Its end is
 * not known, so ret_bytes goes to its segment's. -ENOENT. */
int cfi_segment_of_eh_frame(const struct elf_file *f, uint64_t *ret_address, uint64_t *ret_offset, uint64_t *ret_bytes);

static inline enum cfi_cfa cfi_cfa_of(struct cfi_info i)
{
	return (enum cfi_cfa)(i.rules & 15);
}

static inline enum cfi_bp cfi_bp_of(struct cfi_info i)
{
	return (enum cfi_bp)(i.rules >> 4);
}

#endif
