/* libFuzzer: any bytes as a configuration file. */
#include <stdint.h>
#include <stdlib.h>

#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *c = NULL;
	struct err e = {0};

	if (config_parse("f", (const char *)data, size, &c, &e) >= 0)
		(void)config_check_listen(c, &e);
	else if (!e.text[0])
		abort();
	config_destroy(c);
	return 0;
}
