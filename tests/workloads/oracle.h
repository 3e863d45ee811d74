/* The oracle of a workload in C or C++: each hot function's own CPU time, counted around slices of irregular length.
 *
 * A slice is 0.1 to 3 ms of work: long against two clock reads, and of pseudo-random length, so that slices don't beat
 * with a sampler. Single-threaded unless the user says otherwise. Plain C that C++ takes too. */
#ifndef BAROSCOPE_TESTS_ORACLE_H
#define BAROSCOPE_TESTS_ORACLE_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ORACLE_NOINLINE __attribute__((noinline, noclone))
/* At the head of a leaf: gcc leaves out its frame, -fno-omit-frame-pointer or not, unless the frame is asked for; its
 * caller would then miss from stacks walked by frame pointer. */
#define ORACLE_FRAME() __asm__ volatile("" : : "r"(__builtin_frame_address(0)))

struct oracle_function {
	const char *name;
	uint64_t (*run)(uint64_t seed, uint64_t iterations);
	unsigned weight; /* of the time, roughly: the oracle counts what it really was */
	uint64_t cpu_ns;
};

static volatile sig_atomic_t oracle_stop;

static inline void oracle_on_signal(int signo)
{
	(void)signo;
	oracle_stop = 1;
}

static inline uint64_t oracle_clock_ns(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* xorshift64: irregular, and the same in every run. */
static inline uint64_t oracle_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Runs until SIGTERM, SIGINT, or until the process has used limit_ns of CPU (0 = no limit); prints the JSON. */
static inline int oracle_run(struct oracle_function *functions, size_t count, uint64_t limit_ns)
{
	uint64_t random = 0x9e3779b97f4a7c15u, sink = 0;
	unsigned total_weight = 0;
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = oracle_on_signal;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (size_t i = 0; i < count; i++)
		total_weight += functions[i].weight;
	printf("started\n");
	fflush(stdout);

	while (!oracle_stop) {
		uint64_t pick = oracle_random(&random) % total_weight, iterations, before;
		size_t i = 0;

		while (pick >= functions[i].weight)
			pick -= functions[i++].weight;
		iterations = 50000 + oracle_random(&random) % 1500000;
		before = oracle_clock_ns(CLOCK_THREAD_CPUTIME_ID);
		sink += functions[i].run(oracle_random(&random), iterations);
		functions[i].cpu_ns += oracle_clock_ns(CLOCK_THREAD_CPUTIME_ID) - before;
		if (limit_ns && oracle_clock_ns(CLOCK_PROCESS_CPUTIME_ID) >= limit_ns)
			break;
	}

	printf("{\"functions\":{");
	for (size_t i = 0; i < count; i++)
		printf("%s\"%s\":%llu", i ? "," : "", functions[i].name, (unsigned long long)functions[i].cpu_ns);
	printf("},\"sink\":%llu,\"process_cpu_ns\":%llu}\n", (unsigned long long)(sink & 1),
	       (unsigned long long)oracle_clock_ns(CLOCK_PROCESS_CPUTIME_ID));
	fflush(stdout);
	return 0;
}

/* --cpu-seconds S; anything else is a usage error. */
static inline uint64_t oracle_limit(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], "--cpu-seconds"))
			return (uint64_t)(atof(argv[i + 1]) * 1e9);
	return 0;
}

#endif
