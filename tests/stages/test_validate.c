#include "stages/report.h"
#include "tests/stages/packed.h"

/* A recipe with evaluation text; the windows are the ids of the golden model's expected.safetensors. */
static void
with_windows(struct packed *k)
{
	static struct yaml dataset = {.kind = YAML_TEXT, .text = (char *)"text.txt"};
	char *from = mem_format("%s/golden/models/llama/expected.safetensors", QJOB_TESTS_DIR), *dir, *path;
	struct safetensors expected;
	struct safetensors_out *o;
	const struct tensor *ids;
	struct tensor t = {.name = (char *)"input_ids", .type = I32, .rank = 2};
	int32_t *v;

	k->f.s.validate.perplexity.dataset = &dataset;
	assert_ok(safetensors_open(&expected, from));
	ids = safetensors_find(&expected, "input_ids");
	assert_non_null(ids);
	t.shape[0] = ids->shape[0];
	t.shape[1] = ids->shape[1];
	v = mem_new((size_t)(t.shape[0] * t.shape[1]), sizeof(*v));
	for (int64_t i = 0; i < t.shape[0] * t.shape[1]; i++) {
		int64_t id;

		memcpy(&id, (const char *)ids->p + i * 8, 8);
		v[i] = (int32_t)id;
	}
	dir = fake_folder(&k->f, "tokenize/evaluation");
	path = path_join(dir, "ids.safetensors");
	assert_ok(dir_make(dir));
	assert_ok(safetensors_begin(&o, path, &t, 1));
	assert_ok(safetensors_add(o, v, tensor_bytes(&t)));
	assert_ok(safetensors_end(o));
	safetensors_close(&expected);
	free(v);
	free(path);
	free(dir);
	free(from);
}

/* 8-bit nearest codes of the model's own weights, so that the packed model is nearly the original. */
static void
nearest_codes(struct packed *k, int bits)
{
	struct project *p = &k->f.p;

	packed_random(k);
	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];
		struct fake_linear *l = &k->linears[i];
		char name[300];
		const float *w;
		size_t row = codes_bytes(c->cols, c->bits);
		uint8_t *plain = mem_new((size_t)c->cols, 1);

		assert_int_equal(c->bits, bits);
		snprintf(name, sizeof(name), "%s.weight", c->name);
		w = weights_find(&p->weights, name)->p;
		for (int64_t o = 0; o < c->rows; o++) {
			for (int64_t g = 0; g < l->q.groups; g++) {
				float most = 0, scale;

				for (int64_t j = g * c->group; j < (g + 1) * c->group; j++)
					most = fmaxf(most, fabsf(w[o * c->cols + j]));
				l->scale[o * l->q.groups + g] = float_f16(2 * most / (float)((1 << bits) - 1));
				scale = f16_float(l->scale[o * l->q.groups + g]);
				for (int64_t j = g * c->group; j < (g + 1) * c->group; j++) {
					float code = rintf(w[o * c->cols + j] / scale) + (float)(1 << (bits - 1));

					plain[j] = (uint8_t)fminf(fmaxf(code, 0), (float)((1 << bits) - 1));
				}
			}
			codes_pack(l->codes + (size_t)o * row, plain, c->cols, bits);
		}
		free(plain);
	}
	for (int b = 0; b < p->weights.config.L; b++)
		packed_block(k, b);
}

static void
open_all(struct packed *k, int bits)
{
	packed_open(k, "llama", "gptq", "{}");
	for (size_t i = 0; i < k->f.p.nchoices; i++)
		k->f.p.choices[i].bits = bits;
	with_windows(k);
	nearest_codes(k, bits);
	packed_run(k);
}

static json_t *
load(struct packed *k, const char *node, const char *file)
{
	char *dir = fake_folder(&k->f, node), *path = path_join(dir, file);
	json_t *j;

	assert_ok(json_load_path(&j, path, 1 << 20));
	free(path);
	free(dir);
	return j;
}

