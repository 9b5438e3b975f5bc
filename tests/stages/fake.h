/* A project made by hand over a golden model, and a host that runs one node at a time: what the tests of pack and validate share. */
#ifndef QJOB_TESTS_STAGES_FAKE_H
#define QJOB_TESTS_STAGES_FAKE_H

#include <math.h>

#include "stages/pack/format.h"
#include "stages/project.h"
#include "tests/t.h"

struct fake_method_params {
	const char *damp_percent, *actorder;
	int bits;
	int64_t group;
	bool sym;
};

static const struct param fake_rows[] = {
	{.name = "damp_percent", .type = PARAM_WORD, .at = offsetof(struct fake_method_params, damp_percent)},
	{.name = "actorder", .type = PARAM_WORD, .at = offsetof(struct fake_method_params, actorder)},
	{0},
};

static void
fake_defaults(const void *params, int *bits, int64_t *group, bool *sym)
{
	const struct fake_method_params *p = params;

	*bits = p->bits;
	*group = p->group;
	*sym = p->sym;
}

static const struct method fake_method = {
	.name = "gptq", .version = 1, .params = fake_rows, .params_size = sizeof(struct fake_method_params), .defaults = fake_defaults,
};

struct fake {
	struct project p;
	struct settings s;
	struct fake_method_params method;
	struct param_pool *pool;
	struct project_file files[2];
	char *dir;                       /* a folder of its own */
};

/* Choices of 4 bits, groups of 32, symmetric for every linear of tests/golden/models/MODEL; params: YAML of the format's rows. */
static inline void
fake_open(struct fake *f, const char *model, const char *format, const char *params)
{
	struct project *p = &f->p;
	enum part parts[4];
	struct diag d = {0};
	struct yaml *y = yaml_parse(params, strlen(params), "params", &d);
	struct param_block block;
	char *folder = mem_format("%s/golden/models/%s", QJOB_TESTS_DIR, model);

	memset(f, 0, sizeof(*f));
	f->dir = t_dir();
	f->method = (struct fake_method_params){"0.05", "static", 4, 32, true};
	f->pool = param_pool_new();
	f->s.method = &fake_method;
	f->s.method_params = &f->method;
	f->s.format = format_find(format);
	assert_non_null(f->s.format);
	f->s.format_params = mem_new(1, f->s.format->params_size + 1);
	block = (struct param_block){f->s.format->params, NULL, f->s.format_params, NULL};
	if (block.table)
		param_read(&block, 1, y, "pack", f->pool, &d);
	assert_int_equal(d.n, 0);
	f->s.pack = (struct pack_params){f->s.format->name, "any", 1, "5GB"};
	f->s.validate.dtype = "float32";
	f->s.validate.max_perplexity_increase = NAN;
	assert_ok(weights_open(&p->weights, folder));
	p->s = &f->s;
	f->files[0] = (struct project_file){(char *)"config.json", path_join(folder, "config.json"), false};
	f->files[1] = (struct project_file){(char *)"generation_config.json", path_join(folder, "generation_config.json"), true};
	p->files = f->files;
	p->nfiles = file_exists(f->files[1].path) ? 2 : 1;
	p->choices = mem_new((size_t)p->weights.config.L * PARTS, sizeof(*p->choices));
	for (int b = 0; b < p->weights.config.L; b++)
		for (enum site site = 0; site < SITES; site++) {
			int n = site_parts(p->weights.config.family, site, parts);

			for (int i = 0; i < n; i++) {
				struct choice *c = &p->choices[p->nchoices++];

				*c = (struct choice){.block = b, .part = parts[i], .site = site, .bits = 4, .group = 32, .sym = true};
				part_name(p->weights.config.family, parts[i], b, c->name, sizeof(c->name));
				c->rows = part_rows(&p->weights.config, parts[i]);
				c->cols = site_width(&p->weights.config, site);
			}
		}
	yaml_free(y);
	diag_release(&d);
	free(folder);
}

static inline struct choice *
fake_choice(struct fake *f, const char *name)
{
	for (size_t i = 0; i < f->p.nchoices; i++)
		if (strcmp(f->p.choices[i].name, name) == 0)
			return &f->p.choices[i];
	fail_msg("no linear %s", name);
	return NULL;
}

static inline void
fake_close(struct fake *f)
{
	if (f->p.dev)
		dev_close(f->p.dev);
	weights_close(&f->p.weights);
	param_pool_free(f->pool);
	free(f->s.format_params);
	free(f->p.choices);
	free(f->files[0].path);
	free(f->files[1].path);
	t_dir_end(f->dir);
}

/* ---- random linears ---- */

static inline uint32_t
fake_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

struct fake_linear {
	struct qlinear q;
	uint8_t *codes, *zero;
	uint16_t *scale;
	int32_t *group_of;
};

