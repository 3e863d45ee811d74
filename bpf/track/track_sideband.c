#include "bpf/track/track_sideband.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "daemon/util/cpus.h"

struct cpu_buffer {
	int fd; /* -1 = not open */
	struct perf_event_mmap_page *page;
};

struct sideband {
	size_t pages;
	size_t cpu_count;
	struct cpu_buffer *cpus;
	uint64_t lost;
	unsigned char record[65536]; /* a record that wraps around the buffer's end is put together here */
};

/* What sample_id_all adds to every record: PERF_SAMPLE_TID, PERF_SAMPLE_TIME. */
struct sample_id {
	uint32_t pid, tid;
	uint64_t time_ns;
};

struct mmap2_record {
	struct perf_event_header header;
	uint32_t pid, tid;
	uint64_t address, bytes, file_offset;
	uint32_t major, minor;
	uint64_t inode, inode_generation;
	uint32_t prot, flags;
	char path[];
};

struct comm_record {
	struct perf_event_header header;
	uint32_t pid, tid; /* the name follows */
};

struct lost_record {
	struct perf_event_header header;
	uint64_t id, lost;
};

int sideband_create(size_t pages_per_cpu, struct sideband **ret)
{
	struct sideband *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->pages = pages_per_cpu;
	s->cpu_count = cpus_possible();
	s->cpus = calloc(s->cpu_count, sizeof(*s->cpus));
	if (!s->cpus) {
		free(s);
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->cpu_count; i++)
		s->cpus[i].fd = -1;
	*ret = s;
	return 0;
}

static size_t buffer_bytes(const struct sideband *s)
{
	return (s->pages + 1) * 4096;
}

static void close_cpu(struct sideband *s, struct cpu_buffer *c)
{
	if (c->fd < 0)
		return;
	munmap(c->page, buffer_bytes(s));
	close(c->fd);
	c->fd = -1;
	c->page = NULL;
}

void sideband_destroy(struct sideband *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->cpu_count; i++)
		close_cpu(s, &s->cpus[i]);
	free(s->cpus);
	free(s);
}

static int open_cpu(struct sideband *s, size_t cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.sample_period = 1,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME,
		.mmap = 1,
		.mmap2 = 1,
		.comm = 1,
		.comm_exec = 1,
		.sample_id_all = 1,
		.use_clockid = 1,
		.clockid = CLOCK_MONOTONIC,
		.watermark = 1,
		.wakeup_watermark = 1u << 30, /* drained by time */
		.disabled = 1,
	};
	_cleanup_close_ int fd = (int)syscall(SYS_perf_event_open, &attr, -1, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC);
	void *page;

	if (fd < 0)
		return -errno;
	page = mmap(NULL, buffer_bytes(s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return -errno;
	if (ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) < 0) {
		int err = -errno;

		munmap(page, buffer_bytes(s));
		return err;
	}
	s->cpus[cpu].page = page;
	s->cpus[cpu].fd = TAKE_FD(fd);
	return 0;
}

int sideband_follow_cpus(struct sideband *s, struct err *e)
{
	size_t open = 0;
	int err = 0;

	for (size_t cpu = 0; cpu < s->cpu_count; cpu++) {
		bool online = cpus_is_online(cpu);

		if (!online) {
			close_cpu(s, &s->cpus[cpu]);
			continue;
		}
		if (s->cpus[cpu].fd < 0) {
			int r = open_cpu(s, cpu);

			if (r == -ENODEV) /* gone again meanwhile */
				continue;
			if (r < 0) {
				err = r;
				continue;
			}
		}
		open++;
	}
	if (!open)
		return err_errno(e, err ? err : -ENODEV,
				 "cannot open perf's side band (needs CAP_PERFMON or CAP_SYS_ADMIN)");
	return 0;
}

static int handle(struct sideband *s, const struct perf_event_header *h, sideband_fn *fn, void *user)
{
	const unsigned char *raw = (const unsigned char *)h;
	struct track_event event = {0};
	struct sample_id id;

	if (h->type == PERF_RECORD_LOST) {
		if (h->size >= sizeof(struct lost_record))
			s->lost += ((const struct lost_record *)raw)->lost;
		return 0;
	}
	if (h->size < sizeof(*h) + sizeof(id))
		return 0;
	memcpy(&id, raw + h->size - sizeof(id), sizeof(id));
	event.time_ns = id.time_ns;
	if (h->type == PERF_RECORD_MMAP2) {
		const struct mmap2_record *m = (const struct mmap2_record *)raw;

		if (h->size < sizeof(*m) + sizeof(id) + 1)
			return 0;
		if (!memchr(m->path, '\0', h->size - sizeof(*m) - sizeof(id)))
			return 0;
		event.kind = TRACK_MMAP;
		event.pid = m->pid;
		event.mmap = (struct mmap_event){
			.time_ns = id.time_ns,
			.pid = m->pid,
			.start = m->address,
			.bytes = m->bytes,
			.file_offset = m->file_offset,
			.dev_major = m->major,
			.dev_minor = m->minor,
			.inode = m->inode,
			.inode_generation = m->inode_generation,
			.path = m->path,
		};
		return fn(user, &event);
	}
	if (h->type == PERF_RECORD_COMM && (h->misc & PERF_RECORD_MISC_COMM_EXEC)) {
		const struct comm_record *c = (const struct comm_record *)raw;

		if (h->size < sizeof(*c) + sizeof(id))
			return 0;
		event.kind = TRACK_EXEC_BEGIN;
		event.pid = c->pid;
		return fn(user, &event);
	}
	return 0;
}

static int drain_cpu(struct sideband *s, struct cpu_buffer *c, sideband_fn *fn, void *user)
{
	uint64_t size = s->pages * 4096, head, tail;
	const unsigned char *data = (const unsigned char *)c->page + 4096;
	int err = 0;

	head = __atomic_load_n(&c->page->data_head, __ATOMIC_ACQUIRE);
	tail = c->page->data_tail;
	while (tail < head && !err) {
		uint64_t at = tail % size;
		const struct perf_event_header *h = (const struct perf_event_header *)(data + at);
		uint16_t bytes = h->size; /* records are 8-byte aligned: the header itself never wraps */

		if (bytes < sizeof(*h) || bytes > head - tail) {
			s->lost++; /* not to be understood: start afresh */
			tail = head;
			break;
		}
		if (at + bytes > size) {
			memcpy(s->record, data + at, size - at);
			memcpy(s->record + (size - at), data, bytes - (size - at));
			h = (const struct perf_event_header *)s->record;
		}
		err = handle(s, h, fn, user);
		tail += bytes;
	}
	__atomic_store_n(&c->page->data_tail, tail, __ATOMIC_RELEASE);
	return err;
}

int sideband_drain(struct sideband *s, sideband_fn *fn, void *user)
{
	for (size_t i = 0; i < s->cpu_count; i++) {
		int err;

		if (s->cpus[i].fd < 0)
			continue;
		err = drain_cpu(s, &s->cpus[i], fn, user);
		if (err)
			return err;
	}
	return 0;
}

uint64_t sideband_lost(const struct sideband *s)
{
	return s->lost;
}

uint64_t sideband_bytes(const struct sideband *s)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < s->cpu_count; i++)
		if (s->cpus[i].fd >= 0)
			bytes += buffer_bytes(s);
	return bytes;
}
