#include "stages/project.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qjob/base/err.h"
#include "qjob/model/synthetic.h"
#include "stages/data/dataset.h"
#include "stages/memory.h"
#include "stages/pack/format.h"

/* Files beside the tensors that a stock loader reads; they go into the output folder unchanged. */
static const char *const carried[] = {
	"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "NOTICE",
};

static void
add_file(struct project *p, const char *name, bool is_carried)
{
	char *path = path_join(p->weights.folder, name);

	p->files[p->nfiles++] = (struct project_file){mem_text(name), path, is_carried};
}

static void
list_files(struct project *p)
{
	size_t ncarried = sizeof(carried) / sizeof(carried[0]);

	p->files = mem_new(p->weights.nfiles + ncarried + 1, sizeof(*p->files));
	add_file(p, "config.json", false);
	for (size_t i = 0; i < p->weights.nfiles; i++)
		add_file(p, p->weights.files[i].name, false);
	for (size_t i = 0; i < ncarried; i++) {
		char *path = path_join(p->weights.folder, carried[i]);

		if (file_exists(path))
			add_file(p, carried[i], true);
		free(path);
	}
}

/* The index is an input too: without it the shards would not be known. */
static void
list_inputs(struct project *p)
{
	const struct settings *s = p->s;
	struct texts data = {0};

	dataset_files(s->calibration.dataset, &data);
	dataset_files(s->validate.perplexity.dataset, &data);
	p->inputs = mem_new(p->nfiles + data.n + 2, sizeof(*p->inputs));
	for (size_t i = 0; i < p->nfiles; i++)
		p->inputs[p->ninputs++] = mem_text(p->files[i].path);
	p->inputs[p->ninputs] = path_join(p->weights.folder, "model.safetensors.index.json");
	if (file_exists(p->inputs[p->ninputs]))
		p->ninputs++;
	else
		free(p->inputs[p->ninputs]);
	for (size_t i = 0; i < data.n; i++)
		p->inputs[p->ninputs++] = (char *)data.v[i];
	free(data.v);
}

static bool
is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int
open_model(struct project *p)
{
	const char *source = p->s->model.source;
	char *made = NULL;
	int rc = 0;

	if (is_synthetic(source))
		rc = synthetic_open(&made, source);
	else if (!is_folder(source))
		rc = err_set(E_USE, "'%s' is not a folder; give the folder that holds config.json and the safetensors files", source);
	if (rc == 0)
		rc = weights_open(&p->weights, made ? made : source);
	free(made);
	if (rc < 0)
		return rc;
	if (json_object_get(p->weights.config.json, "quantization_config"))
		return err_set(E_USE, "%s is quantized already; give the model that it was made from", source);
	return weights_check(&p->weights);
}

static void
check_seqlen(const struct project *p, const struct yaml *tree, const char *section, int seqlen, struct diag *d)
{
	if (seqlen > p->weights.config.positions)
		diag_add(d, settings_place(tree, section, strcmp(section, "calibration") == 0 ? "seqlen" : "perplexity"),
		         "%s: seqlen %d is more than the model's %lld positions (max_position_embeddings)", section, seqlen,
		         (long long)p->weights.config.positions);
}

static void
check_data(const struct project *p, const struct yaml *tree, struct diag *d)
{
	const struct settings *s = p->s;

	if (p->wish.needs && !s->calibration.dataset)
		diag_add(d, settings_place(tree, "calibration", "dataset"),
		         "calibration.dataset: method %s needs calibration text: give a file, a folder or a list of texts",
		         s->method->name);
	else if (p->wish.needs)
		check_seqlen(p, tree, "calibration", s->calibration.seqlen, d);
	if (s->validate.perplexity.dataset)
		check_seqlen(p, tree, "validate", s->validate.perplexity.seqlen, d);
	dataset_check(s->calibration.dataset, "calibration.dataset", d);
	dataset_check(s->validate.perplexity.dataset, "validate.perplexity.dataset", d);
}

struct project *
project_open(const struct settings *s, const struct yaml *tree, const struct dev_options *o, struct diag *d)
{
	struct project *p = mem_new(1, sizeof(*p));
	size_t before = d->n;

	pthread_mutex_init(&p->turn.lock, NULL);
	pthread_cond_init(&p->turn.over, NULL);
	p->s = s;
	p->device = *o;
	s->method->wish(s->method_params, &p->wish);
	if (open_model(p) < 0) {
		diag_add(d, settings_place(tree, "model", "source"), "model.source: %s", err_text());
		goto fail;
	}
	choices_make(p, tree, d);
	check_data(p, tree, d);
	if (dev_facts(&p->device, p->device_facts, sizeof(p->device_facts)) < 0)
		diag_add(d, (struct place){0}, "%s", err_text());
	if (d->n == before && memory_predict(p) < 0)
		diag_add(d, (struct place){0}, "memory: %s", err_text());
	if (d->n > before)
		goto fail;
	list_files(p);
	list_inputs(p);
	return p;

fail:
	project_close(p);
	return NULL;
}

bool
project_passed_over(const struct project *p, char *text, size_t size)
{
	bool is_auto = !p->device.name || strcmp(p->device.name, "auto") == 0;

	return is_auto && strncmp(p->device_facts, "device cpu", 10) == 0 && dev_passed_over(text, size);
}

int
project_prepare(const struct project *p)
{
	int rc = 0;

	for (size_t i = 0; i < p->weights.nfiles && rc == 0 && is_synthetic(p->s->model.source); i++)
		rc = synthetic_fill(&p->weights.files[i]);
	return rc;
}

