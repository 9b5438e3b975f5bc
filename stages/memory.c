#include "stages/memory.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/codes.h"
#include "qjob/base/err.h"
#include "stages/together.h"

enum { ALL_PARKED = 3 };

/* What is rehearsed. */
enum act_of { STREAM, ALONE, EVALUATION };

/* ---- a job that nobody watches ---- */

static bool
never_stop(struct job *j)
{
	(void)j;
	return false;
}

static void
no_progress(struct job *j, double done, double of, const char *text)
{
	(void)j;
	(void)done;
	(void)of;
	(void)text;
}

static const struct job_host nobody = {.progress = no_progress, .stop = never_stop};

/* ---- solving ---- */

/* Linears that are solved together, as quantize.c does it. */
static void
solve(const struct project *p, struct dev *d, const struct choice *c, size_t n, const struct stats *st)
{
	int64_t rows = together_rows(c, n);
	struct grid g = together_grid(p, c);
	size_t mark = dev_mark(d);
	struct mat all = dev_mat(d, p->weights.config.dtype, rows, c->cols);
	struct solved out = together_take(d, c, rows);

	p->s->method->solve(d, &out, &all, st, &g, p->s->method_params);
	dev_mat(d, U8, rows, (int64_t)codes_bytes(c->cols, c->bits));
	dev_release(d, mark);
}

static void
solve_site(const struct project *p, struct dev *d, const struct choice *v, size_t count, enum site site, const struct stats *st)
{
	for (size_t i = 0, n; i < count; i += n) {
		n = together_count(&v[i], count - i);
		if (v[i].site == site && !v[i].skip)
			solve(p, d, &v[i], n, st);
	}
}

static bool
is_like_first(const struct project *p, int block)
{
	size_t n;
	const struct choice *a = project_block(p, 0, &n), *b = project_block(p, block, &n);

	for (size_t i = 0; i < n; i++)
		if (!choice_same(&a[i], &b[i]))
			return false;
	return true;
}

/* A site of the first block, and of those that overrides make differ from it. */
static void
solve_sites(const struct project *p, struct dev *d, enum site site, const struct stats *st)
{
	for (int b = 0; b < p->weights.config.L; b++) {
		size_t n;
		const struct choice *v = project_block(p, b, &n);

		if (b == 0 || !is_like_first(p, b))
			solve_site(p, d, v, n, site, st);
	}
}

static void
take_quantized(const struct project *p, struct dev *d)
{
	size_t n;
	const struct choice *v = project_block(p, 0, &n);

	for (size_t i = 0; i < n; i++)
		dev_mat(d, dev_operand(d), v[i].rows, v[i].cols);
}

/* ---- the stages ---- */

static void
in_sequence(const struct project *p, struct job *job, struct stream *s, const struct block *b)
{
	struct pass pass = {.b = b, .b_full = s->f.p ? b : NULL, .unit = p->wish.unit};

	for (enum site site = 0; site < SITES; site++) {
		size_t mark = dev_mark(s->d);
		struct stats st = stream_stats(s, &p->weights.config, site, p->wish.needs);

		pass.st = &st;
		stream_step(job, s, (int)site, &pass);
		solve_sites(p, s->d, site, &st);
		dev_release(s->d, mark);
	}
	pass.st = NULL;
	stream_step(job, s, SITES, &pass);
}

static void
at_once(const struct project *p, struct job *job, struct stream *s, const struct block *b)
{
	struct pass pass = {.b = b, .b_full = s->f.p ? b : NULL, .unit = p->wish.unit};
	struct stats st[SITES];

	for (enum site site = 0; site < SITES; site++)
		st[site] = stream_stats(s, &p->weights.config, site, p->wish.needs);
	stream_sweep(job, s, &pass, st, !p->wish.original);
	for (enum site site = 0; site < SITES && !p->wish.original; site++)
		solve_sites(p, s->d, site, &st[site]);
	block_forward(s->d, b, &s->h, s->seqlen);
}

/* One chunk goes through the first block; the stream's matrices are there for all tokens. */
static void
rehearse_stream(const struct project *p, struct dev *d, const struct layout *l)
{
	const struct calibration_params *c = &p->s->calibration;
	struct job job = {.project = p, .host = &nobody};
	struct stream s = {.d = d, .sequences = c->samples, .seqlen = c->seqlen, .tokens = (int64_t)c->samples * c->seqlen};
	int32_t *ids;
	struct block b;

	dev_math(d, stream_math(p));
	stream_take(&s, p, l);
	s.tokens = s.h.rows = s.f.rows = held_next(&s.h, 0);
	ids = mem_new((size_t)s.tokens, sizeof(*ids));
	if (!dev_failed(d))
		stream_embed(&s, p, ids);
	free(ids);
	block_load(d, &b, &p->weights, 0, s.seqlen);
	if (!p->wish.original)
		take_quantized(p, d);
	if (dev_failed(d))
		return;
	if (stream_stops(p))
		in_sequence(p, &job, &s, &b);
	else
		at_once(p, &job, &s, &b);
}

