/* Between the files of the CFI compiler: cfi.c (functions, order), cfi_sections.c (where the sections are, compressed
 * ones), cfi_entry.c (CIE and FDE), cfi_rules.c (their programs), cfi_go.c (what Go leaves out), cfi_plt.c (PLTs
 * without entries), cfi_rows.c (rows and infos). No state beyond struct cfi_build. */
#ifndef BAROSCOPE_IMAGE_CFI_INTERNAL_H
#define BAROSCOPE_IMAGE_CFI_INTERNAL_H

#include <string.h>

#include "daemon/image/cfi.h"
#include "daemon/image/cfi_x86_64.h"

/* --- a bounded cursor ----------------------------------------------------------------------------------------------
 * Once it has run over its end it is bad, stays so and yields zeros. */

struct cfi_cursor {
	const uint8_t *at, *end;
	bool bad;
};

static inline size_t cursor_left(const struct cfi_cursor *c)
{
	return (size_t)(c->end - c->at);
}

static inline const uint8_t *cursor_take(struct cfi_cursor *c, uint64_t bytes)
{
	const uint8_t *p = c->at;

	if (bytes > cursor_left(c)) {
		c->bad = true;
		c->at = c->end;
		return NULL;
	}
	c->at += bytes;
	return p;
}

static inline uint64_t cursor_uint(struct cfi_cursor *c, size_t bytes)
{
	const uint8_t *p = cursor_take(c, bytes);
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, bytes); /* little endian, as the machine is */
	return v;
}

static inline uint64_t cursor_uleb(struct cfi_cursor *c)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; c->at < c->end; shift += 7) {
		uint8_t b = *c->at++;

		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return v;
	}
	c->bad = true;
	return 0;
}

static inline int64_t cursor_sleb(struct cfi_cursor *c)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; c->at < c->end;) {
		uint8_t b = *c->at++;

		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
		if (!(b & 0x80)) {
			if ((b & 0x40) && shift < 64)
				v |= ~0ull << shift;
			return (int64_t)v;
		}
	}
	c->bad = true;
	return 0;
}

/* --- sections and entries
 * -------------------------------------------------------------------------------------------*/

struct cfi_section {
	const uint8_t *data;
	uint32_t bytes;
	bool debug;	   /* .debug_frame: absolute CIE offsets, no encodings */
	bool ends_at_zero; /* its size is not known: a zero length is the end */
	uint64_t address;
	uint64_t text_address, data_address; /* bases of textrel and datarel */
};

/* Where a value is: rules of rbp and of the return address. */
enum cfi_where { WHERE_UNSET, WHERE_UNDEFINED, WHERE_AT_CFA, WHERE_AT_BP, WHERE_AT_SP, WHERE_UNKNOWN };

struct cfi_rules {
	uint32_t cfa_register;
	uint8_t cfa_expression; /* 0: register and offset; else the enum cfi_cfa of an expression */
	uint8_t bp, ra;		/* enum cfi_where */
	int64_t cfa_offset, bp_offset, ra_offset;
};

struct cfi_cie {
	uint64_t key; /* section and offset, 0 = nothing here */
	int error;    /* enum cfi_count + 1 if it cannot be used */
	bool signal;
	bool sized; /* augmentation z: data has a length */
	bool go;    /* written by Go's linker */
	uint8_t encoding, version;
	uint8_t address_bytes, segment_bytes;
	uint64_t code_align;
	int64_t data_align;
	uint64_t ra_register;
	struct cfi_rules initial;
};

/* Entry of the list that is sorted. */
struct cfi_fde {
	uint32_t start, bytes; /* file offsets */
	uint32_t at;	       /* of the entry in its section; bit 31: .debug_frame */
};
#define FDE_DEBUG 0x80000000u

/* What is known of a function in a Go program beside its call frame information. */
enum cfi_go {
	CFI_GO_NOT,	     /* not written by Go's linker */
	CFI_GO_COMPILED,     /* rbp is saved at CFA - 16 as soon as there is a frame */
	CFI_GO_ASSEMBLY,     /* a frame may or may not save rbp */
	CFI_GO_UNKNOWN,	     /* may be any of these: left to its frame pointer */
	CFI_GO_STACK_SWITCH, /* sets rsp: what is said of it does not hold, but its frame pointer does */
	CFI_GO_OUTERMOST,    /* nothing called it */
};

struct cfi_go_function {
	uint32_t start; /* file offset */
	uint32_t kind;	/* enum cfi_go */
};

/* A section of jumps to other files' functions. */
struct cfi_plt {
	uint32_t start, bytes; /* file offset */
	bool lazy;	       /* the first entry calls the dynamic linker, the others may push */
};
#define MAX_PLTS 4

