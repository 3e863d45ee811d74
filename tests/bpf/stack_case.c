/* Reading and writing of recorded stacks; replay is in stack_replay.c. */
#include "tests/bpf/stack_case.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#define MAGIC "baroscope-stack 1"
#define MAX_LINE_BYTES 65536
#define MAX_ITEMS 65536
#define WORDS_A_LINE 6
#define MAX_PLAIN_BYTES 12288

static const char *const kinds[] = {"none", "frame_pointer", "entries", "rules"};
static const char *const section_names[] = {"eh", "debug"};

struct stack_case *stack_case_new(void)
{
	return calloc(1, sizeof(struct stack_case));
}

static void bytes_free(struct case_bytes *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i].data);
	free(list);
}

void stack_case_free(struct stack_case *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->image_count; i++) {
		for (size_t s = 0; s < ARRAY_SIZE(c->images[i].sections); s++)
			bytes_free(c->images[i].sections[s].entries, c->images[i].sections[s].entry_count);
		free(c->images[i].loads);
		free(c->images[i].rules);
	}
	bytes_free(c->code, c->code_count);
	free(c->images);
	free(c->frames);
	free(c->mappings);
	free(c->words);
	free(c);
}

void *stack_case_add(void *array, size_t *count, size_t bytes)
{
	uint8_t *grown;

	if (*count >= MAX_ITEMS)
		return NULL;
	grown = realloc(array, (*count + 1) * bytes);
	if (!grown)
		return NULL;
	memset(grown + *count * bytes, 0, bytes);
	(*count)++;
	return grown;
}

/* --- reading -------------------------------------------------------------------------------------------------------*/

struct words {
	char *at;
	bool bad; /* a word was missing, or no number */
};

static const char *word(struct words *w)
{
	char *start = w->at + strspn(w->at, " ");

	w->at = start + strcspn(start, " ");
	if (*w->at)
		*w->at++ = '\0';
	if (!*start)
		w->bad = true;
	return start;
}

static uint64_t number(struct words *w, int base)
{
	const char *text = word(w);
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(text, &end, base);
	if (end == text || *end || errno)
		w->bad = true;
	return v;
}

static size_t choice(struct words *w, const char *const *names, size_t count)
{
	const char *text = word(w);

	for (size_t i = 0; i < count; i++)
		if (!strcmp(names[i], text))
			return i;
	w->bad = true;
	return 0;
}

static int hex(struct words *w, struct case_bytes *ret)
{
	const char *text = word(w);
	size_t length = strlen(text) / 2;
	uint8_t *data;

	if (w->bad || strlen(text) % 2 || strspn(text, "0123456789abcdef") != strlen(text))
		return -EBADMSG;
	data = malloc(length + 1);
	if (!data)
		return -ENOMEM;
	for (size_t i = 0; i < length; i++) {
		unsigned int byte;

		if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
			free(data);
			return -EBADMSG;
		}
		data[i] = (uint8_t)byte;
	}
	ret->data = data;
	ret->bytes = (uint32_t)length;
	return 0;
}

static struct case_image *find_image(struct stack_case *c, uint64_t id)
{
	for (size_t i = 0; i < c->image_count; i++)
		if (c->images[i].id == id)
			return &c->images[i];
	return NULL;
}

static int read_image(struct stack_case *c, struct words *w)
{
	struct case_image *image = CASE_ADD(c->images, c->image_count);

	if (!image)
		return -ENOMEM;
	image->id = (uint32_t)number(w, 10);
	snprintf(image->name, sizeof(image->name), "%s", word(w));
	snprintf(image->build_id, sizeof(image->build_id), "%s", word(w));
	image->kind = (enum case_kind)choice(w, kinds, ARRAY_SIZE(kinds));
	return 0;
}

/* A line about an image. */
static int read_part(struct stack_case *c, const char *what, struct words *w)
{
	struct case_image *image = find_image(c, number(w, 10));
	struct case_section *s;

	if (!image)
		return -EBADMSG;
	if (!strcmp(what, "load")) {
		struct case_load *load = CASE_ADD(image->loads, image->load_count);

		if (!load)
			return -ENOMEM;
		load->offset = number(w, 16);
		load->vaddr = number(w, 16);
		load->bytes = number(w, 16);
		return 0;
	}
	if (!strcmp(what, "rule")) {
		struct case_rule *rule = CASE_ADD(image->rules, image->rule_count);
		uint64_t info;

		if (!rule)
			return -ENOMEM;
		rule->offset = number(w, 16);
		info = number(w, 16);
		memcpy(&rule->info, &info, sizeof(rule->info));
		return 0;
	}
	s = &image->sections[choice(w, section_names, ARRAY_SIZE(section_names))];
	if (!strcmp(what, "section")) {
		s->present = true;
		s->address = number(w, 16);
		return 0;
	}
	if (!strcmp(what, "entry")) {
		struct case_bytes *entry = CASE_ADD(s->entries, s->entry_count);

		if (!entry)
			return -ENOMEM;
		entry->at = number(w, 16);
		return hex(w, entry);
	}
	return -EBADMSG;
}

