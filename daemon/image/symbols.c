/* The symbol index and its ELF sources, see symbols.h. Invariants: after symbols_finish starts are strictly ascending,
 * blocks ascend in both fields, and the first block begins at symbol 0. */
#include "daemon/image/symbols.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STRINGS_MAX_BYTES (128u << 20)
#define READ_ENTRIES 2048
/* How many earlier symbols are asked when the nearest one ended before the address: nested symbols are rare. */
#define MAX_NESTING 64

void symbols_init(struct symbols *s, uint64_t gap_max)
{
	*s = (struct symbols){.gap_max = gap_max};
}

void symbols_deinit(struct symbols *s)
{
	free(s->list);
	free(s->starts);
	free(s->names_at);
	free(s->sizes);
	free(s->blocks);
	free(s->names);
	*s = (struct symbols){0};
}

static int grow(struct symbols *s)
{
	size_t cap = s->cap ? s->cap + s->cap / 2 : 1024;
	struct symbol *list;

	if (s->count >= SYMBOLS_MAX)
		return -E2BIG;
	list = realloc(s->list, cap * sizeof(*list));
	if (!list)
		return -ENOMEM;
	s->list = list;
	s->cap = cap;
	return 0;
}

static int add_name(struct symbols *s, const char *name, size_t len, uint32_t *ret)
{
	size_t at = s->names_bytes ? s->names_bytes : 1;

	if (at + len + 1 > SYMBOLS_NAMES_MAX_BYTES)
		return -E2BIG;
	if (at + len + 1 > s->names_cap) {
		size_t cap = s->names_cap + s->names_cap / 2;
		char *names;

		if (cap < at + len + 1)
			cap = at + len + 1 + 16384;
		names = realloc(s->names, cap);
		if (!names)
			return -ENOMEM;
		names[0] = '\0';
		s->names = names;
		s->names_cap = cap;
	}
	memcpy(s->names + at, name, len);
	s->names[at + len] = '\0';
	s->names_bytes = at + len + 1;
	*ret = (uint32_t)at;
	return 0;
}

int symbols_add(struct symbols *s, uint64_t start, uint64_t bytes, enum symbol_rank rank, const char *name, size_t len)
{
	const char *version;
	uint32_t at;
	int r;

	if (len > SYMBOL_NAME_MAX_BYTES)
		len = SYMBOL_NAME_MAX_BYTES;
	version = rank == SYMBOL_PCLNTAB ? NULL : memchr(name, '@', len);
	if (version)
		len = (size_t)(version - name);
	if (!len)
		return 0;
	if (s->count == s->cap) {
		r = grow(s);
		if (r)
			return r;
	}
	r = add_name(s, name, len, &at);
	if (r)
		return r;
	s->list[s->count++] = (struct symbol){
		.start = start,
		.bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes,
		.name = at,
		.rank = (uint8_t)rank,
	};
	return 0;
}

static int compare_symbols(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	/* Names stand in the order of addition: the outcome does not hang on the sorting algorithm. */
	return x->name < y->name ? -1 : x->name > y->name;
}

static size_t leading_underscores(const char *name)
{
	return strspn(name, "_");
}

/* Which of two symbols at one start gives the name: malloc rather than __libc_malloc. */
static bool better(const struct symbols *s, const struct symbol *a, const struct symbol *b)
{
	const char *x = s->names + a->name, *y = s->names + b->name;
	size_t n, m;

	if (a->rank != b->rank)
		return a->rank > b->rank;
	n = leading_underscores(x);
	m = leading_underscores(y);
	return n != m ? n < m : strcmp(x, y) < 0;
}

/* Keeps one symbol a start, in place. */
static void drop_duplicates(struct symbols *s)
{
	uint64_t sized_end = 0;
	size_t kept = 0;

	for (size_t i = 0, next; i < s->count; i = next) {
		struct symbol best = s->list[i];
		uint32_t bytes = best.bytes;

		for (next = i + 1; next < s->count && s->list[next].start == best.start; next++) {
			const struct symbol *other = &s->list[next];

			if (other->bytes > bytes)
				bytes = other->bytes;
			if (better(s, other, &best))
				best = *other;
		}
		/* A label within a function is no function of its own. */
		if (!bytes && best.rank == SYMBOL_LABEL && best.start < sized_end)
			continue;
		if (!best.bytes)
			best.bytes = bytes;
		if (bytes && best.start + bytes > sized_end)
			sized_end = best.start + bytes;
		s->list[kept++] = best;
	}
	s->count = kept;
}