/* Random codes, zero points (from zero_min on) and scales of c; order: groups in a random order. */
static inline void
fake_linear(struct fake_linear *l, const struct choice *c, enum dtype scale, int zero_min, bool order, uint32_t seed)
{
	int64_t groups = c->cols / c->group;
	size_t row = codes_bytes(c->cols, c->bits), nscale = (size_t)(c->rows * groups);
	uint8_t *plain = mem_new((size_t)c->cols, 1);

	*l = (struct fake_linear){.codes = mem_new((size_t)c->rows, row), .scale = mem_new(nscale, 4)};
	for (int64_t o = 0; o < c->rows; o++) {
		for (int64_t i = 0; i < c->cols; i++)
			plain[i] = (uint8_t)(fake_random(&seed) & ((1u << c->bits) - 1));
		codes_pack(l->codes + (size_t)o * row, plain, c->cols, c->bits);
	}
	for (size_t i = 0; i < nscale; i++) {
		float v = (float)(1 + fake_random(&seed) % 1000) / 4096.0f;

		if (scale == F32)
			memcpy((char *)l->scale + i * 4, &v, 4);
		else
			l->scale[i] = scale == F16 ? float_f16(v) : float_bf16(v);
	}
	if (!c->sym) {
		l->zero = mem_new(nscale, 1);
		for (size_t i = 0; i < nscale; i++)
			l->zero[i] = (uint8_t)(zero_min + (int)(fake_random(&seed) % (uint32_t)((1 << c->bits) - zero_min)));
	}
	if (order) {
		l->group_of = mem_new((size_t)c->cols, 4);
		for (int64_t i = 0; i < c->cols; i++)
			l->group_of[i] = (int32_t)(i % groups);
	}
	l->q = (struct qlinear){c->bits, c->rows, c->cols, c->group, groups, c->sym, l->codes, l->scale, scale, l->zero, l->group_of};
	free(plain);
}

static inline void
fake_linear_free(struct fake_linear *l)
{
	free(l->codes);
	free(l->scale);
	free(l->zero);
	free(l->group_of);
}

/* ---- running a node ---- */

/* Outputs of a node lie in DIR/NODE with slashes as dashes. */
static inline char *
fake_folder(const struct fake *f, const char *node)
{
	char *path = mem_format("%s/%s", f->dir, node);

	for (char *c = path + strlen(f->dir) + 1; *c; c++)
		*c = *c == '/' ? '-' : *c;
	return path;
}

struct fake_host {
	struct fake *f;
	char *paths[64];             /* what input gave, freed at the end */
	size_t n;
	struct buf log;
};

static inline const char *
fake_input(struct job *j, const char *node, const char *what)
{
	struct fake_host *h = j->own;
	char *folder = fake_folder(h->f, node);
	bool found = false;

	for (size_t i = 0; i < j->node->nneeds; i++)
		found = found || (strcmp(j->node->needs[i].node->name, node) == 0 && strcmp(j->node->needs[i].what, what) == 0);
	if (!found)
		fail_msg("%s asks for %s of %s, which it does not need", j->node->name, what, node);
	assert_true(h->n < 64);
	h->paths[h->n++] = path_join(folder, what);
	free(folder);
	return h->paths[h->n - 1];
}

static inline void
fake_progress(struct job *j, double done, double of, const char *text)
{
	(void)j;
	(void)text;
	assert_true(done <= of);
}

static inline void
fake_log(struct job *j, enum log_level level, const char *text)
{
	struct fake_host *h = j->own;

	buf_printf(&h->log, "%s%s\n", level == LOG_WARN ? "warn: " : "", text);
}

static inline bool
fake_stop(struct job *j)
{
	(void)j;
	return false;
}

static const struct job_host fake_calls = {.input = fake_input, .progress = fake_progress, .log = fake_log, .stop = fake_stop};

/* Runs a node; what it logged is appended to log when that is not NULL. */
static inline int
fake_run(struct fake *f, const struct graph *g, const char *name, struct buf *log)
{
	struct fake_host h = {.f = f};
	struct job job = {.node = graph_find(g, name), .project = &f->p, .host = &fake_calls, .own = &h};
	char *out = fake_folder(f, name);
	int rc;

	assert_non_null(job.node);
	assert_ok(dir_make(out));
	job.out = out;
	rc = job.node->stage->run(&job);
	if (log && h.log.n)
		buf_add(log, h.log.p, h.log.n);
	for (size_t i = 0; i < h.n; i++)
		free(h.paths[i]);
	buf_release(&h.log);
	free(out);
	return rc;
}

/* As w->decode, with dense numbers. */
static inline int
decode_dense(const struct weights *w, const char *linear, float *out, int64_t rows, int64_t cols)
{
	struct qlinear q = {0};
	int rc = w->decode(w, linear, &q, rows, cols);

	if (rc == 0)
		qlinear_dequant(&q, out);
	qlinear_free(&q);
	return rc;
}

#endif