static int read_stack(struct stack_case *c, struct words *w)
{
	uint64_t address = number(w, 16);

	while (*w->at && !w->bad) {
		uint64_t in = (address - c->stack_start) / 8;

		if (address < c->stack_start || address % 8 != c->stack_start % 8 || in >= c->word_count)
			return -EBADMSG;
		c->words[in] = number(w, 16);
		address += 8;
	}
	return 0;
}

static int read_end(struct stack_case *c, struct words *w)
{
	const char *name = word(w);

	for (int i = 1; i < UNWIND_END_COUNT; i++)
		if (!strcmp(unwind_end_name((enum unwind_end)i), name))
			c->end = (enum unwind_end)i;
	return c->end == UNWIND_END_RUNNING ? -EBADMSG : 0;
}

static int read_frame(struct stack_case *c, struct words *w)
{
	abi_frame *frame = CASE_ADD(c->frames, c->frame_count);
	const char *image = word(w);

	if (!frame)
		return -ENOMEM;
	*frame = !strcmp(image, "raw") ? ABI_FRAME_RAW | number(w, 16)
				       : ABI_FRAME(strtoul(image, NULL, 10), number(w, 16));
	return 0;
}

static int read_extent(struct stack_case *c, struct words *w)
{
	uint64_t start = number(w, 16), end = number(w, 16);

	if (end < start || (end - start) / 8 > CASE_MAX_STACK_WORDS || c->words)
		return -EBADMSG;
	c->stack_start = start;
	c->word_count = (end - start) / 8;
	c->words = calloc(c->word_count + 1, sizeof(*c->words));
	return c->words ? 0 : -ENOMEM;
}

static int read_line(struct stack_case *c, char *text)
{
	struct words w = {.at = text};
	const char *what = word(&w);
	int r = 0;

	if (!strcmp(what, "name")) {
		snprintf(c->name, sizeof(c->name), "%s", w.at);
		return 0;
	}
	if (!strcmp(what, "regs")) {
		c->pc = number(&w, 16);
		c->sp = number(&w, 16);
		c->bp = number(&w, 16);
	} else if (!strcmp(what, "registers")) {
		for (size_t i = 0; i < ARRAY_SIZE(c->registers); i++)
			c->registers[i] = number(&w, 16);
		c->has_registers = true;
	} else if (!strcmp(what, "mapping")) {
		struct mapping_value *m = CASE_ADD(c->mappings, c->mapping_count);

		if (!m)
			return -ENOMEM;
		m->start = number(&w, 16);
		m->offset = number(&w, 16);
		m->pages = (uint32_t)number(&w, 10);
		m->image = (uint32_t)number(&w, 10);
	} else if (!strcmp(what, "code")) {
		struct case_bytes *code = CASE_ADD(c->code, c->code_count);

		if (!code)
			return -ENOMEM;
		code->at = number(&w, 16);
		r = hex(&w, code);
	} else if (!strcmp(what, "end")) {
		r = read_end(c, &w);
	} else if (!strcmp(what, "frame")) {
		r = read_frame(c, &w);
	} else if (!strcmp(what, "extent")) {
		r = read_extent(c, &w);
	} else if (!strcmp(what, "stack")) {
		r = read_stack(c, &w);
	} else if (!strcmp(what, "image")) {
		r = read_image(c, &w);
	} else {
		r = read_part(c, what, &w);
	}
	return r ? r : w.bad ? -EBADMSG : 0;
}

int stack_case_read(const char *path, struct stack_case **ret, struct err *e)
{
	_cleanup_(stack_case_freep) struct stack_case *c = stack_case_new();
	_cleanup_free_ char *text = malloc(MAX_LINE_BYTES);
	gzFile in = gzopen(path, "rbe"); /* reads plain text as well */
	unsigned int line = 1;
	int r = 0;

	if (!in || !c || !text) {
		if (in)
			gzclose(in);
		return err_set(e, -ENOENT, "%s cannot be opened", path);
	}
	if (!gzgets(in, text, MAX_LINE_BYTES) || strncmp(text, MAGIC "\n", sizeof(MAGIC)) != 0)
		r = -EBADMSG;
	while (!r && gzgets(in, text, MAX_LINE_BYTES)) {
		line++;
		text[strcspn(text, "\n")] = '\0';
		if (*text && *text != '#')
			r = read_line(c, text);
	}
	gzclose(in);
	if (!r && (!c->words || !c->frame_count || c->end == UNWIND_END_RUNNING))
		r = -EBADMSG;
	if (r)
		return err_set(e, r, "%s:%u: not a line of a recorded stack", path, line);
	*ret = TAKE_PTR(c);
	return 0;
}

