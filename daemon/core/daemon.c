#include "daemon/core/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "daemon/core/service_internal.h"
#include "daemon/core/table_worker.h"
#include "daemon/util/clock.h"
#include "daemon/util/cpus.h"
#include "daemon/util/log.h"

#define DRAIN_MS 100
#define HURRY_MS 10
/* While unwind tables are on their way: what they let us see next is the next table's image. */
#define TABLES_DRAIN_MS 20
#define TABLES_DRAIN_NS (2 * NS_PER_S) /* a disk that hangs is no reason to hurry */
#define MAX_STRING_BYTES (32u << 20)
#define MAX_TRIE_NODES (1u << 20)
#define WINDOW_SPAN_NS (10 * NS_PER_S)
#define WINDOW_CLOSE_DELAY_NS (1500 * NS_PER_MS)
#define WINDOWS_KEPT 90

struct daemon {
	struct event_base *base;
	int lock_fd;
	struct intern *strings;
	struct labels *labels;
	struct opener *opener;
	struct images *images;
	struct table_worker *tables;
	bool tables_pending; /* at the last drain */
	uint64_t tables_since_ns;
	struct trie *trie;
	struct windows *windows;
	struct track *track;
	struct targets *targets;
	struct profiler *profiler;
	struct pipeline_parts parts;
	struct pipeline *pipeline;
	struct service service;
	struct event *drain;
	uint32_t rate_hz, max_series, tables_mib;
};

/* The sanitizer build can be made small from outside, so that the tests see every limit. */
static size_t test_size(const char *name)
{
#ifdef BAROSCOPE_FAULTS
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 10) : 0;
#else
	(void)name;
	return 0;
#endif
}

