/* See oracle.h. */
#include "tests/tools/oracle.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "tests/tools/sampler.h"

#if __has_include(<elfutils/libdwfl.h>)
#include <elfutils/libdwfl.h>

struct oracle {
	Dwfl *dwfl;
	Dwfl_Callbacks callbacks; /* both borrowed by dwfl */
	Dwfl_Thread_Callbacks thread_callbacks;
	pid_t pid;
	const uint64_t *regs;
	struct oracle_memory memory;
};

#define FUNCTIONS(X)                                                                                                   \
	X(begin)                                                                                                       \
	X(end)                                                                                                         \
	X(report_begin)                                                                                                \
	X(report_end)                                                                                                  \
	X(linux_proc_report)                                                                                           \
	X(attach_state)                                                                                                \
	X(getthread_frames)                                                                                            \
	X(frame_pc)                                                                                                    \
	X(linux_proc_find_elf)                                                                                         \
	X(thread_state_registers)

static struct {
	void *library;
#define X(name) __typeof__(&dwfl_##name) name;
	FUNCTIONS(X)
#undef X
} dw;

static int load(struct err *e)
{
	if (dw.library)
		return 0;
	dw.library = dlopen("libdw.so.1", RTLD_NOW);
	if (!dw.library)
		return err_set(e, -ENOSYS, "no libdw.so.1");
#define X(name)                                                                                                        \
	dw.name = (__typeof__(dw.name))dlsym(dw.library, "dwfl_" #name);                                               \
	if (!dw.name)                                                                                                  \
		return err_set(e, -ENOSYS, "libdw has no dwfl_" #name);
	FUNCTIONS(X)
#undef X
	return 0;
}

static pid_t next_thread(Dwfl *dwfl, void *arg, void **thread_arg)
{
	struct oracle *o = arg;

	(void)dwfl;
	if (*thread_arg)
		return 0;
	*thread_arg = arg;
	return o->pid;
}

static bool get_thread(Dwfl *dwfl, pid_t tid, void *arg, void **thread_arg)
{
	(void)dwfl, (void)tid;
	*thread_arg = arg;
	return true;
}

static bool memory_read(Dwfl *dwfl, Dwarf_Addr from, Dwarf_Word *ret, void *arg)
{
	struct oracle *o = arg;
	uint64_t word;

	(void)dwfl;
	if (o->memory.read(o->memory.user, &word, sizeof(word), from))
		return false;
	*ret = word;
	return true;
}

static bool set_registers(Dwfl_Thread *thread, void *arg)
{
	/* DWARF numbers the first eight otherwise. */
	static const int order[] = {0, 2, 1, 3, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15, REG_PC};
	const struct oracle *o = arg;
	Dwarf_Word words[17];

	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		words[i] = o->regs[order[i]];
	return dw.thread_state_registers(thread, 0, ARRAY_SIZE(words), words);
}

/* What is in other files is not looked for: the tables are made of the mapped ones. */
static int find_no_debuginfo(Dwfl_Module *module, void **user, const char *name, Dwarf_Addr base, const char *file,
			     const char *link, GElf_Word crc, char **ret)
{
	(void)module, (void)user, (void)name, (void)base, (void)file, (void)link, (void)crc, (void)ret;
	return -1;
}

int oracle_create(pid_t pid, struct oracle **ret, struct err *e)
{
	struct oracle *o;
	int r = load(e);

	if (r)
		return r;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->pid = pid;
	o->callbacks = (Dwfl_Callbacks){.find_elf = dw.linux_proc_find_elf, .find_debuginfo = find_no_debuginfo};
	o->thread_callbacks = (Dwfl_Thread_Callbacks){.next_thread = next_thread,
						      .get_thread = get_thread,
						      .memory_read = memory_read,
						      .set_initial_registers = set_registers};
	o->dwfl = dw.begin(&o->callbacks);
	if (!o->dwfl) {
		free(o);
		return err_set(e, -EINVAL, "libdw cannot begin");
	}
	dw.report_begin(o->dwfl);
	r = dw.linux_proc_report(o->dwfl, pid);
	if (dw.report_end(o->dwfl, NULL, NULL) || r || !dw.attach_state(o->dwfl, NULL, pid, &o->thread_callbacks, o)) {
		oracle_destroy(o);
		return err_set(e, -EINVAL, "libdw cannot read the mappings of process %d", pid);
	}
	*ret = o;
	return 0;
}

void oracle_destroy(struct oracle *o)
{
	if (!o)
		return;
	dw.end(o->dwfl);
	free(o);
}

static int frame(Dwfl_Frame *state, void *user)
{
	struct oracle_frames *f = user;
	bool activation;
	Dwarf_Addr pc;

	if (f->count == ORACLE_MAX_FRAMES || !dw.frame_pc(state, &pc, &activation))
		return DWARF_CB_ABORT;
	f->address[f->count++] = pc - !activation;
	return DWARF_CB_OK;
}

void oracle_walk(struct oracle *o, const uint64_t *regs, struct oracle_memory memory, struct oracle_frames *ret)
{
	ret->count = 0;
	o->regs = regs;
	o->memory = memory;
	ret->whole = !dw.getthread_frames(o->dwfl, o->pid, frame, ret);
}

#else

int oracle_create(pid_t pid, struct oracle **ret, struct err *e)
{
	(void)pid, (void)ret;
	return err_set(e, -ENOSYS, "built without the headers of libdw");
}

void oracle_destroy(struct oracle *o)
{
	(void)o;
}

void oracle_walk(struct oracle *o, const uint64_t *regs, struct oracle_memory memory, struct oracle_frames *ret)
{
	(void)o, (void)regs, (void)memory;
	ret->count = 0;
}

#endif
