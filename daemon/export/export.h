/* A merged profile written out. Pure functions: profile in, bytes out. No libbpf here. */
#ifndef BAROSCOPE_EXPORT_EXPORT_H
#define BAROSCOPE_EXPORT_EXPORT_H

#include "daemon/profile/profile.h"
#include "daemon/util/buf.h"
#include "daemon/util/err.h"

struct export_context {
	const struct profile *profile;
	const struct trie *trie;
	const struct images *images;
	const struct labels *labels;
	struct intern *strings;
};

/* gzipped pprof (perftools.profiles.Profile). */
int export_pprof(const struct export_context *c, struct buf *out, struct err *e);
/* `root;...;leaf value\n`, sum in the type's unit; lines with the same stack of names are merged, sorted. */
int export_folded(const struct export_context *c, struct buf *out, struct err *e);
/* SURFACES:
 * {"type","unit","total","samples","dropped":{..},"names":[..],"stacks":{"parent","name","self","total","ci95"}} */
int export_json(const struct export_context *c, struct buf *out, struct err *e);

/* By name ("pprof", "folded", "json"); NULL when unknown or not there yet. */
typedef int export_fn(const struct export_context *c, struct buf *out, struct err *e);
struct export_format {
	const char *name;
	const char *content_type;
	bool binary;
	export_fn *write;
};
const struct export_format *export_format_find(const char *name);

#endif
