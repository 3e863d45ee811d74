/* elfutils' unwinder over registers and stack bytes that were captured before: what stackrec's own frames are compared
 * with. libdw is loaded when it is asked for: neither the product nor the tests are linked with it. One thread. */
#ifndef BAROSCOPE_TESTS_TOOLS_ORACLE_H
#define BAROSCOPE_TESTS_TOOLS_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/util/err.h"

#define ORACLE_MAX_FRAMES 1024

struct oracle_memory {
	int (*read)(void *user, void *to, uint32_t bytes, uint64_t from);
	void *user;
};

struct oracle_frames {
	size_t count;
	uint64_t address[ORACLE_MAX_FRAMES]; /* return addresses moved back into the call */
	bool whole;			     /* libdw says that there is no caller */
};

struct oracle;

/* -ENOSYS without libdw or built without its headers. */
int oracle_create(pid_t pid, struct oracle **ret, struct err *e);
void oracle_destroy(struct oracle *o);
/* regs: as in sample.regs. */
void oracle_walk(struct oracle *o, const uint64_t *regs, struct oracle_memory memory, struct oracle_frames *ret);

#endif
