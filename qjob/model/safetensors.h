/* Safetensors: one file of named tensors, mapped, never copied.
 *
 * Layout: u64 little-endian header length N (<= 100 MB), N bytes of JSON {name: {dtype, shape, data_offsets}},
 * then the data.  safetensors_open checks all of it against the file's size: offsets inside, dense, not
 * overlapping, shape times dtype equal to the span, names unique.  A bad file gives one sentence and E_DATA. */
#ifndef QJOB_MODEL_SAFETENSORS_H
#define QJOB_MODEL_SAFETENSORS_H

#include <stdint.h>

#include "kernels/mat.h"
#include "qjob/base/buf.h"
#include "qjob/base/file.h"
#include "qjob/base/map.h"

enum { TENSOR_RANK = 8 };

struct tensor {
	char *name;
	enum dtype type;
	int rank;
	int64_t shape[TENSOR_RANK];
	size_t bytes;
	const void *p;            /* into the mapping; NULL when only planned */
};

struct safetensors {
	struct file_view view;
	struct tensor *v;         /* in order of offset */
	size_t n;
	struct map by_name;       /* index into v */
};

int safetensors_open(struct safetensors *s, const char *path);
void safetensors_close(struct safetensors *s);
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);

/* Writing: tensors in the order given, header padded to 8 bytes, metadata {"format":"pt"}.  The caller fills in
 * names, types, shapes; bytes are computed.  Then each tensor's data in that order, in pieces of any size; end checks
 * that all bytes came, syncs and closes.  The file appears at path as it is written (write into a work folder). */
struct safetensors_out;

size_t tensor_bytes(const struct tensor *t);
/* The 8 bytes of length and the padded JSON are appended; returns the bytes of data that must follow. */
uint64_t safetensors_header(struct buf *out, const struct tensor *v, size_t n);
int safetensors_begin(struct safetensors_out **o, const char *path, const struct tensor *v, size_t n);
int safetensors_add(struct safetensors_out *o, const void *p, size_t n);
int safetensors_end(struct safetensors_out *o);       /* frees o, also on failure */
void safetensors_abort(struct safetensors_out *o);    /* frees o; the file is left to the caller's clean-up */

#endif
