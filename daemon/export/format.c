/* The formats that exist: a further one is a further line here. */
#include <string.h>

#include "daemon/export/export.h"

static const struct export_format formats[] = {
	{.name = "pprof", .content_type = "application/octet-stream", .binary = true, .write = export_pprof},
	{.name = "folded", .content_type = "text/plain; charset=utf-8", .write = export_folded},
	{.name = "json", .content_type = "application/json", .write = export_json},
};

const struct export_format *export_format_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(name, formats[i].name))
			return &formats[i];
	return NULL;
}