void
project_close(struct project *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->nfiles; i++) {
		free(p->files[i].name);
		free(p->files[i].path);
	}
	for (size_t i = 0; i < p->ninputs; i++)
		free(p->inputs[i]);
	project_cool(p);
	pthread_cond_destroy(&p->turn.over);
	pthread_mutex_destroy(&p->turn.lock);
	weights_close(&p->weights);
	free(p->files);
	free(p->inputs);
	free(p->choices);
	free(p);
}

const char *const *
project_inputs(const struct project *p, size_t *n)
{
	*n = p->ninputs;
	return (const char *const *)p->inputs;
}

int
project_dev(const struct project *p, struct dev **d)
{
	/* The device is a resource of the run, opened late; the recipe's choices stay constant. */
	struct project *own = (struct project *)p;

	if (!own->dev) {
		int rc = dev_open(&own->dev, &own->device);

		if (rc < 0)
			return rc;
	}
	*d = own->dev;
	return 0;
}

/* ---- turns ---- */

static void
line_up(struct waiter **first, struct waiter *w)
{
	while (*first && (*first)->index <= w->index)
		first = &(*first)->next;
	w->next = *first;
	*first = w;
}

void
project_turn(const struct project *p, int index)
{
	struct project *own = (struct project *)p;
	struct waiter me = {.index = index};

	pthread_mutex_lock(&own->turn.lock);
	line_up(&own->turn.first, &me);
	while (own->turn.taken || own->turn.first != &me)
		pthread_cond_wait(&own->turn.over, &own->turn.lock);
	own->turn.first = me.next;
	own->turn.taken = true;
	pthread_mutex_unlock(&own->turn.lock);
}

void
project_turn_over(const struct project *p)
{
	struct project *own = (struct project *)p;

	pthread_mutex_lock(&own->turn.lock);
	own->turn.taken = false;
	pthread_cond_broadcast(&own->turn.over);
	pthread_mutex_unlock(&own->turn.lock);
}

/* ---- rooms ---- */

struct room *
project_room(const struct project *p, size_t size)
{
	struct project *own = (struct project *)p;
	struct room *r = own->rooms;

	while (r && atomic_load(&r->taken))
		r = r->next;
	if (!r) {
		char *bytes = dev_room(p->dev, size);

		if (!bytes)
			return NULL;
		r = mem_new(1, sizeof(*r));
		*r = (struct room){.next = own->rooms, .bytes = bytes, .size = size};
		own->rooms = r;
	}
	atomic_store(&r->taken, true);
	return r;
}

void
room_back(struct room *r)
{
	if (r)
		atomic_store(&r->taken, false);
}

void
project_warm(const struct project *p)
{
	struct dev *d;

	project_dev(p, &d);
}

void
project_cool(const struct project *p)
{
	struct project *own = (struct project *)p;

	for (struct room *r = own->rooms, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	own->rooms = NULL;
	if (own->dev)
		dev_close(own->dev);
	own->dev = NULL;
}

const struct choice *
project_block(const struct project *p, int block, size_t *n)
{
	size_t each = p->nchoices / (size_t)p->weights.config.L;

	*n = each;
	return p->choices + (size_t)block * each;
}

const struct choice *
project_choice(const struct project *p, const char *tensor)
{
	size_t n = strlen(tensor);

	if (n < 7 || strcmp(tensor + n - 7, ".weight") != 0)
		return NULL;
	for (size_t i = 0; i < p->nchoices; i++)
		if (strncmp(p->choices[i].name, tensor, n - 7) == 0 && !p->choices[i].name[n - 7])
			return p->choices[i].skip ? NULL : &p->choices[i];
	return NULL;
}

int
project_need_tensor(const struct project *p, struct graph *g, struct node *n, const char *tensor)
{
	const struct weights_file *f = weights_file_of(&p->weights, tensor);
	char name[512];

	if (!f)
		return err_set(E_DATA, "no tensor %s", tensor);
	snprintf(name, sizeof(name), "fetch/%s", f->name);
	node_need(n, graph_find(g, name), tensor, "tensor %s", tensor);
	return 0;
}

/* The parts of a block (or of the ends) as "model.layers.3.mlp.up_proj."; returns how many. */
static size_t
part_prefixes(const struct family *f, int block, char prefix[PARTS][256])
{
	size_t n = 0;

	for (enum part part = 0; part < PARTS; part++) {
		if (!f->names[part] || (part <= HEAD) != (block < 0))
			continue;
		part_name(f, part, block < 0 ? 0 : block, prefix[n], sizeof(prefix[n]) - 1);
		memcpy(prefix[n] + strlen(prefix[n]), ".", 2);
		n++;
	}
	return n;
}

int
project_need_tensors(const struct project *p, struct graph *g, struct node *n, int block)
{
	char prefix[PARTS][256];
	size_t nprefix = part_prefixes(p->weights.config.family, block, prefix);

	for (size_t i = 0; i < p->weights.nfiles; i++) {
		const struct safetensors *s = &p->weights.files[i].st;

		for (size_t j = 0; j < s->n * nprefix; j++) {
			const char *tensor = s->v[j / nprefix].name;
			const char *want = prefix[j % nprefix];
			int rc = strncmp(tensor, want, strlen(want)) == 0 ? project_need_tensor(p, g, n, tensor) : 0;

			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

void
project_facts(const struct project *p, struct node *n)
{
	struct buf config = {0};

	buf_puts(&n->facts, p->device_facts);
	config_key(&p->weights.config, &config);
	buf_puts(&n->facts, buf_text(&config));
	buf_release(&config);
}
