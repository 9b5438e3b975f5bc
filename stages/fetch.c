/* fetch: the model's files, each digested where it lies.
 *
 * A file of tensors exports one digest a tensor, by name; any other file exports "content".  Nothing is copied: later
 * stages read the mapping.  A local file has no key of its own; what follows is keyed by the digests. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/hash.h"
#include "qjob/base/pool.h"
#include "stages/project.h"

static int
expand(struct graph *g, const struct project *p)
{
	for (size_t i = 0; i < p->nfiles; i++) {
		struct node *n = graph_add(g, &stage_fetch, (int)i, "fetch/%s", p->files[i].name);

		n->source = mem_text(p->files[i].path);
		n->resource = RES_IO;
		n->unit = mem_text("files");
	}
	return 0;
}

/* Of what a tensor is, not of its bytes alone: the same bytes in another type or shape are other numbers. */
static void
digest_tensor(const struct tensor *t, char hex[SHA256_HEX])
{
	struct sha256 *h = sha256_new();
	struct buf kind = {0};

	buf_puts(&kind, dtype_name(t->type));
	for (int i = 0; i < t->rank; i++)
		buf_printf(&kind, " %" PRId64, t->shape[i]);
	buf_puts(&kind, "\n");
	sha256_add(h, kind.p, kind.n);
	sha256_add(h, t->p, t->bytes);
	sha256_end(h, hex);
	buf_release(&kind);
}

/* The tensors of a file while several threads digest them; the largest start first, since one digest cannot be shared out. */
struct digests {
	struct job *job;
	const struct safetensors *s;
	size_t *order;               /* numbers of tensors by falling size */
	char (*hex)[SHA256_HEX];     /* by number */
	atomic_size_t bytes;         /* done */
};

struct sized {
	size_t bytes, number;
};

static int
by_size(const void *a, const void *b)
{
	const struct sized *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x->number < y->number ? -1 : 1;
}

static size_t *
largest_first(const struct safetensors *s)
{
	struct sized *v = mem_new(s->n + 1, sizeof(*v));
	size_t *order = mem_new(s->n + 1, sizeof(*order));

	for (size_t i = 0; i < s->n; i++)
		v[i] = (struct sized){s->v[i].bytes, i};
	qsort(v, s->n, sizeof(*v), by_size);
	for (size_t i = 0; i < s->n; i++)
		order[i] = v[i].number;
	free(v);
	return order;
}

static int
digest_piece(void *own, size_t i)
{
	struct digests *all = own;
	const struct tensor *t = &all->s->v[all->order[i]];

	digest_tensor(t, all->hex[all->order[i]]);
	atomic_fetch_add(&all->bytes, t->bytes);
	return 0;
}

static int
watch(void *own, size_t done)
{
	struct digests *all = own;
	struct job *job = all->job;

	(void)done;
	if (job->host->stop(job))
		return err_set(E_SYS, "interrupted");
	job->host->progress(job, (double)atomic_load(&all->bytes), (double)all->s->view.n, NULL);
	return 0;
}

/* Declared in the file's order, whichever was ready first. */
static int
digest_tensors(struct job *job, const struct safetensors *s)
{
	struct digests all = {.job = job, .s = s, .order = largest_first(s), .hex = mem_new(s->n + 1, sizeof(*all.hex))};
	int rc;

	/* Blocks wait for their own file alone. */
	project_turn(job->project);
	rc = pool_watch(s->n, pool_threads(), digest_piece, &all, watch);
	project_turn_over(job->project);
	for (size_t i = 0; i < s->n && rc == 0; i++)
		job->host->exports(job, s->v[i].name, all.hex[i]);
	free(all.order);
	free(all.hex);
	return rc;
}

static int
run(struct job *job)
{
	const struct project *p = job->project;
	const char *name = p->files[job->node->index].name;
	char hex[SHA256_HEX];
	int rc;

	for (size_t i = 0; i < p->weights.nfiles; i++)
		if (strcmp(p->weights.files[i].name, name) == 0)
			return digest_tensors(job, &p->weights.files[i].st);
	rc = sha256_file(p->files[job->node->index].path, hex);
	if (rc < 0)
		return rc;
	job->host->exports(job, "content", hex);
	return 0;
}

const struct stage stage_fetch = {
	.name = "fetch",
	.version = 1,
	.help = "the model's files: headers checked, tensors digested",
	.expand = expand,
	.run = run,
};
