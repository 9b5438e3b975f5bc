/* Any bytes as a Parquet file: refused with a sentence, or texts. */
#include <stdint.h>
#include <stdlib.h>

#include "qjob/base/err.h"
#include "stages/data/kind.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int
take(void *own, const char *text, size_t n)
{
	size_t *bytes = own;

	for (size_t i = 0; i < n; i += 64)
		*bytes += (unsigned char)text[i] > 0;
	return *bytes > 1 << 20;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	size_t bytes = 0;
	struct document_sink to = {.document = take, .own = &bytes};

	err_set(0, "%s", "");
	if (read_parquet("fuzz", (const char *)data, n, "text", to) < 0 && *err_text() == '\0')
		abort();
	return 0;
}
