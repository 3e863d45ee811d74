/* Workload in C without frame pointers, with an oracle: a fifth of its time below 400 frames of recursion, a third
 * plainly called, a quarter in comparisons that qsort of libc calls, the rest in a signal handler. Linked statically:
 * all of its stack is its own file's. The oracle's names are those of the functions that main calls, with all that they
 * call. */
#include "oracle.h"

#define DEPTH 400
#define SORTED 512

uint64_t n_hot_plain(uint64_t seed, uint64_t iterations);
uint64_t n_hot_bottom(uint64_t seed, uint64_t iterations);
uint64_t n_hot_handler(uint64_t seed, uint64_t iterations);
int n_hot_compare(const void *a, const void *b);
uint64_t n_descend(uint64_t seed, uint64_t iterations, unsigned int depth);
uint64_t n_deep(uint64_t seed, uint64_t iterations);
uint64_t n_sort(uint64_t seed, uint64_t iterations);
uint64_t n_signal(uint64_t seed, uint64_t iterations);

static uint64_t handler_seed, handler_iterations;

ORACLE_NOINLINE uint64_t n_hot_plain(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations; i++)
		seed = (seed ^ i) * 0x100000001b3u;
	return seed;
}

ORACLE_NOINLINE uint64_t n_hot_bottom(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations; i++)
		seed = (seed << 7 | seed >> 57) + (i ^ 0x5bd1e995u);
	return seed;
}

ORACLE_NOINLINE uint64_t n_hot_handler(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations; i++)
		seed = seed * 6364136223846793005u + 1442695040888963407u;
	return seed;
}

ORACLE_NOINLINE int n_hot_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	for (unsigned int i = 0; i < 200; i++) {
		x = (x ^ i) * 0x9e3779b97f4a7c15u;
		y = (y ^ i) * 0x9e3779b97f4a7c15u;
	}
	return x < y ? -1 : x > y;
}

ORACLE_NOINLINE uint64_t n_descend(uint64_t seed, uint64_t iterations, unsigned int depth)
{
	uint64_t r = depth > 1 ? n_descend(seed + 1, iterations, depth - 1) : n_hot_bottom(seed, iterations);

	__asm__ volatile("" : "+r"(r)); /* no tail call */
	return r + depth;
}

ORACLE_NOINLINE uint64_t n_deep(uint64_t seed, uint64_t iterations)
{
	uint64_t r = n_descend(seed, iterations, DEPTH);

	__asm__ volatile("" : "+r"(r));
	return r + 1;
}

ORACLE_NOINLINE uint64_t n_sort(uint64_t seed, uint64_t iterations)
{
	uint64_t values[SORTED];

	/* A comparison is about as long as 400 iterations, and a sort has about 9 a value. */
	for (uint64_t round = 0; round <= iterations / (SORTED * 9 * 400ull); round++) {
		for (unsigned int i = 0; i < SORTED; i++)
			values[i] = oracle_random(&seed);
		qsort(values, SORTED, sizeof(values[0]), n_hot_compare);
	}
	return values[0];
}

static void on_usr1(int signo)
{
	(void)signo;
	handler_seed = n_hot_handler(handler_seed, handler_iterations);
}

ORACLE_NOINLINE uint64_t n_signal(uint64_t seed, uint64_t iterations)
{
	handler_seed = seed;
	handler_iterations = iterations;
	raise(SIGUSR1);
	return handler_seed;
}

int main(int argc, char **argv)
{
	struct oracle_function functions[] = {
		{"n_deep", n_deep, 30, 0},
		{"n_hot_plain", n_hot_plain, 30, 0},
		{"n_sort", n_sort, 25, 0},
		{"n_signal", n_signal, 15, 0},
	};

	signal(SIGUSR1, on_usr1);
	return oracle_run(functions, sizeof(functions) / sizeof(functions[0]), oracle_limit(argc, argv));
}
