// Workload whose stacks are hard to walk: no frame pointers (-fomit-frame-pointer), exceptions thrown through frames with
// destructors, signal handlers at work (on the stack and on an alternate one), frames of variable size, coroutines, calls
// through the PLT, calls into the vDSO, recursion 400 deep, threads. Ends like the others: SIGTERM or --cpu-seconds.
//
//	w_unwind [--cpu-seconds N]
//	w_unwind --forks N     N children burn 20 ms each and stay until their parent ends; `started` once all have burnt
#include <alloca.h>
#include <coroutine>
#include <cmath>
#include <exception>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "oracle.h"

namespace
{
const unsigned RECURSION = 400;

// Keeps the compiler from turning a call into a jump or from folding it.
template <typename T> inline void keep(T &value)
{
	__asm__ volatile("" : "+r"(value));
}

ORACLE_NOINLINE uint64_t churn(uint64_t seed, unsigned turns)
{
	for (unsigned i = 0; i < turns; i++)
		seed = (seed ^ (seed >> 29)) * 0xff51afd7ed558ccdu + i;
	keep(seed);
	return seed;
}

// --- exceptions ----------------------------------------------------------------------------------------------------

struct Guard {
	uint64_t &at_end;
	uint64_t seed;
	ORACLE_NOINLINE ~Guard()
	{
		at_end += churn(seed, 40);
	}
};

ORACLE_NOINLINE uint64_t throw_below(uint64_t seed, unsigned depth, uint64_t &cleaned)
{
	Guard guard{ cleaned, seed };

	if (!depth)
		throw std::runtime_error(std::to_string(seed));
	seed = throw_below(churn(seed, 20), depth - 1, cleaned) + 1;
	keep(seed);
	return seed;
}

uint64_t run_exceptions(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 8000 + 1; i++) {
		uint64_t cleaned = 0;

		try {
			seed = throw_below(seed, 3 + i % 20, cleaned);
		} catch (const std::exception &e) {
			seed = seed * 31 + cleaned + e.what()[0];
		}
	}
	return seed;
}

// --- signals -------------------------------------------------------------------------------------------------------

volatile uint64_t handled;

void on_signal(int)
{
	handled = churn(handled + 1, 4000);
}

uint64_t run_signals(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 10000 + 1; i++) {
		raise(i % 2 ? SIGUSR1 : SIGUSR2);
		seed += handled + churn(seed, 500);
	}
	return seed;
}

// --- frames of variable size ---------------------------------------------------------------------------------------

ORACLE_NOINLINE uint64_t in_vla(uint64_t seed, unsigned bytes)
{
	unsigned char room[bytes];

	memset(room, static_cast<int>(seed), bytes);
	seed = churn(seed + room[seed % bytes], 300);
	keep(seed);
	return seed;
}

ORACLE_NOINLINE uint64_t in_alloca(uint64_t seed, unsigned bytes)
{
	unsigned char *room = static_cast<unsigned char *>(alloca(bytes));

	memset(room, static_cast<int>(seed), bytes);
	seed = in_vla(seed + room[seed % bytes], bytes / 2 + 1);
	keep(seed);
	return seed;
}

uint64_t run_variable(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 500 + 1; i++)
		seed = in_alloca(seed, 16 + seed % 3000);
	return seed;
}

// --- coroutines ----------------------------------------------------------------------------------------------------

// Awaiting one starts it by symmetric transfer, and its end goes back the same way.
struct Task {
	struct promise_type {
		std::coroutine_handle<> waiting;
		uint64_t value = 0;

		struct Final {
			bool await_ready() noexcept
			{
				return false;
			}
			std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> h) noexcept
			{
				return h.promise().waiting ? h.promise().waiting : std::noop_coroutine();
			}
			void await_resume() noexcept
			{
			}
		};
		Task get_return_object()
		{
			return Task{ std::coroutine_handle<promise_type>::from_promise(*this) };
		}
		std::suspend_always initial_suspend() noexcept
		{
			return {};
		}
		Final final_suspend() noexcept
		{
			return {};
		}
		void return_value(uint64_t v)
		{
			value = v;
		}
		void unhandled_exception()
		{
			std::terminate();
		}
	};

	std::coroutine_handle<promise_type> handle;

	explicit Task(std::coroutine_handle<promise_type> h)
		: handle(h)
	{
	}
	Task(Task &&other)
		: handle(std::exchange(other.handle, nullptr))
	{
	}
	~Task()
	{
		if (handle)
			handle.destroy();
	}
	bool await_ready()
	{
		return false;
	}
	std::coroutine_handle<> await_suspend(std::coroutine_handle<> h)
	{
		handle.promise().waiting = h;
		return handle;
	}
	uint64_t await_resume()
	{
		return handle.promise().value;
	}
};

Task descend(uint64_t seed, unsigned depth)
{
	seed = churn(seed, 200);
	if (depth)
		seed += co_await descend(seed, depth - 1);
	co_return churn(seed, 100);
}

uint64_t run_coroutines(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 6000 + 1; i++) {
		Task task = descend(seed, 1 + i % 30);

		task.handle.resume();
		seed = task.handle.promise().value;
	}
	return seed;
}

