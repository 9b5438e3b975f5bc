#include "kernels/cpu/grid.h"

#include <omp.h>

#include "kernels/codes.h"
#include "kernels/cpu/cpu.h"

/* One row: its scales and zeros, and the constants of the grid. */
struct row_grid {
	const float *scale;
	const uint8_t *zero;
	const int32_t *group_of;
	float top, mid;
	enum dtype type, stored;      /* of the weights; of the scale */
};

static struct row_grid
row_grid(const struct qmat *q, int64_t row, const struct grid *g, enum dtype type)
{
	return (struct row_grid){
		.scale = (const float *)q->scale.p + row * q->scale.ld,
		.zero = (const uint8_t *)q->zero.p + row * q->zero.ld,
		.group_of = q->group_of.p,
		.top = (float)((1 << g->bits) - 1),
		.mid = (float)(1 << (g->bits - 1)),
		.type = type,
		.stored = g->stored,
	};
}

/* What code i stands for. */
static float
value_of(const struct row_grid *r, const uint8_t *code, int64_t i)
{
	int32_t k = r->group_of[i];

	return ((float)code[i] - (float)r->zero[k]) * round_to(r->scale[k], r->stored);
}

static void
round_row(uint8_t *code, const float *w, int64_t n, const struct row_grid *r)
{
	for (int64_t i = 0; i < n; i++) {
		int32_t k = r->group_of[i];
		float z = r->zero[k];

		code[i] = (uint8_t)(nearest(clamp(w[i] / r->scale[k], -z, r->top - z)) + z);
	}
}

/* llm-compressor: quotient and sum rounded to the weights' own type; zeros are signed there. */
static void
round_row_stepwise(uint8_t *code, const float *w, int64_t n, const struct row_grid *r)
{
	for (int64_t i = 0; i < n; i++) {
		int32_t k = r->group_of[i];
		float x = round_to(w[i] / r->scale[k], r->type);

		x = round_to(x + ((float)r->zero[k] - r->mid), r->type);
		code[i] = (uint8_t)(nearest(clamp(x, -r->mid, r->top - r->mid)) + r->mid);
	}
}

void
cpu_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g)
{
	size_t used = d->used;
	float *room = cpu_take(d, (size_t)w->cols * (size_t)d->threads * sizeof(*room));

	if (!room)
		return;
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t o = 0; o < w->rows; o++) {
		float *line = room + w->cols * omp_get_thread_num();
		uint8_t *code = (uint8_t *)q->code.p + o * q->code.ld;
		struct row_grid r = row_grid(q, o, g, w->type);

		cpu_load(line, cpu_row(w, o), w->type, w->cols);
		if (g->rounding == ROUND_STEPWISE)
			round_row_stepwise(code, line, w->cols, &r);
		else
			round_row(code, line, w->cols, &r);
	}
	d->used = used;
}

void
cpu_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g)
{
	size_t used = d->used;
	float *room = cpu_take(d, (size_t)w->cols * (size_t)d->threads * sizeof(*room));

	if (!room)
		return;
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t o = 0; o < w->rows; o++) {
		float *line = room + w->cols * omp_get_thread_num();
		const uint8_t *code = (const uint8_t *)q->code.p + o * q->code.ld;
		struct row_grid r = row_grid(q, o, g, w->type);
		double sum = 0;

		cpu_load(line, cpu_row(w, o), w->type, w->cols);
		for (int64_t i = 0; i < w->cols; i++) {
			double miss = (double)line[i] - (double)value_of(&r, code, i);

			sum += miss * miss;
		}
		((double *)loss->p)[o] = sum;
	}
	d->used = used;
}

void
cpu_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g)
{
	size_t used = d->used;
	float *room = cpu_take(d, (size_t)w->cols * (size_t)d->threads * sizeof(*room));

	if (!room)
		return;
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t o = 0; o < w->rows; o++) {
		float *line = room + w->cols * omp_get_thread_num();
		const uint8_t *code = (const uint8_t *)q->code.p + o * q->code.ld;
		struct row_grid r = row_grid(q, o, g, w->type);

		for (int64_t i = 0; i < w->cols; i++)
			line[i] = value_of(&r, code, i);
		cpu_store(cpu_row(w, o), w->type, line, w->cols);
	}
	d->used = used;
}

void
cpu_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits)
{
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t o = 0; o < code->rows; o++)
		codes_pack(cpu_row(stream, o), cpu_row(code, o), code->cols, bits);
}

void
cpu_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits)
{
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t o = 0; o < code->rows; o++)
		codes_unpack(cpu_row(code, o), cpu_row(stream, o), code->cols, bits);
}
