#include "qjob/model/safetensors.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"

struct safetensors_out {
	FILE *f;
	char *path;
	uint64_t wanted, got;          /* bytes of data */
};

static void
add_quoted(struct buf *b, const char *text)
{
	buf_add(b, "\"", 1);
	for (; *text; text++) {
		if ((unsigned char)*text < ' ') {
			buf_printf(b, "\\u%04x", (unsigned)*text);
			continue;
		}
		if (*text == '"' || *text == '\\')
			buf_add(b, "\\", 1);
		buf_add(b, text, 1);
	}
	buf_add(b, "\"", 1);
}

static void
add_tensor(struct buf *b, const struct tensor *t, uint64_t begin, uint64_t end)
{
	buf_puts(b, ",");
	add_quoted(b, t->name);
	buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(t->type));
	for (int i = 0; i < t->rank; i++)
		buf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
	buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
}

uint64_t
safetensors_header(struct buf *out, const struct tensor *v, size_t n)
{
	unsigned char length[8];
	struct buf b = {0};
	uint64_t at = 0;

	buf_puts(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (size_t i = 0; i < n; i++) {
		uint64_t end = at + tensor_bytes(&v[i]);

		add_tensor(&b, &v[i], at, end);
		at = end;
	}
	buf_puts(&b, "}");
	while (b.n % 8 != 0)
		buf_add(&b, " ", 1);
	for (int i = 0; i < 8; i++)
		length[i] = (unsigned char)((uint64_t)b.n >> 8 * i);
	buf_add(out, length, 8);
	buf_add(out, b.p, b.n);
	buf_release(&b);
	return at;
}

static int
put(struct safetensors_out *o, const void *p, size_t n)
{
	if (n > 0 && (fault("safetensors.write") || fwrite(p, 1, n, o->f) != n))
		return err_sys("%s", o->path);
	return 0;
}

int
safetensors_begin(struct safetensors_out **out, const char *path, const struct tensor *v, size_t n)
{
	struct safetensors_out *o = mem_new(1, sizeof(*o));
	struct buf b = {0};
	int r;

	o->path = mem_text(path);
	o->wanted = safetensors_header(&b, v, n);
	o->f = fault("safetensors.open") ? NULL : fopen(path, "wbe");
	r = o->f ? put(o, b.p, b.n) : err_sys("%s", path);
	buf_release(&b);
	if (r < 0) {
		safetensors_abort(o);
		return r;
	}
	*out = o;
	return 0;
}

int
safetensors_add(struct safetensors_out *o, const void *p, size_t n)
{
	if (n > o->wanted - o->got)
		return err_set(E_DATA, "%s: %" PRIu64 " bytes of data announced, more given", o->path, o->wanted);
	o->got += n;
	return put(o, p, n);
}

int
safetensors_end(struct safetensors_out *o)
{
	int r = 0;

	if (o->got != o->wanted)
		r = err_set(E_DATA, "%s: %" PRIu64 " bytes of data announced, %" PRIu64 " given", o->path, o->wanted, o->got);
	else if (fault("safetensors.flush") || fflush(o->f) != 0)
		r = err_sys("%s", o->path);
	else if (fault("safetensors.sync") || fdatasync(fileno(o->f)) != 0)
		r = err_sys("%s: fdatasync", o->path);
	if (fclose(o->f) != 0 && r == 0)
		r = err_sys("%s", o->path);
	o->f = NULL;
	safetensors_abort(o);
	return r;
}

void
safetensors_abort(struct safetensors_out *o)
{
	if (o->f)
		fclose(o->f);
	free(o->path);
	free(o);
}
