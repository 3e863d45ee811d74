/* Small behaviours for the tests, by the first argument; each prints `started` once it is at work and ends at SIGTERM:
 *   threads          two threads named misc-left and misc-right, each busy in misc_spin
 *   comm NAME        busy under a new name
 *   exec PROGRAM..   busy for one line of stdin, then becomes PROGRAM
 *   forker           forks short-lived busy children for as long as it lives; prints {"children":n,"cpu_ns":n}
 *   stacks           busy through ever new chains of calls (a stack of its own almost every sample) */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop;

static void on_signal(int signo)
{
	(void)signo;
	stop = 1;
}

__attribute__((noinline, noclone)) static uint64_t misc_spin(uint64_t seed, uint64_t iterations)
{
	__asm__ volatile("" : : "r"(__builtin_frame_address(0))); /* a leaf with a frame: its caller shows in stacks */
	for (uint64_t i = 0; i < iterations; i++)
		seed = seed * 6364136223846793005u + i;
	__asm__ volatile("" : "+r"(seed)); /* not pure: calls without a use of the result stay */
	return seed;
}

/* Which of the two goes next is a bit of the path: 2^20 chains of the same depth. */
static uint64_t chain_left(uint64_t path, int depth);
static uint64_t chain_right(uint64_t path, int depth);

__attribute__((noinline, noclone)) static uint64_t chain_left(uint64_t path, int depth)
{
	uint64_t r;

	if (depth == 0)
		return misc_spin(path, 20000);
	r = path & 1 ? chain_left(path >> 1, depth - 1) : chain_right(path >> 1, depth - 1);
	__asm__ volatile("" : "+r"(r));
	return r;
}

__attribute__((noinline, noclone)) static uint64_t chain_right(uint64_t path, int depth)
{
	uint64_t r;

	if (depth == 0)
		return misc_spin(path, 20000);
	r = path & 1 ? chain_left(path >> 1, depth - 1) : chain_right(path >> 1, depth - 1);
	__asm__ volatile("" : "+r"(r));
	return r + 1;
}

static void started(void)
{
	puts("started");
	fflush(stdout);
}

static void *thread_main(void *name)
{
	pthread_setname_np(pthread_self(), name);
	while (!stop)
		misc_spin(1, 1000000);
	return NULL;
}

static int run_threads(void)
{
	pthread_t left, right;
	static char left_name[] = "misc-left", right_name[] = "misc-right";

	if (pthread_create(&left, NULL, thread_main, left_name) ||
	    pthread_create(&right, NULL, thread_main, right_name))
		return 1;
	started();
	pthread_join(left, NULL);
	pthread_join(right, NULL);
	return 0;
}

static int run_forker(void)
{
	uint64_t children = 0, random = 88172645463325252u;
	struct rusage usage;

	started();
	while (!stop) {
		pid_t pid = fork();

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		if (pid == 0) {
			misc_spin(1, 1000000 + random % 4000000);
			_exit(0);
		}
		if (pid < 0)
			return 1;
		while (waitpid(pid, NULL, 0) < 0)
			;
		children++;
	}
	getrusage(RUSAGE_CHILDREN, &usage);
	printf("{\"children\":%llu,\"cpu_ns\":%llu}\n", (unsigned long long)children,
	       (unsigned long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
		       (unsigned long long)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u);
	return 0;
}

static int run_exec(char **argv)
{
	fd_set readable;
	struct timeval no_wait = {0, 0};

	started();
	for (;;) {
		misc_spin(1, 1000000);
		FD_ZERO(&readable);
		FD_SET(0, &readable);
		no_wait.tv_usec = 0;
		if (select(1, &readable, NULL, NULL, &no_wait) != 0)
			break;
	}
	execv(argv[0], argv);
	return 1;
}

static int run_stacks(void)
{
	uint64_t random = 88172645463325252u;

	started();
	while (!stop) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		chain_left(random, 20);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (argc == 2 && !strcmp(argv[1], "threads"))
		return run_threads();
	if (argc == 2 && !strcmp(argv[1], "forker"))
		return run_forker();
	if (argc == 2 && !strcmp(argv[1], "stacks"))
		return run_stacks();
	if (argc >= 3 && !strcmp(argv[1], "exec"))
		return run_exec(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "comm")) {
		prctl(PR_SET_NAME, argv[2]);
		started();
		while (!stop)
			misc_spin(1, 1000000);
		return 0;
	}
	fprintf(stderr, "usage: w_misc threads | comm NAME | exec PROGRAM.. | forker | stacks\n");
	return 2;
}
