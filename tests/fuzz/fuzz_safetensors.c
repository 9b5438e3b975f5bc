/* Any bytes as a safetensors file: refused with a sentence, or tensors that lie inside it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static volatile unsigned touched;     /* so that every byte is read */

static void
check(const struct safetensors *s)
{
	unsigned sum = 0;

	for (size_t i = 0; i < s->n; i++) {
		const struct tensor *t = &s->v[i];
		const unsigned char *p = t->p;

		if (t->bytes != tensor_bytes(t) || safetensors_find(s, t->name) != t)
			abort();
		if (p < s->view.p || p + t->bytes > s->view.p + s->view.n)
			abort();
		for (size_t k = 0; k < t->bytes; k++)
			sum += p[k];
	}
	touched = sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char path[] = "/tmp/qjob-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct safetensors s;

	if (fd < 0 || write(fd, data, n) != (ssize_t)n)
		abort();
	close(fd);
	if (safetensors_open(&s, path) == 0) {
		check(&s);
		safetensors_close(&s);
	} else if (s.v != NULL || *err_text() == '\0') {
		abort();
	}
	unlink(path);
	return 0;
}
