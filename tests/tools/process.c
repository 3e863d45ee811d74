/* See process.h. */
#include "tests/tools/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "daemon/util/cleanup.h"

#define MAX_LINE_BYTES 8192
#define USER_ADDRESS_BITS 47

struct line {
	uint64_t start, end, offset, device, inode;
	char perms[5];
	const char *name;
};

static void image_free(struct image *i)
{
	if (!i)
		return;
	cfi_free(&i->tables);
	if (i->fd >= 0) {
		elf_close(&i->elf);
		close(i->fd);
	}
	free(i);
}

void images_free(struct images *s)
{
	for (size_t i = 0; i < s->count; i++)
		image_free(s->list[i]);
	free(s->list);
	*s = (struct images){0};
}

struct image *images_find(const struct images *s, uint32_t id)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i]->id == id)
			return s->list[i];
	return NULL;
}

bool image_is_go(const struct image *image)
{
	return image->fd >= 0 &&
	       (elf_find_section(&image->elf, ".gopclntab") || elf_find_section(&image->elf, ".data.rel.ro.gopclntab"));
}

static int image_load(struct images *s, struct image *image)
{
	struct err e = {0};
	int r;

	r = elf_open(image->fd, &image->elf, &e);
	if (r) {
		close(image->fd);
		image->fd = -1;
		return 0;
	}
	elf_build_id(&image->elf, image->build_id, sizeof(image->build_id));
	r = cfi_compile(&image->elf, NULL, &image->tables, &e);
	image->rows = !r;
	if (r == -ENODATA)
		return unwind_user_load(s->walker, image->id, NULL);
	return r ? 0 : unwind_user_load(s->walker, image->id, &image->tables);
}

/* Takes the descriptor, which may be -1. */
static int image_add(struct images *s, uint32_t id, const struct line *line, int fd)
{
	struct image **list, *image = calloc(1, sizeof(*image));
	const char *slash = strrchr(line->name, '/');

	if (!image) {
		closep(&fd);
		return -ENOMEM;
	}
	*image = (struct image){.id = id, .device = line->device, .inode = line->inode, .fd = fd};
	snprintf(image->name, sizeof(image->name), "%s", slash ? slash + 1 : line->name);
	list = realloc(s->list, (s->count + 1) * sizeof(*list));
	if (!list) {
		closep(&fd);
		free(image);
		return -ENOMEM;
	}
	s->list = list;
	s->list[s->count++] = image;
	return fd < 0 ? 0 : image_load(s, image);
}

static int copy_memory(pid_t pid, uint64_t start, uint64_t end)
{
	_cleanup_free_ char *data = malloc(end - start);
	_cleanup_close_ int fd = memfd_create("vdso", MFD_CLOEXEC);
	struct iovec here = {data, end - start}, there = {(void *)(uintptr_t)start, end - start};

	if (!data || fd < 0 || process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)(end - start) ||
	    write(fd, data, end - start) != (ssize_t)(end - start))
		return -1;
	return TAKE_FD(fd);
}

static int image_of(struct images *s, pid_t pid, const struct line *line, uint32_t *ret)
{
	char path[128];
	uint32_t next = IMAGE_FIRST_FILE;

	if (!strcmp(line->name, "[vdso]")) {
		*ret = IMAGE_VDSO;
		return images_find(s, IMAGE_VDSO)
			       ? 0
			       : image_add(s, IMAGE_VDSO, line, copy_memory(pid, line->start, line->end));
	}
	*ret = IMAGE_JIT;
	if (line->name[0] != '/' || !line->inode)
		return 0;
	for (size_t i = 0; i < s->count; i++) {
		if (s->list[i]->device == line->device && s->list[i]->inode == line->inode &&
		    s->list[i]->id >= IMAGE_FIRST_FILE) {
			*ret = s->list[i]->id;
			return 0;
		}
		if (s->list[i]->id >= next)
			next = s->list[i]->id + 1;
	}
	*ret = next;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, line->start, line->end);
	return image_add(s, next, line, open(path, O_RDONLY | O_CLOEXEC));
}