/* The same number from the logits that Transformers gave: exp of the mean of window means. */
static double
expected_perplexity(void)
{
	char *from = mem_format("%s/golden/models/llama/expected.safetensors", QJOB_TESTS_DIR);
	struct safetensors s;
	const struct tensor *logits, *ids;
	double all = 0;

	assert_ok(safetensors_open(&s, from));
	logits = safetensors_find(&s, "logits");
	ids = safetensors_find(&s, "input_ids");
	for (int64_t n = 0; n < ids->shape[0]; n++) {
		double sum = 0;

		for (int64_t t = 0; t + 1 < ids->shape[1]; t++) {
			const float *x = (const float *)logits->p + (n * ids->shape[1] + t) * logits->shape[2];
			double total = 0;
			int64_t id;

			memcpy(&id, (const char *)ids->p + (n * ids->shape[1] + t + 1) * 8, 8);
			for (int64_t v = 0; v < logits->shape[2]; v++)
				total += exp((double)x[v]);
			sum += log(total) - (double)x[id];
		}
		all += sum / (double)(ids->shape[1] - 1);
	}
	all = exp(all / (double)ids->shape[0]);
	safetensors_close(&s);
	free(from);
	return all;
}

static void
measures_perplexity(void **state)
{
	struct packed k;
	json_t *original, *quantized;
	double want = expected_perplexity(), before, after;

	(void)state;
	open_all(&k, 8);
	assert_ok(fake_run(&k.f, &k.g, "validate/original", NULL));
	assert_ok(fake_run(&k.f, &k.g, "validate/quantized", NULL));
	original = load(&k, "validate/original", "original.json");
	quantized = load(&k, "validate/quantized", "quantized.json");
	before = json_real_value(json_object_get(original, "perplexity"));
	after = json_real_value(json_object_get(quantized, "perplexity"));
	assert_true(fabs(before / want - 1) < 1e-4);
	assert_true(fabs(after / before - 1) < 0.01);
	assert_true(after != before);
	assert_int_equal(json_integer_value(json_object_get(quantized, "windows")),
	                 json_array_size(json_object_get(quantized, "window_nll")));
	assert_int_equal(json_integer_value(json_object_get(quantized, "tokens")),
	                 json_integer_value(json_object_get(quantized,
	                                                    "windows")) * (json_integer_value(json_object_get(quantized, "seqlen")) - 1));
	assert_int_equal(json_integer_value(json_object_get(quantized, "tensors")), 14 * 4 + 4 + 3);
	json_decref(original);
	json_decref(quantized);
	packed_close(&k);
}

static void
two_bits_hurt(void **state)
{
	struct packed k;
	json_t *quantized;
	double want = expected_perplexity();

	(void)state;
	open_all(&k, 2);
	assert_ok(fake_run(&k.f, &k.g, "validate/quantized", NULL));
	quantized = load(&k, "validate/quantized", "quantized.json");
	assert_true(json_real_value(json_object_get(quantized, "perplexity")) > 1.01 * want);
	json_decref(quantized);
	packed_close(&k);
}

/* ---- structure ---- */

static void
harm_file(struct packed *k, const char *node, const char *file, const char *from, const char *to)
{
	char *dir = fake_folder(&k->f, node), *path = path_join(dir, file);
	struct buf text = {0};
	char *at = NULL;

	assert_ok(file_read(&text, path, 1 << 24));
	for (size_t i = 0; i + strlen(from) <= text.n && !at; i++)
		if (memcmp(text.p + i, from, strlen(from)) == 0)
			at = text.p + i;
	assert_non_null(at);
	assert_true(strlen(to) <= strlen(from));
	memset(at, ' ', strlen(from));
	memcpy(at, to, strlen(to));
	assert_ok(file_replace(path, text.p, text.n));
	buf_release(&text);
	free(path);
	free(dir);
}

static void
assert_refused(struct packed *k, const char *want)
{
	assert_int_equal(fake_run(&k->f, &k->g, "validate/quantized", NULL), E_DATA);
	assert_string_equal(err_text(), want);
}