static void
rehearse_alone(const struct project *p, struct dev *d)
{
	struct block b;

	block_load(d, &b, &p->weights, 0, 1);
	for (enum site site = 0; site < SITES && !dev_failed(d); site++) {
		int64_t n = site_width(&p->weights.config, site);
		size_t mark = dev_mark(d);
		struct stats st = {.tokens = 1};

		if (p->wish.needs)
			st.gram = dev_mat(d, F32, n, n);
		solve_sites(p, d, site, &st);
		dev_release(d, mark);
	}
}

/* Of the packed model, whose linears come as fp32: more than the original's. */
static int
rehearse_evaluation(const struct project *p, struct dev *d)
{
	const struct perplexity_params *e = &p->s->validate.perplexity;
	size_t n;
	const struct choice *v = project_block(p, 0, &n);
	enum math math = math_find(p->s->validate.dtype);

	dev_math(d, math == MATH_AUTO ? MATH_F32 : math);
	for (size_t i = 0; i < n; i++)
		dev_mat(d, F32, v[i].rows, v[i].cols);
	return decoder_rehearse(d, &p->weights, e->windows ? e->windows : 100, e->seqlen);
}

/* ---- layouts ---- */

/* Does it fit? */
static bool
rehearse(const struct project *p, struct dev *d, enum act_of act, const struct layout *l)
{
	int rc = 0;

	block_ahead(d, &p->weights, 1);      /* of a model with one block nothing is read ahead; all others are alike */
	switch (act) {
	case STREAM: rehearse_stream(p, d, l); break;
	case ALONE:  rehearse_alone(p, d); break;
	default:     rc = rehearse_evaluation(p, d);
	}
	return rc == 0 && !dev_failed(d);
}

/* What is needed at least, told where it is more than there is. */
static int
too_much(const struct project *p, const struct dev *d, enum act_of act, const struct layout *l)
{
	static const char *const what[] = {"calibration and quantization need", "quantization needs", "the evaluation needs"};
	struct dev_options o = {.name = dev_name(d), .isa = p->device.isa, .threads = p->device.threads};
	struct dev *dry;
	int rc = dev_dry(&dry, &o);
	double need;

	if (rc < 0)
		return rc;
	rehearse(p, dry, act, l);
	need = (double)dev_peak(dry);
	dev_close(dry);
	return err_set(E_USE, "%s %.1f MB of the device's memory at least, and %.1f MB are there to use; give more (--memory), or lower "
	               "seqlen", what[act], need / 1e6, (double)dev_size(d) / 1e6);
}

/* Parking costs traffic with the host at every step, smaller chunks little: they come first.  On the CPU a room is the same memory
 * again, so there it only serves a limit that was given. */
int
memory_layout(const struct project *p, const struct dev *d, struct layout *l)
{
	const int parked = p->device.memory || strcmp(dev_name(d), "cpu") != 0 ? ALL_PARKED : 0;
	const int64_t seqlen = p->s->calibration.seqlen, least = least_sequences(seqlen), most = chunk_sequences(d, seqlen);

	for (l->parked = 0; l->parked <= parked; l->parked++) {
		for (int64_t n = most; n >= least; n = n / 2 / least * least) {
			struct dev *dry = dev_dry_like(d);
			bool fits;

			l->chunk = n * seqlen;
			fits = rehearse(p, dry, STREAM, l);
			dev_close(dry);
			if (fits)
				return 0;
		}
	}
	l->parked = parked;
	l->chunk = least * seqlen;
	return too_much(p, d, STREAM, l);
}

/* ---- predictions ---- */

/* The value of a line "NAME VALUE" of the facts. */
static void
fact(const char *facts, const char *name, char *value, size_t size)
{
	const char *at = facts;
	size_t n = strlen(name);

	value[0] = '\0';
	while (at && strncmp(at, name, n) != 0) {
		at = strchr(at, '\n');
		at += at != NULL;
	}
	if (at)
		snprintf(value, size, "%.*s", (int)strcspn(at + n, "\n"), at + n);
}

static int
open_dry(const struct project *p, struct dev **d)
{
	struct dev_options o = p->device;
	char kind[32], isa[32];

	fact(p->device_facts, "device ", kind, sizeof(kind));
	fact(p->device_facts, "isa ", isa, sizeof(isa));
	o.name = kind;
	o.isa = isa[0] ? isa : o.isa;
	return dev_dry(d, &o);
}

static int
predict(struct project *p, enum act_of act, struct demand *m)
{
	struct layout l = {0};
	struct dev *d;
	int rc = open_dry(p, &d);

	if (rc < 0)
		return rc;
	if (act == STREAM)
		rc = memory_layout(p, d, &l);
	if (rc == 0 && !rehearse(p, d, act, &l))
		rc = too_much(p, d, act, &l);
	dev_taken(d, &m->device, &m->host);
	dev_close(d);
	return rc;
}

int
memory_predict(struct project *p)
{
	int rc = 0;

	if (p->wish.needs)
		rc = predict(p, STREAM, &p->memory.stream);
	if (rc == 0 && (!p->wish.needs || p->wish.original))
		rc = predict(p, ALONE, &p->memory.alone);
	if (rc == 0 && p->s->validate.perplexity.dataset)
		rc = predict(p, EVALUATION, &p->memory.evaluation);
	return rc;
}
