/* Messages between the daemon and the opener, one SOCK_SEQPACKET packet each. Both ends are one program, so the structs
 * need no versions; lengths and counts are checked all the same. */
#ifndef BAROSCOPE_OPENER_OPENER_WIRE_H
#define BAROSCOPE_OPENER_OPENER_WIRE_H

#include <limits.h>
#include <stdint.h>
#include <sys/stat.h>

enum opener_request_kind { OPENER_OPEN_FILE = 1, OPENER_OPEN_HOST, OPENER_READ_PROC };

/* Followed by the path, not terminated. */
struct opener_wire_request {
	uint32_t id;
	uint32_t kind; /* enum opener_request_kind */
	uint32_t pid;
	uint32_t file; /* enum proc_file */
	uint64_t start, end;
	uint64_t inode;
	uint32_t dev_major, dev_minor;
};

/* Followed by a piece of text (READ_PROC). A request has one response or, for long texts, several: all but the final
 * one have `more`. */
struct opener_wire_response {
	uint32_t id;
	int32_t error; /* 0 or -errno */
	uint32_t more;
	uint32_t pad;
	struct stat st; /* of the descriptor that comes along */
};

#define OPENER_WIRE_PATH_MAX PATH_MAX
#define OPENER_WIRE_TEXT_MAX 32768u

#endif
