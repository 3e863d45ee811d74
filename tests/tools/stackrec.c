/* stackrec: samples processes with registers and stack bytes, walks each sample with the walker of bpf/unwind.h and, if
 * asked, with elfutils' over the same bytes; keeps samples as cases for `make test` (docs/HACKING.md).
 *
 * Every sample that was taken is in one class and in the line at the end. The targets are not stopped. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/clock.h"
#include "tests/bpf/stack_case.h"
#include "tests/tools/captured.h"
#include "tests/tools/case_maker.h"
#include "tests/tools/oracle.h"

#define MAX_PIDS 256
#define MAX_PROCESSES 1024
#define PERIOD_NS 1000003
#define DRAIN_MS 30
#define MAX_BATCH 128
#define MAX_SHOWN 3
#define MAX_REGISTER_FRAMES 2 /* as in bpf/unwind.h */

/* X(symbol, name as shown). */
#define CLASSES(X)                                                                                                     \
	X(EQUAL, "equal") /* all frames, and both say that there is no caller */                                       \
	X(DIFFERENT, "different")                                                                                      \
	X(STOPPED, "oracle_stopped") /* equal as far as libdw comes with tables */                                     \
	X(CUT, "cut")		     /* equal as far as the captured memory reaches */                                 \
	X(TOP, "top") /* equal up to Go's outermost function, of which call frame information says nothing */          \
	X(RED_ZONE, "red_zone") /* depends on memory below the stack pointer */                                        \
	X(MOVED, "moved")	/* the mappings changed meanwhile */                                                   \
	X(WALKED, "walked")	/* nothing to compare with */

enum sample_class {
#define X(sym, name) CLASS_##sym,
	CLASSES(X)
#undef X
		CLASS_COUNT,
};

enum keep { KEEP_NONE, KEEP_INCOMPLETE, KEEP_DIFFERENT, KEEP_REGISTERS, KEEP_ALL };

struct options {
	pid_t pids[MAX_PIDS];
	size_t pid_count;
	uint64_t samples, max_cases, period_ns;
	double seconds;
	bool compare, verbose;
	enum keep keep;
	const char *folder, *name;
};

struct target {
	struct process *process;
	struct oracle *oracle;
	bool failed;
	bool moved; /* the mappings are not those of the samples at hand */
};

struct recorder {
	struct options options;
	struct unwind_user *walker;
	struct images images;
	struct target targets[MAX_PROCESSES];
	size_t target_count;
	/* Samples whose mappings are looked at again before they are walked. */
	struct sample batch[MAX_BATCH];
	size_t batch_count;
	bool backlog; /* more were there than fit: they are older than the mappings at hand */
	uint64_t taken, classes[CLASS_COUNT], ends[UNWIND_END_COUNT], frames, by_frame_pointer, by_registers, shown,
		kernel;
	uint32_t deepest;
	uint64_t *kept; /* what kinds of stacks have a case already */
	size_t kept_count, cases, cases_failed;
	struct captured captured;
	struct unwind_walk walk, again;
	struct oracle_frames oracle;
};

/* --- comparison ----------------------------------------------------------------------------------------------------*/

static abi_frame normalised(const struct process *p, uint64_t address)
{
	const struct mapping_value *m = process_mapping(p, address);

	if (!m || m->image == IMAGE_JIT)
		return ABI_FRAME_RAW | address;
	return ABI_FRAME(m->image, address - m->start + m->offset);
}

static enum cfi_cfa rule_of(const struct recorder *r, abi_frame frame)
{
	const struct image *image;

	if (frame & ABI_FRAME_RAW)
		return CFI_CFA_NONE;
	image = images_find(&r->images, ABI_FRAME_IMAGE(frame));
	return image && image->rows ? cfi_cfa_of(cfi_lookup(&image->tables, ABI_FRAME_OFFSET(frame))) : CFI_CFA_NONE;
}

/* Whether the tables say how to go on from a frame: elsewhere libdw guesses. */
static bool has_row(const struct recorder *r, abi_frame frame)
{
	return rule_of(r, frame) != CFI_CFA_NONE;
}

/* Whether the walk met, where it may follow it, a CFA in a register other than rsp and rbp. */
static bool by_registers(const struct recorder *r)
{
	for (uint32_t i = 0; i < r->walk.frame_count && i < MAX_REGISTER_FRAMES; i++)
		if (rule_of(r, r->walk.frames[i]) == CFI_CFA_IN_REGISTER)
			return true;
	return false;
}

