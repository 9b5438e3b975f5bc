#include "stages/together.h"

#include "stages/pack/format.h"

bool
choice_same(const struct choice *a, const struct choice *b)
{
	return a->site == b->site && a->skip == b->skip && a->bits == b->bits && a->group == b->group && a->sym == b->sym;
}

size_t
together_count(const struct choice *v, size_t n)
{
	size_t count = 1;

	while (count < n && choice_same(&v[0], &v[count]))
		count++;
	return count;
}

int64_t
together_rows(const struct choice *v, size_t n)
{
	int64_t rows = 0;

	for (size_t i = 0; i < n; i++)
		rows += v[i].rows;
	return rows;
}

struct grid
together_grid(const struct project *p, const struct choice *c)
{
	const struct settings *s = p->s;

	return (struct grid){
		.bits = c->bits, .group = c->group, .sym = c->sym,
		.stored = s->format->scale_type(s->format_params, p->weights.config.dtype),
		.zero_min = s->format->zero_min(s->format_params, c->sym),
	};
}

struct solved
together_take(struct dev *d, const struct choice *c, int64_t rows)
{
	int64_t groups = (c->cols + c->group - 1) / c->group;
	struct solved out = {.in_order = true};

	out.q.code = dev_mat(d, U8, rows, c->cols);
	out.q.scale = dev_mat(d, F32, rows, groups);
	out.q.zero = dev_mat(d, U8, rows, groups);
	out.q.group_of = dev_mat(d, I32, 1, c->cols);
	out.loss = dev_zeros(d, F64, 1, rows);
	return out;
}
