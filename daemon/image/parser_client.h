/* The daemon's side of the parser: its life, and one request in flight. Loop thread only. */
#ifndef BAROSCOPE_IMAGE_PARSER_CLIENT_H
#define BAROSCOPE_IMAGE_PARSER_CLIENT_H

#include <event2/event.h>
#include <stdbool.h>

#include "daemon/image/image_wire.h"
#include "daemon/util/err.h"

struct parser_client;

struct parser_client_ops {
	/* Names are borrowed, not terminated, valid UTF-8 without control characters; function_len 0: nameless. */
	void (*entry)(void *user, const struct parser_entry *entry, const char *function, size_t function_len,
		      const char *system_name, size_t system_len);
	/* error: 0, -ETIMEDOUT, -EPIPE (the parser died or talked nonsense). response only when 0, its texts
	 * terminated, its table_key one or more of [a-z0-9-] after a request about tables that is PARSER_DONE. */
	void (*done)(void *user, int error, const struct parser_response *response);
	/* A new parser is there, without any image. */
	void (*ready)(void *user);
};

struct parser_client_options {
	const char *exe; /* NULL: this program */
	uint64_t timeout_ns, memory_bytes;
	uint64_t table_seed;
};

int parser_client_create(struct event_base *base, const struct parser_client_options *options,
			 const struct parser_client_ops *ops, void *user, struct parser_client **ret, struct err *e);
void parser_client_destroy(struct parser_client *p);
/* Nothing in flight, and a child to send to. */
bool parser_client_idle(const struct parser_client *p);
/* fd is borrowed; -1: none. Its `done` follows from the loop. */
int parser_client_send(struct parser_client *p, enum parser_kind kind, uint32_t image, const uint64_t *offsets,
		       uint32_t count, int fd);
/* In `done` of a PARSER_TABLE_COMPILE that is PARSER_DONE: the block, as long as it says in its head and otherwise not
 * checked; the caller's to free. NULL: there was no memory for it. */
struct table *parser_client_take_table(struct parser_client *p);
/* Counts the children; what an earlier one knew is lost. */
uint64_t parser_client_epoch(const struct parser_client *p);
int parser_client_pid(const struct parser_client *p);

#endif
