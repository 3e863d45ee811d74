/* User side of the CPU profiler: opens a clock event on every CPU that is online, follows hot-plug, and keeps the
 * books: ticks due by each event's time enabled against runs of the program. */
#include "bpf/cpu/cpu.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "bpf/filter_abi.h" /* before the skeleton, which names its type */

#include "bpf/cpu/cpu.skel.h"
#include "bpf/track/track.h"
#include "daemon/util/clock.h"
#include "daemon/util/cpus.h"

#define READ_INTERVAL_NS NS_PER_S

struct cpu_event {
	int fd; /* -1 = not open */
	struct bpf_link *link;
	uint64_t period_ns;
	uint64_t due_before; /* ticks of events that were open on this CPU earlier */
	uint64_t due;	     /* as last read, those included */
	struct cpu_ticks ticks;
	uint64_t idle_from_ns; /* the kernel's idle time when the first event was opened; UINT64_MAX = none yet */
};

struct profiler {
	struct cpu_bpf *skel;
	uint32_t rate_hz;
	size_t cpu_count;
	struct cpu_event *cpus;
	uint64_t read_ns;
	struct profiler_stats *per_cpu; /* scratch for a per-CPU lookup */
	uint64_t *idle_ns;		/* by CPU, as last read from /proc/stat */
	int stat_fd;
	bool started;
};

uint64_t cpu_period_ns(uint32_t rate_hz, uint32_t cpu)
{
	double nominal_ns = (double)NS_PER_S / rate_hz;
	double share = 0.006 + 0.0011 * ((cpu / 2) % 12);

	return (uint64_t)(nominal_ns * (cpu % 2 ? 1 + share : 1 - share));
}

bool cpu_ticks_behind(const struct cpu_ticks *t, uint64_t due, uint64_t runs)
{
	return due + t->surplus > runs + t->not_run + t->idle_unseen;
}

uint64_t cpu_ticks_update(struct cpu_ticks *t, uint64_t due, uint64_t runs, uint64_t idle_due, uint64_t idle_runs)
{
	uint64_t accounted = runs + t->not_run + t->idle_unseen, deficit = 0, fresh, idle;

	if (cpu_ticks_behind(t, due, runs))
		deficit = due + t->surplus - accounted;
	else
		t->surplus = accounted - due;
	fresh = deficit < t->deficit ? deficit : t->deficit;
	/* What is settled now was missing at the last reading already: so is the idle time that explains it. */
	idle = t->idle_room > t->idle_unseen ? t->idle_room - t->idle_unseen : 0;
	if (idle > fresh)
		idle = fresh;
	t->idle_unseen += idle;
	t->not_run += fresh - idle;
	t->deficit = deficit - fresh;
	t->idle_room = idle_due > idle_runs ? idle_due - idle_runs : 0;
	return fresh - idle;
}

void cpu_parse_idle(const char *text, uint64_t *idle_ns, size_t count)
{
	uint64_t tick_ns = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);

	for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		unsigned long long idle, iowait;
		unsigned int cpu;

		if (sscanf(line, "cpu%u %*u %*u %*u %llu %llu", &cpu, &idle, &iowait) == 3 && cpu < count)
			idle_ns[cpu] = (idle + iowait) * tick_ns;
	}
}

static int cpu_probe(struct err *e)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = NS_PER_S,
		.disabled = 1,
	};
	int fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return err_errno(e, -errno, "cannot open a CPU clock event (needs CAP_PERFMON or CAP_SYS_ADMIN)");
	close(fd);
	return 0;
}

static int set_filter(struct profiler *p, const struct profiler_target *target, struct err *e)
{
	struct filter_config *filter = &p->skel->bss->filter;
	uint32_t one = 1;

	switch (target->kind) {
	case TARGET_HOST:
		filter->mode = FILTER_ALL;
		return 0;
	case TARGET_CGROUP:
		if (target->hierarchy != CGROUP_V2 && target->hierarchy != CGROUP_V1_MEMORY &&
		    target->hierarchy != CGROUP_V1_CPU)
			return err_set(e, -EINVAL, "a cgroup target must be on cgroup v2, v1 memory or v1 cpu");
		filter->mode = FILTER_CGROUP;
		filter->hierarchy = target->hierarchy;
		filter->cgroup_id = target->cgroup_id;
		filter->cgroup_level = target->cgroup_level;
		return 0;
	case TARGET_PIDS:
		if (target->pid_count > FILTER_MAX_PIDS)
			return err_set(e, -E2BIG, "at most %d processes can be a target", FILTER_MAX_PIDS);
		for (size_t i = 0; i < target->pid_count; i++)
			if (bpf_map_update_elem(bpf_map__fd(p->skel->maps.filter_pids), &target->pids[i], &one,
						BPF_ANY) < 0)
				return err_errno(e, -errno, "cannot enter a process into the filter");
		filter->mode = FILTER_PIDS;
		return 0;
	}
	return err_set(e, -EINVAL, "unknown kind of target");
}

