/* GPTQ: columns one after another, each one's rounding error made up for by the columns that follow. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "stages/quant/nearest.h"

struct gptq_params {
	const char *preset, *accuracy;
	int bits, group_size;
	bool sym, desc_act, static_groups;
	const char *actorder;
	double damp_percent, damp_auto_increment;
	bool true_sequential;
	const char *propagate, *scale_search, *token_weight;
	double qep, qep_damp;
	const char *rounding;
};

#define AT(f) offsetof(struct gptq_params, f)

static const struct param table[] = {
	{.name = "preset", .type = PARAM_WORD, .at = AT(preset), .usual = "default", .words = "default compat",
	 .help = "compat: the recipe, the arithmetic and so the codes of GPTQModel and llm-compressor"},
	{.name = "accuracy", .type = PARAM_WORD, .at = AT(accuracy), .usual = "default", .words = "default high",
	 .help = "high: also makes up for the error of the layers before (qep), for twice the forward passes"},
	{.name = "bits", .type = PARAM_INT, .at = AT(bits), .usual = "4", .words = "2 3 4 8", .help = "bits a weight"},
	{.name = "group_size", .type = PARAM_INT, .at = AT(group_size), .usual = "128", .min = -1, .max = 1 << 20,
	 .help = "inputs that share a scale; -1: all of a row"},
	{.name = "sym", .type = PARAM_BOOL, .at = AT(sym), .usual = "true", .help = "symmetric ranges, no zero points"},
	{.name = "desc_act", .type = PARAM_BOOL, .at = AT(desc_act), .usual = "false",
	 .help = "GPTQModel's name for actorder: group, or with static_groups for actorder: static"},
	{.name = "static_groups", .type = PARAM_BOOL, .at = AT(static_groups), .usual = "false",
	 .help = "all ranges from the weights as they are at the start; actorder: static implies it"},
	{.name = "actorder", .type = PARAM_WORD, .at = AT(actorder), .usual = "static", .words = "static group none",
	 .help = "important inputs first: in their own groups, in groups of like importance (g_idx), or no order"},
	{.name = "damp_percent", .type = PARAM_REAL, .at = AT(damp_percent), .usual = "0.05", .min = 0, .max = 1,
	 .help = "added to the diagonal of the statistics, as a share of its mean"},
	{.name = "damp_auto_increment", .type = PARAM_REAL, .at = AT(damp_auto_increment), .usual = "0.01", .min = 0, .max = 1,
	 .help = "added to damp_percent until the factorization succeeds; 0: fail instead"},
	{.name = "true_sequential", .type = PARAM_BOOL, .at = AT(true_sequential), .usual = "true",
	 .help = "later linears of a block see the earlier ones quantized"},
	{.name = "propagate", .type = PARAM_WORD, .at = AT(propagate), .usual = "quantized", .words = "quantized original",
	 .help = "what a block is fed: the result of the quantized blocks before it, or the original activations"},
	{.name = "scale_search", .type = PARAM_WORD, .at = AT(scale_search), .usual = "hessian", .words = "minmax mse hessian",
	 .help = "ranges as they are, or shrunk to the least error, plain or weighted by the inputs' energy"},
	{.name = "token_weight", .type = PARAM_WORD, .at = AT(token_weight), .usual = "unit", .words = "none unit",
	 .help = "unit: every token counts the same, so that the few of huge activations do not decide"},
	{.name = "qep", .type = PARAM_REAL, .at = AT(qep), .usual = "0", .min = 0, .max = 1,
	 .help = "share of the error of the layers before that is made up for; 0: none"},
	{.name = "qep_damp", .type = PARAM_REAL, .at = AT(qep_damp), .usual = "1", .min = 0.0001, .max = 100,
	 .help = "damping of that correction, as a share of the mean diagonal"},
	{.name = "rounding", .type = PARAM_WORD, .at = AT(rounding), .usual = "auto", .words = "auto stored fp32 stepwise",
	 .help = "what codes are chosen with: the scale as stored, in fp32, or every step in the weight's type"},
	{0},
};

static const struct param_when when[] = {
	{"accuracy", "high",   "qep",          "0.5"},
	{"preset",   "compat", "actorder",     "none"},
	{"preset",   "compat", "damp_percent", "0.01"},
	{"preset",   "compat", "scale_search", "minmax"},
	{"preset",   "compat", "token_weight", "none"},
	{"preset",   "compat", "qep",          "0"},
	{"desc_act", "true",   "actorder",     "group"},
	{0},
};

static bool
is(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static bool
is_compat(const struct gptq_params *p)
{
	return is(p->preset, "compat");
}

/* Groups of like importance: the output needs g_idx, wherever a row has several groups (overrides may say so). */
static bool
is_ordered(const struct gptq_params *p)
{
	return is(p->actorder, "group");
}

