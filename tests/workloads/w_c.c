/* Workload in C with an oracle: four hot functions with shares of about 50, 25, 15 and 10 %; c_outer is only a caller.
 */
#include "oracle.h"

uint64_t c_hot_half(uint64_t seed, uint64_t iterations);
uint64_t c_hot_quarter(uint64_t seed, uint64_t iterations);
uint64_t c_hot_inner(uint64_t seed, uint64_t iterations);
uint64_t c_outer(uint64_t seed, uint64_t iterations);
uint64_t c_hot_tenth(uint64_t seed, uint64_t iterations);

ORACLE_NOINLINE uint64_t c_hot_half(uint64_t seed, uint64_t iterations)
{
	ORACLE_FRAME();
	for (uint64_t i = 0; i < iterations; i++)
		seed = (seed ^ i) * 0x100000001b3u;
	return seed;
}

ORACLE_NOINLINE uint64_t c_hot_quarter(uint64_t seed, uint64_t iterations)
{
	ORACLE_FRAME();
	for (uint64_t i = 0; i < iterations; i++)
		seed = (seed << 7 | seed >> 57) + (i ^ 0x5bd1e995u);
	return seed;
}

ORACLE_NOINLINE uint64_t c_hot_inner(uint64_t seed, uint64_t iterations)
{
	ORACLE_FRAME();
	for (uint64_t i = 0; i < iterations; i++)
		seed = seed * 6364136223846793005u + 1442695040888963407u;
	return seed;
}

ORACLE_NOINLINE uint64_t c_outer(uint64_t seed, uint64_t iterations)
{
	uint64_t r = c_hot_inner(seed, iterations);

	__asm__ volatile("" : "+r"(r)); /* no tail call */
	return r + 1;
}

ORACLE_NOINLINE uint64_t c_hot_tenth(uint64_t seed, uint64_t iterations)
{
	ORACLE_FRAME();
	for (uint64_t i = 0; i < iterations; i++)
		seed ^= seed >> 3 ^ seed << 9 ^ i;
	return seed;
}

int main(int argc, char **argv)
{
	struct oracle_function functions[] = {
		{"c_hot_half", c_hot_half, 50, 0},
		{"c_hot_quarter", c_hot_quarter, 25, 0},
		{"c_hot_inner", c_outer, 15, 0},
		{"c_hot_tenth", c_hot_tenth, 10, 0},
	};

	return oracle_run(functions, sizeof(functions) / sizeof(functions[0]), oracle_limit(argc, argv));
}
