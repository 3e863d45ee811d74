/* The parser process: foreign bytes in, names and unwind tables out. It has no capabilities, cannot open anything, and
 * works within limits of memory; the daemon kills it when a request takes too long.
 *
 * It keeps the symbol indexes of the images that were asked for last, within CACHE_MAX_BYTES, and closes a file as soon
 * as its index is built: an open descriptor would pin the file system of a container that ends. Only the file whose
 * table was asked for last stays open for HELD_NS, since its compilation or its names may be next. Once a host's hot
 * addresses have their names, hardly anything is asked any more: then all but CACHE_QUIET_BYTES is given back. */
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/image/elf.h"
#include "daemon/image/image.h"
#include "daemon/image/image_wire.h"
#include "daemon/image/parser_table.h"
#include "daemon/image/symbols.h"
#include "daemon/util/child.h"
#include "daemon/util/clock.h"

#define CACHE_MAX_BYTES (24u << 20)
#define CACHE_QUIET_BYTES (2u << 20)
#define CACHE_QUIET_NS (30 * NS_PER_S)
#define CACHE_MAX_IMAGES 256
#define HELD_NS NS_PER_S
/* How far a symbol without size reaches when nothing follows: user space, and the kernel between text and modules. */
#define ELF_GAP_BYTES (64u << 10)
#define KERNEL_GAP_BYTES (1u << 20)

struct cached {
	uint32_t image; /* 0 = free */
	bool kernel;
	uint64_t used_ns;
	struct symbols symbols;
	struct elf_segment *segments; /* the PT_LOADs */
	uint32_t *hits;		      /* per segment */
	size_t segment_count;
	char build_id[2 * BUILD_ID_MAX_BYTES + 1];
	char problem[PARSER_TEXT_MAX];
};

static struct cached cache[CACHE_MAX_IMAGES];
static uint64_t table_seed;
/* The file of the last table request. */
static struct {
	uint32_t image;
	int fd;
} held = {.fd = -1};

static void release_held(void)
{
	if (held.fd >= 0)
		close(held.fd);
	held.fd = -1;
}

static void forget(struct cached *c)
{
	symbols_deinit(&c->symbols);
	free(c->segments);
	free(c->hits);
	*c = (struct cached){0};
}

static size_t cached_bytes(const struct cached *c)
{
	return c->image ? symbols_bytes(&c->symbols) + c->segment_count * sizeof(*c->segments) : 0;
}

static struct cached *find_cached(uint32_t image)
{
	for (size_t i = 0; i < CACHE_MAX_IMAGES; i++)
		if (cache[i].image == image)
			return &cache[i];
	return NULL;
}

/* The slot used least lately, which may not be `except`. */
static struct cached *oldest(const struct cached *except)
{
	struct cached *found = NULL;

	for (size_t i = 0; i < CACHE_MAX_IMAGES; i++)
		if (cache[i].image && &cache[i] != except && (!found || cache[i].used_ns < found->used_ns))
			found = &cache[i];
	return found;
}

static void make_room(const struct cached *keep)
{
	size_t bytes = 0;
	struct cached *c;

	for (size_t i = 0; i < CACHE_MAX_IMAGES; i++)
		bytes += cached_bytes(&cache[i]);
	while (bytes > CACHE_MAX_BYTES && (c = oldest(keep))) {
		bytes -= cached_bytes(c);
		forget(c);
	}
}

/* The kernel's index stays: to read it again takes a tenth of a second, a file's is read in a few milliseconds. */
static void drop_unused(void)
{
	uint64_t now_ns = clock_mono_ns();
	size_t bytes = 0;

	for (size_t i = 0; i < CACHE_MAX_IMAGES; i++)
		bytes += cache[i].kernel ? 0 : cached_bytes(&cache[i]);
	while (bytes > CACHE_QUIET_BYTES) {
		struct cached *found = NULL;

		for (size_t i = 0; i < CACHE_MAX_IMAGES; i++)
			if (cache[i].image && !cache[i].kernel && (!found || cache[i].used_ns < found->used_ns))
				found = &cache[i];
		if (!found || now_ns - found->used_ns < CACHE_QUIET_NS)
			return;
		bytes -= cached_bytes(found);
		forget(found);
	}
}