static void
defaults(const void *params, int *bits, int64_t *group, bool *sym)
{
	const struct gptq_params *p = params;

	*bits = p->bits;
	*group = p->group_size;
	*sym = p->sym;
}

static void
wish(const void *params, struct calibration_wish *c)
{
	const struct gptq_params *p = params;

	*c = (struct calibration_wish){
		.needs = NEED_GRAM | (p->qep > 0 ? NEED_CROSS : 0),
		.original = is(p->propagate, "original"),
		.true_sequential = p->true_sequential,
		.unit = is(p->token_weight, "unit"),
		.ordered = is_ordered(p),
		.math = is_compat(p) ? MATH_F32 : MATH_AUTO,
	};
}

static void
follow(void *params, const char *format)
{
	struct gptq_params *p = params;

	p->rounding = rounding_settle(p->rounding, p->preset, format);
	if (p->desc_act && p->static_groups && is(p->actorder, "group"))
		p->actorder = "static";
	/* From here on desc_act says what the output is: whether its groups follow the order. */
	if (p->desc_act && p->static_groups && is(p->actorder, "static"))
		p->desc_act = false;
	if (is_ordered(p) && !p->static_groups)
		p->desc_act = true;
}

static void
check(const void *params, struct place at, struct diag *d)
{
	const struct gptq_params *p = params;

	if (p->group_size == 0)
		diag_add(d, at, "quantize.group_size: 0 is no size of a group; -1 is one group a row");
	if (p->desc_act && is(p->actorder, "none"))
		diag_add(d, at, "quantize.actorder: none contradicts desc_act: true; leave one of them out");
	if (p->desc_act && is(p->actorder, "static") && !p->static_groups)
		diag_add(d, at, "quantize.actorder: static contradicts desc_act: true, which means actorder: group; "
		         "leave desc_act out, or add static_groups: true");
	if (p->static_groups && is(p->actorder, "group"))
		diag_add(d, at, "quantize.static_groups: true contradicts actorder: group, whose groups follow the order; "
		         "actorder: static is an order with static groups");
	if (p->qep > 0 && is(p->propagate, "original"))
		diag_add(d, at, "quantize.qep: %g makes up for the error of the quantized layers before, which "
		         "propagate: original never sees; set one of them back", p->qep);
	if (is_compat(p) && is(p->accuracy, "high"))
		diag_add(d, at, "quantize.accuracy: high contradicts preset: compat, which follows the other tools");
	if (is(p->token_weight, "unit") && is_compat(p))
		diag_add(d, at, "quantize.token_weight: unit contradicts preset: compat, which follows the other tools");
}

/* ---- solving ---- */

/* One site's solution under way. */
struct work {
	struct dev *d;
	struct solved *out;
	const struct stats *s;
	const struct grid *g;
	const struct gptq_params *p;
	struct mat *stored;      /* the weights as they came */
	struct mat w, target;    /* F32: to be quantized; to be missed least (p NULL: the same) */
	struct mat weight, order, u;
	float *diag;             /* of the statistics */
	int64_t n;
	double mean;             /* of the diagonal, dead inputs as 1 */
};

