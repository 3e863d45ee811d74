/* The fault points that are switched on. Filled once from the environment, read by any thread; a count is taken down
 * atomically, so that `name:1` hits once in the whole process. */
#include "daemon/util/fault.h"

#ifdef BAROSCOPE_FAULTS

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FAULT_MAX 16
#define FAULT_NAME_BYTES 48

struct fault {
	char name[FAULT_NAME_BYTES];
	bool always;
	int left;
};

static struct fault faults[FAULT_MAX];
static int fault_count;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void)
{
	const char *p = getenv("BAROSCOPE_FAULT");

	fault_count = 0;
	while (p && *p && fault_count < FAULT_MAX) {
		struct fault *f = &faults[fault_count];
		size_t item = strcspn(p, ","), name = strcspn(p, ":,");

		if (name && name < sizeof(f->name)) {
			memcpy(f->name, p, name);
			f->name[name] = '\0';
			f->always = name == item;
			f->left = f->always ? 0 : atoi(p + name + 1);
			fault_count++;
		}
		p += item;
		if (*p == ',')
			p++;
	}
}

bool fault_hit(const char *name)
{
	pthread_once(&loaded, load);
	for (int i = 0; i < fault_count; i++) {
		struct fault *f = &faults[i];

		if (strcmp(f->name, name) != 0)
			continue;
		if (f->always)
			return true;
		if (__atomic_load_n(&f->left, __ATOMIC_RELAXED) > 0 &&
		    __atomic_fetch_sub(&f->left, 1, __ATOMIC_RELAXED) > 0)
			return true;
	}
	return false;
}

void fault_reload(void)
{
	pthread_once(&loaded, load);
	load();
}

#endif
