/* From a sample and its walk to a case: what the walk needed, and nothing of the target's memory but addresses. */
#ifndef BAROSCOPE_TESTS_TOOLS_CASE_MAKER_H
#define BAROSCOPE_TESTS_TOOLS_CASE_MAKER_H

#include "tests/bpf/stack_case.h"
#include "tests/tools/captured.h"

/* The captured memory has the traces of the walk. The case was replayed: -EBADMSG if that gave something else. */
int case_make(const struct images *images, const struct process *p, const struct sample *s,
	      const struct captured *memory, const struct unwind_walk *w, const char *name, struct stack_case **ret,
	      struct err *e);

#endif
