/* Keys and parts of unwind tables, see parser_table.h. */
#include "daemon/image/parser_table.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "daemon/image/table_internal.h"

#define READ_BYTES 65536u
/* The compiler leaves out larger sections, so their contents make no difference. */
#define MAX_HASHED_BYTES (160ull << 20)

/* What the compiler looks at: addresses may be relative to the first two, the others it reads. */
static const struct {
	const char *name;
	bool contents;
} hashed_sections[] = {
	{".text", false},
	{".got", false},
	{".eh_frame", true},
	{".debug_frame", true},
	{".zdebug_frame", true},
	{".gopclntab", true},
	{".data.rel.ro.gopclntab", true},
	{".plt", true},
	{".plt.sec", true},
	{".plt.got", true},
	{".iplt", true},
};

static int hash_contents(XXH3_state_t *state, const struct elf_file *f, uint64_t offset, uint64_t bytes)
{
	_cleanup_free_ char *data = NULL;

	if (offset > f->bytes || bytes > f->bytes - offset || bytes > MAX_HASHED_BYTES)
		return 0;
	data = malloc(READ_BYTES);
	if (!data)
		return -ENOMEM;
	while (bytes) {
		size_t n = bytes < READ_BYTES ? (size_t)bytes : READ_BYTES;
		int r = elf_read(f, offset, data, n);

		if (r)
			return r;
		XXH3_128bits_update(state, data, n);
		offset += n;
		bytes -= n;
	}
	return 0;
}

/* A field each, since padding would make keys differ. */
static void hash_number(XXH3_state_t *state, uint64_t number)
{
	XXH3_128bits_update(state, &number, sizeof(number));
}

static int hash_section(XXH3_state_t *state, const struct elf_file *f, const char *name, bool contents)
{
	const struct elf_section *s = elf_find_section(f, name);

	hash_number(state, s != NULL);
	if (!s)
		return 0;
	hash_number(state, s->addr);
	hash_number(state, s->flags);
	hash_number(state, s->bytes);
	return contents ? hash_contents(state, f, s->offset, s->bytes) : 0;
}

static int hash_by_segment(XXH3_state_t *state, const struct elf_file *f)
{
	uint64_t address, offset, bytes;
	bool found = !cfi_segment_of_eh_frame(f, &address, &offset, &bytes);

	hash_number(state, found);
	if (!found)
		return 0;
	hash_number(state, address);
	hash_number(state, bytes);
	return hash_contents(state, f, offset, bytes);
}

static int hash_file(XXH3_state_t *state, const struct elf_file *f)
{
	int r = 0;

	hash_number(state, CFI_VERSION);
	hash_number(state, (uint64_t)f->machine << 32 | (uint64_t)f->type << 8 | f->is64);
	for (size_t i = 0; i < f->segment_count; i++) {
		const struct elf_segment *s = &f->segments[i];

		if (s->type != PT_LOAD && s->type != PT_GNU_EH_FRAME)
			continue;
		hash_number(state, (uint64_t)s->type << 32 | s->flags);
		hash_number(state, s->offset);
		hash_number(state, s->vaddr);
		hash_number(state, s->file_bytes);
	}
	for (size_t i = 0; !r && i < ARRAY_SIZE(hashed_sections); i++)
		r = hash_section(state, f, hashed_sections[i].name, hashed_sections[i].contents);
	return r || elf_find_section(f, ".eh_frame") ? r : hash_by_segment(state, f);
}

int parser_table_key(const struct elf_file *f, uint64_t seed, char ret[TABLE_KEY_BYTES])
{
	char build_id[2 * BUILD_ID_MAX_BYTES + 1];
	XXH3_state_t state;
	XXH128_hash_t hash;
	int r;

	XXH3_INITSTATE(&state);
	_Static_assert(TABLE_KEY_BYTES >= sizeof(build_id) + 1 + 32, "a key has room for its two parts");
	XXH3_128bits_reset_withSeed(&state, seed);
	r = hash_file(&state, f);
	if (r)
		return r;
	hash = XXH3_128bits_digest(&state);
	elf_build_id(f, build_id, sizeof(build_id));
	snprintf(ret, TABLE_KEY_BYTES, "%s-%016llx%016llx", build_id[0] ? build_id : "none",
		 (unsigned long long)hash.high64, (unsigned long long)hash.low64);
	return 0;
}

static int hand_out(const struct table *head, const struct iovec *pieces, size_t part_bytes, parser_table_part_fn *part,
		    void *user)
{
	size_t piece = 0, in_piece = 0;

	for (uint32_t offset = 0; offset < head->bytes;) {
		struct iovec out[PARSER_TABLE_PIECES];
		size_t count = 0, room = part_bytes;
		int r;

		while (room && piece < TABLE_PIECES) {
			size_t n = pieces[piece].iov_len - in_piece;

			n = n < room ? n : room;
			if (n)
				out[count++] = (struct iovec){(char *)pieces[piece].iov_base + in_piece, n};
			room -= n;
			in_piece += n;
			if (in_piece == pieces[piece].iov_len) {
				piece++;
				in_piece = 0;
			}
		}
		r = part(user, head->bytes, offset, out, count);
		if (r)
			return r;
		offset += (uint32_t)(part_bytes - room);
	}
	return 0;
}

int parser_table_compile(const struct elf_file *f, uint64_t seed, size_t part_bytes, parser_table_part_fn *part,
			 void *user, char ret_key[TABLE_KEY_BYTES], struct err *e)
{
	_cleanup_(cfi_free) struct cfi_tables tables = {0};
	struct iovec pieces[TABLE_PIECES];
	struct table head;
	int r = cfi_compile(f, NULL, &tables, e);

	_Static_assert(PARSER_TABLE_PIECES == TABLE_PIECES, "a part may touch every piece");
	if (r && r != -ENODATA)
		return r;
	r = table_pieces(&tables, r ? TABLE_FRAME_POINTER : 0, &head, pieces);
	if (r)
		return err_set(e, r, "an unwind table of more than %u MiB", TABLE_MAX_BYTES >> 20);
	/* All of the file was read by now. */
	r = parser_table_key(f, seed, ret_key);
	return r ? r : hand_out(&head, pieces, part_bytes, part, user);
}
