/* See case_maker.h. A stack word is kept only if it is an address of the process; another that the walk read becomes 1,
 * which is neither 0 nor an address. Of code, bytes that could not be part of what the walker looks for become int3. */
#include "tests/tools/case_maker.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "daemon/image/cfi_internal.h"

#define BEHIND_BYTES 256 /* stack kept above the deepest word read */
#define CODE_MARGIN 16
#define NOT_AN_ADDRESS 1
#define INT3 0xcc

/* --- entries -------------------------------------------------------------------------------------------------------*/

struct listed {
	uint64_t start, end; /* the file's own addresses */
	uint32_t at, cie;
	bool debug;
};

struct listing {
	struct cfi_build build;
	struct listed *list;
	size_t count, room;
};

static void listing_deinit(struct listing *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(l->build.sections); i++)
		free((void *)(uintptr_t)l->build.sections[i].data);
	free(l->build.cies);
	free(l->list);
}

static int compare_listed(const void *a, const void *b)
{
	const struct listed *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start ? 1 : x->debug - y->debug;
}

static int list_section(struct listing *l, const struct cfi_section *s)
{
	struct cfi_entry entry;
	uint64_t start, bytes;

	for (uint32_t at = 0; s->data && at < s->bytes; at = entry.next) {
		if (cfi_entry_read(s, at, &entry) || entry.kind == CFI_KIND_END)
			break;
		if (entry.kind == CFI_KIND_CIE ||
		    cfi_fde_head(s, cfi_cie_get(&l->build, s, entry.cie), &entry, &start, &bytes) || !bytes)
			continue;
		if (l->count == l->room) {
			size_t room = l->room ? 2 * l->room : 1024;
			struct listed *list = realloc(l->list, room * sizeof(*list));

			if (!list)
				return -ENOMEM;
			l->list = list;
			l->room = room;
		}
		l->list[l->count++] = (struct listed){start, start + bytes, at, entry.cie, s->debug};
	}
	return 0;
}

static int listing_init(struct listing *l, const struct elf_file *f)
{
	int r = 0;

	l->build.file = f;
	l->build.options.max_section_bytes = 96 << 20;
	l->build.cies = calloc(CIE_CACHE, sizeof(*l->build.cies));
	if (!l->build.cies)
		return -ENOMEM;
	r = cfi_sections_load(&l->build);
	for (size_t i = 0; i < ARRAY_SIZE(l->build.sections) && !r; i++)
		r = list_section(l, &l->build.sections[i]);
	if (!r && l->count)
		qsort(l->list, l->count, sizeof(*l->list), compare_listed);
	return r;
}

/* The entry at `at` as it stands, once. Zero words before it are no part of it. */
static int add_entry(struct listing *l, struct case_image *image, bool debug, uint32_t at)
{
	const struct cfi_section *s = &l->build.sections[debug ? 1 : 0];
	struct case_section *to = &image->sections[debug ? 1 : 0];
	struct case_bytes *entry;
	struct cfi_entry read;

	for (size_t i = 0; i < to->entry_count; i++)
		if (to->entries[i].at == at)
			return 0;
	if (cfi_entry_read(s, at, &read))
		return -EBADMSG;
	entry = CASE_ADD(to->entries, to->entry_count);
	if (!entry)
		return -ENOMEM;
	to->present = true;
	to->address = s->address;
	entry->at = at;
	entry->bytes = read.next - at;
	entry->data = malloc(entry->bytes);
	if (!entry->data)
		return -ENOMEM;
	memcpy(entry->data, s->data + at, entry->bytes);
	return 0;
}

/* What the compiler looks at to say what holds at an address: the functions that begin last before it, and the next
 * one, where the rules before it end. */
