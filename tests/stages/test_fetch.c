/* What fetch says of a model's files. */
#include "qjob/base/chunks.h"
#include "qjob/base/hash.h"
#include "stages/project.h"
#include "tests/t.h"

enum { MOST = 16, LONG = 2 * CHUNK_BYTES + 8 };

/* A project of one file, and what its node exported. */
struct fetched {
	struct project p;
	struct weights_file weights;
	struct project_file file;
	struct graph g;
	size_t n;
	char *what[MOST];
	char hex[MOST][SHA256_HEX];
	double done, of;
	bool stops;
};

static char *dir;
static unsigned char *bytes;    /* LONG of them */

static int
set_up(void **state)
{
	(void)state;
	dir = t_dir();
	bytes = mem_new(LONG, 1);
	for (size_t i = 0; i < LONG; i++)
		bytes[i] = (unsigned char)(i * i >> 9);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	free(bytes);
	t_dir_end(dir);
	return 0;
}

/* ---- a node and its host ---- */

static void
exports(struct job *j, const char *what, const char *sha256)
{
	struct fetched *f = j->own;

	assert_true(f->n < MOST);
	f->what[f->n] = mem_text(what);
	memcpy(f->hex[f->n++], sha256, SHA256_HEX);
}

static void
progress(struct job *j, double done, double of, const char *text)
{
	struct fetched *f = j->own;

	assert_null(text);
	assert_true(done >= f->done && done <= of);
	f->done = done;
	f->of = of;
}

static bool
stop(struct job *j)
{
	return ((struct fetched *)j->own)->stops;
}

static const struct job_host host = {.exports = exports, .progress = progress, .stop = stop};

static void
open_file(struct fetched *f, const char *name)
{
	*f = (struct fetched){.p.turn = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER}};
	f->file = (struct project_file){.name = (char *)name, .path = path_join(dir, name)};
	f->p.files = &f->file;
	f->p.nfiles = 1;
	assert_ok(stage_fetch.expand(&f->g, &f->p));
}

/* Every tensor has the first of the bytes, as many as it takes. */
static void
open_tensors(struct fetched *f, const struct tensor *v, size_t n)
{
	struct safetensors_out *o;

	open_file(f, "model.safetensors");
	assert_ok(safetensors_begin(&o, f->file.path, v, n));
	for (size_t i = 0; i < n; i++)
		assert_ok(safetensors_add(o, bytes, tensor_bytes(&v[i])));
	assert_ok(safetensors_end(o));
	f->weights = (struct weights_file){.name = f->file.name, .path = f->file.path};
	assert_ok(safetensors_open(&f->weights.st, f->file.path));
	f->p.weights.files = &f->weights;
	f->p.weights.nfiles = 1;
}

static int
fetch(struct fetched *f)
{
	struct job job = {.node = f->g.v[0], .project = &f->p, .host = &host, .own = f};

	return stage_fetch.run(&job);
}

static void
close_file(struct fetched *f)
{
	if (f->p.weights.nfiles)
		safetensors_close(&f->weights.st);
	for (size_t i = 0; i < f->n; i++)
		free(f->what[i]);
	graph_release(&f->g);
	free(f->file.path);
}

/* ---- what it exports ---- */

/* The digest by its definition, of a tensor with the first n bytes; kind: its type and shape. */
static void
digest_plainly(const char *kind, size_t n, char hex[SHA256_HEX])
{
	struct buf text = {0};

	buf_printf(&text, "qjob-tensor 1\n%s\n", kind);
	for (size_t at = 0; at < n; at += CHUNK_BYTES) {
		sha256_of(bytes + at, n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES, hex);
		buf_printf(&text, "%s\n", hex);
	}
	sha256_of(text.p, text.n, hex);
	buf_release(&text);
}

/* Long ones begin and end anywhere in the file; "again" has another name and place, and is the same. */
static const struct row { struct tensor t; const char *kind; } rows[] = {
	{{.name = (char *)"a",         .type = F32,  .rank = 2, .shape = {2, 3}},                     "F32 2 3"},
	{{.name = (char *)"type",      .type = I32,  .rank = 2, .shape = {2, 3}},                     "I32 2 3"},
	{{.name = (char *)"turned",    .type = F32,  .rank = 2, .shape = {3, 2}},                     "F32 3 2"},
	{{.name = (char *)"flat",      .type = F32,  .rank = 1, .shape = {6}},                        "F32 6"},
	{{.name = (char *)"empty",     .type = F32,  .rank = 2, .shape = {0, 3}},                     "F32 0 3"},
	{{.name = (char *)"one",       .type = F32,  .rank = 0},                                      "F32"},
	{{.name = (char *)"byte",      .type = U8,   .rank = 1, .shape = {1}},                        "U8 1"},
	{{.name = (char *)"long",      .type = BF16, .rank = 2, .shape = {4, LONG / 8}},              "BF16 4 1048577"},
	{{.name = (char *)"chunk",     .type = U8,   .rank = 1, .shape = {CHUNK_BYTES}},              "U8 4194304"},
	{{.name = (char *)"long type", .type = F16,  .rank = 2, .shape = {4, LONG / 8}},              "F16 4 1048577"},
	{{.name = (char *)"again",     .type = F32,  .rank = 2, .shape = {2, 3}},                     "F32 2 3"},
};
enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void
a_digest_is_of_type_shape_and_bytes(void **state)
{
	struct tensor v[ROWS];
	struct fetched f;

	(void)state;
	for (size_t i = 0; i < ROWS; i++)
		v[i] = rows[i].t;
	open_tensors(&f, v, ROWS);
	assert_ok(fetch(&f));
	assert_int_equal(f.n, ROWS);
	for (size_t i = 0; i < ROWS; i++) {
		char want[SHA256_HEX];

		digest_plainly(rows[i].kind, tensor_bytes(&rows[i].t), want);
		assert_string_equal(f.what[i], rows[i].t.name);
		assert_string_equal(f.hex[i], want);
	}
	for (size_t i = 0; i < ROWS; i++)
		for (size_t k = 0; k < i; k++)
			assert_int_equal(strcmp(f.hex[i], f.hex[k]) == 0, i == ROWS - 1 && k == 0);
	assert_true(f.done > 0 && f.of >= 2.0 * LONG + CHUNK_BYTES);
	close_file(&f);
}

static void
another_file_is_its_content(void **state)
{
	struct fetched f;
	char want[SHA256_HEX];

	(void)state;
	open_file(&f, "config.json");
	assert_ok(file_replace(f.file.path, bytes, 1000));
	assert_ok(fetch(&f));
	sha256_of(bytes, 1000, want);
	assert_int_equal(f.n, 1);
	assert_string_equal(f.what[0], "content");
	assert_string_equal(f.hex[0], want);
	close_file(&f);
}

/* Nothing is exported, and the turn is over. */
static void
an_interrupt_leaves_nothing(void **state)
{
	struct fetched f;

	(void)state;
	open_tensors(&f, &rows[0].t, 1);
	f.stops = true;
	assert_int_equal(fetch(&f), E_SYS);
	assert_string_equal(err_text(), "interrupted");
	assert_int_equal(f.n, 0);
	f.stops = false;
	assert_ok(fetch(&f));
	assert_int_equal(f.n, 1);
	close_file(&f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_digest_is_of_type_shape_and_bytes),
		cmocka_unit_test(another_file_is_its_content),
		cmocka_unit_test(an_interrupt_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
