/* Named fault points, for tests: `if (FAULT("store.write")) return -EIO;`.
 *
 * Constant false unless built with BAROSCOPE_FAULTS. Switched on by the environment,
 * BAROSCOPE_FAULT="name[:count][,name...]": every time, or the first `count` times. Any thread. */
#ifndef BAROSCOPE_UTIL_FAULT_H
#define BAROSCOPE_UTIL_FAULT_H

#include <stdbool.h>

#ifdef BAROSCOPE_FAULTS
#define FAULT(name) fault_hit(name)
bool fault_hit(const char *name);
/* Reads the environment again (tests; no other thread may be in fault_hit). */
void fault_reload(void);
#else
#define FAULT(name) false
#endif

#endif
