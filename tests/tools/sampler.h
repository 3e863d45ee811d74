/* Samples of a few processes with their user registers and stack bytes, as perf events deliver them. The processes are
 * never stopped. One thread. */
#ifndef BAROSCOPE_TESTS_TOOLS_SAMPLER_H
#define BAROSCOPE_TESTS_TOOLS_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/util/err.h"
#include "tests/bpf/unwind_user.h"

/* Index in sample.regs: the machine's own numbers, as in an instruction; then pc. */
enum { REG_BP = 5, REG_SP = 4, REG_PC = 16, REG_COUNT };

struct sample {
	pid_t pid, tid;
	bool kernel; /* hit in the kernel: the registers are those of its entry */
	uint64_t regs[REG_COUNT];
	uint64_t asked_bytes; /* fewer in stack: what is above could not be read */
	size_t stack_bytes;
	const uint8_t *stack; /* from sp on; valid in the callback */
};

/* The same in the order of struct pt_regs; words that were not sampled are 0. */
void sample_pt_regs(const struct sample *s, uint64_t ret[UNWIND_USER_REGISTERS]);

struct sampler;

/* Threads and children that the processes start later are sampled as well. */
int sampler_create(const pid_t *pids, size_t count, uint64_t period_ns, struct sampler **ret, struct err *e);
void sampler_destroy(struct sampler *s);
/* Waits at most timeout_ms for samples and gives those that are there; 0, or the callback's first other value. */
int sampler_drain(struct sampler *s, int timeout_ms, int (*callback)(const struct sample *sample, void *user),
		  void *user);
/* Samples that were left out: of 32-bit programs and of no program at all; and those that the kernel had no room for.
 */
uint64_t sampler_skipped(const struct sampler *s);
uint64_t sampler_lost(const struct sampler *s);

#endif
