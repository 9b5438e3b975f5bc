/* Data sets as documents, and their windows of ids. */
#include "stages/data/dataset.h"

#include <archive.h>
#include <archive_entry.h>

#include "qjob/base/hash.h"
#include "stages/project.h"
#include "tests/t.h"

/* ---- documents ---- */

struct place_of {
	char *dir, *recipe;      /* a folder, and a recipe in it that is never written */
};

static struct place_of
begin(void)
{
	struct place_of p;

	p.dir = t_dir();
	p.recipe = path_join(p.dir, "recipe.yaml");
	return p;
}

static void
end(struct place_of p)
{
	free(p.recipe);
	t_dir_end(p.dir);
}

static void
put(struct place_of p, const char *name, const char *text)
{
	char *path = path_join(p.dir, name);

	assert_ok(file_replace(path, text, strlen(text)));
	free(path);
}

static struct yaml *
tree_of(struct place_of p, const char *yaml)
{
	struct diag d = {0};
	struct yaml *y = yaml_parse(yaml, strlen(yaml), p.recipe, &d);

	assert_non_null(y);
	assert_int_equal(d.n, 0);
	diag_release(&d);
	return y;
}

static int
collect(void *own, const char *text, size_t n)
{
	buf_puts(own, "<");
	buf_add(own, text, n);
	buf_puts(own, ">");
	return 0;
}

static int
collect_ids(void *own, const int32_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_printf(own, "%s%d", i == 0 ? "(" : " ", ids[i]);
	buf_puts(own, ")");
	return 0;
}

static void
reads(struct place_of p, const char *yaml, const char *want)
{
	struct yaml *y = tree_of(p, yaml);
	struct buf b = {0};
	struct diag d = {0};

	dataset_check(y, "data", &d);
	if (d.n > 0)
		fail_msg("%s", d.v[0]);
	assert_ok(dataset_read(y, "text", (struct document_sink){.document = collect, .ids = collect_ids, .own = &b}));
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
	diag_release(&d);
	yaml_free(y);
}

/* What dataset_check says, without the recipe's folder in front. */
static void
refuses(struct place_of p, const char *yaml, const char *words)
{
	struct yaml *y = tree_of(p, yaml);
	struct diag d = {0};
	char *want = mem_format("%s%s", p.recipe, words);

	dataset_check(y, "data", &d);
	assert_int_equal(d.n, 1);
	assert_string_equal(d.v[0], want);
	free(want);
	diag_release(&d);
	yaml_free(y);
}

static void
fails(struct place_of p, const char *yaml, int code, const char *words)
{
	struct yaml *y = tree_of(p, yaml);
	struct buf b = {0};

	assert_int_equal(dataset_read(y, "text", (struct document_sink){.document = collect, .ids = collect_ids, .own = &b}), code);
	assert_true(strncmp(err_text(), p.dir, strlen(p.dir)) == 0);
	assert_string_equal(err_text() + strlen(p.dir) + 1, words);
	buf_release(&b);
	yaml_free(y);
}

static void
reads_files_and_lists(void **state)
{
	struct place_of p = begin();

	(void)state;
	put(p, "a.txt", "one\ntwo\n");
	put(p, "b.jsonl", "{\"text\": \"x\\u0000y\", \"body\": \"B\"}\r\n\n"
	    "{\"text\": \"\", \"body\": null}\n{\"text\": \"z\", \"body\": \"C\"}");
	put(p, "noname", "plain");
	put(p, "empty.txt", "");
	reads(p, "a.txt", "<one\ntwo\n>");
	reads(p, "./a.txt", "<one\ntwo\n>");
	reads(p, "noname", "<plain>");
	reads(p, "empty.txt", "");
	reads(p, "{file: b.jsonl, field: body}", "<B><C>");
	reads(p, "[first, \"second\", {file: a.txt}, {file: b.jsonl, field: body}]", "<first><second><one\ntwo\n><B><C>");
	reads(p, "{file: b.jsonl, kind: text}", "<{\"text\": \"x\\u0000y\", \"body\": \"B\"}\r\n\n{\"text\": \"\", \"body\": null}\n"
	         "{\"text\": \"z\", \"body\": \"C\"}>");
	assert_ok(dataset_read(NULL, "text", (struct document_sink){.document = collect}));
	end(p);
}