static int add_entries(struct listing *l, struct case_image *image, uint64_t address)
{
	size_t from = 0, to = l->count, first, last;
	int r = 0;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (l->list[middle].start <= address)
			from = middle + 1;
		else
			to = middle;
	}
	last = from < l->count ? from : l->count - 1;
	first = from ? from - 1 : 0;
	while (first && l->list[first - 1].start == l->list[first].start)
		first--;
	/* The next function matters only if it overlaps or if the place is in no function. */
	if (last > first && address < l->list[first].end && l->list[first].end <= l->list[last].start && from)
		last = from - 1;
	for (size_t i = first; i <= last && !r; i++) {
		r = add_entry(l, image, l->list[i].debug, l->list[i].cie);
		if (!r)
			r = add_entry(l, image, l->list[i].debug, l->list[i].at);
	}
	return r;
}

/* --- images --------------------------------------------------------------------------------------------------------*/

static int compare_rules(const void *a, const void *b)
{
	const struct case_rule *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int add_rules(struct case_image *image, const struct image *from, const struct unwind_walk *w)
{
	for (uint32_t i = 0; i < w->frame_count; i++) {
		uint64_t offset = ABI_FRAME_OFFSET(w->frames[i]);
		struct case_rule *rule;
		size_t known = 0;

		if (w->frames[i] & ABI_FRAME_RAW || ABI_FRAME_IMAGE(w->frames[i]) != from->id)
			continue;
		while (known < image->rule_count && image->rules[known].offset != offset)
			known++;
		if (known < image->rule_count)
			continue;
		rule = CASE_ADD(image->rules, image->rule_count);
		if (!rule)
			return -ENOMEM;
		*rule = (struct case_rule){offset, cfi_lookup(&from->tables, offset)};
	}
	qsort(image->rules, image->rule_count, sizeof(*image->rules), compare_rules);
	return 0;
}

static int add_frames_entries(struct case_image *image, const struct image *from, const struct unwind_walk *w)
{
	_cleanup_(listing_deinit) struct listing l = {0};
	int r = listing_init(&l, &from->elf);

	if (!r && !l.count)
		r = -ENODATA;
	for (uint32_t i = 0; i < w->frame_count && !r; i++) {
		uint64_t address, offset = ABI_FRAME_OFFSET(w->frames[i]);
		size_t segment;

		if (w->frames[i] & ABI_FRAME_RAW || ABI_FRAME_IMAGE(w->frames[i]) != from->id ||
		    elf_address_of(from->elf.segments, from->elf.segment_count, offset, &segment, &address))
			continue;
		r = add_entries(&l, image, address);
		/* The trampoline of a signal is looked up at the byte before as well. */
		if (!r)
			r = add_entries(&l, image, address - 1);
	}
	return r;
}

static int add_image(struct stack_case *c, const struct image *from, const struct unwind_walk *w, bool rules)
{
	struct case_image *image = CASE_ADD(c->images, c->image_count);

	if (!image)
		return -ENOMEM;
	image->id = from->id;
	snprintf(image->name, sizeof(image->name), "%s", from->name);
	for (char *p = image->name; *p; p++)
		if (*p == ' ')
			*p = '_';
	snprintf(image->build_id, sizeof(image->build_id), "%s", from->build_id);
	image->kind = from->rows ? CASE_ENTRIES : from->fd >= 0 ? CASE_FRAME_POINTER : CASE_NONE;
	if (image->kind != CASE_ENTRIES)
		return 0;
	if (rules || image_is_go(from)) {
		image->kind = CASE_RULES;
		return add_rules(image, from, w);
	}
	for (size_t i = 0; i < from->elf.segment_count; i++) {
		const struct elf_segment *s = &from->elf.segments[i];
		struct case_load *load;

		if (s->type != PT_LOAD || !(s->flags & PF_X))
			continue;
		load = CASE_ADD(image->loads, image->load_count);
		if (!load)
			return -ENOMEM;
		*load = (struct case_load){s->offset, s->vaddr, s->file_bytes};
	}
	return add_frames_entries(image, from, w);
}

static int put_mapping(struct stack_case *c, const struct images *images, const struct mapping_value *m,
		       const struct unwind_walk *w, bool rules)
{
	struct mapping_value *to;
	size_t at = 0;

	for (size_t i = 0; i < c->mapping_count; i++)
		if (c->mappings[i].start == m->start)
			return 0;
	to = CASE_ADD(c->mappings, c->mapping_count);
	if (!to)
		return -ENOMEM;
	/* Sorted by address. */
	while (at < c->mapping_count - 1 && c->mappings[at].start < m->start)
		at++;
	memmove(&c->mappings[at + 1], &c->mappings[at], (c->mapping_count - 1 - at) * sizeof(*c->mappings));
	c->mappings[at] = *m;
	for (size_t i = 0; i < c->image_count; i++)
		if (c->images[i].id == m->image)
			return 0;
	return m->image == IMAGE_JIT || !images_find(images, m->image)
		       ? 0
		       : add_image(c, images_find(images, m->image), w, rules);
}

/* All that a frame can be of: V8 maps its code a second time. */
static int add_mappings(struct stack_case *c, const struct images *images, const struct process *p,
			const struct unwind_walk *w, bool rules, abi_frame frame)
{
	int r = 0;

	for (uint32_t i = 0; i < p->mapping_count && !r; i++) {
		const struct mapping_value *m = &p->mappings[i];
		uint64_t from = frame & ABI_FRAME_RAW ? m->start : m->offset;
		uint64_t in = (frame & ABI_FRAME_RAW ? frame & ~ABI_FRAME_RAW : ABI_FRAME_OFFSET(frame)) - from;

		if (in < (uint64_t)m->pages << 12 && (frame & ABI_FRAME_RAW || ABI_FRAME_IMAGE(frame) == m->image))
			r = put_mapping(c, images, m, w, rules);
	}
	return r;
}

/* --- memory --------------------------------------------------------------------------------------------------------*/

static void mask_code(struct case_bytes *b)
{
	/* Bytes of the instructions that bpf/unwind.h knows: endbr64, push, ret, mov, rt_sigreturn's, calls. */
	static const uint8_t known[] = {0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3, 0x48, 0x89, 0xe5,
					0x8b, 0xec, 0xc7, 0xc0, 0x00, 0x05, 0xe8, 0xff, 0x54};

	for (uint32_t i = 0; i < b->bytes; i++) {
		uint8_t v = b->data[i];
		bool call = v >= 0x10 && v <= 0x17;

		/* The forms of a call through a register or memory, only where the call's first byte is before. */
		call |= (v >= 0x50 && v <= 0x57) || (v >= 0x90 && v <= 0x97) || (v >= 0xd0 && v <= 0xd7);
		call &= i > 0 && b->data[i - 1] == 0xff;
		if (!call && !memchr(known, v, sizeof(known)))
			b->data[i] = INT3;
	}
}

static int compare_code(const void *a, const void *b)
{
	const struct case_bytes *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

static int add_code(struct stack_case *c, const struct process *p, const struct captured *memory)
{
	for (size_t i = 0; i < memory->code_count; i++) {
		const struct mapping_value *m = process_mapping(p, memory->code[i].address);
		uint64_t from = memory->code[i].address, end = from + memory->code[i].bytes;
		struct case_bytes *code;
		bool known = false;

		if (!m)
			continue;
		if (m->image != IMAGE_JIT) {
			from = from - m->start > CODE_MARGIN ? from - CODE_MARGIN : m->start;
			end += CODE_MARGIN;
			if (end > m->start + ((uint64_t)m->pages << 12))
				end = m->start + ((uint64_t)m->pages << 12);
		}
		for (size_t j = 0; j < c->code_count; j++)
			known |= c->code[j].at <= from && end <= c->code[j].at + c->code[j].bytes;
		if (known)
			continue;
		code = CASE_ADD(c->code, c->code_count);
		if (!code)
			return -ENOMEM;
		code->at = from;
		code->bytes = (uint32_t)(end - from);
		code->data = malloc(code->bytes);
		if (!code->data)
			return -ENOMEM;
		if (process_read_code(p, code->data, code->bytes, from))
			return -EFAULT;
		/* Generated code is the target's memory, a file's is not. */
		if (m->image == IMAGE_JIT)
			mask_code(code);
	}
	if (c->code_count)
		qsort(c->code, c->code_count, sizeof(*c->code), compare_code);
	return 0;
}

static uint64_t harmless(const struct process *p, const struct captured *memory, uint64_t value, bool read)
{
	if (process_has(p, value) || value - memory->sp < memory->sample->asked_bytes)
		return value;
	return value && read ? NOT_AN_ADDRESS : 0;
}

static int add_stack(struct stack_case *c, const struct process *p, const struct captured *memory)
{
	uint64_t bytes = memory->deepest - memory->sp + BEHIND_BYTES, words;

	if (bytes > memory->sample->stack_bytes)
		bytes = memory->sample->stack_bytes;
	words = bytes / 8;
	c->stack_start = memory->sp - memory->below_count * 8;
	c->word_count = words + memory->below_count;
	c->words = calloc(c->word_count + 1, sizeof(*c->words));
	if (!c->words)
		return -ENOMEM;
	for (size_t i = 0; i < memory->below_count; i++)
		c->words[memory->below_count - 1 - i] = harmless(p, memory, memory->below[i], true);
	for (size_t i = 0; i < words; i++) {
		uint64_t value;

		memcpy(&value, memory->sample->stack + i * 8, sizeof(value));
		c->words[memory->below_count + i] = harmless(p, memory, value, memory->words_read[i / 8] & 1 << i % 8);
	}
	return 0;
}

/* --- the case ------------------------------------------------------------------------------------------------------*/

static int fill(struct stack_case *c, const struct images *images, const struct process *p, const struct sample *s,
		const struct captured *memory, const struct unwind_walk *w, bool rules)
{
	int r = 0;

	c->pc = s->regs[REG_PC];
	c->sp = s->regs[REG_SP];
	c->bp = harmless(p, memory, s->regs[REG_BP], true);
	sample_pt_regs(s, c->registers);
	for (size_t i = 0; i < ARRAY_SIZE(c->registers); i++)
		c->registers[i] = harmless(p, memory, c->registers[i], true);
	c->has_registers = true;
	c->end = w->end;
	for (uint32_t i = 0; i < w->frame_count && !r; i++) {
		abi_frame *frame = CASE_ADD(c->frames, c->frame_count);

		if (!frame)
			return -ENOMEM;
		*frame = w->frames[i];
		/* An address outside of all mappings is none. */
		if (*frame & ABI_FRAME_RAW && !process_has(p, *frame & ~ABI_FRAME_RAW))
			*frame = ABI_FRAME_RAW | (NOT_AN_ADDRESS - 1);
		r = add_mappings(c, images, p, w, rules, w->frames[i]);
	}
	if (!r)
		r = add_code(c, p, memory);
	return r ? r : add_stack(c, p, memory);
}

static int make(const struct images *images, const struct process *p, const struct sample *s,
		const struct captured *memory, const struct unwind_walk *w, const char *name, bool rules,
		struct stack_case **ret, struct err *e)
{
	_cleanup_(stack_case_freep) struct stack_case *c = stack_case_new();
	_cleanup_free_ struct unwind_walk *again = malloc(sizeof(*again));
	int r;

	if (!c || !again)
		return -ENOMEM;
	snprintf(c->name, sizeof(c->name), "%s", name);
	r = fill(c, images, p, s, memory, w, rules);
	if (!r)
		r = stack_case_walk(c, NULL, NULL, again, e);
	if (!r)
		r = stack_case_judge(c, again, e);
	if (r)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

int case_make(const struct images *images, const struct process *p, const struct sample *s,
	      const struct captured *memory, const struct unwind_walk *w, const char *name, struct stack_case **ret,
	      struct err *e)
{
	/* Rules that are made of more than the entries, as of a PLT that has none, are kept as they are. */
	if (!make(images, p, s, memory, w, name, false, ret, NULL))
		return 0;
	return make(images, p, s, memory, w, name, true, ret, e);
}