static void cpu_close(struct profiler *p);

static int cpu_open(struct track *track, const struct profiler_options *options, struct profiler **ret, struct err *e)
{
	struct profiler *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return err_set(e, -ENOMEM, "out of memory");
	p->rate_hz = options->rate_hz;
	p->cpu_count = cpus_possible();
	p->cpus = calloc(p->cpu_count, sizeof(*p->cpus));
	p->per_cpu = calloc((size_t)libbpf_num_possible_cpus(), sizeof(*p->per_cpu));
	p->idle_ns = calloc(p->cpu_count, sizeof(*p->idle_ns));
	p->stat_fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
	if (!p->cpus || !p->per_cpu || !p->idle_ns) {
		err = err_set(e, -ENOMEM, "out of memory");
		goto fail;
	}
	for (size_t i = 0; i < p->cpu_count; i++) {
		p->cpus[i].fd = -1;
		p->cpus[i].period_ns = cpu_period_ns(p->rate_hz, (uint32_t)i);
		p->cpus[i].idle_from_ns = UINT64_MAX;
	}
	p->skel = cpu_bpf__open();
	if (!p->skel) {
		err = err_errno(e, -errno, "cannot open the CPU profiler's BPF program");
		goto fail;
	}
	p->skel->rodata->hash_seed = track_hash_seed(track);
	err = track_share(track, p->skel->obj, e);
	if (err)
		goto fail;
	err = cpu_bpf__load(p->skel);
	if (err) {
		err = err_errno(e, err, "the kernel refused the CPU profiler's BPF program");
		goto fail;
	}
	err = set_filter(p, &options->target, e);
	if (err)
		goto fail;
	*ret = p;
	return 0;
fail:
	cpu_close(p);
	return err;
}

static int open_event(struct profiler *p, uint32_t cpu, struct err *e)
{
	struct cpu_event *c = &p->cpus[cpu];
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = c->period_ns,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED,
		.disabled = 1,
	};
	_cleanup_close_ int fd = (int)syscall(SYS_perf_event_open, &attr, -1, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC);
	struct bpf_link *link;

	if (fd < 0)
		return err_errno(e, -errno, "cannot open the clock event of CPU %u", cpu);
	link = bpf_program__attach_perf_event(p->skel->progs.b_cpu_tick, fd);
	if (!link)
		return err_errno(e, -errno, "cannot attach to the clock event of CPU %u", cpu);
	/* The link owns the descriptor and closes it; attaching has enabled the event. */
	c->link = link;
	c->fd = TAKE_FD(fd);
	if (c->idle_from_ns == UINT64_MAX)
		c->idle_from_ns = p->idle_ns[cpu];
	return 0;
}

/* Ticks due by now on this CPU. */
static uint64_t ticks_due(struct cpu_event *c)
{
	struct {
		uint64_t value, enabled_ns;
	} counts;

	/* Of a CPU that went offline nothing can be read: what was known before holds. */
	if (c->fd >= 0 && read(c->fd, &counts, sizeof(counts)) == (ssize_t)sizeof(counts) &&
	    c->due_before + counts.enabled_ns / c->period_ns > c->due)
		c->due = c->due_before + counts.enabled_ns / c->period_ns;
	return c->due;
}

static void close_event(struct cpu_event *c)
{
	if (!c->link)
		return;
	c->due_before = ticks_due(c);
	bpf_link__destroy(c->link);
	c->link = NULL;
	c->fd = -1;
}

static int follow_cpus(struct profiler *p, struct err *e)
{
	size_t open = 0;
	int err = 0;

	for (size_t cpu = 0; cpu < p->cpu_count; cpu++) {
		if (!cpus_is_online(cpu)) {
			close_event(&p->cpus[cpu]);
			continue;
		}
		if (!p->cpus[cpu].link) {
			int r = open_event(p, (uint32_t)cpu, e);

			if (r == -ENODEV)
				continue;
			if (r) {
				err = r;
				continue;
			}
		}
		open++;
	}
	return open ? 0 : err ? err : err_set(e, -ENODEV, "no CPU is online");
}

