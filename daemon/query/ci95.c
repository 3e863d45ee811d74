/* The interval of an estimate. docs/ACCURACY.md derives it. Pure. */
#include <math.h>

#include "daemon/query/query.h"

/* The 97.5 % quantile of the normal distribution. */
#define Z_95 1.96

double query_ci95(uint64_t count, uint64_t value)
{
	if (!count)
		return value ? NAN : 0.0;
	return Z_95 * (double)value / sqrt((double)count);
}