// --- calls through the PLT -----------------------------------------------------------------------------------------

uint64_t run_plt(uint64_t seed, uint64_t iterations)
{
	char text[64] = "a string of some length for the C library";
	double x = 1.5;
	std::string grown;

	for (uint64_t i = 0; i < iterations / 60 + 1; i++) {
		text[i % 40] = static_cast<char>('a' + i % 26);
		seed += strlen(text) + static_cast<uint64_t>(abs(static_cast<int>(i)));
		seed ^= static_cast<uint64_t>(atoi("4711")) + (strchr(text, 'q') != nullptr);
		x = fmod(x * 1.7 + cos(x), 1000.0);
		grown.append(text, i % 16);
		if (grown.size() > 4096)
			grown.clear();
	}
	return seed + static_cast<uint64_t>(x) + grown.size();
}

int by_value(const void *a, const void *b)
{
	uint64_t x = churn(*static_cast<const uint64_t *>(a), 4), y = churn(*static_cast<const uint64_t *>(b), 4);

	return x < y ? -1 : x > y;
}

// The C library calls back.
uint64_t run_callback(uint64_t seed, uint64_t iterations)
{
	uint64_t values[256];

	for (uint64_t i = 0; i < iterations / 30000 + 1; i++) {
		for (uint64_t &v : values)
			v = oracle_random(&seed);
		qsort(values, 256, sizeof(values[0]), by_value);
		seed += values[i % 256];
	}
	return seed;
}

// --- vDSO ----------------------------------------------------------------------------------------------------------

ORACLE_NOINLINE uint64_t ask_clocks(uint64_t seed)
{
	struct timespec ts;
	struct timeval tv;

	for (int i = 0; i < 50; i++) {
		clock_gettime(i % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME, &ts);
		gettimeofday(&tv, nullptr);
		seed += static_cast<uint64_t>(ts.tv_nsec + tv.tv_usec);
	}
	keep(seed);
	return seed;
}

uint64_t run_vdso(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 2500 + 1; i++)
		seed += ask_clocks(seed);
	return seed;
}

// --- depth ---------------------------------------------------------------------------------------------------------

ORACLE_NOINLINE uint64_t recurse(uint64_t seed, unsigned depth)
{
	if (!depth)
		return churn(seed, 60000);
	seed = recurse(seed + depth, depth - 1) * 3;
	keep(seed);
	return seed;
}

uint64_t run_recursion(uint64_t seed, uint64_t iterations)
{
	for (uint64_t i = 0; i < iterations / 100000 + 1; i++)
		seed = recurse(seed, RECURSION);
	return seed;
}

// --- threads -------------------------------------------------------------------------------------------------------

// Not too short a life: the C library gives back a thread's stack before it ends, and what is sampled then is cut off.
uint64_t run_thread(uint64_t seed, uint64_t iterations)
{
	uint64_t result = 0;
	std::thread thread([&result, seed, iterations] { result = run_variable(seed, iterations * 8); });

	thread.join();
	return result;
}

int run_forks(unsigned count)
{
	int done[2], finished = 0;
	uint64_t random = 0x9e3779b97f4a7c15u;
	char byte;

	if (pipe(done))
		return 1;
	for (unsigned i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (!pid) {
			uint64_t until = oracle_clock_ns(CLOCK_PROCESS_CPUTIME_ID) + 20000000;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == 1)
				_exit(1);
			while (oracle_clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until)
				random = run_variable(random, 20000) + run_plt(random, 20000);
			byte = static_cast<char>(random);
			if (write(done[1], &byte, 1) != 1)
				_exit(1);
			while (true)
				pause();
		}
	}
	close(done[1]);
	for (unsigned i = 0; i < count; i++)
		finished += read(done[0], &byte, 1) == 1;
	printf("started\n");
	fflush(stdout);
	pause();
	return finished == static_cast<int>(count) ? 0 : 1;
}
} // namespace

int main(int argc, char **argv)
{
	oracle_function functions[] = {
		{ "exceptions", run_exceptions, 12, 0 }, { "signals", run_signals, 10, 0 },
		{ "variable", run_variable, 12, 0 },	 { "coroutines", run_coroutines, 12, 0 },
		{ "plt", run_plt, 12, 0 },		 { "callback", run_callback, 8, 0 },
		{ "vdso", run_vdso, 12, 0 },		 { "recursion", run_recursion, 12, 0 },
		{ "thread", run_thread, 2, 0 },
	};
	static char other_stack[64 << 10];
	struct sigaction action = {};
	stack_t stack = {};

	if (argc == 3 && !strcmp(argv[1], "--forks"))
		return run_forks(static_cast<unsigned>(atoi(argv[2])));
	stack.ss_sp = other_stack;
	stack.ss_size = sizeof(other_stack);
	action.sa_handler = on_signal;
	sigaction(SIGUSR1, &action, nullptr);
	action.sa_flags = SA_ONSTACK;
	if (sigaltstack(&stack, nullptr) || sigaction(SIGUSR2, &action, nullptr))
		return 1;
	return oracle_run(functions, sizeof(functions) / sizeof(functions[0]), oracle_limit(argc, argv));
}