/* From the list, which is sorted and without duplicates, to the small form. */
static int pack(struct symbols *s)
{
	_cleanup_free_ struct symbol_block *blocks = NULL;
	_cleanup_free_ uint32_t *starts = NULL;
	_cleanup_free_ uint32_t *names_at = NULL;
	_cleanup_free_ uint32_t *sizes = NULL;
	_cleanup_free_ char *names = NULL;
	size_t block_count = 0, names_bytes = 1;
	bool sized = false;

	for (size_t i = 0; i < s->count; i++) {
		names_bytes += strlen(s->names + s->list[i].name) + 1;
		block_count += i == 0 || s->list[i].start >> 32 != s->list[i - 1].start >> 32;
		sized |= s->list[i].bytes != 0;
	}
	blocks = calloc(block_count, sizeof(*blocks));
	starts = malloc(s->count * sizeof(*starts));
	names_at = malloc(s->count * sizeof(*names_at));
	sizes = sized ? malloc(s->count * sizeof(*sizes)) : NULL;
	names = malloc(names_bytes);
	if (!blocks || !starts || !names_at || (sized && !sizes) || !names)
		return -ENOMEM;
	names[0] = '\0';
	names_bytes = 1;
	block_count = 0;
	for (size_t i = 0; i < s->count; i++) {
		const struct symbol *y = &s->list[i];
		size_t len = strlen(s->names + y->name) + 1;

		if (i == 0 || y->start >> 32 != s->list[i - 1].start >> 32)
			blocks[block_count++] = (struct symbol_block){(uint32_t)(y->start >> 32), (uint32_t)i};
		starts[i] = (uint32_t)y->start;
		names_at[i] = (uint32_t)names_bytes;
		if (sizes)
			sizes[i] = y->bytes;
		memcpy(names + names_bytes, s->names + y->name, len);
		names_bytes += len;
	}
	free(TAKE_PTR(s->list));
	s->cap = 0;
	free(s->names);
	s->names = TAKE_PTR(names);
	s->names_bytes = s->names_cap = names_bytes;
	s->starts = TAKE_PTR(starts);
	s->names_at = TAKE_PTR(names_at);
	s->sizes = TAKE_PTR(sizes);
	s->blocks = TAKE_PTR(blocks);
	s->block_count = block_count;
	return 0;
}

int symbols_finish(struct symbols *s)
{
	if (!s->count)
		return 0;
	qsort(s->list, s->count, sizeof(*s->list), compare_symbols);
	drop_duplicates(s);
	return pack(s);
}

/* The block of symbol i. */
static size_t block_of(const struct symbols *s, size_t i)
{
	size_t low = 1, high = s->block_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->blocks[mid].first <= i)
			low = mid + 1;
		else
			high = mid;
	}
	return low - 1;
}

uint64_t symbols_start(const struct symbols *s, size_t i)
{
	return (uint64_t)s->blocks[block_of(s, i)].upper << 32 | s->starts[i];
}

