#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/dev.h"
#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"
#include "qjob/cli/commands.h"
#include "qjob/model/decoder.h"
#include "stages/pack/format.h"

struct ids {
	int32_t *v;
	int64_t n, seqlen;
};

static int
bad_ids(const char *path, const char *wanted)
{
	return err_set(E_DATA, "%s: wanted a tensor \"input_ids\" %s", path, wanted);
}

static int
convert_ids(struct ids *ids, const struct tensor *t, const struct config *c, const char *path)
{
	ids->v = mem_new((size_t)(ids->n * ids->seqlen), sizeof(*ids->v));
	for (int64_t i = 0; i < ids->n * ids->seqlen; i++) {
		int64_t id;

		memcpy(&id, (const char *)t->p + (size_t)i * sizeof(id), sizeof(id));
		if (id < 0 || id >= c->V)
			return err_set(E_DATA, "%s: input_ids[%" PRId64 ",%" PRId64 "] is %" PRId64 ", wanted 0 to %" PRId64, path,
			               i / ids->seqlen, i % ids->seqlen, id, c->V - 1);
		ids->v[i] = (int32_t)id;
	}
	return 0;
}

static int
read_ids(struct ids *ids, const char *path, const struct config *c)
{
	struct safetensors s;
	const struct tensor *t;
	int r = safetensors_open(&s, path);

	if (r < 0)
		return r;
	t = safetensors_find(&s, "input_ids");
	if (!t || t->type != I64 || t->rank != 2 || t->bytes == 0)
		r = bad_ids(path, "of int64 [B,T]");
	else if (t->shape[1] > c->positions)
		r = err_set(E_DATA, "%s: input_ids has %" PRId64 " positions, and the model %" PRId64, path, t->shape[1],
		            c->positions);
	if (r == 0) {
		ids->n = t->shape[0];
		ids->seqlen = t->shape[1];
		r = convert_ids(ids, t, c, path);
	}
	safetensors_close(&s);
	return r;
}

/* ---- the output ---- */

static int
write_floats(void *own, const float *p, size_t n)
{
	return safetensors_add(own, p, n * sizeof(*p));
}

static struct tensor
output(char *name, const struct ids *ids, int64_t width)
{
	return (struct tensor){.name = name, .type = F32, .rank = 3, .shape = {ids->n, ids->seqlen, width}};
}

/* The tensors in the order in which decoder_forward gives them; returns how many. */
static size_t
plan_outputs(struct tensor *v, const struct ids *ids, const struct config *c, bool hidden)
{
	size_t n = 0;

	for (int64_t i = 0; hidden && i <= c->L; i++)
		v[n++] = output(mem_format("hidden_states.%" PRId64, i), ids, c->D);
	v[n++] = output(mem_text("logits"), ids, c->V);
	return n;
}

static int
compute(struct dev *d, const struct weights *w, const struct ids *ids, bool hidden, const char *path)
{
	struct tensor *v = mem_new((size_t)w->config.L + 2, sizeof(*v));
	size_t n = plan_outputs(v, ids, &w->config, hidden);
	struct forward f = {.ids = ids->v, .n = ids->n, .seqlen = ids->seqlen, .hidden = hidden, .take = write_floats};
	struct safetensors_out *o;
	int r = safetensors_begin(&o, path, v, n);

	if (r == 0) {
		f.own = o;
		r = decoder_forward(d, w, &f);
		if (r == 0)
			r = safetensors_end(o);
		else
			safetensors_abort(o);
	}
	for (size_t i = 0; i < n; i++)
		free(v[i].name);
	free(v);
	return r;
}

/* Renames the finished file to its place. */
static int
publish(const char *from, const char *to)
{
	char *copy = mem_text(to);
	int r = 0;

	if (fault("forward.rename") || rename(from, to) != 0)
		r = err_sys("%s", to);
	if (r == 0)
		r = dir_sync(dirname(copy));
	free(copy);
	return r;
}

static int
compute_file(struct dev *d, const struct weights *w, const struct ids *ids, const struct forward_options *o)
{
	char *path = mem_format("%s.tmp.%ld", o->output, (long)getpid());
	int r = compute(d, w, ids, o->hidden, path);

	if (r == 0)
		r = publish(path, o->output);
	if (r < 0)
		unlink(path);
	free(path);
	return r;
}

static int
run(struct weights *w, const struct forward_options *o, const struct dev_options *options)
{
	struct ids ids = {0};
	struct dev *d;
	int r = format_attach(w);

	if (r == 0)
		r = weights_check(w);
	if (r == 0)
		r = read_ids(&ids, o->ids, &w->config);
	if (r == 0)
		r = dev_open(&d, options);
	if (r == 0) {
		dev_math(d, o->dtype ? math_find(o->dtype) : MATH_F32);
		r = compute_file(d, w, &ids, o);
		dev_close(d);
	}
	free(ids.v);
	return r;
}

int
cmd_forward(int argc, char **argv)
{
	struct forward_options o = {0};
	struct dev_options on;
	struct weights w;
	int r, code = options_read("forward", argc, argv, &o);

	if (code < 0)
		code = device_read("forward", &o.on, &on);
	if (code >= 0)
		return code;
	r = weights_open(&w, o.model);
	if (r == 0) {
		r = run(&w, &o, &on);
		weights_close(&w);
	}
	return r < 0 ? report_error(r) : EXIT_OK;
}