static void
checks_structure(void **state)
{
	static const struct { const char *node, *file, *from, *to, *text; } rows[] = {
		{"pack/files", "config.json", "\"format\": \"gptq\",\n    \"checkpoint_format\": \"gptq\"",
		 "\"checkpoint_format\": \"gptq_v2\"",
		 "the packed model: model.layers.0.self_attn.q_proj.qzeros: every zero point is stored as gptq does it, but the label says "
		 "checkpoint_format gptq_v2"},
		{"pack/files", "config.json", "\"quant_method\": \"gptq\"", "\"quant_method\": \"awq\"",
		 "the packed model: config.json: quantization_config.quant_method: awq is not one of gptq, compressed-tensors"},
		{"pack/shard-0", "model.safetensors", "model.layers.1.mlp.down_proj.g_idx", "model.layers.1.mlp.down_proj.g_idy",
		 "the packed model: model.layers.1.mlp.down_proj.g_idx is missing"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct packed k;

		packed_open(&k, "llama", "gptq", "{}");
		packed_random(&k);
		packed_run(&k);
		assert_ok(fake_run(&k.f, &k.g, "validate/quantized", NULL));
		harm_file(&k, rows[i].node, rows[i].file, rows[i].from, rows[i].to);
		assert_refused(&k, rows[i].text);
		packed_close(&k);
	}
}

/* ---- the report ---- */

static void
write_blocks(struct packed *k)
{
	for (int b = 0; b < k->f.p.weights.config.L; b++) {
		char *node = mem_format("quantize/%d", b), *dir = fake_folder(&k->f, node), *path = path_join(dir, "block.json");
		struct buf text = {0};

		buf_printf(&text, "{\"block\": %d, \"linears\": [{\"name\": \"model.layers.%d.mlp.down_proj\", "
		           "\"bits\": 4, \"group_size\": 32, \"sym\": true, "
		           "\"rows\": 64, \"cols\": 160, \"loss\": %s, \"tokens\": 2048, \"damp\": 0.05, \"dead\": "
			"%d, \"fallback\": \"%s\"}]}\n", b, b,
		           b ? "0.75" : "1.5", b, b ? "damp raised to 0.1" : "");
		assert_ok(file_replace(path, text.p, text.n));
		buf_release(&text);
		free(path);
		free(dir);
		free(node);
	}
}

static void
write_node(struct packed *k, const char *node, const char *file, const char *text)
{
	char *dir = fake_folder(&k->f, node), *path = path_join(dir, file);

	assert_ok(dir_make(dir));
	assert_ok(file_replace(path, text, strlen(text)));
	free(path);
	free(dir);
}

static void
report_of(struct packed *k, bool perplexity)
{
	packed_open(k, "llama", "gptq", "{}");
	if (perplexity)
		with_windows(k);
	packed_random(k);
	packed_graph(&k->f, &k->g);
	write_blocks(k);
	if (perplexity)
		write_node(k, "validate/original", "original.json", "{\"perplexity\": 20.0, \"windows\": 74, "
		           "\"seqlen\": 2048, \"tokens\": 151478}");
	write_node(k, "validate/quantized", "quantized.json",
	           perplexity ? "{\"tensors\": 63, \"perplexity\": 25.0, \"windows\": 74, \"seqlen\": 2048, "
		"\"tokens\": 151478, \"dtype\": \"float32\"}" : "{\"tensors\": 63}");
	assert_ok(fake_run(&k->f, &k->g, "validate/report", NULL));
}

static char *
report_path(const struct packed *k, const char *file)
{
	char *dir = fake_folder(&k->f, "validate/report"), *path = path_join(dir, file);

	free(dir);
	return path;
}

static void
reports(void **state)
{
	struct packed k;
	json_t *j, *ppl, *size;
	struct buf text = {0};
	char *path;

	(void)state;
	report_of(&k, true);
	j = load(&k, "validate/report", "report.json");
	ppl = json_object_get(j, "perplexity");
	size = json_object_get(j, "size");
	assert_true(json_real_value(json_object_get(ppl, "increase")) == 0.25);
	assert_string_equal(json_string_value(json_object_get(ppl, "dtype")), "float32");
	assert_true(json_real_value(json_object_get(j, "loss")) == 2.25);
	assert_int_equal(json_integer_value(json_object_get(j, "dead")), 1);
	assert_int_equal(json_array_size(json_object_get(j, "linears")), 2);
	assert_string_equal(json_string_value(json_object_get(json_object_get(j, "settings"), "quantize.damp_percent")), "0.05");
	assert_int_equal(json_integer_value(json_object_get(size, "bytes_before")), 2 * (4 * 86016 / 2) + 4 * (2 * 320 * 64 + 5 * 64));
	assert_true(json_real_value(json_object_get(size, "bits_per_weight_before")) == 32.0);
	json_decref(j);
	path = report_path(&k, "report.md");
	assert_ok(file_read(&text, path, 1 << 20));
	assert_non_null(strstr(buf_text(&text), "| perplexity | 20.0000 | 25.0000 | +25.00 % |\n"));
	assert_non_null(strstr(buf_text(&text), "| model.layers.1.mlp.down_proj | 64 x 160 | 4 | 32 | yes | 0.75 | "
	                       "0.05 | 1 | damp raised to 0.1 |\n"));
	assert_non_null(strstr(buf_text(&text), "\nPerplexity: 74 windows of 2048 tokens, 151478 predicted tokens, float32 arithmetic; "));
	assert_null(strstr(buf_text(&text), k.f.dir));
	buf_release(&text);
	free(path);
	packed_close(&k);
}

static void
judges(void **state)
{
	struct packed k;
	struct buf summary = {0};
	char *path;

	(void)state;
	report_of(&k, true);
	path = report_path(&k, "report.json");
	assert_ok(project_verdict(&k.f.p, path, &summary));
	assert_string_equal(buf_text(&summary),
	                    "                       before        after\n"
	                    "perplexity            20.0000      25.0000  +25.00 %  (74 windows of 2048 tokens)\n"
	                    "size                 509.2 kB     219.2 kB  43.0 %\n"
	                    "bits a weight           32.00        5.030  (2 quantized linears)\n"
	                    "1 linears needed a fallback: see report.md\n");
	k.f.s.validate.max_perplexity_increase = 0.25;
	assert_ok(project_verdict(&k.f.p, path, &summary));
	k.f.s.validate.max_perplexity_increase = 0.1;
	assert_int_equal(project_verdict(&k.f.p, path, &summary), E_GATE);
	assert_string_equal(err_text(), "perplexity grew by 25.00 % (20.0000 to 25.0000), more than "
	                    "validate.max_perplexity_increase allows: 0.1 (10 %)");
	buf_release(&summary);
	free(path);
	packed_close(&k);
}

static void
reports_without_perplexity(void **state)
{
	struct packed k;
	struct buf text = {0};
	json_t *j;
	char *path;

	(void)state;
	report_of(&k, false);
	assert_null(graph_find(&k.g, "validate/original"));
	assert_int_equal(graph_find(&k.g, "validate/quantized")->resource, RES_IO);
	j = load(&k, "validate/report", "report.json");
	assert_true(json_is_null(json_object_get(j, "perplexity")));
	json_decref(j);
	path = report_path(&k, "report.md");
	assert_ok(file_read(&text, path, 1 << 20));
	assert_non_null(strstr(buf_text(&text), "No perplexity was asked for"));
	k.f.s.validate.max_perplexity_increase = 0.1;
	free(path);
	path = report_path(&k, "report.json");
	assert_ok(project_verdict(&k.f.p, path, &text));
	buf_release(&text);
	free(path);
	packed_close(&k);
}

/* The limit is judged after the run and keys nothing; the arithmetic does. */
static void
keys(void **state)
{
	static const char *const nodes[] = {"validate/original", "validate/quantized", "validate/report"};

	(void)state;
	for (int change = 0; change < 3; change++)
		for (int i = 0; i < 3; i++) {
			struct packed a, b;

			packed_open(&a, "llama", "gptq", "{}");
			packed_open(&b, "llama", "gptq", "{}");
			with_windows(&a);
			with_windows(&b);
			if (change == 0)
				b.f.s.validate.max_perplexity_increase = 0.1;
			else
				b.f.s.validate.dtype = "float16";
			if (change == 2)
				a.f.s.validate.dtype = "bfloat16";
			packed_graph(&a.f, &a.g);
			packed_graph(&b.f, &b.g);
			assert_true((strcmp(buf_text(&graph_find(&a.g, nodes[i])->facts),
			                    buf_text(&graph_find(&b.g, nodes[i])->facts)) == 0) == (change == 0));
			packed_close(&a);
			packed_close(&b);
		}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(measures_perplexity),
		cmocka_unit_test(two_bits_hurt),
		cmocka_unit_test(checks_structure),
		cmocka_unit_test(reports),
		cmocka_unit_test(judges),
		cmocka_unit_test(reports_without_perplexity),
		cmocka_unit_test(keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