/* How many symbols start at or before the address. */
static size_t count_up_to(const struct symbols *s, uint64_t address)
{
	uint32_t upper = (uint32_t)(address >> 32), lower = (uint32_t)address;
	size_t low = 0, high = s->block_count, end;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->blocks[mid].upper <= upper)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == 0)
		return 0;
	end = low < s->block_count ? s->blocks[low].first : s->count;
	if (s->blocks[low - 1].upper < upper)
		return end;
	for (low = s->blocks[low - 1].first, high = end; low < high;) {
		size_t mid = low + (high - low) / 2;

		if (s->starts[mid] <= lower)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const char *symbols_find(const struct symbols *s, uint64_t address, uint64_t *ret_start)
{
	size_t found = count_up_to(s, address);

	for (size_t i = found, tries = 0; i > 0 && tries < MAX_NESTING; i--, tries++) {
		uint64_t start = symbols_start(s, i - 1), into = address - start;
		uint32_t bytes = s->sizes ? s->sizes[i - 1] : 0;

		/* Without a size it reaches up to its successor; that is the nearest one only. */
		if (bytes ? into < bytes : tries == 0 && into < s->gap_max) {
			*ret_start = start;
			return s->names + s->names_at[i - 1];
		}
		if (!s->sizes)
			break;
	}
	return NULL;
}

size_t symbols_bytes(const struct symbols *s)
{
	size_t each = sizeof(*s->starts) + sizeof(*s->names_at) + (s->sizes ? sizeof(*s->sizes) : 0);

	return s->count * each + s->block_count * sizeof(*s->blocks) + s->names_cap;
}

static bool wanted(const struct elf_file *f, const Elf64_Sym *y)
{
	unsigned int type = ELF64_ST_TYPE(y->st_info);

	if (y->st_shndx == SHN_UNDEF || !y->st_name)
		return false;
	if (type == STT_FUNC || type == STT_GNU_IFUNC)
		return true;
	/* Assembly often has no types. */
	return type == STT_NOTYPE && y->st_shndx < f->section_count && f->sections[y->st_shndx].flags & SHF_EXECINSTR;
}

static enum symbol_rank rank_of(const Elf64_Sym *y, bool dynamic)
{
	unsigned int bind = ELF64_ST_BIND(y->st_info);

	if (dynamic)
		return bind == STB_LOCAL  ? SYMBOL_DYNAMIC_LOCAL
		       : bind == STB_WEAK ? SYMBOL_DYNAMIC_WEAK
					  : SYMBOL_DYNAMIC_GLOBAL;
	if (ELF64_ST_TYPE(y->st_info) == STT_NOTYPE)
		return SYMBOL_LABEL;
	return bind == STB_LOCAL ? SYMBOL_LOCAL : bind == STB_WEAK ? SYMBOL_WEAK : SYMBOL_GLOBAL;
}

static int add_symbol(struct symbols *s, const struct elf_file *f, const Elf64_Sym *y, bool dynamic,
		      const char *strings, size_t strings_bytes)
{
	const char *name;
	size_t len;

	if (!wanted(f, y) || y->st_name >= strings_bytes)
		return 0;
	name = strings + y->st_name;
	len = strnlen(name, strings_bytes - y->st_name);
	/* Mapping symbols of arm64, local labels. */
	if (name[0] == '$' || !strncmp(name, ".L", 2))
		return 0;
	return symbols_add(s, y->st_value, y->st_size, rank_of(y, dynamic), name, len);
}

static int load_table(struct symbols *s, const struct elf_file *f, const struct elf_section *table)
{
	size_t want = f->is64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
	bool dynamic = table->type == SHT_DYNSYM;
	const struct elf_section *string_table;
	_cleanup_free_ char *strings = NULL;
	_cleanup_free_ char *chunk = NULL;
	uint64_t count;
	int r;

	if (table->entry_bytes != want || table->link >= f->section_count)
		return -EBADMSG;
	string_table = &f->sections[table->link];
	if (string_table->type != SHT_STRTAB)
		return -EBADMSG;
	count = table->bytes / want;
	if (count > SYMBOLS_MAX)
		return -E2BIG;
	r = elf_read_alloc(f, string_table->offset, string_table->bytes, STRINGS_MAX_BYTES, &strings);
	if (r)
		return r;
	chunk = malloc(READ_ENTRIES * want);
	if (!chunk)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i += READ_ENTRIES) {
		size_t n = count - i < READ_ENTRIES ? (size_t)(count - i) : READ_ENTRIES;

		if (table->offset > f->bytes)
			return -ENODATA;
		r = elf_read(f, table->offset + i * want, chunk, n * want);
		if (r)
			return r;
		for (size_t k = 0; k < n; k++) {
			Elf64_Sym y;
			Elf32_Sym y32;

			if (f->is64) {
				memcpy(&y, chunk + k * want, want);
			} else {
				memcpy(&y32, chunk + k * want, want);
				y = (Elf64_Sym){.st_name = y32.st_name,
						.st_info = y32.st_info,
						.st_shndx = y32.st_shndx,
						.st_value = y32.st_value,
						.st_size = y32.st_size};
			}
			r = add_symbol(s, f, &y, dynamic, strings, (size_t)string_table->bytes);
			if (r)
				return r;
		}
	}
	return 0;
}

int symbols_load_elf(struct symbols *s, const struct elf_file *f, struct err *e)
{
	static const uint32_t types[] = {SHT_SYMTAB, SHT_DYNSYM};
	size_t before = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		const struct elf_section *table = elf_find_section_type(f, types[i]);

		r = table ? load_table(s, f, table) : 0;
		if (r == -ENOMEM || r == -E2BIG || r == -EFBIG)
			return err_set(e, r, "the symbol table is too large");
		/* Broken, or cut off: the entries before that are good. */
		if (r)
			err_set(e, r, "the symbol table is damaged");
		if (i == 0)
			before = s->count;
	}
	if (!before) {
		r = gopclntab_load(s, f);
		if (r && r != -ENOENT)
			err_set(e, r, "the Go function table is damaged");
		if (r == -ENOMEM || r == -E2BIG || r == -EFBIG)
			return r;
	}
	r = symbols_finish(s);
	if (r)
		return err_set(e, r, "the symbol table is too large");
	return 0;
}
