/* The symbol index of one image: sorted starts, and the names in one blob. Built by an adder per source (symbol tables,
 * Go's pclntab, kallsyms), then finished; read-only from then on. Parser process only.
 *
 * A kernel has 200,000 functions and the index of it stays for long, so a finished symbol takes 8 bytes and its name:
 * starts keep their lower half only, the upper one is that of their block. */
#ifndef BAROSCOPE_IMAGE_SYMBOLS_H
#define BAROSCOPE_IMAGE_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/elf.h"
#include "daemon/util/err.h"

#define SYMBOLS_MAX 4000000u
#define SYMBOL_NAME_MAX_BYTES 4096u
#define SYMBOLS_NAMES_MAX_BYTES (96u << 20)

/* At equal starts the higher one gives the name. */
enum symbol_rank {
	SYMBOL_DYNAMIC_LOCAL,
	SYMBOL_DYNAMIC_WEAK,
	SYMBOL_DYNAMIC_GLOBAL,
	SYMBOL_PCLNTAB,
	SYMBOL_LABEL, /* without a type */
	SYMBOL_LOCAL,
	SYMBOL_WEAK,
	SYMBOL_GLOBAL,
};

/* While building. */
struct symbol {
	uint64_t start;
	uint32_t bytes; /* 0: up to the next one, within gap_max */
	uint32_t name;
	uint8_t rank;
};

/* From `first` on, starts have these upper 32 bits. */
struct symbol_block {
	uint32_t upper, first;
};

struct symbols {
	struct symbol *list; /* NULL once finished */
	size_t cap;
	size_t count;
	uint32_t *starts, *names_at;
	uint32_t *sizes; /* NULL: none has a size */
	struct symbol_block *blocks;
	size_t block_count;
	char *names; /* [0] = 0 */
	size_t names_bytes, names_cap;
	uint64_t gap_max; /* how far a symbol without a size reaches when nothing follows */
};

void symbols_init(struct symbols *s, uint64_t gap_max);
void symbols_deinit(struct symbols *s);
/* -E2BIG at a limit. len bytes of name; a version ("@@V") is cut off; empty names are left out. */
int symbols_add(struct symbols *s, uint64_t start, uint64_t bytes, enum symbol_rank rank, const char *name, size_t len);
/* Sorts, keeps one symbol a start, gives spare memory back. */
int symbols_finish(struct symbols *s);
/* NULL: the address is in no symbol. */
const char *symbols_find(const struct symbols *s, uint64_t address, uint64_t *ret_start);
/* The start of symbol i < count of a finished index. */
uint64_t symbols_start(const struct symbols *s, size_t i);
size_t symbols_bytes(const struct symbols *s);

/* .symtab and .dynsym, and Go's pclntab where there is no .symtab. Finishes. */
int symbols_load_elf(struct symbols *s, const struct elf_file *f, struct err *e);
int gopclntab_load(struct symbols *s, const struct elf_file *f);
/* fd: /proc/kallsyms, at its start. Finishes. *ret_hidden: all addresses are 0. */
int kallsyms_load(struct symbols *s, int fd, bool *ret_hidden);
/* Text of the demangled name, or the name itself. Returned in buf (or name). */
const char *demangle(const char *name, char *buf, size_t size);

#endif
