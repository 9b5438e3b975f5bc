#include "qjob/model/held.h"

static void *
row_at(const struct held *h, int64_t at)
{
	return h->p ? (char *)h->p + (size_t)at * (size_t)h->cols * dtype_size(h->type) : NULL;
}

void
held_take(struct dev *d, struct held *h)
{
	if (h->parked)
		h->p = dev_room(d, (size_t)h->rows * (size_t)h->cols * dtype_size(h->type));
	else
		h->p = dev_mat(d, h->type, h->rows, h->cols).p;
}

struct held
held_of(const struct mat *m)
{
	return (struct held){.p = m->p, .rows = m->rows, .cols = m->cols, .type = m->type, .chunk = m->rows};
}

struct held
held_narrow(const struct held *h, int64_t cols)
{
	struct held narrow = *h;

	narrow.cols = cols;
	return narrow;
}

int64_t
held_next(const struct held *h, int64_t at)
{
	return h->rows - at < h->chunk ? h->rows - at : h->chunk;
}

struct mat
held_rows(struct dev *d, const struct held *h, int64_t at, int64_t n, bool read)
{
	struct mat m = {.p = row_at(h, at), .rows = n, .cols = h->cols, .ld = h->cols, .type = h->type};

	if (!h->parked)
		return m;
	m = dev_mat(d, h->type, n, h->cols);
	if (read)
		dev_unpark(d, &m, row_at(h, at));
	return m;
}

void
held_back(struct dev *d, const struct held *h, int64_t at, const struct mat *m)
{
	if (h->parked)
		dev_park(d, row_at(h, at), m);
}