/* The kernel's books of idle time. Without them (no /proc/stat) ticks of a parked CPU count as lost. */
static void read_idle(struct profiler *p)
{
	/* The per-CPU lines come first, about 100 bytes each. */
	size_t room = (p->cpu_count + 1) * 192 + 1, len = 0;
	_cleanup_free_ char *text = malloc(room);
	ssize_t n;

	if (!text || p->stat_fd < 0)
		return;
	while (len < room - 1 && (n = pread(p->stat_fd, text + len, room - 1 - len, (off_t)len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	cpu_parse_idle(text, p->idle_ns, p->cpu_count);
}

static uint64_t idle_due(const struct profiler *p, size_t cpu)
{
	const struct cpu_event *c = &p->cpus[cpu];

	return p->idle_ns[cpu] > c->idle_from_ns ? (p->idle_ns[cpu] - c->idle_from_ns) / c->period_ns : 0;
}

/* Ticks are read before runs, so that a tick between the two never looks like one that was missed. */
static int read_ticks(struct profiler *p)
{
	_cleanup_free_ uint64_t *due = calloc(p->cpu_count, sizeof(*due));
	bool behind = false;
	uint32_t zero = 0;

	if (!due)
		return -ENOMEM;
	for (size_t i = 0; i < p->cpu_count; i++)
		due[i] = ticks_due(&p->cpus[i]);
	if (bpf_map_lookup_elem(bpf_map__fd(p->skel->maps.cpu_stats), &zero, p->per_cpu) < 0)
		return -errno;
	/* On large machines /proc/stat is dear: read only when there is something to explain. */
	for (size_t i = 0; i < p->cpu_count; i++)
		behind |= cpu_ticks_behind(&p->cpus[i].ticks, due[i], p->per_cpu[i].runs);
	if (behind)
		read_idle(p);
	for (size_t i = 0; i < p->cpu_count; i++)
		cpu_ticks_update(&p->cpus[i].ticks, due[i], p->per_cpu[i].runs, idle_due(p, i), p->per_cpu[i].idle);
	p->read_ns = clock_mono_ns();
	return 0;
}

static int cpu_start(struct profiler *p, struct err *e)
{
	int err;

	read_idle(p);
	err = follow_cpus(p, e);
	p->started = true;
	return err;
}

static void cpu_stop(struct profiler *p)
{
	if (!p || !p->started)
		return;
	for (size_t i = 0; i < p->cpu_count; i++)
		close_event(&p->cpus[i]);
	p->started = false;
}

static int cpu_drain(struct profiler *p, struct err *e)
{
	int err;

	if (!p->started || clock_mono_ns() - p->read_ns < READ_INTERVAL_NS)
		return 0;
	err = read_ticks(p);
	if (err)
		return err_errno(e, err, "cannot read the CPU profiler's counters");
	return follow_cpus(p, e);
}

static int cpu_read_drops(struct profiler *p, struct profiler_drops *ret)
{
	struct profiler_drops d = {0};
	uint64_t timed_ns = 0, timed_runs = 0, runs = 0, unseen = 0;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(bpf_map__fd(p->skel->maps.cpu_stats), &zero, p->per_cpu) < 0)
		return -errno;
	for (size_t i = 0; i < p->cpu_count; i++) {
		const struct profiler_stats *s = &p->per_cpu[i];
		const struct cpu_ticks *ticks = &p->cpus[i].ticks;

		runs += s->runs;
		d.reported += s->samples;
		d.idle += s->idle + ticks->idle_unseen;
		d.filtered += s->filtered;
		for (size_t k = 0; k < DROP_CAUSE_COUNT; k++)
			d.lost[k] += s->drops[k];
		for (size_t k = 0; k < INCOMPLETE_CAUSE_COUNT; k++)
			d.incomplete[k] += s->incomplete[k];
		for (size_t k = 0; k < PROFILER_WHOLE_ENDS; k++)
			d.whole[k] += s->whole[k];
		d.frames += s->frames;
		d.seen_full += s->seen_full;
		timed_ns += s->timed_ns;
		timed_runs += s->timed_runs;
		unseen += ticks->idle_unseen + ticks->not_run;
		d.lost[DROP_NOT_RUN] += ticks->not_run;
	}
	/* A run that is under way has no outcome yet: its tick counts with the outcome. */
	d.ticks = d.reported + d.idle + d.filtered;
	for (size_t k = 0; k < DROP_CAUSE_COUNT; k++)
		d.ticks += d.lost[k];
	d.in_flight = runs + unseen > d.ticks ? runs + unseen - d.ticks : 0;
	if (timed_runs)
		d.run_seconds = (double)timed_ns / (double)timed_runs * (double)runs / (double)NS_PER_S;
	*ret = d;
	return 0;
}

static uint64_t cpu_sample_value(const struct profiler *p, uint32_t cpu)
{
	return cpu < p->cpu_count ? p->cpus[cpu].period_ns : NS_PER_S / p->rate_hz;
}

static uint64_t cpu_memory_bytes(const struct profiler *p)
{
	return track_own_map_bytes(p->skel->obj);
}

static void cpu_close(struct profiler *p)
{
	if (!p)
		return;
	cpu_stop(p);
	cpu_bpf__destroy(p->skel);
	free(p->cpus);
	free(p->per_cpu);
	free(p->idle_ns);
	if (p->stat_fd > 0)
		close(p->stat_fd);
	free(p);
}

const struct profiler_ops cpu_profiler = {
	.name = "cpu",
	.probe = cpu_probe,
	.open = cpu_open,
	.start = cpu_start,
	.stop = cpu_stop,
	.drain = cpu_drain,
	.read_drops = cpu_read_drops,
	.sample_value = cpu_sample_value,
	.memory_bytes = cpu_memory_bytes,
	.close = cpu_close,
};
