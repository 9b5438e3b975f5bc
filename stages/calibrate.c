/* calibrate: statistics of every site, one node a block, from the full-precision stream.
 *
 * Only with `propagate: original` are they nodes of their own: then they do not depend on bits, group, order, method or
 * format, and a sweep pays for them once.  With `propagate: quantized` a block's inputs come from the quantized blocks before
 * it, so its statistics are gathered where it is quantized (quantize.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "stages/statistics.h"
#include "stages/stream.h"

static void
predict(const struct project *p, struct node *n)
{
	const struct config *c = &p->weights.config;
	double tokens = (double)p->s->calibration.samples * p->s->calibration.seqlen;

	for (enum site s = 0; s < SITES; s++) {
		double w = (double)site_width(c, s);

		n->cost.flops += tokens * w * w;
		n->cost.disk += (uint64_t)(w * w * 4);
	}
	n->cost.flops += block_flops(p, tokens);
	n->cost.device = p->memory.stream.device;
	/* Beside the device's: on their way to the file, and those of the block before, which may still be being written. */
	n->cost.host = p->memory.stream.host + n->cost.disk * 2;
}

static int
expand(struct graph *g, const struct project *p)
{
	struct node *before = NULL;

	if (!p->wish.needs || !p->wish.original)
		return 0;
	for (int b = 0; b < p->weights.config.L; b++) {
		struct node *n = graph_add(g, &stage_calibrate, b, "calibrate/%d", b);
		int rc = stream_needs(p, g, n, before);

		if (rc < 0)
			return rc;
		node_fact(n, "statistics %s token_weight %s", p->wish.needs & NEED_CROSS ? "gram cross" : "gram",
		          p->wish.unit ? "unit" : "none");
		n->unit = mem_text("blocks");
		predict(p, n);
		before = n;
	}
	return 0;
}

static int
keep(struct job *job, struct dev *d, const struct stats st[SITES])
{
	struct taken *t = mem_new(1, sizeof(*t));
	int rc = statistics_take(t, d, st);

	if (rc == 0)
		job->kept = t;
	else
		free(t);
	return rc;
}

static int
run(struct job *job)
{
	const struct project *p = job->project;
	struct stats st[SITES];
	struct stream *s;
	struct block b;
	struct pass pass = {.b = &b, .unit = p->wish.unit};
	int rc = stream_open(&s, job);

	if (rc == 0)
		rc = block_load(s->d, &b, &p->weights, job->node->index, s->seqlen);
	if (rc < 0)
		return rc;
	for (enum site site = 0; site < SITES; site++)
		st[site] = stream_stats(s, &p->weights.config, site, p->wish.needs);
	rc = stream_sweep(job, s, &pass, st, false);
	if (rc == 0)
		rc = keep(job, s->d, st);
	if (rc < 0)
		return rc;
	stream_advance(s, job, "");
	job->host->exports(job, "activations", s->digest);
	return 0;
}

static int
finish(struct job *job)
{
	struct taken *t = job->kept;
	int rc = job->out ? statistics_write(job->out, t) : 0;

	statistics_release(t);
	free(t);
	return rc;
}

static int
replay(struct job *job)
{
	struct stream *s;
	struct block b;
	int rc = stream_open(&s, job);

	if (rc == 0)
		rc = block_load(s->d, &b, &job->project->weights, job->node->index, s->seqlen);
	if (rc < 0)
		return rc;
	block_forward(s->d, &b, &s->h, s->seqlen);
	stream_advance(s, job, "");
	return dev_status(s->d);
}

const struct stage stage_calibrate = {
	.name = "calibrate",
	.version = 1,
	.help = "statistics of the inputs of every linear (nodes of their own with propagate: original)",
	.expand = expand,
	.warm = project_warm,
	.run = run,
	.finish = finish,
	.replay = replay,
	.drop = stream_drop,
};