static void wait_for_request(void)
{
	const struct timespec while_held = {.tv_sec = HELD_NS / NS_PER_S};
	const struct timespec interval = {.tv_sec = CACHE_QUIET_NS / NS_PER_S / 4};
	struct pollfd p = {.fd = CHILD_SOCKET_FD, .events = POLLIN};

	/* An error shows at the read that follows. */
	while (ppoll(&p, 1, held.fd >= 0 ? &while_held : &interval, NULL) == 0) {
		release_held();
		drop_unused();
	}
}

static int load_elf(struct cached *c, int fd, struct err *e)
{
	_cleanup_(elf_close) struct elf_file f = {.fd = -1};
	size_t loads = 0;
	int r = elf_open(fd, &f, e);

	if (r)
		return r;
	c->segments = calloc(f.segment_count + 1, sizeof(*c->segments));
	c->hits = calloc(f.segment_count + 1, sizeof(*c->hits));
	if (!c->segments || !c->hits)
		return -ENOMEM;
	for (size_t i = 0; i < f.segment_count; i++)
		if (f.segments[i].type == PT_LOAD)
			c->segments[loads++] = f.segments[i];
	c->segment_count = loads;
	if (!loads)
		return err_set(e, -EBADMSG, "no loadable segment");
	elf_build_id(&f, c->build_id, sizeof(c->build_id));
	symbols_init(&c->symbols, ELF_GAP_BYTES);
	if (f.damage)
		err_set(e, -EBADMSG, "%s", f.damage);
	return symbols_load_elf(&c->symbols, &f, e);
}

static int load_kallsyms(struct cached *c, int fd, struct err *e)
{
	bool hidden = false;
	int r;

	symbols_init(&c->symbols, KERNEL_GAP_BYTES);
	r = kallsyms_load(&c->symbols, fd, &hidden);
	if (r)
		return err_errno(e, r, "cannot read the kernel's symbols");
	if (hidden)
		return err_set(e, -EACCES, "kernel.kptr_restrict hides kernel addresses");
	return c->symbols.count ? 0 : err_set(e, -ENODATA, "the kernel shows no symbols");
}

/* The argument of both is a file's size. */
static bool fault_for(const char *point, int fd)
{
	char arg[32];

	return child_fault(point, arg, sizeof(arg)) && lseek(fd, 0, SEEK_END) == atoll(arg);
}

static void stall_at_fault(int fd)
{
	while (fault_for("parser.stall", fd))
		pause();
}

static int load(const struct parser_request *q, int fd, struct cached **ret, struct err *e)
{
	struct cached *c = find_cached(q->image);
	int r;

	if (!c)
		c = find_cached(0);
	if (!c)
		c = oldest(NULL);
	forget(c);
	stall_at_fault(fd);
	r = q->kind == PARSER_KALLSYMS ? load_kallsyms(c, fd, e) : load_elf(c, fd, e);
	if (r) {
		forget(c);
		return r;
	}
	c->image = q->image;
	c->kernel = q->kind == PARSER_KALLSYMS;
	snprintf(c->problem, sizeof(c->problem), "%.*s", (int)sizeof(c->problem) - 1, e->text);
	*ret = c;
	return 0;
}

/* A response in the making. */
struct answer {
	union {
		struct parser_response head;
		char bytes[PARSER_MESSAGE_MAX];
	} message;
	size_t len;
};

static int flush(struct answer *a, bool more)
{
	struct iovec iov = {.iov_base = a->message.bytes, .iov_len = a->len};
	int r;

	a->message.head.more = more;
	r = child_send(CHILD_SOCKET_FD, &iov, 1, -1);
	a->len = sizeof(a->message.head);
	a->message.head.entry_count = 0;
	return r;
}

static int add_entry(struct answer *a, uint32_t index, uint64_t address, const char *function, const char *system_name)
{
	struct parser_entry entry = {.index = index, .address = address};
	size_t n = function ? strlen(function) : 0, m = system_name ? strlen(system_name) : 0;
	int r;

	if (n > PARSER_NAME_MAX)
		n = PARSER_NAME_MAX;
	if (function == system_name)
		m = 0;
	if (a->len + sizeof(entry) + n + m > sizeof(a->message)) {
		r = flush(a, true);
		if (r)
			return r;
	}
	entry.function_bytes = (uint16_t)n;
	entry.system_bytes = (uint16_t)m;
	memcpy(a->message.bytes + a->len, &entry, sizeof(entry));
	a->len += sizeof(entry);
	if (n)
		memcpy(a->message.bytes + a->len, function, n);
	if (m)
		memcpy(a->message.bytes + a->len + n, system_name, m);
	a->len += n + m;
	a->message.head.entry_count++;
	return 0;
}

