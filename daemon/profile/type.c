/* The families of values: a further one is a further entry here. */
#include <string.h>

#include "daemon/profile/profile.h"

static const struct {
	struct profile_type type;
	const char *alias; /* NULL = none */
} types[] = {
	{
		.type =
			{
				.short_name = "process_cpu",
				.id = "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
				.sample_type = "cpu",
				.unit = "nanoseconds",
				.period_type = "cpu",
				.period_unit = "nanoseconds",
				.count_type = "samples",
				.count_unit = "count",
			},
	},
};

const struct profile_type *profile_type_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(name, types[i].type.short_name) || !strcmp(name, types[i].type.id) ||
		    (types[i].alias && !strcmp(name, types[i].alias)))
			return &types[i].type;
	return NULL;
}

const struct profile_type *profile_type_cpu(void)
{
	return &types[0].type;
}