static void
takes_ids_as_they_are(void **state)
{
	struct place_of p = begin();
	struct yaml *y;

	(void)state;
	put(p, "ids.jsonl", "{\"input_ids\": [5, 0, 2147483647], \"mask\": [1]}\n"
	    "{\"input_ids\": []}\n{\"text\": \"t\"}\n");
	put(p, "mine.jsonl", "{\"mine\": [7], \"input_ids\": [8]}");
	put(p, "bad.jsonl", "{\"input_ids\": [1, -1]}");
	put(p, "real.jsonl", "{\"text\": [1.5]}");
	reads(p, "ids.jsonl", "(5 0 2147483647)<t>");
	reads(p, "{file: mine.jsonl, field: mine}", "(7)");
	reads(p, "{file: mine.jsonl}", "(8)");
	fails(p, "bad.jsonl", E_DATA, "bad.jsonl: line 1: field 'input_ids': item 1 is not a token id");
	fails(p, "real.jsonl", E_DATA, "real.jsonl: line 1: field 'text': item 0 is not a token id");
	y = tree_of(p, "ids.jsonl");
	assert_int_equal(dataset_needs_tokenizer(y, "text"), 1);
	yaml_free(y);
	y = tree_of(p, "mine.jsonl");
	assert_int_equal(dataset_needs_tokenizer(y, "text"), 0);
	yaml_free(y);
	end(p);
}

static void
keeps_nul_in_jsonl(void **state)
{
	struct place_of p = begin();
	struct yaml *y;
	struct buf b = {0};

	(void)state;
	put(p, "b.jsonl", "{\"text\": \"x\\u0000y\"}\n");
	y = tree_of(p, "b.jsonl");
	assert_ok(dataset_read(y, "text", (struct document_sink){.document = collect, .ids = collect_ids, .own = &b}));
	assert_int_equal(b.n, 5);
	assert_memory_equal(b.p, "<x\0y>", 5);
	buf_release(&b);
	yaml_free(y);
	end(p);
}

static void
reads_folders_in_order(void **state)
{
	struct place_of p = begin();
	char *sub = path_join(p.dir, "data/inner"), *words;

	(void)state;
	assert_ok(dir_make(sub));
	put(p, "data/b.txt", "B");
	put(p, "data/a.txt", "A");
	put(p, "data/B.txt", "capital");
	put(p, "data/.hidden", "no");
	put(p, "data/c.jsonl", "{\"text\":\"C\"}");
	put(p, "data/inner/d.txt", "no");
	reads(p, "data", "<capital><A><B><C>");
	put(p, "data/x.arrow", "ARROW1");
	words = mem_format(":1:8: data: '%s/data/x.arrow': arrow files are not read; write one JSON object a line "
	                   "into a .jsonl file", p.dir);
	refuses(p, "{file: data}", words);
	free(words);
	free(sub);
	end(p);
}

/* As the hub has its rows, joined as published perplexities are. */
static void
reads_wikitext(void **state)
{
	struct place_of p = begin();

	(void)state;
	put(p, "wiki.raw", " \n = Title = \n \n Text . \n");
	reads(p, "{file: wiki.raw, kind: wikitext}", "<\n\n = Title = \n\n\n\n\n Text . \n>");
	reads(p, "wiki.raw", "< \n = Title = \n \n Text . \n>");
	end(p);
}

static void
pack(const char *path, const char *text, size_t n, int (*filter)(struct archive *))
{
	struct archive *a = archive_write_new();
	struct archive_entry *e = archive_entry_new();

	assert_int_equal(filter(a), ARCHIVE_OK);
	assert_int_equal(archive_write_set_format_raw(a), ARCHIVE_OK);
	assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
	archive_entry_set_filetype(e, AE_IFREG);
	assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(a, text, n), n);
	archive_entry_free(e);
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
}