static int name_offset(struct answer *a, struct cached *c, uint32_t kind, uint32_t index, uint64_t offset)
{
	static char text[PARSER_NAME_MAX];
	uint64_t address = offset, start;
	const char *name;
	size_t segment;

	if (kind == PARSER_ELF) {
		if (elf_address_of(c->segments, c->segment_count, offset, &segment, &address))
			return add_entry(a, index, offset, NULL, NULL);
		c->hits[segment]++;
	}
	name = symbols_find(&c->symbols, address, &start);
	return add_entry(a, index, address, name ? demangle(name, text, sizeof(text)) : NULL, name);
}

static void describe(struct parser_response *s, const struct cached *c)
{
	size_t best = SIZE_MAX;

	memcpy(s->build_id, c->build_id, sizeof(c->build_id));
	memcpy(s->problem, c->problem, sizeof(s->problem));
	s->has_symbols = c->symbols.count > 0;
	for (size_t i = 0; i < c->segment_count; i++)
		if (c->segments[i].flags & PF_X && (best == SIZE_MAX || c->hits[i] > c->hits[best]))
			best = i;
	if (best == SIZE_MAX)
		return;
	s->segment_vaddr = c->segments[best].vaddr;
	s->segment_offset = c->segments[best].offset;
	s->segment_bytes = c->segments[best].memory_bytes;
}

static int answer_need_file(struct answer *a)
{
	a->message.head.result = PARSER_NEED_FILE;
	return flush(a, false);
}

static int answer_bad_image(struct answer *a, int error, struct err *e)
{
	a->message.head.result = PARSER_BAD_IMAGE;
	if (!e->text[0])
		err_errno(e, error, "cannot read the image");
	snprintf(a->message.head.problem, sizeof(a->message.head.problem), "%.*s", PARSER_TEXT_MAX - 1, e->text);
	return flush(a, false);
}

static int serve_names(struct answer *a, const struct parser_request *q, const uint64_t *offsets, bool fresh)
{
	struct cached *c = fresh ? NULL : find_cached(q->image);
	struct err e = {0};
	int r = 0;

	if (!c && held.fd < 0)
		return answer_need_file(a);
	if (!c)
		r = load(q, held.fd, &c, &e);
	release_held();
	if (r)
		return answer_bad_image(a, r, &e);
	c->used_ns = clock_mono_ns();
	/* The description is in every part, the one in the last counts. */
	describe(&a->message.head, c);
	for (uint32_t i = 0; i < q->count; i++) {
		r = name_offset(a, c, q->kind, i, offsets[i]);
		if (r)
			return r;
	}
	describe(&a->message.head, c);
	r = flush(a, false);
	make_room(c);
	drop_unused();
	return r;
}

struct table_answer {
	struct parser_response head;
	bool sent; /* a part of it: there is no way back */
};

static int send_part(void *user, uint32_t total_bytes, uint32_t offset, const struct iovec *pieces, size_t piece_count)
{
	struct table_answer *a = user;
	struct iovec iov[1 + PARSER_TABLE_PIECES] = {{.iov_base = &a->head, .iov_len = sizeof(a->head)}};
	uint32_t bytes = 0;

	for (size_t i = 0; i < piece_count; i++) {
		iov[1 + i] = pieces[i];
		bytes += (uint32_t)pieces[i].iov_len;
	}
	a->head.table_bytes = total_bytes;
	a->head.table_offset = offset;
	a->head.more = offset + bytes < total_bytes;
	a->sent = true;
	return child_send(CHILD_SOCKET_FD, iov, 1 + piece_count, -1);
}

