/* Loads bpfnoise.bpf.c and calls what it is attached to without pause until SIGTERM; prints
 * {"runs":n,"bpf_ns":n,"process_cpu_ns":n}. The oracle for not_run: ticks within bpf_ns are those that a perf-event
 * program must have missed. Argument: loops a call (default 2000, at most 8192).
 *
 * getpgid is a call that nobody else makes often. tracefs is mounted in a namespace of our own: nothing stays behind.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
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
	struct sigaction action = {.sa_handler = on_signal};
	struct bpfnoise_bpf *skel;
	struct bpf_link *link;
	struct timespec ts;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (access("/sys/kernel/tracing/events", F_OK) != 0 &&
	    (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	     mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL))) {
		perror("tracefs");
		return 1;
	}
	skel = bpfnoise_bpf__open();
	if (!skel)
		return 1;
	if (argc > 1)
		skel->rodata->loops = (uint32_t)atoi(argv[1]);
	skel->rodata->own_pid = (uint32_t)getpid();
	if (bpfnoise_bpf__load(skel))
		return 1;
	link = bpf_program__attach_tracepoint(skel->progs.noise_getpgid, "syscalls", "sys_enter_getpgid");
	if (!link)
		return 1;
	puts("started");
	fflush(stdout);

	while (!stop)
		syscall(SYS_getpgid, 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	printf("{\"runs\":%llu,\"bpf_ns\":%llu,\"process_cpu_ns\":%llu}\n", (unsigned long long)skel->bss->runs,
	       (unsigned long long)skel->bss->run_ns,
	       (unsigned long long)ts.tv_sec * 1000000000u + (unsigned long long)ts.tv_nsec);
	bpf_link__destroy(link);
	bpfnoise_bpf__destroy(skel);
	return 0;
}