/* An archive of those files, one a name; NULL ends them. */
static void
archive(const char *path, const char *const files[][2], int (*format)(struct archive *), int (*filter)(struct archive *))
{
	struct archive *a = archive_write_new();

	assert_int_equal(format(a), ARCHIVE_OK);
	assert_int_equal(filter(a), ARCHIVE_OK);
	assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
	for (size_t i = 0; files[i][0]; i++) {
		struct archive_entry *e = archive_entry_new();
		size_t n = strlen(files[i][1]);

		archive_entry_set_pathname(e, files[i][0]);
		archive_entry_set_filetype(e, AE_IFREG);
		archive_entry_set_perm(e, 0644);
		archive_entry_set_size(e, (la_int64_t)n);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		assert_int_equal(archive_write_data(a, files[i][1], n), n);
		archive_entry_free(e);
	}
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
}

/* Each as its name says, in the archive's order. */
static void
reads_archives(void **state)
{
	static const char *const files[][2] = {
		{"data/b.txt", "B"}, {"data/.hidden", "no"}, {"a.jsonl", "{\"text\":\"A\"}\n{\"text\":\"AA\"}\n"},
		{"__MACOSX/b.txt", "no"}, {0},
	};
	static const char *const bad[][2] = {{"b.txt", "B"}, {"x/a.jsonl", "[1]"}, {0}}, *const odd[][2] = {{"a.csv", "1,2"}, {0}};
	struct place_of p = begin();
	char *path = path_join(p.dir, "x.zip");

	(void)state;
	archive(path, files, archive_write_set_format_zip, archive_write_add_filter_none);
	reads(p, "x.zip", "<B><A><AA>");
	archive(path, bad, archive_write_set_format_zip, archive_write_add_filter_none);
	fails(p, "x.zip", E_DATA, "x.zip: x/a.jsonl: line 1: not a JSON object");
	archive(path, odd, archive_write_set_format_zip, archive_write_add_filter_none);
	fails(p, "x.zip", E_USE, "x.zip: a.csv: csv files are not read there; write one JSON object a line into a .jsonl file");
	put(p, "x.zip", "no archive at all");
	fails(p, "x.zip", E_DATA, "x.zip: Unrecognized archive format");
	free(path);
	path = path_join(p.dir, "x.tar.gz");
	archive(path, files, archive_write_set_format_ustar, archive_write_add_filter_gzip);
	reads(p, "x.tar.gz", "<B><A><AA>");
	free(path);
	path = path_join(p.dir, "x.tgz");
	archive(path, files, archive_write_set_format_ustar, archive_write_add_filter_gzip);
	reads(p, "x.tgz", "<B><A><AA>");
	free(path);
	end(p);
}

static void
unpacks(void **state)
{
	static const struct { const char *suffix; int (*filter)(struct archive *); } rows[] = {
		{"gz", archive_write_add_filter_gzip}, {"xz", archive_write_add_filter_xz}, {"zst", archive_write_add_filter_zstd},
		{"bz2", archive_write_add_filter_bzip2},
	};
	struct place_of p = begin();

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		char *path = mem_format("%s/a.jsonl.%s", p.dir, rows[i].suffix), *yaml = mem_format("a.jsonl.%s", rows[i].suffix);
		struct buf b = {0};

		pack(path, "{\"text\":\"packed\"}\n", 18, rows[i].filter);
		reads(p, yaml, "<packed>");
		assert_ok(file_read(&b, path, 1000));
		assert_ok(file_replace(path, b.p, b.n - 6));
		{
			struct document_sink to = {.document = collect, .ids = collect_ids, .own = &b};
			struct yaml *y = tree_of(p, yaml);

			assert_int_equal(dataset_read(y, "text", to), E_DATA);
			yaml_free(y);
		}
		buf_release(&b);
		free(path);
		free(yaml);
	}
	put(p, "fake.gz", "no archive");
	fails(p, "fake.gz", E_DATA, "fake.gz: not packed as its name says");
	end(p);
}

