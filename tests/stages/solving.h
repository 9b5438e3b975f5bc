/* A method with its parameters read from YAML, and one site to solve. */
#ifndef TESTS_STAGES_SOLVING_H
#define TESTS_STAGES_SOLVING_H

#include "stages/quant/method.h"
#include "tests/kernels/quant.h"

struct configured {
	const struct method *m;
	void *params;
	struct param_pool *pool;
	struct diag d;
};

static inline void
configure(struct configured *c, const char *method, const char *yaml, const char *format)
{
	struct param_block block;
	struct yaml *tree;

	*c = (struct configured){.m = method_find(method)};
	c->params = mem_new(1, c->m->params_size);
	c->pool = param_pool_new();
	block = (struct param_block){c->m->params, c->m->when, c->params, "for this method"};
	tree = *yaml ? yaml_parse(yaml, strlen(yaml), "r.yaml", &c->d) : NULL;
	param_read(&block, 1, tree, "quantize", c->pool, &c->d);
	if (c->m->follow)
		c->m->follow(c->params, format);
	if (c->m->check)
		c->m->check(c->params, (struct place){"r.yaml", 4, 1}, &c->d);
	yaml_free(tree);
}

static inline void
configured_end(struct configured *c)
{
	free(c->params);
	param_pool_free(c->pool);
	diag_release(&c->d);
}

/* The value of a parameter, as plan writes it. */
static inline const char *
value(const struct configured *c, const char *name, struct buf *b)
{
	buf_clear(b);
	for (const struct param *row = c->m->params; row->name; row++)
		if (strcmp(row->name, name) == 0) {
			param_value(row, c->params, b);
			return buf_text(b);
		}
	fail_msg("no parameter %s", name);
	return "";
}

/* Solves p with h summed over `tokens` tokens; cross NULL: none.  a is fresh; result's mats are gone after. */
static inline int
solve_site(struct dev *d, struct answer *a, struct solved *result, const struct configured *c, const struct problem *p,
           int64_t tokens, const float *cross, struct grid *g)
{
	size_t mark = dev_mark(d);
	struct mat w = put(d, F32, p->O, p->n, p->w);
	struct stats s = {.gram = put(d, F32, p->n, p->n, p->h), .tokens = tokens};
	int rc;

	if (cross)
		s.cross = put(d, F32, p->n, p->n, cross);
	*result = (struct solved){.q = qmat_new(d, a), .loss = dev_zeros(d, F64, 1, p->O)};
	rc = c->m->solve(d, result, &w, &s, g, c->params);
	if (rc == 0) {
		qmat_get(d, a, &result->q);
		dev_get(d, a->loss, &result->loss);
		assert_good(d);
	}
	dev_release(d, mark);
	return rc;
}

#endif
