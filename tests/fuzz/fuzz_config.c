/* Any bytes as a config.json: refused with a sentence, or numbers that make a key. */
#include <stdint.h>
#include <stdlib.h>

#include "qjob/base/err.h"
#include "qjob/model/config.h"
#include "qjob/model/rope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct config c;
	struct buf key = {0};
	float *inv;

	if (config_parse(&c, (const char *)data, n, "fuzz") != 0) {
		if (c.json != NULL || *err_text() == '\0')
			abort();
		return 0;
	}
	if (c.heads % c.kv_heads != 0 || c.rotary % 2 != 0 || c.D < 1 || c.L < 1)
		abort();
	config_key(&c, &key);
	inv = calloc((size_t)c.rotary, sizeof(*inv));
	if (inv)
		rope_frequencies(&c, inv);
	free(inv);
	buf_release(&key);
	config_release(&c);
	return 0;
}