static void
says_what_it_cannot_read(void **state)
{
	struct place_of p = begin();
	char *empty = path_join(p.dir, "empty"), *words;

	(void)state;
	assert_ok(dir_make(empty));
	put(p, "a.txt", "A");
	words = mem_format(":1:1: data: 'wikitext2' is neither a file nor a folder (tried %s/wikitext2); give a text file, "
	                   "a .jsonl or .parquet file or a folder of such: data sets of a hub are not fetched", p.dir);
	refuses(p, "wikitext2", words);
	free(words);
	words = mem_format(":1:1: data: folder '%s' has no files", empty);
	refuses(p, "empty", words);
	free(words);
	refuses(p, "[]", ":1:1: data: an empty list");
	refuses(p, "[[a]]", ":1:2: data: an item is neither a text nor a map {file, field}");
	refuses(p, "[a.txt]", ":1:2: data: 'a.txt' is a file, but an item of a list is a text; write {file: PATH} to read it");
	refuses(p, "[{field: x}]", ":1:2: data: a map without 'file'");
	refuses(p, "{file: a.txt, split: test}", ":1:15: data: unknown key 'split'; known: file, field, kind");
	refuses(p, "{file: a.txt, kind: csv}", ":1:21: data: kind 'csv' is not one of text, jsonl, parquet, archive, wikitext");
	refuses(p, "{file: [a.txt]}", ":1:8: data: 'file' is not a text");
	refuses(p, "[{role: user}]", ":1:3: data: 'role': chat messages are not read yet; give their text");
	put(p, "c.jsonl", "{\"text\":\"x\"}\n{\"body\":\"x\"}\n");
	fails(p, "c.jsonl", E_USE, "c.jsonl: line 2: no field 'text'; `field` names the one that holds the text");
	put(p, "c.jsonl", "{\"messages\":[]}\n");
	fails(p, "c.jsonl", E_USE, "c.jsonl: line 1: chat messages are not read yet; write their text into a field 'text'");
	put(p, "c.jsonl", "\n[1]");
	fails(p, "c.jsonl", E_DATA, "c.jsonl: line 2: not a JSON object");
	put(p, "c.jsonl", "{\"text\":3}");
	fails(p, "c.jsonl", E_DATA, "c.jsonl: line 1: field 'text' is neither a text nor a list of token ids");
	put(p, "c.jsonl", "{\"text\":");
	fails(p, "c.jsonl", E_DATA, "c.jsonl: line 1: no JSON: unexpected token near end of file");
	free(empty);
	end(p);
}

static void
made_up_ids_follow_their_seed(void **state)
{
	struct place_of p = begin();
	struct yaml *y = tree_of(p, "synthetic:tokens?seed=3"), *z = tree_of(p, "{file: 'synthetic:tokens'}");
	struct buf b = {0};
	struct texts files = {0};
	struct document_sink to = {.document = collect, .ids = collect_ids, .own = &b, .vocabulary = 1000, .made_up = 5};

	(void)state;
	assert_true(dataset_is_synthetic(y));
	assert_true(dataset_is_synthetic(z));
	assert_false(dataset_is_synthetic(NULL));
	assert_int_equal(dataset_needs_tokenizer(y, "text"), 0);
	dataset_files(y, &files);
	assert_int_equal(files.n, 0);
	assert_ok(dataset_read(y, "text", to));
	assert_string_equal(buf_text(&b), "(737 736 138 35 190)");
	buf_clear(&b);
	to.vocabulary = 1;
	assert_ok(dataset_read(z, "text", to));
	assert_string_equal(buf_text(&b), "(0 0 0 0 0)");
	buf_clear(&b);
	assert_ok(dataset_facts(y, "text", &b));
	assert_string_equal(buf_text(&b), "data 0 synthetic tokens 1 seed 3\n");
	buf_release(&b);
	free(files.v);
	yaml_free(z);
	yaml_free(y);
	end(p);
}

/* Facts name contents, never paths. */
static void
facts_follow_content(void **state)
{
	struct place_of p = begin();
	struct yaml *y;
	struct buf b = {0};
	struct texts files = {0};
	char hex[SHA256_HEX], *want;

	(void)state;
	put(p, "a.txt", "A");
	put(p, "b.jsonl", "{\"text\":\"x\"}");
	y = tree_of(p, "[given, {file: a.txt, field: unused}, {file: b.jsonl}, {file: b.jsonl, field: body}]");
	assert_ok(dataset_facts(y, "text", &b));
	assert_null(strstr(buf_text(&b), p.dir));
	sha256_of("A", 1, hex);
	want = mem_format("\ndata 1 text sha256:%s\n", hex);
	assert_non_null(strstr(buf_text(&b), want));
	free(want);
	sha256_of("given", 5, hex);
	want = mem_format("data 0 given sha256:%s\n", hex);
	assert_true(strncmp(buf_text(&b), want, strlen(want)) == 0);
	free(want);
	assert_non_null(strstr(buf_text(&b), " field text\n"));
	assert_non_null(strstr(buf_text(&b), " field body\n"));
	dataset_files(y, &files);
	assert_int_equal(files.n, 3);
	want = path_join(p.dir, "a.txt");
	assert_string_equal(files.v[0], want);
	free(want);
	for (size_t i = 0; i < files.n; i++)
		free((char *)files.v[i]);
	free(files.v);
	dataset_files(NULL, &(struct texts){0});
	buf_release(&b);
	yaml_free(y);
	end(p);
}