/* diag = the diagonal of m; an activation that is not finite shows there. */
static int
get_diag(struct work *k, const struct mat *m)
{
	struct mat diag = mat_cols(m, 0, 1);
	int rc;

	diag.ld = m->ld + 1;
	dev_get(k->d, k->diag, &diag);
	rc = dev_status(k->d);
	for (int64_t i = 0; rc == 0 && i < k->n; i++)
		if (!isfinite(k->diag[i]))
			rc = err_set(E_NUMERIC, "the activations of input %lld overflow: their energy is not finite%s", (long long)i,
			             dev_operand(k->d) == F16 ? "; float16 ends at 65504: try calibration.dtype: bfloat16" : "");
	return rc;
}

/* Reads the diagonal of the statistics: 0, 1 when they say nothing, or an error. */
static int
read_diag(struct work *k)
{
	double sum = 0;
	int rc = k->p->qep > 0 ? get_diag(k, &k->s->cross) : 0;      /* the full-precision stream may overflow alone */

	k->out->dead = 0;
	if (rc == 0)
		rc = get_diag(k, &k->s->gram);
	if (rc < 0)
		return rc;
	for (int64_t i = 0; i < k->n; i++) {
		k->out->dead += k->diag[i] == 0;
		sum += k->diag[i] == 0 ? 1 : (double)k->diag[i];
	}
	k->mean = sum / (double)k->n;
	return k->out->dead == k->n;
}

/* The other tools drop the weights of inputs that no token reached.  Elsewhere they are rounded like any other: text
 * that does reach them still finds them. */
static void
drop_dead(struct work *k)
{
	float *zeros = mem_new((size_t)k->w.rows, sizeof(*zeros));

	for (int64_t i = 0; i < k->n; i++)
		if (k->diag[i] == 0) {
			struct mat column = mat_cols(&k->w, i, 1), as_stored = mat_cols(k->stored, i, 1);

			dev_put(k->d, &column, zeros);
			dev_put(k->d, &as_stored, zeros);
		}
	free(zeros);
}

/* w += qep w C (H + lambda I)^-1: what makes the quantized stream's outputs most like the original one's. */
static int
correct(struct work *k)
{
	struct mat c = dev_mat(k->d, F32, k->w.rows, k->n), delta = dev_mat(k->d, F32, k->w.rows, k->n);
	int rc;

	k->target = dev_mat(k->d, F32, k->w.rows, k->n);
	op_convert(k->d, &k->target, &k->w);
	op_matmul(k->d, &c, &k->w, &k->s->cross);
	rc = op_solve(k->d, &delta, &c, &k->s->gram, k->p->qep_damp);
	if (rc < 0)
		return err_in(rc, "qep, with qep_damp %g", k->p->qep_damp);
	op_add(k->d, &k->w, &delta, (float)k->p->qep);
	return 0;
}

/* Factors the statistics, with more damping where the recipe's does not do; recorded in out. */
static int
factor(struct work *k)
{
	double damp = k->p->damp_percent, step = k->p->damp_auto_increment;
	int rc;

	for (int i = 1;; i++) {
		rc = op_factor(k->d, &k->u, &k->s->gram, &k->order, damp, &k->out->dead);
		if (rc != E_NUMERIC || step <= 0 || k->p->damp_percent + step * i > 1)
			break;
		damp = k->p->damp_percent + step * i;
	}
	if (rc == E_NUMERIC)
		return err_in(rc, "the statistics are not positive definite, with damp up to %g; %s", damp,
		              step > 0 ? "calibrate with more tokens" : "set damp_auto_increment, or more damp_percent");
	k->out->damp = damp;
	if (rc == 0 && damp != k->p->damp_percent)
		snprintf(k->out->fallback, sizeof(k->out->fallback),
		         "damp raised from %g to %g, where the statistics become positive definite", k->p->damp_percent, damp);
	return rc;
}

