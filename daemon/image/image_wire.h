/* Messages between the daemon and the parser, one SOCK_SEQPACKET packet each. Both ends are one program, so the structs
 * need no versions. The daemon does not trust the parser: it may have been taken over by a file. */
#ifndef BAROSCOPE_IMAGE_IMAGE_WIRE_H
#define BAROSCOPE_IMAGE_IMAGE_WIRE_H

#include <stdint.h>

#include "daemon/image/table.h"

enum parser_kind {
	PARSER_CONFIG = 1, /* first of all; its arguments are memory_bytes and table_seed */
	PARSER_ELF,
	PARSER_KALLSYMS,
	PARSER_TABLE_FIND,    /* answered with table_key */
	PARSER_TABLE_COMPILE, /* answered with the table's block in parts; table_key again, as of the file by then */
};

#define PARSER_BATCH_MAX 512u
#define PARSER_MESSAGE_MAX 65536u
#define PARSER_NAME_MAX 16384u
#define PARSER_TEXT_MAX 200u

/* Followed by count offsets (u64), none where tables are asked for. A descriptor that comes along replaces what is
 * known of the image. The file of the last table request stays open for the next request, if that is about the same
 * image, but not for long. */
struct parser_request {
	uint32_t id;
	uint32_t kind; /* enum parser_kind */
	uint32_t image;
	uint32_t count;
	uint64_t memory_bytes;
	uint64_t table_seed; /* of the hash in table keys */
};

enum parser_result {
	PARSER_DONE,
	PARSER_NEED_FILE, /* index or file of this image is gone: the same again, with a descriptor */
	PARSER_BAD_IMAGE, /* `problem` says why */
};

/* Followed by entry_count entries, or by a part of a table. A request has one response or several: all but the last
 * have `more`, and at least one entry. A table's parts come in order, without holes, all but the last are full, and
 * each names the same size of the whole. */
struct parser_response {
	uint32_t id;
	uint32_t result; /* enum parser_result */
	uint32_t more;
	uint32_t entry_count;
	uint32_t has_symbols;
	uint32_t table_bytes, table_offset; /* of the whole block; of this part in it */
	uint32_t pad;
	uint64_t segment_vaddr, segment_offset, segment_bytes;
	char build_id[72];
	char table_key[TABLE_KEY_BYTES];
	char problem[PARSER_TEXT_MAX];
};

#define PARSER_PART_BYTES (PARSER_MESSAGE_MAX - (uint32_t)sizeof(struct parser_response))

/* Followed by the names, not terminated. function_bytes 0: nameless. system_bytes 0: as function. */
struct parser_entry {
	uint32_t index; /* in the request's offsets */
	uint16_t function_bytes, system_bytes;
	uint64_t address;
};

#endif