/* ---- windows ---- */

struct fixture {
	struct place_of at;
	struct settings s;
	struct project p;
	struct graph g;
	struct yaml *tree;
	struct stage fetch;
	char *log;
};

static void
on_progress(struct job *j, double done, double of, const char *text)
{
	(void)j;
	(void)text;
	assert_true(done <= of);
}

static void
on_log(struct job *j, enum log_level level, const char *text)
{
	struct fixture *f = j->own;

	assert_int_equal(level, LOG_WARN);
	free(f->log);
	f->log = mem_text(text);
}

static bool
never(struct job *j)
{
	(void)j;
	return false;
}

static const struct job_host host = {.progress = on_progress, .log = on_log, .stop = never};

/* A model whose ids are the letters' places in the alphabet, begun by 26. */
static void
set_up(struct fixture *f, const char *data)
{
	struct buf json = {0};

	*f = (struct fixture){.at = begin(), .fetch = {.name = "fetch", .version = 1}};
	buf_puts(&json, "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}},"
	         "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"s\":{\"ids\":[26]}}},"
	         "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
	for (char c = 'a'; c <= 'z'; c++)
		buf_printf(&json, "%s\"%c\":%d", c > 'a' ? "," : "", c, c - 'a');
	buf_puts(&json, "}}}");
	put(f->at, "tokenizer.json", buf_text(&json));
	buf_release(&json);
	f->tree = tree_of(f->at, data);
	f->s.calibration = (struct calibration_params){.dataset = f->tree, .field = "text", .windows = "concat", .samples = 2, .seqlen = 4};
	f->s.validate.perplexity = (struct perplexity_params){.dataset = f->tree, .field = "text", .seqlen = 3};
	f->p.s = &f->s;
	f->p.weights.folder = f->at.dir;
	f->p.weights.config.V = 27;
	f->p.wish.needs = NEED_GRAM;
	graph_add(&f->g, &f->fetch, 0, "fetch/tokenizer.json");
}

static void
tear_down(struct fixture *f)
{
	graph_release(&f->g);
	yaml_free(f->tree);
	free(f->log);
	end(f->at);
}

static int
run(struct fixture *f, const char *node)
{
	struct job job = {.node = graph_find(&f->g, node), .project = &f->p, .host = &host, .own = f, .out = f->at.dir};

	assert_non_null(job.node);
	return stage_tokenize.run(&job);
}

/* Rows as letters, | between them; 26 is ^. */
static void
windows_are(struct fixture *f, const char *node, const char *want)
{
	char *path = path_join(f->at.dir, "ids.safetensors");
	const struct tensor *t;
	struct safetensors s;
	struct buf b = {0};

	assert_ok(run(f, node));
	assert_ok(safetensors_open(&s, path));
	t = safetensors_find(&s, "input_ids");
	assert_non_null(t);
	assert_int_equal(t->type, I32);
	assert_int_equal(t->rank, 2);
	for (int64_t i = 0; i < t->shape[0] * t->shape[1]; i++) {
		int32_t id = ((const int32_t *)t->p)[i];

		buf_printf(&b, "%s%c", i > 0 && i % t->shape[1] == 0 ? "|" : "", id == 26 ? '^' : 'a' + id);
	}
	assert_string_equal(buf_text(&b), want);
	safetensors_close(&s);
	buf_release(&b);
	free(path);
}

static void
cuts_in_order(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, "[abcde, fg, hijklmn]");
	assert_ok(stage_tokenize.expand(&f.g, &f.p));
	windows_are(&f, "tokenize/calibration", "^abc|de^f");
	windows_are(&f, "tokenize/evaluation", "^ab|cde|^fg|^hi|jkl");
	f.s.validate.perplexity.windows = 2;
	windows_are(&f, "tokenize/evaluation", "^ab|cde");
	assert_null(f.log);
	f.s.validate.perplexity.windows = 9;
	windows_are(&f, "tokenize/evaluation", "^ab|cde|^fg|^hi|jkl");
	assert_string_equal(f.log, "validate.perplexity: the text has 5 windows of 3 tokens, fewer than the 9 asked for");
	tear_down(&f);
}

