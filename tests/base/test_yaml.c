#include "qjob/base/yaml.h"

#include "qjob/base/buf.h"
#include "tests/t.h"

static struct yaml *
parse(const char *text)
{
	struct diag d = {0};
	struct yaml *y = yaml_parse(text, strlen(text), "r.yaml", &d);

	if (d.n)
		print_error("%s\n", d.v[0]);
	assert_int_equal(d.n, 0);
	assert_non_null(y);
	diag_release(&d);
	return y;
}

/* All problems of the text, joined by newlines. */
static void
assert_problems_n(const char *text, size_t n, const char *want)
{
	struct diag d = {0};
	struct buf b = {0};
	struct yaml *y = yaml_parse(text, n, "r.yaml", &d);

	for (size_t i = 0; i < d.n; i++)
		buf_printf(&b, "%s%s", i ? "\n" : "", d.v[i]);
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
	diag_release(&d);
	yaml_free(y);
}

static void
assert_problems(const char *text, const char *want)
{
	assert_problems_n(text, strlen(text), want);
}

static void
assert_flow(const struct yaml *y, const char *want)
{
	struct buf b = {0};

	yaml_write(&b, y);
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
}

static void
remembers_places(void **state)
{
	struct yaml *y = parse("# comment\nmodel:\n  source: \xc3\xa9/x  # y\nlist: [1, two, {a: 'b'}]\n"), *list;

	(void)state;
	assert_int_equal(y->kind, YAML_MAP);
	assert_int_equal(y->at.line, 2);
	assert_int_equal(yaml_key(y, "model")->at.line, 2);
	assert_string_equal(yaml_get(yaml_get(y, "model"), "source")->text, "\xc3\xa9/x");
	assert_int_equal(yaml_get(yaml_get(y, "model"), "source")->at.line, 3);
	assert_int_equal(yaml_get(yaml_get(y, "model"), "source")->at.column, 11);
	assert_string_equal(yaml_get(yaml_get(y, "model"), "source")->at.file, "r.yaml");
	list = yaml_get(y, "list");
	assert_int_equal(list->n, 3);
	assert_int_equal(list->v[1]->at.column, 11);
	assert_false(list->v[0]->quoted);
	assert_true(yaml_get(list->v[2], "a")->quoted);
	assert_null(yaml_get(y, "absent"));
	assert_null(yaml_get(list, "absent"));
	assert_null(yaml_key(y, "absent"));
	yaml_free(y);
}

static void
knows_what_is_null(void **state)
{
	struct yaml *y = parse("{a: ~, b: null, c: , d: '', e: 'null', f: [], g: nul}");
	static const char *const keys[] = {"a", "b", "c", "d", "e", "f", "g"};

	(void)state;
	for (int i = 0; i < 7; i++)
		assert_int_equal(yaml_is_null(yaml_get(y, keys[i])), i < 3);
	assert_true(yaml_is_null(NULL));
	yaml_free(y);
}

static void
follows_aliases(void **state)
{
	struct yaml *y = parse("a: &x {p: 1, q: [2]}\nb: *x\nc: &y 5\nd: [*y, *x]\ne: &x 7\nf: *x\n");

	(void)state;
	assert_flow(y, "{a: {p: 1, q: [2]}, b: {p: 1, q: [2]}, c: 5, d: [5, {p: 1, q: [2]}], e: 7, f: 7}");
	yaml_free(y);
	assert_problems("a: *x\n", "r.yaml:1:4: alias '*x' has no anchor before it");
	assert_problems("a: &x [*x]\n", "r.yaml:1:8: alias '*x' has no anchor before it");
	assert_problems("&x a: 1\n*x : 2\n", "r.yaml:2:1: a name before ':' must be a plain text");
}

