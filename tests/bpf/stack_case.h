/* A recorded stack that is walked again without a process and without a kernel (docs/HACKING.md).
 *
 * The file is text, plain or gzip'ed, a line a fact; numbers are hexadecimal but for ids and counts:
 *
 *	baroscope-stack 1
 *	name TEXT
 *	regs PC SP BP
 *	registers WORD...			all of struct pt_regs; without: the walker has none
 *	end NAME				how the walk must end
 *	frame IMAGE OFFSET | frame raw ADDRESS	what it must find, the innermost first
 *	mapping START OFFSET PAGES IMAGE	executable ones that the walk met
 *	image ID NAME BUILDID KIND		KIND: entries, rules, frame_pointer or none (no table)
 *	load ID OFFSET VADDR BYTES		its executable segments
 *	section ID eh|debug ADDRESS
 *	entry ID eh|debug AT HEX		CIE or FDE as it stands at AT in its section
 *	rule ID OFFSET HEX			of an image of kind rules: a compiled rule (struct cfi_info)
 *	code ADDRESS HEX
 *	stack ADDRESS WORD...			what is not named is 0
 *	extent START END			of the stack memory; all else cannot be read
 *
 * The sections are built again in an ELF file with their entries at their places, so that the compiler is replayed as
 * well as the walker. */
#ifndef BAROSCOPE_TESTS_BPF_STACK_CASE_H
#define BAROSCOPE_TESTS_BPF_STACK_CASE_H

#include "tests/bpf/unwind_user.h"

#define CASE_NAME_BYTES 128
#define CASE_MAX_STACK_WORDS 16384

enum case_kind { CASE_NONE, CASE_FRAME_POINTER, CASE_ENTRIES, CASE_RULES };

struct case_bytes {
	uint64_t at;
	uint32_t bytes;
	uint8_t *data;
};

struct case_section {
	uint64_t address;
	bool present;
	struct case_bytes *entries;
	size_t entry_count;
};

struct case_rule {
	uint64_t offset;
	struct cfi_info info;
};

struct case_load {
	uint64_t offset, vaddr, bytes;
};

struct case_image {
	uint32_t id;
	char name[CASE_NAME_BYTES], build_id[2 * BUILD_ID_MAX_BYTES + 1];
	enum case_kind kind;
	struct case_load *loads;
	size_t load_count;
	struct case_section sections[2]; /* .eh_frame, .debug_frame */
	struct case_rule *rules;	 /* by offset */
	size_t rule_count;
};

struct stack_case {
	char name[CASE_NAME_BYTES];
	uint64_t pc, sp, bp;
	uint64_t registers[UNWIND_USER_REGISTERS];
	bool has_registers;
	enum unwind_end end;
	abi_frame *frames;
	size_t frame_count;
	struct mapping_value *mappings; /* by address */
	size_t mapping_count;
	struct case_image *images;
	size_t image_count;
	struct case_bytes *code;
	size_t code_count;
	uint64_t stack_start;
	uint64_t *words;
	size_t word_count;
};

struct stack_case *stack_case_new(void);
void stack_case_free(struct stack_case *c);
static inline void stack_case_freep(struct stack_case **c)
{
	stack_case_free(*c);
}

int stack_case_read(const char *path, struct stack_case **ret, struct err *e);
int stack_case_write(const struct stack_case *c, const char *path, struct err *e);

/* Changes an image's table before it is loaded. */
typedef void (*stack_case_spoil)(struct cfi_tables *t, void *user);
/* Compiles, loads and walks; spoil may be NULL. */
int stack_case_walk(const struct stack_case *c, stack_case_spoil spoil, void *user, struct unwind_walk *ret,
		    struct err *e);
/* 0 if the walk found what the case says, else -EBADMSG and the first difference. */
int stack_case_judge(const struct stack_case *c, const struct unwind_walk *w, struct err *e);

/* Grows an array by one element, which is zero. NULL: no memory. */
void *stack_case_add(void *array, size_t *count, size_t bytes);
#define CASE_ADD(array, count)                                                                                         \
	({                                                                                                             \
		__typeof__(array) add_grown = stack_case_add(array, &(count), sizeof(*(array)));                       \
		if (add_grown)                                                                                         \
			(array) = add_grown;                                                                           \
		add_grown ? &(array)[(count)-1] : NULL;                                                                \
	})

#endif
