/* Loads bpfnoise.bpf.c, attaches it to the page faults of this process alone and faults without pause until SIGTERM;
 * prints {"runs":n,"bpf_ns":n,"process_cpu_ns":n}. The oracle for not_run: ticks within bpf_ns are those that another
 * perf-event program must have missed. Argument: loops a fault (default 2000, at most 8192). */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bpfnoise.skel.h"

static volatile sig_atomic_t stop;

static void on_signal(int signo)
{
	(void)signo;
	stop = 1;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_PAGE_FAULTS,
					.sample_period = 1 };
	struct bpfnoise_bpf *skel;
	struct bpf_link *link;
	struct timespec ts;
	const size_t bytes = 4 << 20;
	int fd;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	skel = bpfnoise_bpf__open();
	if (!skel)
		return 1;
	if (argc > 1)
		skel->rodata->loops = (uint32_t)atoi(argv[1]);
	if (bpfnoise_bpf__load(skel))
		return 1;
	fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0) {
		perror("perf_event_open");
		return 1;
	}
	link = bpf_program__attach_perf_event(skel->progs.noise_fault, fd);
	if (!link)
		return 1;
	puts("started");
	fflush(stdout);

	while (!stop) {
		char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			return 1;
		madvise(memory, bytes, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < bytes && !stop; i += 4096)
			((volatile char *)memory)[i] = 1;
		munmap(memory, bytes);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	printf("{\"runs\":%llu,\"bpf_ns\":%llu,\"process_cpu_ns\":%llu}\n", (unsigned long long)skel->bss->runs,
	       (unsigned long long)skel->bss->run_ns,
	       (unsigned long long)ts.tv_sec * 1000000000u + (unsigned long long)ts.tv_nsec);
	bpf_link__destroy(link);
	bpfnoise_bpf__destroy(skel);
	return 0;
}