static bool parse(char *text, struct line *ret)
{
	unsigned int major_number, minor_number;
	int name_at = 0;

	text[strcspn(text, "\n")] = '\0';
	if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &ret->start, &ret->end,
		   ret->perms, &ret->offset, &major_number, &minor_number, &ret->inode, &name_at) < 7)
		return false;
	ret->device = (uint64_t)major_number << 32 | minor_number;
	ret->name = text + name_at;
	return !(ret->start >> USER_ADDRESS_BITS);
}

static int add_line(struct process *p, struct images *images, const struct line *line)
{
	struct address_range *ranges;
	struct mapping_value *mappings;
	uint32_t image;
	int r;

	ranges = realloc(p->ranges, (p->range_count + 1) * sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	p->ranges = ranges;
	p->ranges[p->range_count++] = (struct address_range){line->start, line->end};
	if (line->perms[2] != 'x')
		return 0;
	r = image_of(images, p->pid, line, &image);
	if (r)
		return r;
	mappings = realloc(p->mappings, (p->mapping_count + 1) * sizeof(*mappings));
	if (!mappings)
		return -ENOMEM;
	p->mappings = mappings;
	p->mappings[p->mapping_count++] = (struct mapping_value){.start = line->start,
								 .offset = image == IMAGE_VDSO ? 0 : line->offset,
								 .pages = (uint32_t)((line->end - line->start) >> 12),
								 .image = image};
	for (const uint64_t *v = (const uint64_t[]){line->start, line->end, image, 0}; *v; v++)
		p->generation = (p->generation ^ *v) * 0x100000001b3ull;
	return 0;
}

static int process_read(struct process *p, struct images *images)
{
	_cleanup_free_ char *text = malloc(MAX_LINE_BYTES);
	_cleanup_fclose_ FILE *maps = NULL;
	char path[64];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", p->pid);
	maps = fopen(path, "re");
	if (!maps || !text)
		return -errno;
	p->mapping_count = 0;
	p->range_count = 0;
	p->generation = 0xcbf29ce484222325ull;
	while (!r && fgets(text, MAX_LINE_BYTES, maps)) {
		struct line line;

		if (parse(text, &line))
			r = add_line(p, images, &line);
	}
	return !r && !p->range_count ? -ESRCH : r;
}

int process_create(pid_t pid, struct images *images, struct process **ret)
{
	struct process *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->pid = pid;
	r = process_read(p, images);
	if (r) {
		process_destroy(p);
		return r;
	}
	*ret = p;
	return 0;
}

void process_destroy(struct process *p)
{
	if (!p)
		return;
	free(p->mappings);
	free(p->ranges);
	free(p);
}

int process_refresh(struct process *p, struct images *images, bool *ret_changed)
{
	uint64_t before = p->generation;
	int r = process_read(p, images);

	if (!r)
		*ret_changed = p->generation != before;
	return r;
}

const struct mapping_value *process_mapping(const struct process *p, uint64_t address)
{
	uint32_t from = 0, to = p->mapping_count;

	while (from < to) {
		uint32_t middle = from + (to - from) / 2;
		const struct mapping_value *m = &p->mappings[middle];

		if (address < m->start)
			to = middle;
		else if (address - m->start >= (uint64_t)m->pages << 12)
			from = middle + 1;
		else
			return m;
	}
	return NULL;
}

bool process_has(const struct process *p, uint64_t address)
{
	size_t from = 0, to = p->range_count;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (address < p->ranges[middle].start)
			to = middle;
		else if (address >= p->ranges[middle].end)
			from = middle + 1;
		else
			return true;
	}
	return false;
}

int process_read_code(const struct process *p, void *to, uint32_t bytes, uint64_t from)
{
	struct iovec here = {to, bytes}, there = {(void *)(uintptr_t)from, bytes};

	if (!process_mapping(p, from) || !process_mapping(p, from + bytes - 1))
		return -EFAULT;
	return process_vm_readv(p->pid, &here, 1, &there, 1, 0) == (ssize_t)bytes ? 0 : -EFAULT;
}