static int serve_table(struct answer *a, const struct parser_request *q)
{
	_cleanup_(elf_close) struct elf_file f = {.fd = -1};
	struct table_answer t = {.head = {.id = q->id}};
	struct err e = {0};
	int r;

	if (held.fd < 0)
		return answer_need_file(a);
	stall_at_fault(held.fd);
	r = elf_open(held.fd, &f, &e);
	if (!r && q->kind == PARSER_TABLE_FIND) {
		r = parser_table_key(&f, table_seed, a->message.head.table_key);
		if (!r)
			return flush(a, false);
	} else if (!r) {
		if (fault_for("parser.die_in_compile", held.fd))
			_exit(1);
		r = parser_table_compile(&f, table_seed, PARSER_PART_BYTES, send_part, &t, t.head.table_key, &e);
		if (!r || t.sent)
			return r;
	}
	return answer_bad_image(a, r, &e);
}

static int serve(const struct parser_request *q, const uint64_t *offsets, int fd)
{
	static struct answer a;

	a.len = sizeof(a.message.head);
	a.message.head = (struct parser_response){.id = q->id};
	if (fd >= 0 || held.image != q->image)
		release_held();
	if (fd >= 0) {
		held.image = q->image;
		held.fd = fd;
	}
	if (q->kind == PARSER_TABLE_FIND || q->kind == PARSER_TABLE_COMPILE)
		return serve_table(&a, q);
	return serve_names(&a, q, offsets, fd >= 0);
}

static void limit(int resource, uint64_t value)
{
	struct rlimit l = {.rlim_cur = value, .rlim_max = value};

	(void)setrlimit((__rlimit_resource_t)resource, &l);
}

#ifndef BAROSCOPE_SANITIZE
static int filter_system_calls(void)
{
	static const char *const allowed[] = {
		"read",		  "pread64",	  "lseek",	"recvmsg",     "sendmsg",
		"close",	  "munmap",	  "mremap",	"brk",	       "madvise",
		"exit",		  "futex",	  "exit_group", "getrandom",   "clock_gettime",
		"getpid",	  "gettid",	  "tgkill",	"pause",       "rt_sigreturn",
		"rt_sigprocmask", "rt_sigaction", "ppoll",	"sched_yield", "restart_syscall",
		"sysinfo", /* qsort asks for the memory size */
	};
	/* Memory may be had, but never executable. */
	static const char *const no_exec[] = {"mmap", "mprotect"};
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = filter ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < ARRAY_SIZE(allowed); i++) {
		int number = seccomp_syscall_resolve_name(allowed[i]);

		/* Below 0: there is none of that name on this architecture. */
		if (number >= 0)
			r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
	}
	for (size_t i = 0; !r && i < ARRAY_SIZE(no_exec); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name(no_exec[i]), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}
#endif

static int enter_sandbox(uint64_t memory_bytes)
{
	child_keep_capabilities(NULL, 0);
	limit(RLIMIT_FSIZE, 0);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 16);
#ifdef BAROSCOPE_SANITIZE
	/* Sanitizers reserve terabytes and make system calls of their own. */
	(void)memory_bytes;
	return 0;
#else
	limit(RLIMIT_AS, memory_bytes);
	if (prctl(PR_SET_DUMPABLE, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL))
		return -errno;
	return filter_system_calls();
#endif
}

int parser_child_main(void)
{
	static union {
		struct parser_request head;
		char bytes[sizeof(struct parser_request) + PARSER_BATCH_MAX * sizeof(uint64_t)];
	} q;
	bool ready = false;

	if (child_enter("baro-parser"))
		return 1;
	for (;;) {
		size_t len = 0;
		int fd = -1, r;

		wait_for_request();
		r = child_recv(CHILD_SOCKET_FD, &q, sizeof(q), &len, &fd);
		if (r)
			return 1;
		if (len == 0)
			return 0;
		if (len < sizeof(q.head) || q.head.count > PARSER_BATCH_MAX ||
		    len != sizeof(q.head) + q.head.count * sizeof(uint64_t))
			return 1;
		if (!ready) {
			/* Before the first foreign byte. */
			if (q.head.kind != PARSER_CONFIG || enter_sandbox(q.head.memory_bytes))
				return 1;
			table_seed = q.head.table_seed;
			ready = true;
			continue;
		}
		if (serve(&q.head, (const uint64_t *)(const void *)(q.bytes + sizeof(q.head)), fd))
			return 1;
	}
}