/* Scales the losses to one token. */
static void
finish_loss(struct work *k)
{
	int64_t rows = k->w.rows;
	double *loss = mem_new((size_t)rows, sizeof(*loss));

	dev_get(k->d, loss, &k->out->loss);
	for (int64_t i = 0; i < rows && !dev_failed(k->d); i++)
		loss[i] = loss[i] > 0 ? loss[i] / (double)k->s->tokens : 0;
	dev_put(k->d, &k->out->loss, loss);
	free(loss);
}

static void
take_matrices(struct work *k)
{
	struct dev *d = k->d;

	k->w = dev_mat(d, F32, k->stored->rows, k->n);
	op_convert(d, &k->w, k->stored);
	k->order = dev_mat(d, I32, 1, k->n);
	op_order(d, &k->order, &k->s->gram, !is(k->p->actorder, "none"));
	k->weight = dev_mat(d, F32, 1, k->n);
	dev_put(d, &k->weight, k->diag);
	k->u = dev_mat(d, is_compat(k->p) ? F64 : F32, k->n, k->n);
}

static int
descend(struct work *k)
{
	const struct mat *weight = k->g->search == SEARCH_WEIGHTED ? &k->weight : NULL, *from = &k->w;
	struct babai how = {.static_groups = k->p->static_groups || is(k->p->actorder, "static"), .stale = is_compat(k->p)};
	int rc;

	take_matrices(k);
	if (k->out->dead && is_compat(k->p))
		drop_dead(k);
	rc = k->p->qep > 0 ? correct(k) : 0;
	if (rc == 0)
		rc = factor(k);
	if (rc < 0)
		return rc;
	how.ridge = k->out->damp * k->mean;
	how.target = k->target.p ? &k->target : NULL;
	if (k->g->rounding == ROUND_STEPWISE && !how.target)
		from = k->stored;      /* whose type the steps are rounded to */
	if (how.static_groups)
		op_fit(k->d, &k->out->q, from, weight, k->g);
	op_babai(k->d, &k->out->q, &k->out->loss, &k->w, &k->u, &k->order, weight, k->g, &how);
	finish_loss(k);
	k->out->in_order = how.static_groups || is(k->p->actorder, "none") || k->g->group >= k->n;
	return dev_status(k->d);
}

static int
solve(struct dev *d, struct solved *out, struct mat *w, const struct stats *s, struct grid *g, const void *params)
{
	const struct gptq_params *p = params;
	struct work k = {.d = d, .out = out, .s = s, .g = g, .p = p, .stored = w, .n = w->cols};
	size_t mark = dev_mark(d);
	int rc;

	g->search = search_of(p->scale_search);
	g->rounding = rounding_of(p->rounding);
	out->damp = p->damp_percent;
	out->fallback[0] = '\0';
	k.diag = mem_new((size_t)k.n, sizeof(*k.diag));
	rc = s->tokens > 0 ? read_diag(&k) : 1;
	if (rc == 0) {
		rc = descend(&k);
	} else if (rc > 0) {
		out->dead = k.n;
		if (g->search == SEARCH_WEIGHTED)
			g->search = SEARCH_MSE;
		snprintf(out->fallback, sizeof(out->fallback), "rounded to nearest: no calibration token reached these weights");
		rc = nearest_solve(d, out, w, g);
	}
	free(k.diag);
	dev_release(d, mark);
	return rc;
}

const struct method method_gptq = {
	.name = "gptq",
	.version = 1,
	.help = "GPTQ, in the order of importance, with scales and tokens weighted by what they matter",
	.params = table,
	.when = when,
	.params_size = sizeof(struct gptq_params),
	.defaults = defaults,
	.wish = wish,
	.follow = follow,
	.check = check,
	.solve = solve,
};