/* --- writing -------------------------------------------------------------------------------------------------------*/

static void put_hex(FILE *f, const struct case_bytes *b)
{
	for (uint32_t i = 0; i < b->bytes; i++)
		fprintf(f, "%02x", b->data[i]);
	fputc('\n', f);
}

static void put_image(FILE *f, const struct case_image *image)
{
	fprintf(f, "image %u %s %s %s\n", image->id, image->name[0] ? image->name : "-",
		image->build_id[0] ? image->build_id : "-", kinds[image->kind]);
	for (size_t i = 0; i < image->load_count; i++)
		fprintf(f, "load %u %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", image->id, image->loads[i].offset,
			image->loads[i].vaddr, image->loads[i].bytes);
	for (size_t i = 0; i < image->rule_count; i++) {
		uint64_t info;

		memcpy(&info, &image->rules[i].info, sizeof(info));
		fprintf(f, "rule %u %" PRIx64 " %" PRIx64 "\n", image->id, image->rules[i].offset, info);
	}
	for (size_t i = 0; i < ARRAY_SIZE(image->sections); i++) {
		const struct case_section *s = &image->sections[i];

		if (s->present)
			fprintf(f, "section %u %s %" PRIx64 "\n", image->id, section_names[i], s->address);
		for (size_t j = 0; j < s->entry_count; j++) {
			fprintf(f, "entry %u %s %" PRIx64 " ", image->id, section_names[i], s->entries[j].at);
			put_hex(f, &s->entries[j]);
		}
	}
}

static void put_stack(FILE *f, const struct stack_case *c)
{
	size_t in_line = 0;

	fprintf(f, "extent %" PRIx64 " %" PRIx64 "\n", c->stack_start, c->stack_start + c->word_count * 8);
	for (size_t i = 0; i < c->word_count; i++) {
		if (!c->words[i]) {
			if (in_line)
				fputc('\n', f);
			in_line = 0;
			continue;
		}
		if (!in_line)
			fprintf(f, "stack %" PRIx64, c->stack_start + i * 8);
		fprintf(f, " %" PRIx64, c->words[i]);
		if (++in_line == WORDS_A_LINE) {
			fputc('\n', f);
			in_line = 0;
		}
	}
	if (in_line)
		fputc('\n', f);
}

static void put(FILE *f, const struct stack_case *c)
{
	fprintf(f, MAGIC "\nname %s\nregs %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", c->name, c->pc, c->sp, c->bp);
	if (c->has_registers) {
		fputs("registers", f);
		for (size_t i = 0; i < ARRAY_SIZE(c->registers); i++)
			fprintf(f, " %" PRIx64, c->registers[i]);
		fputc('\n', f);
	}
	fprintf(f, "end %s\n", unwind_end_name(c->end));
	for (size_t i = 0; i < c->frame_count; i++) {
		if (c->frames[i] & ABI_FRAME_RAW)
			fprintf(f, "frame raw %" PRIx64 "\n", (uint64_t)(c->frames[i] & ~ABI_FRAME_RAW));
		else
			fprintf(f, "frame %u %" PRIx64 "\n", ABI_FRAME_IMAGE(c->frames[i]),
				(uint64_t)ABI_FRAME_OFFSET(c->frames[i]));
	}
	for (size_t i = 0; i < c->mapping_count; i++)
		fprintf(f, "mapping %" PRIx64 " %" PRIx64 " %u %u\n", (uint64_t)c->mappings[i].start,
			(uint64_t)c->mappings[i].offset, c->mappings[i].pages, c->mappings[i].image);
	for (size_t i = 0; i < c->image_count; i++)
		put_image(f, &c->images[i]);
	for (size_t i = 0; i < c->code_count; i++) {
		fprintf(f, "code %" PRIx64 " ", c->code[i].at);
		put_hex(f, &c->code[i]);
	}
	put_stack(f, c);
}

int stack_case_write(const struct stack_case *c, const char *path, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	gzFile out;
	int r = 0;

	if (!f)
		return -ENOMEM;
	put(f, c);
	if (fclose(f))
		return -ENOMEM;
	/* T: as it is. */
	out = gzopen(path, bytes > MAX_PLAIN_BYTES ? "wbe9" : "wbeT");
	if (!out)
		return err_errno(e, -errno, "%s cannot be written", path);
	if (gzwrite(out, text, (unsigned int)bytes) != (int)bytes)
		r = -EIO;
	if (gzclose(out) != Z_OK)
		r = -EIO;
	return r ? err_set(e, r, "%s cannot be written", path) : 0;
}