/* Go's function table says which functions nothing called; libdw follows what happens to be above them. */
static bool at_go_top(const struct recorder *r)
{
	abi_frame last = r->walk.frames[r->walk.frame_count - 1];
	const struct image *image = last & ABI_FRAME_RAW ? NULL : images_find(&r->images, ABI_FRAME_IMAGE(last));

	return r->walk.end == UNWIND_END_OUTERMOST && image && image_is_go(image);
}

static enum sample_class compare(const struct recorder *r, const struct process *p, bool cut, size_t *ret_at)
{
	const struct oracle_frames *o = &r->oracle;
	const struct unwind_walk *w = &r->walk;
	size_t count = o->count < w->frame_count ? o->count : w->frame_count, i;
	bool guessed = false; /* libdw had no table for a frame before */

	for (i = 0; i < count && normalised(p, o->address[i]) == w->frames[i]; i++)
		guessed |= !has_row(r, w->frames[i]);
	*ret_at = i;
	if (i == w->frame_count && i == o->count && o->whole && unwind_end_whole(w->end))
		return CLASS_EQUAL;
	if (i < count)
		return guessed ? CLASS_STOPPED : CLASS_DIFFERENT;
	/* Not where libdw went on over the same bytes: then it is the walk that read elsewhere. */
	if (cut && o->count <= w->frame_count)
		return CLASS_CUT;
	if (i == w->frame_count && at_go_top(r))
		return CLASS_TOP;
	if (guessed || (!o->whole && o->count <= w->frame_count))
		return CLASS_STOPPED;
	/* Both stopped at the limit of frames. */
	if (w->end == UNWIND_END_DEPTH && o->count > w->frame_count)
		return CLASS_EQUAL;
	return CLASS_DIFFERENT;
}

static void show_frame(const struct recorder *r, const char *who, size_t index, abi_frame frame)
{
	const struct image *image;
	struct cfi_info info;

	if (frame & ABI_FRAME_RAW) {
		printf("  %-6s %3zu %#" PRIx64 " raw\n", who, index, (uint64_t)(frame & ~ABI_FRAME_RAW));
		return;
	}
	image = images_find(&r->images, ABI_FRAME_IMAGE(frame));
	if (!image) {
		printf("  %-6s %3zu image %u\n", who, index, ABI_FRAME_IMAGE(frame));
		return;
	}
	info = image->rows ? cfi_lookup(&image->tables, ABI_FRAME_OFFSET(frame)) : (struct cfi_info){0};
	printf("  %-6s %3zu %s+%#" PRIx64 " cfa %d bp %d offset %d bp_offset %d\n", who, index, image->name,
	       (uint64_t)ABI_FRAME_OFFSET(frame), cfi_cfa_of(info), cfi_bp_of(info), info.offset, info.bp_offset);
}

static void show(const struct recorder *r, const struct process *p, const struct sample *s, size_t at)
{
	const struct oracle_frames *o = &r->oracle;
	const struct unwind_walk *w = &r->walk;
	size_t first = at > 2 ? at - 2 : 0;

	printf("differs at frame %zu: pid %d tid %d pc %#" PRIx64 " sp %#" PRIx64 " bp %#" PRIx64
	       "%s, %u frames (%s), libdw %zu%s\n",
	       at, s->pid, s->tid, s->regs[REG_PC], s->regs[REG_SP], s->regs[REG_BP], s->kernel ? " kernel" : "",
	       w->frame_count, unwind_end_name(w->end), o->count, o->whole ? " whole" : "");
	for (size_t i = first; i < at + 3; i++) {
		if (i < w->frame_count)
			show_frame(r, "walker", i, w->frames[i]);
		if (i < o->count && (i >= w->frame_count || normalised(p, o->address[i]) != w->frames[i]))
			show_frame(r, "libdw", i, normalised(p, o->address[i]));
	}
}

/* --- cases ---------------------------------------------------------------------------------------------------------*/

/* Stacks of one kind give one case: end, image at the top, how deep. */
static bool is_new_kind(struct recorder *r, enum sample_class class, bool kernel)
{
	uint64_t depth = 64 - (uint64_t)__builtin_clzll(r->walk.frame_count | 1), *kept;
	uint64_t top = r->walk.frames[0] & ABI_FRAME_RAW ? IMAGE_JIT : ABI_FRAME_IMAGE(r->walk.frames[0]);
	uint64_t kind = (uint64_t)r->walk.end | (uint64_t) class << 8 | depth << 16 | (uint64_t)kernel << 24 |
			(uint64_t)r->walk.by_frame_pointer << 25 | (uint64_t)by_registers(r) << 26 | top << 32;

	for (size_t i = 0; i < r->kept_count; i++)
		if (r->kept[i] == kind)
			return false;
	kept = realloc(r->kept, (r->kept_count + 1) * sizeof(*kept));
	if (!kept)
		return false;
	r->kept = kept;
	r->kept[r->kept_count++] = kind;
	return true;
}

