/* See captured.h. */
#include "tests/tools/captured.h"

#include <errno.h>
#include <string.h>

#define BELOW_BYTES 65536 /* stack memory that calls before have left behind */
#define POISON_REACH (1ull << 32)
#define POP_BYTES 48

/* Registers that the instructions before the place have popped, the last one first. */
static void find_pops(struct captured *c)
{
	uint64_t pc = c->sample->regs[REG_PC];
	uint8_t code[POP_BYTES];
	size_t at = sizeof(code);

	c->below_count = 0;
	if (c->sample->kernel || process_read_code(c->process, code, sizeof(code), pc - sizeof(code)))
		return;
	while (at >= 2 && c->below_count < CAPTURED_BELOW_WORDS) {
		unsigned int op = code[at - 1], reg = op - 0x58;

		if (op == 0xc9) { /* leave */
			c->below[c->below_count++] = c->sample->regs[REG_BP];
			return;
		}
		if (reg > 7 || reg == REG_SP)
			return;
		at--;
		if (code[at - 1] == 0x41) {
			reg += 8;
			at--;
		}
		c->below[c->below_count++] = c->sample->regs[reg];
	}
}

void captured_init(struct captured *c, const struct sample *sample, const struct process *process)
{
	c->sample = sample;
	c->process = process;
	c->sp = sample->regs[REG_SP];
	find_pops(c);
	captured_begin(c, 0);
}

void captured_begin(struct captured *c, uint64_t poison)
{
	c->poison = poison;
	c->served = false;
	c->poisoned = false;
	c->outside = false;
	c->deepest = c->sp;
	c->code_count = 0;
	memset(c->words_read, 0, sizeof(c->words_read));
}

static bool below(const struct captured *c, uint64_t at, uint64_t *ret)
{
	size_t index = (c->sp - at) / 8 - 1;

	if ((c->sp - at) % 8 || index >= c->below_count)
		return false;
	*ret = c->below[index];
	return true;
}

/* All of [from, from + bytes) begins below sp, word by word. */
static int read_below(struct captured *c, uint8_t *to, uint32_t bytes, uint64_t from, bool poison)
{
	for (uint32_t done = 0; done < bytes; done += 8) {
		uint64_t word;

		if (from + done >= c->sp) {
			if (captured_read(c, to + done, bytes - done, from + done))
				return -EFAULT;
			return 0;
		}
		if (!below(c, from + done, &word)) {
			if (!poison)
				return -EFAULT;
			word = c->poison;
			c->served = true;
		}
		memcpy(to + done, &word, bytes - done < 8 ? bytes - done : 8);
	}
	return 0;
}

int captured_read(void *user, void *to, uint32_t bytes, uint64_t from)
{
	struct captured *c = user;
	uint64_t in = from - c->sp;

	if (c->served && from - (c->poison - POISON_REACH) < 2 * POISON_REACH) {
		c->poisoned = true;
		return -EFAULT;
	}
	if (from < c->sp && c->sp - from <= BELOW_BYTES)
		return read_below(c, to, bytes, from, true);
	if (in <= c->sample->stack_bytes && bytes <= c->sample->stack_bytes - in) {
		memcpy(to, c->sample->stack + in, bytes);
		for (uint64_t w = in / 8; w <= (in + bytes - 1) / 8; w++)
			c->words_read[w / 8] |= (uint8_t)(1 << w % 8);
		if (from + bytes > c->deepest)
			c->deepest = from + bytes;
		return 0;
	}
	/* The kernel stopped copying there because it could not be read. */
	if (in < c->sample->asked_bytes && c->sample->stack_bytes < c->sample->asked_bytes)
		return -EFAULT;
	if (!process_mapping(c->process, from)) {
		c->outside = true;
		return -EFAULT;
	}
	if (process_read_code(c->process, to, bytes, from))
		return -EFAULT;
	if (c->code_count < CAPTURED_MAX_CODE)
		c->code[c->code_count++] = (struct captured_code){from, bytes};
	return 0;
}

int captured_read_word(void *user, void *to, uint32_t bytes, uint64_t from)
{
	struct captured *c = user;
	uint64_t in = from - c->sp;

	if (from < c->sp && c->sp - from <= BELOW_BYTES)
		return read_below(c, to, bytes, from, false);
	if (in <= c->sample->stack_bytes && bytes <= c->sample->stack_bytes - in) {
		memcpy(to, c->sample->stack + in, bytes);
		return 0;
	}
	if (in < c->sample->asked_bytes && c->sample->stack_bytes < c->sample->asked_bytes)
		return -EFAULT;
	if (!process_mapping(c->process, from)) {
		c->outside = true;
		return -EFAULT;
	}
	return process_read_code(c->process, to, bytes, from);
}
