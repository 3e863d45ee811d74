// Workload of the benches: busy below up to 60 different functions, built without frame pointers. w_deep [DEPTH]
//
// Each level is a function of its own with a frame of its own size, so that a walk meets other rules and other rows at
// each step, as in real C++. Runs until it is ended; DEPTH is 60 when not given.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#define LEVEL __attribute__((noinline, noclone, no_icf))

namespace deep
{
constexpr int max_depth = 60;

LEVEL uint64_t work(uint64_t seed)
{
	for (int i = 0; i < 20000; i++)
		seed = (seed ^ (seed >> 29)) * 0xff51afd7ed558ccdu + i;
	return seed;
}

template <int Depth> struct level {
	static LEVEL uint64_t down(uint64_t a, uint64_t b, uint64_t c)
	{
		// Kept on the stack, and used behind the call: no tail call, no two frames alike.
		volatile uint64_t locals[1 + Depth * 7 % 23];
		uint64_t below;

		locals[0] = a + Depth;
		below = level<Depth - 1>::down(b ^ Depth, c + b, a);
		return below + locals[0] + (Depth % 3 ? b : 0) + (Depth % 5 ? c : 0);
	}
};

template <> struct level<1> {
	static LEVEL uint64_t down(uint64_t a, uint64_t b, uint64_t c)
	{
		return work(a + b) ^ c;
	}
};

using function = uint64_t (*)(uint64_t, uint64_t, uint64_t);

template <int Depth> struct fill {
	static void into(function *table)
	{
		table[Depth] = level<Depth>::down;
		fill<Depth - 1>::into(table);
	}
};

template <> struct fill<0> {
	static void into(function *)
	{
	}
};
} // namespace deep

int main(int argc, char **argv)
{
	deep::function table[deep::max_depth + 1] = {};
	int depth = argc > 1 ? atoi(argv[1]) : deep::max_depth;
	uint64_t seed = 1;

	if (depth < 1 || depth > deep::max_depth) {
		fprintf(stderr, "w_deep: a depth from 1 to %d\n", deep::max_depth);
		return 2;
	}
	deep::fill<deep::max_depth>::into(table);
	printf("started\n");
	fflush(stdout);
	while (seed)
		seed = table[depth](seed, seed >> 3, 7) | 1;
	return 0;
}
