/* A quantized linear as bytes: the one form that methods leave and formats re-pack.
 *
 *     w[o,i] ~= scale[o,g] * (code[o,i] - zero[o,g]),  g = group_of[i] or i / group
 *
 * In a safetensors file the linear NAME has
 *     NAME.codes  U8  [O, ceil(I*bits/8)]   rows of bit streams (kernels/codes.h)
 *     NAME.scale  F16|BF16|F32 [O, G]       in its stored type
 *     NAME.zero   U8  [O, G]                absent when symmetric (zero = 2^(bits-1))
 *     NAME.group_of I32 [I]                 absent when i / group
 * and its facts (bits, group, sym, rows, cols, loss ...) in the JSON that goes with the file. */
#ifndef QJOB_MODEL_QLINEAR_H
#define QJOB_MODEL_QLINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/codes.h"
#include "kernels/mat.h"
#include "qjob/model/safetensors.h"

struct qlinear {
	int bits;
	int64_t rows, cols, group, groups;     /* O, I, group size, G */
	bool sym;
	const uint8_t *codes;     /* [O][ceil(I*bits/8)] */
	const void *scale;        /* [O][G] of scale_type */
	enum dtype scale_type;
	const uint8_t *zero;      /* [O][G]; NULL: 2^(bits-1) */
	const int32_t *group_of;  /* [I]; NULL: i / group.  Of a file: at any alignment, read it by qlinear_group */
};

/* Reads linear `name` of an open file; bits, group, sym and shape are the caller's knowledge and checked against the tensors. */
int qlinear_read(struct qlinear *q, const struct safetensors *s, const char *name, int bits, int64_t rows, int64_t cols,
                 int64_t group, bool sym);
float qlinear_scale(const struct qlinear *q, int64_t row, int64_t g);
int qlinear_zero(const struct qlinear *q, int64_t row, int64_t g);
int64_t qlinear_group(const struct qlinear *q, int64_t column);
/* Frees what a reader of packed weights took for q (weights.h: decode). */
void qlinear_free(struct qlinear *q);
/* Dense fp32 [O,I]. */
void qlinear_dequant(const struct qlinear *q, float *out);

/* bf16 and fp16 bits to float and back (round to nearest even). */
float f16_float(uint16_t h);
uint16_t float_f16(float f);
float bf16_float(uint16_t h);
uint16_t float_bf16(float f);
/* n values of F32, F16 or BF16, at any alignment. */
void floats_read(float *to, const void *from, enum dtype type, size_t n);

#endif
