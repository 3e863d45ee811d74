/* Makes small ELF images in memory, of both classes: one PT_LOAD that maps the file from address LOAD_ADDRESS on, and
 * the sections given. For tests only. */
#ifndef BAROSCOPE_TESTS_UNIT_IMAGE_ELF_MAKER_H
#define BAROSCOPE_TESTS_UNIT_IMAGE_ELF_MAKER_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LOAD_ADDRESS 0x400000u
#define MAX_MADE_BYTES 16384
#define MAX_MADE_SECTIONS 8

struct made_section {
	const char *name;
	uint32_t type;
	uint32_t link; /* 1 = the first section given */
	uint64_t flags;
	const void *data;
	size_t bytes;
	size_t entry_bytes;
	size_t at; /* where in the file; 0 = behind the one before */
};

struct made {
	unsigned char bytes[MAX_MADE_BYTES];
	size_t len;
};

static inline void made_put_section(struct made *m, bool is64, size_t at, const struct made_section *s, uint32_t name,
				    size_t offset)
{
	uint64_t address = s->flags & SHF_ALLOC ? LOAD_ADDRESS + offset : 0;
	Elf64_Shdr h64 = {.sh_name = name,
			  .sh_type = s->type,
			  .sh_flags = s->flags,
			  .sh_addr = address,
			  .sh_offset = offset,
			  .sh_size = s->bytes,
			  .sh_link = s->link,
			  .sh_entsize = s->entry_bytes};
	Elf32_Shdr h32 = {.sh_name = name,
			  .sh_type = s->type,
			  .sh_flags = (uint32_t)s->flags,
			  .sh_addr = (uint32_t)address,
			  .sh_offset = (uint32_t)offset,
			  .sh_size = (uint32_t)s->bytes,
			  .sh_link = s->link,
			  .sh_entsize = (uint32_t)s->entry_bytes};

	memcpy(m->bytes + at, is64 ? (void *)&h64 : (void *)&h32, is64 ? sizeof(h64) : sizeof(h32));
}

static inline void made_put_head(struct made *m, bool is64, size_t headers, size_t count)
{
	Elf64_Ehdr h64 = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			  .e_type = ET_EXEC,
			  .e_machine = EM_X86_64,
			  .e_version = EV_CURRENT,
			  .e_phoff = sizeof(h64),
			  .e_shoff = headers,
			  .e_ehsize = sizeof(h64),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = 1,
			  .e_shentsize = sizeof(Elf64_Shdr),
			  .e_shnum = (Elf64_Half)count,
			  .e_shstrndx = (Elf64_Half)(count - 1)};
	Elf32_Ehdr h32 = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
			  .e_type = ET_EXEC,
			  .e_machine = EM_386,
			  .e_version = EV_CURRENT,
			  .e_phoff = sizeof(h32),
			  .e_shoff = (Elf32_Off)headers,
			  .e_ehsize = sizeof(h32),
			  .e_phentsize = sizeof(Elf32_Phdr),
			  .e_phnum = 1,
			  .e_shentsize = sizeof(Elf32_Shdr),
			  .e_shnum = (Elf32_Half)count,
			  .e_shstrndx = (Elf32_Half)(count - 1)};
	Elf64_Phdr p64 = {.p_type = PT_LOAD,
			  .p_flags = PF_R | PF_X,
			  .p_vaddr = LOAD_ADDRESS,
			  .p_filesz = headers,
			  .p_memsz = headers};
	Elf32_Phdr p32 = {.p_type = PT_LOAD,
			  .p_flags = PF_R | PF_X,
			  .p_vaddr = LOAD_ADDRESS,
			  .p_filesz = (Elf32_Word)headers,
			  .p_memsz = (Elf32_Word)headers};

	if (is64) {
		memcpy(m->bytes, &h64, sizeof(h64));
		memcpy(m->bytes + sizeof(h64), &p64, sizeof(p64));
	} else {
		memcpy(m->bytes, &h32, sizeof(h32));
		memcpy(m->bytes + sizeof(h32), &p32, sizeof(p32));
	}
}

static inline void make_elf(struct made *m, bool is64, const struct made_section *sections, size_t count)
{
	size_t end = is64 ? sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) : sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr);
	size_t header_bytes = is64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
	size_t offsets[MAX_MADE_SECTIONS], names_bytes = 1;
	struct made_section names = {.type = SHT_STRTAB};
	char text[256] = "";

	*m = (struct made){.len = 0};
	for (size_t i = 0; i < count; i++) {
		const struct made_section *s = &sections[i];

		offsets[i] = s->at ? s->at : end;
		memcpy(m->bytes + offsets[i], s->data, s->bytes);
		if (offsets[i] + s->bytes > end)
			end = (offsets[i] + s->bytes + 7) & ~(size_t)7;
	}
	for (size_t i = 0; i < count; i++) {
		strcpy(text + names_bytes, sections[i].name);
		names_bytes += strlen(sections[i].name) + 1;
	}
	memcpy(m->bytes + end, text, names_bytes);
	names.bytes = names_bytes;
	made_put_head(m, is64, (end + names_bytes + 7) & ~(size_t)7, count + 2);
	m->len = (end + names_bytes + 7) & ~(size_t)7;
	made_put_section(m, is64, m->len, &(struct made_section){.type = SHT_NULL}, 0, 0);
	names_bytes = 1;
	for (size_t i = 0; i < count; i++) {
		made_put_section(m, is64, m->len + (i + 1) * header_bytes, &sections[i], (uint32_t)names_bytes,
				 offsets[i]);
		names_bytes += strlen(sections[i].name) + 1;
	}
	made_put_section(m, is64, m->len + (count + 1) * header_bytes, &names, 0, end);
	m->len += (count + 2) * header_bytes;
}

#endif