static int lock_state_dir(const char *dir, int *ret_fd, struct err *e)
{
	char path[4096];
	_cleanup_close_ int fd = -1;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(e, -errno, "cannot make the state directory %s", dir);
	(void)snprintf(path, sizeof(path), "%s/lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(e, -errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return err_set(e, -EBUSY,
				       "another baroscoped uses the state directory %s; stop it or give --state-dir",
				       dir);
		return err_errno(e, -errno, "cannot lock %s", path);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* What the keys of cached tables are hashed with: secret, so that no file can be made to look like another. */
static int read_table_seed(const char *cache_dir, uint64_t *ret, struct err *e)
{
	_cleanup_close_ int dir = -1, fd = -1;
	uint64_t seed;

	if (mkdir(cache_dir, 0700) < 0 && errno != EEXIST)
		return err_errno(e, -errno, "cannot make the directory %s", cache_dir);
	dir = open(cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0)
		return err_errno(e, -errno, "cannot open the directory %s", cache_dir);
	fd = openat(dir, "seed", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && read(fd, &seed, sizeof(seed)) == (ssize_t)sizeof(seed)) {
		*ret = seed;
		return 0;
	}
	if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		return err_errno(e, -errno, "cannot draw a random number");
	*ret = seed;
	/* Without a file (a full disk, say) it is another one next time: the cache is cold then, and nothing worse. */
	if (fd >= 0)
		close(fd);
	fd = openat(dir, "seed.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, &seed, sizeof(seed)) != (ssize_t)sizeof(seed) ||
	    renameat(dir, "seed.new", dir, "seed") < 0)
		log_warn("core", "cannot keep the seed of the table cache in \"%s\"", cache_dir);
	return 0;
}

static int static_labels(const struct config *config, struct intern *strings, struct label_set *ret, struct err *e)
{
	struct label_set set = {0};

	for (size_t i = 0; i < config->label_count; i++) {
		int err = label_set_put(&set, strings, config->labels[i].name, config->labels[i].value);

		if (err)
			return err_errno(e, err, "cannot take the label %s", config->labels[i].name);
	}
	*ret = set;
	return 0;
}

static void hurry(void *user)
{
	struct daemon *d = user;
	struct timeval soon = {.tv_usec = HURRY_MS * 1000};

	event_add(d->drain, &soon);
}

static void on_drain(evutil_socket_t fd _unused_, short what _unused_, void *user)
{
	struct daemon *d = user;
	struct timeval next = {.tv_usec = DRAIN_MS * 1000};
	bool pending;
	struct err e = {0};

	if (pipeline_drain(d->pipeline, &e) < 0)
		log_error("core", "drain failed: %s", e.text);
	pending = images_tables_pending(d->images);
	if (!pending || !d->tables_pending)
		d->tables_since_ns = clock_mono_ns();
	if ((pending || d->tables_pending) && clock_mono_ns() - d->tables_since_ns < TABLES_DRAIN_NS)
		next.tv_usec = TABLES_DRAIN_MS * 1000;
	d->tables_pending = pending;
	event_add(d->drain, &next);
	service_after_drain(&d->service);
}

static int create_table_worker(struct daemon *d, const struct config *config, const char *cache_dir, struct err *e)
{
	struct table_worker_options options = {.cache_dir = cache_dir};
	struct table_sink sink;
	int err;

	track_table_maps(d->track, &options.tables.images_fd, &options.tables.infos_fd, &options.tables.segments_fd);
	options.tables.budget_bytes = (uint64_t)config->limits.tables_mib << 20;
	err = table_worker_create(d->base, d->images, &options, &d->tables, e);
	if (err)
		return err;
	sink = table_worker_sink(d->tables);
	images_set_table_sink(d->images, &sink);
	return 0;
}

static int create_parts(struct daemon *d, const struct config *config, const char *state_dir, struct err *e)
{
	struct windows_options windows = {
		.span_ns = WINDOW_SPAN_NS,
		.close_delay_ns = WINDOW_CLOSE_DELAY_NS,
		.keep = WINDOWS_KEPT,
		.max_bytes = 16u << 20,
		.period = NS_PER_S / config->cpu.rate_hz,
	};
	struct track_options track = {
		.ring_bytes = test_size("BAROSCOPE_TEST_RING_BYTES"),
		.stacks = test_size("BAROSCOPE_TEST_STACKS"),
		.mappings = test_size("BAROSCOPE_TEST_MAPPINGS"),
		.procs = test_size("BAROSCOPE_TEST_PROCS"),
	};
	struct images_options images = {0};
	char cache_dir[4096];
	struct label_set labels = {0};
	struct targets_options targets = {
		.static_labels = &labels,
		.allow = (const char *const *)config->targets_allow,
		.deny = (const char *const *)config->targets_deny,
	};
	struct mapping_sink sink = {.publish = track_publish, .inherit = track_inherit, .retire = track_retire};
	struct profiler_options profiler = {.target = {.kind = TARGET_HOST}, .rate_hz = config->cpu.rate_hz};
	struct pipeline_options pipeline = {.rate_hz = config->cpu.rate_hz};
	int err;

	/* Busy hosts at high rates fill windows faster. */
	windows.max_bytes *= 1 + cpus_possible() / 8;
	err = intern_create(MAX_STRING_BYTES, &d->strings);
	if (!err)
		err = labels_create(d->strings, config->limits.series, &d->labels);
	if (!err)
		err = trie_create(MAX_TRIE_NODES, &d->trie);
	if (!err)
		err = windows_create(profile_type_cpu(), &windows, &d->windows);
	if (err)
		return err_errno(e, err, "cannot prepare tables");
	(void)snprintf(cache_dir, sizeof(cache_dir), "%s/cache", state_dir);
	err = read_table_seed(cache_dir, &images.table_seed, e);
	if (!err)
		err = opener_create(d->base, NULL, &d->opener, e);
	if (!err)
		err = images_create(d->base, d->opener, d->strings, &images, &d->images, e);
	if (!err)
		err = track_open(&track, &d->track, e);
	if (!err)
		err = create_table_worker(d, config, cache_dir, e);
	if (!err)
		err = static_labels(config, d->strings, &labels, e);
	if (err)
		return err;
	sink.user = d->track;
	err = targets_create(d->opener, d->images, d->labels, &sink, &targets, &d->targets, e);
	if (err)
		return err;
	d->parts = (struct pipeline_parts){
		.track = d->track,
		.targets = d->targets,
		.images = d->images,
		.labels = d->labels,
		.strings = d->strings,
		.trie = d->trie,
		.windows = d->windows,
		.ops = profiler_find("cpu"),
	};
	err = d->parts.ops->probe(e);
	if (!err)
		err = d->parts.ops->open(d->track, &profiler, &d->profiler, e);
	if (err)
		return err;
	d->parts.profiler = d->profiler;
	pipeline.kernel_stacks = track_stack_capacity(d->track);
	err = pipeline_create(&d->parts, &pipeline, &d->pipeline);
	if (err)
		return err_errno(e, err, "cannot prepare the pipeline");
	return 0;
}

int daemon_create(struct event_base *base, const struct daemon_options *options, struct daemon **ret, struct err *e)
{
	struct daemon *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	d->base = base;
	d->lock_fd = -1;
	d->rate_hz = options->config->cpu.rate_hz;
	d->max_series = options->config->limits.series;
	d->tables_mib = options->config->limits.tables_mib;
	err = lock_state_dir(options->state_dir, &d->lock_fd, e);
	if (!err)
		err = create_parts(d, options->config, options->state_dir, e);
	if (!err) {
		d->drain = event_new(base, -1, 0, on_drain, d);
		if (!d->drain)
			err = err_set(e, -ENOMEM, "cannot make a timer");
	}
	if (err) {
		daemon_destroy(d);
		return err;
	}
	d->service.parts = &d->parts;
	d->service.pipeline = d->pipeline;
	d->service.opener = d->opener;
	d->service.tables = d->tables;
	d->service.profiler_name = d->parts.ops->name;
	d->service.rate_hz = d->rate_hz;
	d->service.hurry = hurry;
	d->service.hurry_user = d;
	d->service.started_ns = clock_mono_ns();
	*ret = d;
	return 0;
}

/* What works less well without a capability, told once. What cannot do without one says so where it fails. */
static void tell_missing_capabilities(void)
{
	static const struct {
		cap_value_t capability;
		const char *text;
	} wanted[] = {
		{CAP_SYS_PTRACE, "CAP_SYS_PTRACE: mappings and environment of other users' processes stay unknown"},
		{CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH: binaries that only their owner can read stay nameless"},
		{CAP_SYSLOG, "CAP_SYSLOG: kernel functions may stay nameless"},
		{CAP_SYS_ADMIN, "CAP_SYS_ADMIN: deleted and replaced binaries may stay nameless"},
	};
	cap_t have = cap_get_proc();

	for (size_t i = 0; have && i < ARRAY_SIZE(wanted); i++) {
		struct log_site site = {0};
		cap_flag_value_t value = CAP_SET;

		if (!cap_get_flag(have, wanted[i].capability, CAP_EFFECTIVE, &value) && value == CAP_CLEAR)
			log_line(&site, LOG_LEVEL_WARN, "main", "running without %s", wanted[i].text);
	}
	cap_free(have);
}

int daemon_start(struct daemon *d, struct err *e)
{
	int err;

	tell_missing_capabilities();

	/* First the events, then the scan: what happens in between is seen twice, never missed. */
	err = track_start(d->track, e);
	if (!err)
		err = targets_scan_cgroups(d->targets, e);
	if (!err)
		err = targets_scan(d->targets, track_enter, d->track, e);
	if (!err)
		err = d->parts.ops->start(d->profiler, e);
	if (err)
		return err;
	d->service.started_ns = clock_mono_ns();
	event_active(d->drain, 0, 0);
	return 0;
}

void daemon_destroy(struct daemon *d)
{
	if (!d)
		return;
	if (d->drain)
		event_free(d->drain);
	pipeline_destroy(d->pipeline);
	if (d->profiler)
		d->parts.ops->close(d->profiler);
	targets_destroy(d->targets);
	table_worker_destroy(d->tables);
	track_close(d->track);
	images_destroy(d->images);
	opener_destroy(d->opener);
	windows_destroy(d->windows);
	trie_destroy(d->trie);
	labels_destroy(d->labels);
	intern_destroy(d->strings);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d);
}

int daemon_reload(struct daemon *d, const struct config *config, const char **ret_note, struct err *e)
{
	struct label_set labels = {0};
	struct targets_options targets = {
		.static_labels = &labels,
		.allow = (const char *const *)config->targets_allow,
		.deny = (const char *const *)config->targets_deny,
	};
	int err;

	err = static_labels(config, d->strings, &labels, e);
	if (!err)
		err = targets_reconfigure(d->targets, &targets, e);
	if (err)
		return err;
	*ret_note = NULL;
	if (config->cpu.rate_hz != d->rate_hz)
		*ret_note = "cpu.rate_hz takes effect at the next start";
	else if (config->limits.series != d->max_series)
		*ret_note = "limits.series takes effect at the next start";
	else if (config->limits.tables_mib != d->tables_mib)
		*ret_note = "limits.tables_mib takes effect at the next start";
	return 0;
}

struct service *daemon_service(struct daemon *d)
{
	return &d->service;
}
