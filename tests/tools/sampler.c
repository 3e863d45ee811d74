/* See sampler.h. One ring a CPU; the events of all threads on it write there. */
#include "tests/tools/sampler.h"

#include <asm/perf_regs.h>
#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_PAGES 4096
#define PAGE_BYTES 4096u
#define MAX_CPUS 1024
#define MAX_EVENTS 16384
#define STACK_BYTES 65528
#define MAX_RECORD_BYTES 65536

struct ring {
	int fd; /* of its first event; borrowed */
	struct perf_event_mmap_page *page;
	uint8_t *data;
};

struct sampler {
	struct ring *rings;
	size_t ring_count;
	int *events;
	size_t event_count;
	uint64_t skipped, lost;
	uint8_t record[MAX_RECORD_BYTES];
};

/* Order of the bits is the order in the record; segment registers but CS and SS do not exist for 64-bit programs. */
static const int reg_of_bit[] = {
	[PERF_REG_X86_AX] = 0,	 [PERF_REG_X86_BX] = 3,	  [PERF_REG_X86_CX] = 1,   [PERF_REG_X86_DX] = 2,
	[PERF_REG_X86_SI] = 6,	 [PERF_REG_X86_DI] = 7,	  [PERF_REG_X86_BP] = 5,   [PERF_REG_X86_SP] = 4,
	[PERF_REG_X86_IP] = 16,	 [PERF_REG_X86_R8] = 8,	  [PERF_REG_X86_R9] = 9,   [PERF_REG_X86_R10] = 10,
	[PERF_REG_X86_R11] = 11, [PERF_REG_X86_R12] = 12, [PERF_REG_X86_R13] = 13, [PERF_REG_X86_R14] = 14,
	[PERF_REG_X86_R15] = 15,
};
#define REGS_MASK                                                                                                      \
	(((1ull << (PERF_REG_X86_IP + 1)) - 1) |                                                                       \
	 (((1ull << (PERF_REG_X86_R15 + 1)) - 1) & ~((1ull << PERF_REG_X86_R8) - 1)))

void sample_pt_regs(const struct sample *s, uint64_t ret[UNWIND_USER_REGISTERS])
{
	static const int word_of_reg[REG_COUNT] = {
#define WORD(name) (offsetof(struct pt_regs, name) / 8)
		WORD(rax), WORD(rcx), WORD(rdx), WORD(rbx), WORD(rsp), WORD(rbp), WORD(rsi), WORD(rdi), WORD(r8),
		WORD(r9),  WORD(r10), WORD(r11), WORD(r12), WORD(r13), WORD(r14), WORD(r15), WORD(rip),
#undef WORD
	};
	_Static_assert(sizeof(struct pt_regs) == UNWIND_USER_REGISTERS * 8, "struct pt_regs");

	memset(ret, 0, UNWIND_USER_REGISTERS * sizeof(*ret));
	for (size_t i = 0; i < ARRAY_SIZE(word_of_reg); i++)
		ret[word_of_reg[i]] = s->regs[i];
}

static int event_open(struct sampler *s, pid_t tid, size_t cpu, uint64_t period_ns)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = period_ns,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER,
		.sample_regs_user = REGS_MASK,
		.sample_stack_user = STACK_BYTES,
		.inherit = 1,
		.exclude_idle = 1,
		.watermark = 1,
		.wakeup_watermark = RING_PAGES * PAGE_BYTES / 16,
	};
	struct ring *ring = &s->rings[cpu];
	int fd;

	if (s->event_count == MAX_EVENTS)
		return -ENOSPC;
	fd = (int)syscall(SYS_perf_event_open, &attr, tid, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	s->events[s->event_count++] = fd;
	if (ring->page)
		return ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring->fd) ? -errno : 0;
	ring->page = mmap(NULL, (RING_PAGES + 1) * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring->page == MAP_FAILED) {
		ring->page = NULL;
		return -errno;
	}
	ring->fd = fd;
	ring->data = (uint8_t *)ring->page + PAGE_BYTES;
	return 0;
}

static int process_open(struct sampler *s, pid_t pid, uint64_t period_ns)
{
	struct dirent *d;
	char path[64];
	size_t opened = 0;
	DIR *dir;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (!r && (d = readdir(dir)) != NULL) {
		pid_t tid = (pid_t)strtol(d->d_name, NULL, 10);

		for (size_t cpu = 0; tid > 0 && cpu < s->ring_count && !r; cpu++) {
			r = event_open(s, tid, cpu, period_ns);
			if (!r)
				opened++;
			/* Threads end, and CPUs may be offline. */
			else if (r == -ESRCH || r == -ENODEV)
				r = 0;
		}
	}
	closedir(dir);
	return r ? r : opened ? 0 : -ESRCH;
}