static void
bounds_aliases(void **state)
{
	struct buf b = {0};

	(void)state;
	buf_puts(&b, "a0: &a0 lol\n");
	for (int i = 1; i < 12; i++)
		buf_printf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i - 1, i - 1, i - 1, i - 1, i - 1,
		           i - 1, i - 1, i - 1);
	assert_problems(buf_text(&b), "r.yaml:7:26: aliases expand to more than 16 MiB");
	buf_clear(&b);
	buf_puts(&b, "a0: &a0 [x]\n");
	for (int i = 1; i < 70; i++)
		buf_printf(&b, "a%d: &a%d [*a%d]\n", i, i, i - 1);
	assert_problems(buf_text(&b), "r.yaml:64:12: more than 64 levels deep");
	buf_release(&b);
}

static void
bounds_depth(void **state)
{
	char deep[4001];

	(void)state;
	memset(deep, '[', 4000);
	deep[4000] = '\0';
	assert_problems(deep, "r.yaml:1:66: more than 64 levels deep");
	for (int i = 0; i < 2000; i++)
		memcpy(deep + 2 * i, "- ", 3);
	assert_problems(deep, "r.yaml:1:131: more than 64 levels deep");
}

static void
reports_doubled_keys(void **state)
{
	(void)state;
	assert_problems("a: 1\nb:\n  c: &x 1\n  c: &y 2\n  c: 3\na: *y\n",
	                "r.yaml:4:3: 'c' stands here again; it was already given in line 3, column 3\n"
	                "r.yaml:5:3: 'c' stands here again; it was already given in line 3, column 3\n"
	                "r.yaml:6:1: 'a' stands here again; it was already given in line 1, column 1");
}

static void
refuses_what_it_does_not_support(void **state)
{
	(void)state;
	assert_problems("a: !!str 5\nb: !x [1]\n",
	                "r.yaml:1:4: tags are not supported, found 'tag:yaml.org,2002:str'\n"
	                "r.yaml:2:4: tags are not supported, found '!x'");
	assert_problems("a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x\n",
	                "r.yaml:3:3: merge keys (<<) are not supported; write the keys out\n"
	                "r.yaml:4:3: merge keys (<<) are not supported; write the keys out");
	assert_problems("a: 1\n---\nb: 2\n", "r.yaml:2:1: a second document begins here; only one is read");
	assert_problems("", "r.yaml:1:1: nothing is written here");
	assert_problems("# only a comment\n", "r.yaml:2:1: nothing is written here");
	assert_problems("? [a]\n: 1\n", "r.yaml:1:3: a name before ':' must be a plain text");
	assert_problems("?\n: 1\n", "r.yaml:1:2: a name before ':' is missing");
	assert_problems("a: \"x\\0y\"\n", "r.yaml:1:4: a text must not hold a NUL character");
}

static void
reports_syntax_errors(void **state)
{
	(void)state;
	assert_problems("a: [1, 2\nb: 3\n", "r.yaml:2:2: not YAML: did not find expected ',' or ']', "
	                "while parsing a flow sequence that began in line 1");
	assert_problems("a: 'x\n", "r.yaml:2:1: not YAML: found unexpected end of stream, "
	                "while scanning a quoted scalar that began in line 1");
	assert_problems("a:\n\tb: 1\n", "r.yaml:2:1: not YAML: found character that cannot start any token");
	assert_problems("a: b: c\n", "r.yaml:1:5: not YAML: mapping values are not allowed in this context");
	assert_problems("a: x\nb: \xc3\xa9 \xff\n", "r.yaml:2:6: not UTF-8 text: invalid leading UTF-8 octet (0xff)");
	assert_problems("a: \xed\xa0\x80\n", "r.yaml:1:4: not UTF-8 text: invalid Unicode character (0xd800)");
	assert_problems("a: \x01\n", "r.yaml:1:4: not UTF-8 text: control characters are not allowed (0x1)");
	assert_problems_n("a: \0\n", 5, "r.yaml:1:4: not UTF-8 text: control characters are not allowed (0)");
	assert_problems_n("\xff\xfe" "a\0", 4, "r.yaml:1:1: not UTF-8 text: invalid leading UTF-8 octet (0xff)");
	assert_problems("\xef\xbb\xbf" "a: 1\nb: 2\n", "");
	assert_problems("\xef\xbb\xbf" "a: \x01\n", "r.yaml:1:4: not UTF-8 text: control characters are not allowed (0x1)");
	assert_problems("\xef\xbb\xbf", "r.yaml:1:1: nothing is written here");
	assert_problems("a: 1\r\nb: 2\r\n", "");
}

