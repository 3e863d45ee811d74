/* What service.c needs of daemon.c: the parts, and the drain. Only these two include it. */
#ifndef BAROSCOPE_CORE_SERVICE_INTERNAL_H
#define BAROSCOPE_CORE_SERVICE_INTERNAL_H

#include "daemon/core/pipeline.h"
#include "daemon/core/service.h"
#include "daemon/opener/opener.h"

struct table_worker;

#define SERVICE_MAX_WAITERS 256

struct service_waiter {
	service_ready_fn *fn;
	void *user;
	uint64_t until_ns;
	uint64_t after_drain; /* fires when this many drains have been done, at least */
};

struct service {
	const struct pipeline_parts *parts;
	struct pipeline *pipeline;
	struct opener *opener;
	const struct table_worker *tables;
	const char *profiler_name;
	uint32_t rate_hz;
	uint64_t started_ns;
	uint64_t drains;
	struct service_waiter waiters[SERVICE_MAX_WAITERS];
	size_t waiter_count;
	/* Asks for a drain now instead of at the next turn of the timer. */
	void (*hurry)(void *user);
	void *hurry_user;
	/* CPU time of the daemon and its children, bytes of memory: read for `status`. */
	struct service_cost {
		uint64_t sampled_ns;
		double cpu_seconds, bpf_seconds;
		double percent; /* of the machine, over the last interval */
	} cost;
};

/* Called after each drain: answers who waits. */
void service_after_drain(struct service *s);

#endif
