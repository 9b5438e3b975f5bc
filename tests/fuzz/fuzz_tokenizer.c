/* Any bytes as a tokenizer.json: refused with a sentence, or a tokenizer that encodes a text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char text[] = "Hello, world!  I'm 12\xc2\xbd\n\n <s>ab</s>\te\xcc\x81 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80 aab";

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct tokenizer *t;
	struct ids ids = {0};

	if (tokenizer_parse(&t, (const char *)data, n, "fuzz") != 0) {
		if (t != NULL || *err_text() == '\0')
			abort();
		return 0;
	}
	if (tokenizer_encode(t, text, sizeof(text) - 1, true, &ids) == 0)
		for (size_t i = 0; i < ids.n; i++)
			if (ids.v[i] < 0 || (size_t)ids.v[i] >= tokenizer_size(t))
				abort();
	ids_release(&ids);
	tokenizer_close(t);
	return 0;
}