static void keep(struct recorder *r, const struct process *p, const struct sample *s, enum sample_class class)
{
	const struct options *o = &r->options;
	_cleanup_(stack_case_freep) struct stack_case *c = NULL;
	struct err e = {0};
	char path[4096];
	int error;

	if (o->keep == KEEP_NONE || r->cases >= o->max_cases || class == CLASS_MOVED || class == CLASS_RED_ZONE ||
	    (o->keep == KEEP_INCOMPLETE && unwind_end_whole(r->walk.end)) ||
	    (o->keep == KEEP_DIFFERENT && class != CLASS_DIFFERENT) ||
	    (o->keep == KEEP_REGISTERS && !by_registers(r)) ||
	    (class == CLASS_CUT && r->walk.end == UNWIND_END_STACK_READ) || !is_new_kind(r, class, s->kernel))
		return;
	snprintf(path, sizeof(path), "%s/%s-%s-%zu.stack", o->folder, o->name, unwind_end_name(r->walk.end),
		 r->cases + 1);
	error = case_make(&r->images, p, s, &r->captured, &r->walk, o->name, &c, &e);
	if (!error)
		error = stack_case_write(c, path, &e);
	if (error) {
		r->cases_failed++;
		fprintf(stderr, "stackrec: no case: %s\n", e.code ? e.text : strerror(-error));
		return;
	}
	r->cases++;
}

/* --- samples -------------------------------------------------------------------------------------------------------*/

/* What the sample's own bytes say; false if it depends on words that were not captured. */
static bool walk_captured(struct recorder *r, const struct process *p, const struct sample *s)
{
	static const uint64_t poisons[] = CAPTURED_POISONS;
	struct captured *c = &r->captured;
	uint64_t registers[UNWIND_USER_REGISTERS];

	sample_pt_regs(s, registers);
	captured_init(c, s, p);
	unwind_user_memory(r->walker, captured_read, c);
	unwind_user_mappings(r->walker, p->mappings, p->mapping_count);
	for (size_t i = 0; i < ARRAY_SIZE(poisons); i++) {
		struct unwind_walk *w = i ? &r->again : &r->walk;

		captured_begin(c, poisons[i]);
		unwind_user_walk(r->walker, s->regs[REG_PC], s->regs[REG_SP], s->regs[REG_BP], registers,
				 UNWIND_MAX_FRAMES, w);
		if (c->poisoned || (c->served && w->bp == poisons[i] && !unwind_end_whole(w->end)))
			return false;
		if (!c->served)
			return true;
	}
	return r->walk.end == r->again.end && r->walk.frame_count == r->again.frame_count &&
	       !memcmp(r->walk.frames, r->again.frames, r->walk.frame_count * sizeof(r->walk.frames[0]));
}

static void walk(struct recorder *r, struct target *t, const struct sample *s)
{
	struct captured *c = &r->captured;
	enum sample_class class = CLASS_WALKED;
	size_t at = 0;
	bool known = walk_captured(r, t->process, s), cut = c->outside && !unwind_end_whole(r->walk.end);

	if (!known) {
		class = CLASS_RED_ZONE;
	} else if (t->oracle) {
		c->outside = false;
		oracle_walk(t->oracle, s->regs, (struct oracle_memory){captured_read_word, c}, &r->oracle);
		class = compare(r, t->process, cut || (c->outside && !r->oracle.whole), &at);
	} else if (cut) {
		class = CLASS_CUT;
	}
	r->classes[class]++;
	if (class == CLASS_RED_ZONE)
		return;
	r->ends[r->walk.end]++;
	r->kernel += s->kernel;
	r->frames += r->walk.frame_count;
	r->by_frame_pointer += r->walk.by_frame_pointer;
	r->by_registers += by_registers(r);
	if (r->walk.frame_count > r->deepest)
		r->deepest = r->walk.frame_count;
	if ((class == CLASS_DIFFERENT || r->options.verbose) && r->shown++ < MAX_SHOWN)
		show(r, t->process, s, at);
	keep(r, t->process, s, class);
}