static void
draws_by_seed(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, "[abcdefghijklmnopqrstuvwxyz]");
	f.s.calibration.windows = "random";
	f.s.calibration.samples = 6;
	assert_ok(stage_tokenize.expand(&f.g, &f.p));
	windows_are(&f, "tokenize/calibration", "uvwx|mnop|nopq|bcde|jklm|ijkl");
	assert_null(f.log);
	f.s.calibration.seed = 1;
	windows_are(&f, "tokenize/calibration", "rstu|cdef|pqrs|opqr|ijkl|ghij");
	f.s.calibration.samples = 7;
	assert_ok(run(&f, "tokenize/calibration"));
	assert_string_equal(f.log, "calibration: 7 samples of 4 tokens are drawn from only 27 tokens, so they overlap");
	tear_down(&f);
}

static void
says_when_text_is_short(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, "[abc, de]");
	assert_ok(stage_tokenize.expand(&f.g, &f.p));
	assert_int_equal(run(&f, "tokenize/calibration"), E_USE);
	assert_string_equal(err_text(), "calibration: the text gives 7 tokens, but 2 samples of seqlen 4 need 8; lower samples to 1, lower "
	                    "seqlen, or give more text");
	f.s.calibration.seqlen = 8;
	assert_int_equal(run(&f, "tokenize/calibration"), E_USE);
	assert_string_equal(err_text(), "calibration: the text gives 7 tokens, less than one window of seqlen 8; lower "
	                    "seqlen or give more text");
	f.p.weights.config.V = 26;
	assert_int_equal(run(&f, "tokenize/evaluation"), E_DATA);
	assert_string_equal(err_text(), "the tokenizer gives id 26, but the model has 26 embeddings");
	tear_down(&f);
}

static void
declares_what_decides(void **state)
{
	struct fixture f;
	struct node *n;

	(void)state;
	set_up(&f, "[abc]");
	f.p.wish.needs = 0;
	f.s.validate.perplexity.dataset = NULL;
	assert_ok(stage_tokenize.expand(&f.g, &f.p));
	assert_int_equal(f.g.n, 1);
	f.p.wish.needs = NEED_GRAM;
	assert_ok(stage_tokenize.expand(&f.g, &f.p));
	assert_int_equal(f.g.n, 2);
	n = graph_find(&f.g, "tokenize/calibration");
	assert_non_null(n);
	assert_int_equal(n->nneeds, 1);
	assert_string_equal(n->needs[0].label, "file tokenizer.json");
	assert_string_equal(n->needs[0].what, "content");
	assert_non_null(strstr(buf_text(&n->facts), "stage tokenize 1\n"));
	assert_non_null(strstr(buf_text(&n->facts), "library pcre2 "));
	assert_non_null(strstr(buf_text(&n->facts), "set windows concat\nset rows 2\nset seqlen 4\ndata 0 given sha256:"));
	assert_null(strstr(buf_text(&n->facts), "seed"));
	assert_null(strstr(buf_text(&n->facts), f.at.dir));
	tear_down(&f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_files_and_lists),
		cmocka_unit_test(takes_ids_as_they_are),
		cmocka_unit_test(keeps_nul_in_jsonl),
		cmocka_unit_test(reads_folders_in_order),
		cmocka_unit_test(reads_wikitext),
		cmocka_unit_test(reads_archives),
		cmocka_unit_test(unpacks),
		cmocka_unit_test(says_what_it_cannot_read),
		cmocka_unit_test(made_up_ids_follow_their_seed),
		cmocka_unit_test(facts_follow_content),
		cmocka_unit_test(cuts_in_order),
		cmocka_unit_test(draws_by_seed),
		cmocka_unit_test(says_when_text_is_short),
		cmocka_unit_test(declares_what_decides),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
