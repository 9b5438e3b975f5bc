/* Round to nearest: the baseline, and what GPTQ falls back on. */
#include <string.h>

#include "stages/quant/nearest.h"

struct rtn_params {
	const char *preset;
	int bits, group_size;
	bool sym;
	const char *scale_search, *rounding;
};

#define AT(f) offsetof(struct rtn_params, f)

static const struct param table[] = {
	{.name = "preset", .type = PARAM_WORD, .at = AT(preset), .usual = "default", .words = "default compat",
	 .help = "compat: codes as GPTQModel and llm-compressor choose them"},
	{.name = "bits", .type = PARAM_INT, .at = AT(bits), .usual = "4", .words = "2 3 4 8", .help = "bits a weight"},
	{.name = "group_size", .type = PARAM_INT, .at = AT(group_size), .usual = "128", .min = -1, .max = 1 << 20,
	 .help = "inputs that share a scale; -1: all of a row"},
	{.name = "sym", .type = PARAM_BOOL, .at = AT(sym), .usual = "true", .help = "symmetric ranges, no zero points"},
	{.name = "scale_search", .type = PARAM_WORD, .at = AT(scale_search), .usual = "minmax", .words = "minmax mse",
	 .help = "ranges as they are, or shrunk to the least error"},
	{.name = "rounding", .type = PARAM_WORD, .at = AT(rounding), .usual = "auto", .words = "auto stored fp32 stepwise",
	 .help = "what codes are chosen with: the scale as stored, in fp32, or every step in the weight's type"},
	{0},
};

static void
defaults(const void *params, int *bits, int64_t *group, bool *sym)
{
	const struct rtn_params *p = params;

	*bits = p->bits;
	*group = p->group_size;
	*sym = p->sym;
}

static void
wish(const void *params, struct calibration_wish *c)
{
	(void)params;
	*c = (struct calibration_wish){.math = MATH_AUTO};
}

static void
follow(void *params, const char *format)
{
	struct rtn_params *p = params;

	p->rounding = rounding_settle(p->rounding, p->preset, format);
}

static void
check(const void *params, struct place at, struct diag *d)
{
	const struct rtn_params *p = params;

	if (p->group_size == 0)
		diag_add(d, at, "quantize.group_size: 0 is no size of a group; -1 is one group a row");
}

static int
solve(struct dev *d, struct solved *out, struct mat *w, const struct stats *s, struct grid *g, const void *params)
{
	const struct rtn_params *p = params;

	(void)s;
	g->search = search_of(p->scale_search);
	g->rounding = rounding_of(p->rounding);
	return nearest_solve(d, out, w, g);
}

const struct method method_rtn = {
	.name = "rtn",
	.version = 1,
	.help = "round to nearest, without calibration",
	.params = table,
	.params_size = sizeof(struct rtn_params),
	.defaults = defaults,
	.wish = wish,
	.follow = follow,
	.check = check,
	.solve = solve,
};

/* ---- nearest.h ---- */

const char *
rounding_settle(const char *rounding, const char *preset, const char *format)
{
	if (strcmp(rounding, "auto") != 0)
		return rounding;
	if (strcmp(preset, "compat") != 0)
		return "stored";
	return strcmp(format, "compressed-tensors") == 0 ? "stepwise" : "fp32";
}

enum rounding
rounding_of(const char *word)
{
	return strcmp(word, "fp32") == 0 ? ROUND_FP32 : strcmp(word, "stepwise") == 0 ? ROUND_STEPWISE : ROUND_STORED;
}

enum search
search_of(const char *word)
{
	return strcmp(word, "mse") == 0 ? SEARCH_MSE : strcmp(word, "hessian") == 0 ? SEARCH_WEIGHTED : SEARCH_MINMAX;
}

int
nearest_solve(struct dev *d, struct solved *out, const struct mat *w, const struct grid *g)
{
	op_fit(d, &out->q, w, NULL, g);
	op_round(d, &out->q, w, g);
	op_miss(d, &out->loss, w, &out->q, g);
	out->in_order = true;
	return dev_status(d);
}
