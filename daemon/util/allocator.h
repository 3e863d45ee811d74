/* Settings of the allocator, see allocator.c. */
#ifndef BAROSCOPE_UTIL_ALLOCATOR_H
#define BAROSCOPE_UTIL_ALLOCATOR_H

/* An environment entry for the child processes, which have one thread and long pauses. */
extern const char allocator_child_env[];

#endif
