/* A packed model made by running the nodes of pack over codes of the test's own. */
#ifndef QJOB_TESTS_STAGES_PACKED_H
#define QJOB_TESTS_STAGES_PACKED_H

#include "tests/stages/fake.h"

struct packed {
	struct fake f;
	struct graph g;
	struct fake_linear *linears;     /* one a choice; of skipped ones empty */
	size_t nshards;
};

static const struct stage fake_stage = {.name = "fake", .version = 1};

/* The nodes that pack and validate need, and their own. */
static inline void
packed_graph(struct fake *f, struct graph *g)
{
	struct project *p = &f->p;

	*g = (struct graph){0};
	for (size_t i = 0; i < p->nfiles; i++)
		graph_add(g, &fake_stage, 0, "fetch/%s", p->files[i].name);
	for (size_t i = 0; i < p->weights.nfiles; i++)
		graph_add(g, &fake_stage, 0, "fetch/%s", p->weights.files[i].name);
	if (f->s.validate.perplexity.dataset)
		graph_add(g, &fake_stage, 0, "tokenize/evaluation");
	for (int b = 0; b < p->weights.config.L; b++)
		graph_add(g, &fake_stage, b, "quantize/%d", b);
	assert_ok(stage_pack.expand(g, p));
	assert_ok(stage_validate.expand(g, p));
}

static inline void
packed_open(struct packed *k, const char *model, const char *format, const char *params)
{
	*k = (struct packed){0};
	fake_open(&k->f, model, format, params);
	k->linears = mem_new(k->f.p.nchoices, sizeof(*k->linears));
}

static inline size_t
packed_tensors(const struct choice *c, struct fake_linear *l, struct tensor *t, const void **p)
{
	struct tensor all[4] = {
		{.name = mem_format("%s.codes", c->name), .type = U8, .rank = 2,
		 .shape = {c->rows, (int64_t)codes_bytes(c->cols, c->bits)}},
		{.name = mem_format("%s.scale", c->name), .type = l->q.scale_type, .rank = 2, .shape = {c->rows, l->q.groups}},
		{.name = mem_format("%s.zero", c->name), .type = U8, .rank = 2, .shape = {c->rows, l->q.groups}},
		{.name = mem_format("%s.group_of", c->name), .type = I32, .rank = 1, .shape = {c->cols}},
	};
	const void *data[4] = {l->codes, l->scale, l->zero, l->group_of};
	size_t n = 0;

	for (int i = 0; i < 4; i++) {
		if (!data[i]) {
			free(all[i].name);
			continue;
		}
		t[n] = all[i];
		p[n++] = data[i];
	}
	return n;
}

/* Writes quantize/B's block.safetensors from the linears. */
static inline void
packed_block(struct packed *k, int block)
{
	char *node = mem_format("quantize/%d", block), *dir = fake_folder(&k->f, node), *path = path_join(dir, "block.safetensors");
	struct tensor t[PARTS * 4];
	const void *data[PARTS * 4];
	struct safetensors_out *o;
	size_t n = 0;

	for (size_t i = 0; i < k->f.p.nchoices; i++)
		if (k->f.p.choices[i].block == block && !k->f.p.choices[i].skip)
			n += packed_tensors(&k->f.p.choices[i], &k->linears[i], t + n, data + n);
	assert_ok(dir_make(dir));
	assert_ok(safetensors_begin(&o, path, t, n));
	for (size_t i = 0; i < n; i++) {
		assert_ok(safetensors_add(o, data[i], tensor_bytes(&t[i])));
		free(t[i].name);
	}
	assert_ok(safetensors_end(o));
	free(path);
	free(dir);
	free(node);
}

static inline void
packed_random(struct packed *k)
{
	const struct fake *f = &k->f;
	enum dtype scale = f->s.format->scale_type(f->s.format_params, f->p.weights.config.dtype);

	for (size_t i = 0; i < f->p.nchoices; i++) {
		const struct choice *c = &f->p.choices[i];

		if (!c->skip)
			fake_linear(&k->linears[i], c, scale, f->s.format->zero_min(f->s.format_params, c->sym),
			            f->p.wish.ordered && c->group < c->cols, (uint32_t)i + 1);
	}
	for (int b = 0; b < f->p.weights.config.L; b++)
		packed_block(k, b);
}

/* Declares and runs all nodes of pack. */
static inline void
packed_run(struct packed *k)
{
	packed_graph(&k->f, &k->g);
	for (size_t i = 0; i < k->g.n; i++)
		if (k->g.v[i]->stage == &stage_pack) {
			assert_ok(fake_run(&k->f, &k->g, k->g.v[i]->name, NULL));
			k->nshards += k->g.v[i]->index >= 0;
		}
}

/* A folder with everything that was published; caller frees. */
static inline char *
packed_folder(const struct packed *k)
{
	char *folder = path_join(k->f.dir, "out");

	assert_ok(dir_make(folder));
	for (size_t i = 0; i < k->g.n; i++) {
		const struct node *n = k->g.v[i];
		char *dir = fake_folder(&k->f, n->name);

		for (size_t j = 0; j < n->npublish && n->stage == &stage_pack; j++) {
			char *from = path_join(dir, n->publish[j]), *to = path_join(folder, n->publish[j]);

			assert_ok(file_copy(from, to));
			free(from);
			free(to);
		}
		free(dir);
	}
	return folder;
}

static inline void
packed_close(struct packed *k)
{
	for (size_t i = 0; i < k->f.p.nchoices; i++)
		fake_linear_free(&k->linears[i]);
	free(k->linears);
	graph_release(&k->g);
	fake_close(&k->f);
}

#endif
