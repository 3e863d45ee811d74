/* What images are read from besides files, and why files cannot be read. No state. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "daemon/image/image_internal.h"

#define VDSO_MAX_BYTES (256u << 10)

/* The vDSO is our own memory, so its size is what its headers say. */
int image_copy_vdso(int *ret)
{
	unsigned long start = getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)start;
	_cleanup_close_ int fd = -1;
	size_t bytes;

	if (!start || h->e_ident[EI_CLASS] != ELFCLASS64)
		return -ENOENT;
	bytes = (size_t)h->e_shoff + (size_t)h->e_shnum * h->e_shentsize;
	if (bytes < sizeof(*h) || bytes > VDSO_MAX_BYTES)
		return -ENOENT;
	fd = memfd_create("baroscope-vdso", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, (const void *)start, bytes) != (ssize_t)bytes)
		return -EIO;
	*ret = TAKE_FD(fd);
	return 0;
}

const char *image_explain_open(int error, char *text, size_t size)
{
	switch (error) {
	case -ENOENT:
	case -ESRCH:
		return "file is gone";
	case -ESTALE:
		return "the file was replaced by another";
	case -EINVAL:
	case -ELOOP:
		return "not a regular file";
	case -ETIMEDOUT:
		return "opening it timed out";
	case -EIO:
		return "the opener died over it";
	default:
		snprintf(text, size, "cannot be opened: %s", strerror(-error));
		return text;
	}
}