struct cfi_function {
	const struct cfi_section *section;
	const struct cfi_cie *cie;
	struct cfi_cursor program;
	uint32_t start, stop; /* file offsets */
	uint64_t address;     /* of start */
	enum cfi_go go;
};

#define CIE_CACHE 256
#define CIE_MAX_BYTES 256    /* real ones have 20 to 40 */
#define MAX_CODE_SEGMENTS 64 /* those that count; usual files have one */
#define INFO_SLOTS (2 * CFI_MAX_INFOS)

struct cfi_build {
	const struct elf_file *file;
	struct cfi_options options;
	const struct elf_segment *code[MAX_CODE_SEGMENTS]; /* executable ones */
	size_t code_count;
	struct cfi_section sections[2]; /* .eh_frame, .debug_frame */
	struct cfi_plt plts[MAX_PLTS];	/* by start, apart from each other */
	size_t plt_count;
	struct cfi_cie *cies; /* CIE_CACHE of them */
	struct cfi_fde *fdes;
	size_t fde_count, fde_cap;
	struct cfi_go_function *go; /* by start */
	size_t go_count;
	struct cfi_tables out;
	size_t row_cap, page_cap, info_cap;
	uint64_t work_bytes;
	uint32_t *info_slots;  /* index + 1 */
	uint64_t seed, probes; /* of the hash that leads there; slots looked at */
	/* The row that may still be merged with the next, and what is in effect before and behind it. */
	bool pending;
	uint32_t pending_at;
	struct cfi_info pending_info, before, behind;
	uint32_t page;
	bool any_page;
	struct cfi_info last_info;
	uint32_t last_index;
};

/* cfi.c */
/* The file's offset of a function; false if it is not all in one executable segment and below 4 GiB of the file. */
bool cfi_place(const struct cfi_build *b, uint64_t address, uint64_t bytes, uint32_t *ret);

/* cfi_sections.c */
/* Fills b->sections as far as there are any; what cannot be used is counted. -ENOMEM, -EIO. */
int cfi_sections_load(struct cfi_build *b);

/* cfi_plt.c */
void cfi_plt_find(struct cfi_build *b);
/* Rows of a hole between functions, [from, to): none, but for the PLTs in it. -ENOMEM, -EFBIG. */
int cfi_plt_fill(struct cfi_build *b, uint32_t from, uint32_t to);

/* cfi_go.c */
/* Fills b->go if there are entries of Go's linker and a function table that fits them; b->fdes is sorted. -ENOMEM. */
int cfi_go_load(struct cfi_build *b);
enum cfi_go cfi_go_find(const struct cfi_build *b, uint32_t start);

/* cfi_entry.c */
/* One entry of a section at `at`: *ret_next is the next one's offset, or the section's end. What it is: */
enum cfi_kind { CFI_KIND_END, CFI_KIND_CIE, CFI_KIND_FDE };
struct cfi_entry {
	enum cfi_kind kind;
	uint32_t next;
	uint32_t cie;		/* of an FDE: offset in the section */
	struct cfi_cursor body; /* behind the CIE id or pointer */
};
/* 0 or -EBADMSG: nothing behind it can be found. */
int cfi_entry_read(const struct cfi_section *s, uint32_t at, struct cfi_entry *ret);
/* Never NULL; error is set in one that cannot be used. Valid until the next call. */
const struct cfi_cie *cfi_cie_get(struct cfi_build *b, const struct cfi_section *s, uint32_t at);
/* Reads the head of an FDE; body stands at its program then. 0 or enum cfi_count + 1. */
int cfi_fde_head(const struct cfi_section *s, const struct cfi_cie *cie, struct cfi_entry *entry, uint64_t *ret_start,
		 uint64_t *ret_bytes);

/* 0 or enum cfi_count + 1. What is indirect is not followed: only what is skipped may be. */
int cfi_pointer_read(const struct cfi_section *s, struct cfi_cursor *c, uint8_t encoding, uint64_t *ret);

/* cfi_rules.c */
/* 0 or enum cfi_count + 1. */
int cfi_run_initial(struct cfi_cie *cie, struct cfi_cursor program);
/* Adds the function's rows. -ENOMEM, -EFBIG. */
int cfi_run(struct cfi_build *b, const struct cfi_function *f);

/* cfi_rows.c */
int cfi_rows_init(struct cfi_build *b, uint32_t row_estimate);
int cfi_rows_add(struct cfi_build *b, uint32_t at, struct cfi_info info);
int cfi_rows_finish(struct cfi_build *b);

#endif
