/* Replay of a recorded stack: builds an ELF file of each image's entries, compiles it, loads the tables into a walker
 * and has it walk over the recorded words. */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/bpf/stack_case.h"

#define MAX_SECTION_BYTES (96ull << 20)
#define MAX_LOADS 64
#define PAGE_MASK 4095ull

/* --- the image's file ----------------------------------------------------------------------------------------------*/

static int put(int fd, const void *data, size_t bytes, uint64_t at)
{
	return pwrite(fd, data, bytes, (off_t)at) == (ssize_t)bytes ? 0 : -EIO;
}

static uint64_t section_bytes(const struct case_section *s)
{
	uint64_t end = 0;

	for (size_t i = 0; i < s->entry_count; i++)
		if (s->entries[i].at + s->entries[i].bytes > end)
			end = s->entries[i].at + s->entries[i].bytes;
	return end;
}

/* Holes are zeros, which are no entries. */
static int put_section(int fd, const struct case_section *s, uint64_t at)
{
	for (size_t i = 0; i < s->entry_count; i++)
		if (put(fd, s->entries[i].data, s->entries[i].bytes, at + s->entries[i].at))
			return -EIO;
	return 0;
}

/* The head, the segments, the sections' heads and names; then the sections. Segments have no bytes in the file. */
static int make_file(const struct case_image *image, int fd)
{
	static const char names[] = "\0.eh_frame\0.debug_frame\0.shstrtab";
	static const Elf64_Word name_at[] = {1, 11, 24};
	Elf64_Ehdr head = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			   .e_type = ET_DYN,
			   .e_machine = EM_X86_64,
			   .e_version = EV_CURRENT,
			   .e_ehsize = sizeof(Elf64_Ehdr),
			   .e_phoff = sizeof(Elf64_Ehdr),
			   .e_phentsize = sizeof(Elf64_Phdr),
			   .e_phnum = (Elf64_Half)image->load_count,
			   .e_shentsize = sizeof(Elf64_Shdr)};
	uint64_t at = sizeof(Elf64_Ehdr) + image->load_count * sizeof(Elf64_Phdr), names_offset, data;
	Elf64_Shdr sections[4] = {0};
	size_t count = 1;

	if (image->load_count > MAX_LOADS)
		return -EBADMSG;
	head.e_shoff = at;
	names_offset = at + sizeof(sections);
	data = (names_offset + sizeof(names) + PAGE_MASK) & ~PAGE_MASK;
	for (size_t i = 0; i < image->load_count; i++) {
		const struct case_load *load = &image->loads[i];
		Elf64_Phdr p = {.p_type = PT_LOAD,
				.p_flags = PF_R | PF_X,
				.p_offset = load->offset,
				.p_vaddr = load->vaddr,
				.p_filesz = load->bytes,
				.p_memsz = load->bytes};

		if (put(fd, &p, sizeof(p), sizeof(head) + i * sizeof(p)))
			return -EIO;
	}
	for (size_t i = 0; i < ARRAY_SIZE(image->sections); i++) {
		const struct case_section *s = &image->sections[i];
		uint64_t bytes = section_bytes(s);

		if (!s->entry_count)
			continue;
		if (bytes > MAX_SECTION_BYTES)
			return -EFBIG;
		sections[count++] = (Elf64_Shdr){.sh_name = name_at[i],
						 .sh_type = SHT_PROGBITS,
						 .sh_flags = i ? 0 : SHF_ALLOC,
						 .sh_addr = s->address,
						 .sh_offset = data,
						 .sh_size = bytes};
		if (put_section(fd, s, data))
			return -EIO;
		data = (data + bytes + PAGE_MASK) & ~PAGE_MASK;
	}
	head.e_shstrndx = (Elf64_Half)count;
	sections[count++] = (Elf64_Shdr){
		.sh_name = name_at[2], .sh_type = SHT_STRTAB, .sh_offset = names_offset, .sh_size = sizeof(names)};
	head.e_shnum = (Elf64_Half)count;
	if (put(fd, &head, sizeof(head), 0) || put(fd, sections, sizeof(sections), head.e_shoff) ||
	    put(fd, names, sizeof(names), names_offset) || ftruncate(fd, (off_t)data))
		return -EIO;
	return 0;
}

static int compile(const struct case_image *image, struct cfi_tables *ret, struct err *e)
{
	_cleanup_close_ int fd = memfd_create("case", MFD_CLOEXEC);
	struct elf_file f;
	int r = fd < 0 ? -errno : make_file(image, fd);

	if (r)
		return r;
	r = elf_open(fd, &f, e);
	if (r)
		return r;
	r = cfi_compile(&f, NULL, ret, e);
	elf_close(&f);
	return r;
}

/* --- a table of rules ----------------------------------------------------------------------------------------------*/