static void
sets_by_path(void **state)
{
	static const char origin[] = "--set quantize.bits=3";
	struct yaml *y = parse("quantize: {bits: 4, sym: true}\nempty:\nlist: [1]\n");

	(void)state;
	assert_ok(yaml_set(y, "quantize.bits", "3", origin));
	assert_ok(yaml_set(y, "pack.kernel", "[a, 'b']", origin));
	assert_ok(yaml_set(y, "empty.x", "", origin));
	assert_flow(y, "{quantize: {bits: 3, sym: true}, empty: {x: null}, list: [1], pack: {kernel: [a, b]}}");
	assert_string_equal(yaml_get(yaml_get(y, "quantize"), "bits")->at.file, origin);
	assert_int_equal(yaml_get(yaml_get(y, "quantize"), "bits")->at.line, 0);
	assert_int_equal(yaml_get(yaml_get(y, "pack"), "kernel")->v[1]->at.line, 0);
	assert_int_equal(yaml_set(y, "quantize.bits.x", "3", origin), E_USE);
	assert_string_equal(err_text(), "--set quantize.bits=3: 'quantize.bits' is not a map");
	assert_int_equal(yaml_set(y, "list.0", "3", origin), E_USE);
	assert_string_equal(err_text(), "--set quantize.bits=3: 'list' is not a map");
	assert_int_equal(yaml_set(y, "quantize.", "3", origin), E_USE);
	assert_string_equal(err_text(), "--set quantize.bits=3: 'quantize.' is not a name like quantize.bits");
	assert_int_equal(yaml_set(y, "", "3", origin), E_USE);
	assert_int_equal(yaml_set(y, ".a", "3", origin), E_USE);
	assert_int_equal(yaml_set(y, "a", "[3", "--set a=[3"), E_USE);
	assert_string_equal(err_text(), "--set a=[3:2:1: not YAML: did not find expected ',' or ']', "
	                    "while parsing a flow sequence that began in line 1");
	assert_null(yaml_get(y, "a"));
	yaml_free(y);
}

static void
merges(void **state)
{
	struct yaml *base = parse("a: {x: 1, y: {p: 1}}\nl: [1, 2]\nz: 1\n");
	struct yaml *over = parse("new: 3\na: {y: {q: 2}, x: 9}\nl: [3]\nz: {m: 1}\n"), *copy;

	(void)state;
	copy = yaml_copy(over);
	yaml_merge(base, over);
	assert_flow(base, "{a: {x: 9, \"y\": {p: 1, q: 2}}, l: [3], z: {m: 1}, new: 3}");
	assert_flow(copy, "{new: 3, a: {\"y\": {q: 2}, x: 9}, l: [3], z: {m: 1}}");
	assert_int_equal(yaml_get(base, "z")->at.line, 4);
	yaml_free(base);
	yaml_free(copy);
}

