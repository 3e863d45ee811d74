/* The configuration: file and flags, validated. Keys of features that come later are accepted and validated too. */
#ifndef BAROSCOPE_CONFIG_H
#define BAROSCOPE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/util/err.h"

#define CONFIG_DEFAULT_FILE "/etc/baroscope/baroscope.yaml"
#define CONFIG_DEFAULT_STATE_DIR "/var/lib/baroscope"
#define CONFIG_DEFAULT_SOCKET "/run/baroscope/control.sock"
#define CONFIG_DEFAULT_LISTEN "127.0.0.1:4041"

struct config_label {
	char *name, *value;
};

struct config_trigger {
	char *name;
	char *source;
	char **cgroup;		  /* NULL-terminated globs */
	double threshold_ratio;	  /* 0.2 for "20%"; 0 = by source */
	uint64_t threshold_value; /* for sources that are not a share: events, bytes, a level (1 low .. 3 critical) */
	uint64_t window_ns;	  /* 0 = by source */
	char **start;		  /* profilers */
	uint64_t for_ns, cooldown_ns;
	double budget_ratio;
	uint32_t max_per_hour;
	struct config_label *match; /* alert rules */
	size_t match_count;
	struct config_label *target; /* pid|cgroup|service -> text */
	size_t target_count;
};

struct config_relabel {
	char *cgroup, *comm, *exe; /* NULL = any */
	struct config_label *set;
	size_t set_count;
};

struct config {
	char *listen;
	struct {
		char *token_file, *tls_cert, *tls_key;
		bool allow_control;
	} http;
	bool insecure; /* flag only */
	struct config_label *labels;
	size_t label_count;
	struct {
		uint32_t rate_hz; /* 100; 1..10000 */
	} cpu;
	struct {
		uint64_t retention_ns, max_bytes;
	} store;
	struct {
		uint32_t series, sessions, triggers_per_hour;
		uint32_t tables_mib; /* kernel memory for unwind tables */
	} limits;
	char **debuginfod; /* NULL-terminated */
	struct config_relabel *relabel;
	size_t relabel_count;
	char **targets_allow, **targets_deny; /* NULL-terminated; never NULL */
	/* Where `listen` stands in the file, so that a complaint about it can say so; empty when a flag gave it. */
	char *file, *listen_in_file;
	size_t listen_line;
	bool triggers_given; /* false: default rules */
	struct config_trigger *triggers;
	size_t trigger_count;
};

/* The defaults alone, as an empty file gives them. */
int config_create(struct config **ret);
/* path NULL: the default file, which may be missing. On error e->text is `F:LINE: what is wrong, what would be right`.
 */
int config_load(const char *path, struct config **ret, struct err *e);
/* The same from memory; `file` is only the name in messages. */
int config_parse(const char *file, const char *text, size_t len, struct config **ret, struct err *e);
/* Listen address, token and TLS against each other, after flags were put in. */
int config_check_listen(const struct config *c, struct err *e);
void config_destroy(struct config *c);

#endif