static struct target *target_of(struct recorder *r, pid_t pid)
{
	struct target *t;
	struct err e = {0};

	for (size_t i = 0; i < r->target_count; i++)
		if (r->targets[i].process && r->targets[i].process->pid == pid)
			return &r->targets[i];
	if (r->target_count == MAX_PROCESSES)
		return NULL;
	t = &r->targets[r->target_count];
	if (process_create(pid, &r->images, &t->process))
		return NULL;
	r->target_count++;
	if (r->options.compare && oracle_create(pid, &t->oracle, &e))
		t->failed = true;
	return t;
}

/* What changed is read again; then libdw must begin anew. */
static void refresh(struct recorder *r, struct target *t)
{
	struct err e = {0};
	bool changed = false;

	if (process_refresh(t->process, &r->images, &changed)) {
		t->moved = true;
		return;
	}
	t->moved = changed || (r->backlog && t->moved);
	if (changed && t->oracle) {
		oracle_destroy(t->oracle);
		t->oracle = NULL;
		t->failed = oracle_create(t->process->pid, &t->oracle, &e) != 0;
	}
}

/* A sample counts if the mappings were the same before and after it. */
static void walk_batch(struct recorder *r)
{
	for (size_t i = 0; i < r->target_count; i++)
		refresh(r, &r->targets[i]);
	for (size_t i = 0; i < r->batch_count; i++) {
		const struct sample *s = &r->batch[i];
		size_t known = r->target_count;
		struct target *t = target_of(r, s->pid);

		if (r->taken < r->options.samples) {
			/* Of a process not seen before, nothing is known of the time before. */
			if (!t || t->failed || (size_t)(t - r->targets) >= known || t->moved)
				r->classes[CLASS_MOVED]++;
			else
				walk(r, t, s), r->taken++;
		}
		free((void *)(uintptr_t)s->stack);
	}
	r->batch_count = 0;
}

static int take(const struct sample *sample, void *user)
{
	struct recorder *r = user;
	uint8_t *stack = malloc(sample->stack_bytes + 1);

	if (!stack)
		return -ENOMEM;
	memcpy(stack, sample->stack, sample->stack_bytes);
	r->batch[r->batch_count] = *sample;
	r->batch[r->batch_count++].stack = stack;
	return r->batch_count == MAX_BATCH ? 1 : 0;
}

static int run(struct recorder *r, struct sampler *sampler)
{
	uint64_t deadline = clock_mono_ns() + (uint64_t)(r->options.seconds * 1e9);

	while (r->taken < r->options.samples && clock_mono_ns() < deadline) {
		int error = sampler_drain(sampler, DRAIN_MS, take, r);

		if (error < 0)
			return error;
		walk_batch(r);
		r->backlog = error > 0;
	}
	return 0;
}

static void print_summary(const struct recorder *r, const struct sampler *sampler)
{
	uint64_t compared = r->classes[CLASS_EQUAL] + r->classes[CLASS_DIFFERENT], whole = 0, walked = 0;
	static const char *const names[] = {
#define X(sym, name) name,
		CLASSES(X)
#undef X
	};

	for (int i = 0; i < UNWIND_END_COUNT; i++) {
		walked += r->ends[i];
		if (unwind_end_whole((enum unwind_end)i))
			whole += r->ends[i];
	}
	printf("stackrec: samples=%" PRIu64, r->taken);
	if (r->options.compare)
		printf(" compared=%" PRIu64 " equal_pct=%.2f", compared,
		       compared ? 100.0 * (double)r->classes[CLASS_EQUAL] / (double)compared : 0.0);
	for (int i = 0; i < CLASS_COUNT; i++)
		printf(" %s=%" PRIu64, names[i], r->classes[i]);
	printf(" whole=%" PRIu64 " whole_pct=%.2f kernel=%" PRIu64 " frames=%" PRIu64
	       " deepest=%u by_frame_pointer=%" PRIu64 " by_registers=%" PRIu64 " skipped=%" PRIu64 " lost=%" PRIu64
	       " cases=%zu cases_failed=%zu ends:",
	       whole, walked ? 100.0 * (double)whole / (double)walked : 0.0, r->kernel, r->frames, r->deepest,
	       r->by_frame_pointer, r->by_registers, sampler_skipped(sampler), sampler_lost(sampler), r->cases,
	       r->cases_failed);
	for (int i = 0; i < UNWIND_END_COUNT; i++)
		if (r->ends[i])
			printf(" %s=%" PRIu64, unwind_end_name((enum unwind_end)i), r->ends[i]);
	printf("\n");
}