static void
quotes_where_it_must(void **state)
{
	static const char *const rows[][2] = {
		{"gptq", "gptq"}, {"out/a_b-c.d", "out/a_b-c.d"}, {"", "\"\""}, {"4", "\"4\""}, {"0.5", "\"0.5\""}, {"-1", "\"-1\""},
		{".5", "\".5\""}, {"1e3", "\"1e3\""}, {"2024-01-01", "\"2024-01-01\""}, {"true", "\"true\""}, {"No", "\"No\""},
		{"null", "\"null\""}, {"~", "\"~\""}, {"*.mlp", "\"*.mlp\""},
		{"a b", "\"a b\""}, {"a: b", "\"a: b\""}, {"a #b", "\"a #b\""},
		{"say \"hi\"\\", "\"say \\\"hi\\\"\\\\\""}, {"a\nb\tc", "\"a\\nb\\u0009c\""}, {"\xc3\xa9", "\"\xc3\xa9\""},
		{"\xc2\x85\xe2\x80\xa8", "\"\\u0085\\u2028\""}, {"\xff", "\"\\xff\""}, {"-", "\"-\""},
		{"---", "\"---\""}, {".inf", "\".inf\""},
		{"[x]", "\"[x]\""}, {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""}, {"-inf", "\"-inf\""},
		{"nullable", "nullable"}, {".hidden", ".hidden"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct buf b = {0};
		struct yaml *y;

		yaml_scalar(&b, rows[i][0]);
		assert_string_equal(buf_text(&b), rows[i][1]);
		y = parse(buf_text(&b));
		if (rows[i][0][0] != '\xff')    /* YAML has no way to say it */
			assert_string_equal(y->text, rows[i][0]);
		yaml_free(y);
		buf_release(&b);
	}
}

static void
writes_what_reads_back(void **state)
{
	static const char text[] = "{a: [1, \"1\", null, \"null\", true, x, \"x y\", 0x1f], \"b c\": {}, d: [], e: \"a\\nb\"}";
	struct yaml *y = parse(text);

	(void)state;
	assert_flow(y, text);
	assert_flow(NULL, "null");
	yaml_free(y);
	y = parse("[~, plain text, a|b]");
	assert_flow(y, "[~, \"plain text\", \"a|b\"]");
	yaml_free(y);
}

static void
loads_files(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "r.yaml"), *big = mem_new((4 << 20) + 1, 1);
	struct diag d = {0};
	struct yaml *y;

	(void)state;
	assert_ok(file_replace(path, "a: 1\n", 5));
	y = yaml_load(path, &d);
	assert_non_null(y);
	assert_string_equal(y->at.file, path);
	yaml_free(y);
	memset(big, ' ', (4 << 20) + 1);
	assert_ok(file_replace(path, big, (4 << 20) + 1));
	assert_null(yaml_load(path, &d));
	assert_null(yaml_load("absent.yaml", &d));
	assert_int_equal(d.n, 2);
	assert_string_equal(d.v[0] + strlen(path), ": larger than 4194304 bytes");
	assert_string_equal(d.v[1], "absent.yaml: No such file or directory");
	diag_release(&d);
	free(big);
	free(path);
	t_dir_end(dir);
}

/* Every piece and every small damage of a text with everything in it: an answer, whatever it is, and no crash. */
static void
survives_damage(void **state)
{
	static const char text[] = "%YAML 1.2\n--- # c\na: &x [1, 'q', \"\\x41\\n\"]\n"
	                           "b: {c: *x, d: |\n  e}\n}\n? f\n: >-\n  g\n<<: *x\n!t h: !!i 1\n...\n";
	char copy[sizeof(text)];
	size_t n = sizeof(text) - 1, refused = 0;

	(void)state;
	for (size_t i = 0; i < n; i++)
		for (int damage = 0; damage < 12; damage++) {
			struct diag d = {0};
			struct yaml *y;

			memcpy(copy, text, sizeof(text));
			copy[i] = "\0\xff[]{}:*&\n '"[damage];
			y = yaml_parse(copy, damage ? n : i, "r.yaml", &d);
			assert_true(y || d.n);
			refused += d.n > 0;
			yaml_free(y);
			diag_release(&d);
		}
	assert_true(refused > n);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(remembers_places),
		cmocka_unit_test(knows_what_is_null),
		cmocka_unit_test(follows_aliases),
		cmocka_unit_test(bounds_aliases),
		cmocka_unit_test(bounds_depth),
		cmocka_unit_test(reports_doubled_keys),
		cmocka_unit_test(refuses_what_it_does_not_support),
		cmocka_unit_test(reports_syntax_errors),
		cmocka_unit_test(sets_by_path),
		cmocka_unit_test(merges),
		cmocka_unit_test(quotes_where_it_must),
		cmocka_unit_test(writes_what_reads_back),
		cmocka_unit_test(loads_files),
		cmocka_unit_test(survives_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
