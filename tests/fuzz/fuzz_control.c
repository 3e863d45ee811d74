/* libFuzzer: any bytes as a control message. Decoding ends with a call or a sentence. */
#include <stdint.h>
#include <stdlib.h>

#include "daemon/control/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct message m;
	struct err e = {0};

	if (message_decode((const char *)data, size, &m, &e) >= 0)
		message_deinit(&m);
	else if (!e.text[0])
		abort();
	return 0;
}