int sampler_create(const pid_t *pids, size_t count, uint64_t period_ns, struct sampler **ret, struct err *e)
{
	struct sampler *s = calloc(1, sizeof(*s));
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	int r = s ? 0 : -ENOMEM;

	if (!r && (cpus < 1 || cpus > MAX_CPUS))
		r = -ERANGE;
	if (!r) {
		s->ring_count = (size_t)cpus;
		s->rings = calloc(s->ring_count, sizeof(*s->rings));
		s->events = calloc(MAX_EVENTS, sizeof(*s->events));
		if (!s->rings || !s->events)
			r = -ENOMEM;
	}
	for (size_t i = 0; i < count && !r; i++) {
		r = process_open(s, pids[i], period_ns);
		if (r)
			err_errno(e, r, "cannot sample process %d", pids[i]);
	}
	if (r) {
		sampler_destroy(s);
		return e && e->code ? e->code : err_errno(e, r, "cannot sample");
	}
	*ret = s;
	return 0;
}

void sampler_destroy(struct sampler *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->ring_count && s->rings; i++)
		if (s->rings[i].page)
			munmap(s->rings[i].page, (RING_PAGES + 1) * PAGE_BYTES);
	for (size_t i = 0; i < s->event_count; i++)
		close(s->events[i]);
	free(s->rings);
	free(s->events);
	free(s);
}

/* bytes were checked against the record's end by the caller's arithmetic: at <= end. */
static bool take(const uint8_t **at, const uint8_t *end, void *to, size_t bytes)
{
	if ((size_t)(end - *at) < bytes)
		return false;
	memcpy(to, *at, bytes);
	*at += bytes;
	return true;
}

static bool parse(const struct perf_event_header *head, const uint8_t *at, const uint8_t *end, struct sample *ret)
{
	uint64_t ip, abi, size, filled, value;
	uint32_t ids[2];

	if (!take(&at, end, &ip, sizeof(ip)) || !take(&at, end, ids, sizeof(ids)) ||
	    !take(&at, end, &abi, sizeof(abi)) || abi != PERF_SAMPLE_REGS_ABI_64)
		return false;
	*ret = (struct sample){.pid = (pid_t)ids[0], .tid = (pid_t)ids[1]};
	ret->kernel = (head->misc & PERF_RECORD_MISC_CPUMODE_MASK) == PERF_RECORD_MISC_KERNEL;
	for (unsigned int bit = 0; bit <= PERF_REG_X86_R15; bit++) {
		if (!(REGS_MASK & 1ull << bit))
			continue;
		if (!take(&at, end, &value, sizeof(value)))
			return false;
		if (bit != PERF_REG_X86_FLAGS && bit != PERF_REG_X86_CS && bit != PERF_REG_X86_SS)
			ret->regs[reg_of_bit[bit]] = value;
	}
	if (!take(&at, end, &size, sizeof(size)) || size > (size_t)(end - at))
		return false;
	ret->stack = at;
	at += size;
	if (!size || !take(&at, end, &filled, sizeof(filled)) || filled > size)
		return false;
	ret->asked_bytes = size;
	ret->stack_bytes = (size_t)filled;
	return true;
}

static int drain_ring(struct sampler *s, struct ring *ring, int (*callback)(const struct sample *sample, void *user),
		      void *user)
{
	const uint64_t bytes = (uint64_t)RING_PAGES * PAGE_BYTES;
	uint64_t head = __atomic_load_n(&ring->page->data_head, __ATOMIC_ACQUIRE), tail = ring->page->data_tail;
	int r = 0;

	while (tail < head && !r) {
		struct perf_event_header *h = (struct perf_event_header *)(ring->data + tail % bytes);
		size_t length = h->size, first = (size_t)(bytes - tail % bytes);
		struct sample sample;

		if (first > length)
			first = length;
		memcpy(s->record, ring->data + tail % bytes, first);
		memcpy(s->record + first, ring->data, length - first);
		h = (struct perf_event_header *)s->record;
		if (h->type == PERF_RECORD_SAMPLE) {
			if (parse(h, s->record + sizeof(*h), s->record + length, &sample))
				r = callback(&sample, user);
			else
				s->skipped++;
		} else if (h->type == PERF_RECORD_LOST && length >= sizeof(*h) + 16) {
			uint64_t lost;

			memcpy(&lost, s->record + sizeof(*h) + 8, sizeof(lost));
			s->lost += lost;
		}
		tail += length;
		__atomic_store_n(&ring->page->data_tail, tail, __ATOMIC_RELEASE);
	}
	return r;
}

int sampler_drain(struct sampler *s, int timeout_ms, int (*callback)(const struct sample *sample, void *user),
		  void *user)
{
	struct pollfd fds[MAX_CPUS];
	nfds_t count = 0;
	int r = 0;

	for (size_t i = 0; i < s->ring_count; i++)
		if (s->rings[i].page)
			fds[count++] = (struct pollfd){.fd = s->rings[i].fd, .events = POLLIN};
	if (poll(fds, count, timeout_ms) < 0 && errno != EINTR)
		return -errno;
	for (size_t i = 0; i < s->ring_count && !r; i++)
		if (s->rings[i].page)
			r = drain_ring(s, &s->rings[i], callback, user);
	return r;
}

uint64_t sampler_skipped(const struct sampler *s)
{
	return s->skipped;
}

uint64_t sampler_lost(const struct sampler *s)
{
	return s->lost;
}