/* Each rule holds for one byte. */
static int make_table(const struct case_image *image, struct cfi_tables *ret)
{
	uint32_t first = (uint32_t)(image->rules[0].offset >> CFI_PAGE_BITS);
	uint32_t last = (uint32_t)(image->rules[image->rule_count - 1].offset >> CFI_PAGE_BITS), page = first;
	struct cfi_tables t = {.first_page = first, .page_count = last - first + 1};

	if (last < first || t.page_count > CFI_MAX_PAGES)
		return -EBADMSG;
	t.pages = calloc(t.page_count, sizeof(*t.pages));
	t.rows = calloc(2 * image->rule_count + t.page_count, sizeof(*t.rows));
	t.infos = calloc(image->rule_count + 1, sizeof(*t.infos));
	if (!t.pages || !t.rows || !t.infos) {
		cfi_free(&t);
		return -ENOMEM;
	}
	t.info_count = 1;
	for (size_t i = 0; i < image->rule_count; i++) {
		const struct case_rule *rule = &image->rules[i];
		uint16_t low = (uint16_t)rule->offset;
		struct cfi_page *p;

		page = (uint32_t)(rule->offset >> CFI_PAGE_BITS);
		p = &t.pages[page - first];
		if (!p->count) {
			p->start = t.row_count;
			p->count = 1;
			t.row_count++; /* from 0 on: nothing */
		}
		if (t.rows[t.row_count - 1].low == low) {
			t.row_count--;
			p->count--;
		}
		t.infos[t.info_count] = rule->info;
		t.rows[t.row_count++] = (struct cfi_row){low, (uint16_t)t.info_count++};
		p->count++;
		if (low != UINT16_MAX) {
			t.rows[t.row_count++] = (struct cfi_row){(uint16_t)(low + 1), 0};
			p->count++;
		}
	}
	*ret = t;
	return 0;
}

/* --- walking -------------------------------------------------------------------------------------------------------*/

static int read_memory(void *user, void *to, uint32_t bytes, uint64_t from)
{
	const struct stack_case *c = user;
	uint64_t in = from - c->stack_start;

	if (from >= c->stack_start && in <= c->word_count * 8 && bytes <= c->word_count * 8 - in) {
		memcpy(to, (const char *)c->words + in, bytes);
		return 0;
	}
	for (size_t i = 0; i < c->code_count; i++) {
		in = from - c->code[i].at;
		if (from >= c->code[i].at && in <= c->code[i].bytes && bytes <= c->code[i].bytes - in) {
			memcpy(to, c->code[i].data + in, bytes);
			return 0;
		}
	}
	return -EFAULT;
}

static int load_image(struct unwind_user *u, const struct case_image *image, stack_case_spoil spoil, void *user,
		      struct err *e)
{
	struct cfi_tables t;
	int r;

	if (image->kind == CASE_NONE)
		return 0;
	if (image->kind == CASE_FRAME_POINTER)
		return unwind_user_load(u, image->id, NULL);
	if (image->kind == CASE_RULES)
		r = image->rule_count ? make_table(image, &t) : -EBADMSG;
	else
		r = compile(image, &t, e);
	if (r)
		return e && e->code ? r : err_errno(e, r, "cannot compile the table of %s", image->name);
	if (spoil)
		spoil(&t, user);
	r = unwind_user_load(u, image->id, &t);
	cfi_free(&t);
	return r;
}

int stack_case_walk(const struct stack_case *c, stack_case_spoil spoil, void *user, struct unwind_walk *ret,
		    struct err *e)
{
	struct unwind_user *u;
	int r = unwind_user_create(&u);

	if (r)
		return r;
	for (size_t i = 0; i < c->image_count && !r; i++)
		r = load_image(u, &c->images[i], spoil, user, e);
	if (!r) {
		unwind_user_memory(u, read_memory, (void *)(uintptr_t)c);
		unwind_user_mappings(u, c->mappings, (uint32_t)c->mapping_count);
		unwind_user_walk(u, c->pc, c->sp, c->bp, c->has_registers ? c->registers : NULL, UNWIND_MAX_FRAMES,
				 ret);
	}
	unwind_user_destroy(u);
	return r;
}

int stack_case_judge(const struct stack_case *c, const struct unwind_walk *w, struct err *e)
{
	size_t count = w->frame_count < c->frame_count ? w->frame_count : c->frame_count;

	for (size_t i = 0; i < count; i++)
		if (w->frames[i] != c->frames[i])
			return err_set(e, -EBADMSG, "frame %zu is %#" PRIx64 " instead of %#" PRIx64, i,
				       (uint64_t)w->frames[i], (uint64_t)c->frames[i]);
	if (w->frame_count != c->frame_count)
		return err_set(e, -EBADMSG, "%u frames instead of %zu, end %s", w->frame_count, c->frame_count,
			       unwind_end_name(w->end));
	if (w->end != c->end)
		return err_set(e, -EBADMSG, "end %s instead of %s", unwind_end_name(w->end), unwind_end_name(c->end));
	return 0;
}