/* --- program -------------------------------------------------------------------------------------------------------*/

static const struct argp_option arguments[] = {
	{"pid", 'p', "PID", 0, "sample this process; may be given more than once", 0},
	{"samples", 'n', "N", 0, "stop after so many samples (1000)", 0},
	{"seconds", 's', "S", 0, "stop after so many seconds (20)", 0},
	{"period-us", 'P', "US", 0, "CPU time between two samples of a thread (1000)", 0},
	{"compare", 'c', NULL, 0, "compare with elfutils' unwinder", 0},
	{"keep", 'k', "WHICH", 0, "keep cases: incomplete, different, registers or all kinds", 0},
	{"max-cases", 'm', "N", 0, "keep at most so many (5)", 0},
	{"output", 'o', "DIR", 0, "where cases are written to (.)", 0},
	{"name", 'N', "NAME", 0, "what their names begin with (stack)", 0},
	{"verbose", 'v', NULL, 0, "show the first samples whatever they are", 0},
	{0},
};

static error_t parse_argument(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'p':
		if (o->pid_count == MAX_PIDS)
			argp_error(state, "more than %d processes", MAX_PIDS);
		o->pids[o->pid_count++] = (pid_t)strtol(arg, NULL, 10);
		return 0;
	case 'n':
		o->samples = strtoull(arg, NULL, 10);
		return 0;
	case 's':
		o->seconds = strtod(arg, NULL);
		return 0;
	case 'P':
		o->period_ns = strtoull(arg, NULL, 10) * 1000 + 3;
		return 0;
	case 'c':
		o->compare = true;
		return 0;
	case 'k':
		o->keep = !strcmp(arg, "incomplete")  ? KEEP_INCOMPLETE
			  : !strcmp(arg, "different") ? KEEP_DIFFERENT
			  : !strcmp(arg, "registers") ? KEEP_REGISTERS
			  : !strcmp(arg, "all")	      ? KEEP_ALL
						      : KEEP_NONE;
		if (o->keep == KEEP_NONE)
			argp_error(state, "keep is incomplete, different, registers or all");
		return 0;
	case 'm':
		o->max_cases = strtoull(arg, NULL, 10);
		return 0;
	case 'o':
		o->folder = arg;
		return 0;
	case 'N':
		o->name = arg;
		return 0;
	case 'v':
		o->verbose = true;
		return 0;
	case ARGP_KEY_END:
		if (!o->pid_count)
			argp_error(state, "which process? --pid PID");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void recorder_destroy(struct recorder *r)
{
	for (size_t i = 0; i < r->target_count; i++) {
		oracle_destroy(r->targets[i].oracle);
		process_destroy(r->targets[i].process);
	}
	images_free(&r->images);
	unwind_user_destroy(r->walker);
	free(r->kept);
	free(r);
}

static int record(struct recorder *r, struct err *e)
{
	struct sampler *sampler;
	int error = unwind_user_create(&r->walker);

	if (error)
		return err_errno(e, error, "no walker");
	r->images.walker = r->walker;
	/* Tables first: what is compiled while samples wait costs samples. */
	for (size_t i = 0; i < r->options.pid_count; i++) {
		struct target *t = target_of(r, r->options.pids[i]);

		if (!t)
			return err_set(e, -ESRCH, "cannot read the mappings of process %d", r->options.pids[i]);
		if (t->failed)
			return err_set(e, -ENOSYS, "libdw cannot be used with process %d", r->options.pids[i]);
	}
	error = sampler_create(r->options.pids, r->options.pid_count, r->options.period_ns, &sampler, e);
	if (error)
		return error;
	error = run(r, sampler);
	print_summary(r, sampler);
	sampler_destroy(sampler);
	return error ? err_errno(e, error, "cannot read samples") : 0;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {arguments, parse_argument, NULL, "Samples and compares stacks.", 0, 0, 0};
	struct recorder *r = calloc(1, sizeof(*r));
	struct err e = {0};
	int error;

	if (!r)
		return 1;
	r->options = (struct options){
		.samples = 1000, .seconds = 20, .max_cases = 5, .period_ns = PERIOD_NS, .folder = ".", .name = "stack"};
	argp_parse(&argp, argc, argv, 0, NULL, &r->options);
	error = record(r, &e);
	if (error)
		fprintf(stderr, "stackrec: %s\n", e.text);
	recorder_destroy(r);
	/* 77: nothing to compare with on this machine. */
	return error == -ENOSYS ? 77 : error ? 1 : 0;
}
