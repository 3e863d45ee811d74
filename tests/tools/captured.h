/* A target's memory as far as a sample holds it: the stack bytes, and code, which does not change.
 *
 * Below the stack pointer nothing was captured, but rules may read there: after a `pop` the tables of gcc still say
 * that the register is saved where it was popped from. Those words are put back from the registers, if the
 * instructions right before the place show that they were just popped. What else is asked for there is poison, so that
 * a walk that depends on it is noticed: it follows the poison, or ends in another way with another poison. */
#ifndef BAROSCOPE_TESTS_TOOLS_CAPTURED_H
#define BAROSCOPE_TESTS_TOOLS_CAPTURED_H

#include "tests/tools/process.h"
#include "tests/tools/sampler.h"

#define CAPTURED_BELOW_WORDS 16
#define CAPTURED_MAX_CODE 2048
/* Below every stack, and no address at all. A walk must come to the same with both. */
#define CAPTURED_POISONS                                                                                               \
	{                                                                                                              \
		0x5aa500000000ull, 0x5aa5000000000000ull                                                               \
	}

struct captured_code {
	uint64_t address;
	uint32_t bytes;
};

struct captured {
	const struct sample *sample;
	const struct process *process;
	uint64_t sp;
	uint64_t below[CAPTURED_BELOW_WORDS]; /* [0] is at sp - 8 */
	size_t below_count;
	/* What was asked for since captured_begin. */
	uint64_t poison;
	bool served;	  /* it got poison */
	bool poisoned;	  /* and followed it */
	bool outside;	  /* it asked for memory that was not captured */
	uint64_t deepest; /* end of the stack bytes read */
	struct captured_code code[CAPTURED_MAX_CODE];
	size_t code_count;
	uint8_t words_read[65536 / 8 / 8]; /* a bit a word from sp on */
};

void captured_init(struct captured *c, const struct sample *sample, const struct process *process);
void captured_begin(struct captured *c, uint64_t poison);
/* An unwind_user_read: user is the struct captured. */
int captured_read(void *user, void *to, uint32_t bytes, uint64_t from);
/* The same for single words without traces: libdw's. */
int captured_read_word(void *user, void *to, uint32_t bytes, uint64_t from);

#endif
