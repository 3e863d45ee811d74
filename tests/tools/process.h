/* What stackrec knows of the processes it samples: executable mappings, their images with compiled tables, memory.
 *
 * Images are shared by all processes (by device and inode) and numbered as the daemon numbers them. One thread. */
#ifndef BAROSCOPE_TESTS_TOOLS_PROCESS_H
#define BAROSCOPE_TESTS_TOOLS_PROCESS_H

#include <sys/types.h>

#include "daemon/image/cfi.h"
#include "tests/bpf/unwind_user.h"

#define IMAGE_NAME_BYTES 128

struct image {
	uint32_t id;
	uint64_t device, inode;
	char name[IMAGE_NAME_BYTES]; /* without its folder */
	char build_id[2 * BUILD_ID_MAX_BYTES + 1];
	int fd; /* -1: could not be opened, or is no ELF file */
	struct elf_file elf;
	struct cfi_tables tables;
	bool rows; /* there are some */
};

struct images {
	struct unwind_user *walker; /* gets their tables; borrowed */
	struct image **list;
	size_t count;
};

struct address_range {
	uint64_t start, end;
};

struct process {
	pid_t pid;
	struct mapping_value *mappings; /* executable, by address */
	uint32_t mapping_count;
	struct address_range *ranges; /* of all mappings */
	size_t range_count;
	uint64_t generation; /* a hash of the executable mappings */
};

void images_free(struct images *s);
/* NULL if there is none. */
struct image *images_find(const struct images *s, uint32_t id);
/* Go's rules are made of its function table as well. */
bool image_is_go(const struct image *image);

int process_create(pid_t pid, struct images *images, struct process **ret);
void process_destroy(struct process *p);
/* Reads the mappings again; *ret_changed tells whether executable ones did. */
int process_refresh(struct process *p, struct images *images, bool *ret_changed);
/* NULL if it lies in no executable mapping. */
const struct mapping_value *process_mapping(const struct process *p, uint64_t address);
bool process_has(const struct process *p, uint64_t address);
/* Of executable mappings only; 0 or -EFAULT. */
int process_read_code(const struct process *p, void *to, uint32_t bytes, uint64_t from);

#endif
