/* Settings of jemalloc, which is linked to the release build only. Read-only data.
 *
 * Its defaults (four arenas a CPU, freed pages kept for 10 s and longer) suit large servers. The daemon has a few
 * threads, of which one allocates, and its memory is part of what it promises not to take: few arenas, small thread
 * caches, freed pages back to the kernel at once or nearly so. An operator's MALLOC_CONF wins. */
#include "daemon/util/allocator.h"

#ifndef BAROSCOPE_SANITIZE
/* jemalloc looks for this name. */
extern const char *malloc_conf;
const char *malloc_conf = "narenas:2,lg_tcache_max:13,dirty_decay_ms:1000,muzzy_decay_ms:0";
#endif

const char allocator_child_env[] = "MALLOC_CONF=narenas:1,lg_tcache_max:12,dirty_decay_ms:0,muzzy_decay_ms:0";
