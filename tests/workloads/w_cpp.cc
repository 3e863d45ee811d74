// Workload in C++ with an oracle: a template in a namespace, a method, an operator, with shares of about 60, 30 and 10 %.
#include "oracle.h"

namespace work
{
template <typename T, int Shift> ORACLE_NOINLINE T churn(T seed, uint64_t iterations)
{
	ORACLE_FRAME();
	for (uint64_t i = 0; i < iterations; i++)
		seed = (seed ^ (seed >> Shift)) * 0xff51afd7ed558ccdu + i;
	return seed;
}

class Engine
{
      public:
	ORACLE_NOINLINE uint64_t turn(uint64_t seed, uint64_t iterations) const
	{
		ORACLE_FRAME();
		for (uint64_t i = 0; i < iterations; i++)
			seed = seed * factor_ + (i ^ seed >> 11);
		return seed;
	}
	ORACLE_NOINLINE uint64_t operator()(uint64_t seed, uint64_t iterations) const
	{
		ORACLE_FRAME();
		for (uint64_t i = 0; i < iterations; i++)
			seed ^= (seed << 5) + (seed >> 2) + i;
		return seed;
	}

      private:
	uint64_t factor_ = 2862933555777941757u;
};
} // namespace work

static work::Engine engine;

static uint64_t run_churn(uint64_t seed, uint64_t iterations)
{
	return work::churn<unsigned long, 29>(seed, iterations);
}
static uint64_t run_turn(uint64_t seed, uint64_t iterations)
{
	return engine.turn(seed, iterations);
}
static uint64_t run_call(uint64_t seed, uint64_t iterations)
{
	return engine(seed, iterations);
}

int main(int argc, char **argv)
{
	oracle_function functions[] = {
		{ "work::churn<unsigned long, 29>", run_churn, 60, 0 },
		{ "work::Engine::turn", run_turn, 30, 0 },
		{ "work::Engine::operator()", run_call, 10, 0 },
	};

	return oracle_run(functions, sizeof(functions) / sizeof(functions[0]), oracle_limit(argc, argv));
}
