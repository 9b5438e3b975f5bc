/* A quantized block on its way: from the device, to its files, and back. */
#include "stages/qblock.h"

#include <string.h>

#include "tests/t.h"

enum { ROWS = 24, COLS = 72, GROUP = 16, GROUPS = 5 };

static struct dev *d;

static int
open_device(void **state)
{
	(void)state;
	return dev_open(&d, &(struct dev_options){.name = "cpu"});
}

static int
close_device(void **state)
{
	(void)state;
	dev_close(d);
	return 0;
}

/* A solution whose numbers all differ enough to be told apart. */
static struct solved
solution(const struct choice *c, bool in_order)
{
	uint8_t code[ROWS * COLS], zero[ROWS * GROUPS];
	int32_t group_of[COLS];
	float scale[ROWS * GROUPS];
	double loss[ROWS];
	struct solved s = {.in_order = in_order, .damp = 0.05};

	for (int i = 0; i < ROWS * COLS; i++)
		code[i] = (uint8_t)((i * 7 + i / COLS) % (1 << c->bits));
	for (int i = 0; i < ROWS * GROUPS; i++) {
		zero[i] = c->sym ? (uint8_t)(1 << (c->bits - 1)) : (uint8_t)(i % (1 << c->bits));
		scale[i] = bf16_float(float_bf16(0.01f + 0.003f * (float)i));
	}
	for (int i = 0; i < COLS; i++)
		group_of[i] = in_order ? i / GROUP : (COLS - 1 - i) / GROUP;
	for (int i = 0; i < ROWS; i++)
		loss[i] = i;
	s.q = (struct qmat){dev_mat(d, U8, ROWS, COLS), dev_mat(d, F32, ROWS, GROUPS), dev_mat(d, U8, ROWS, GROUPS),
	                    dev_mat(d, I32, 1, COLS)};
	s.loss = dev_mat(d, F64, 1, ROWS);
	dev_put(d, &s.q.code, code);
	dev_put(d, &s.q.scale, scale);
	dev_put(d, &s.q.zero, zero);
	dev_put(d, &s.q.group_of, group_of);
	dev_put(d, &s.loss, loss);
	return s;
}

/* What is read again has the digest that was told before anything was written, and dequantizes to the same bits. */
static void
round_trip(int bits, bool sym, bool in_order, enum dtype type)
{
	struct choice c = {.name = "model.layers.0.mlp.up_proj", .part = UP, .rows = ROWS, .cols = COLS, .bits = bits, .group = GROUP,
	                   .sym = sym};
	const struct grid g = {.bits = bits, .group = GROUP, .sym = sym, .stored = BF16};
	size_t mark = dev_mark(d), bytes = ROWS * COLS * dtype_size(type);
	struct solved s = solution(&c, in_order);
	struct mat dense = dev_mat(d, F32, ROWS, COLS), want = dev_mat(d, type, ROWS, COLS), into[PARTS] = {{0}};
	struct qblock q = {.room = mem_new(qblock_bytes(&c, 1), 1), .size = qblock_bytes(&c, 1)};
	struct block b = {0};
	float values[ROWS * COLS];
	char told[SHA256_HEX], read[SHA256_HEX], *folder = t_dir(), *path = path_join(folder, "block.safetensors");
	unsigned char first[ROWS * COLS * 4], second[ROWS * COLS * 4];

	assert_ok(qblock_add(&q, d, &c, &s, &g, 100));
	assert_ok(qblock_settle(&q, d));
	assert_true(q.v[0].loss == ROWS * (ROWS - 1) / 2);
	qblock_digest(&q, told);
	assert_ok(qblock_write(&q, folder, 0));
	qlinear_dequant(&q.v[0].q, values);
	dev_put(d, &dense, values);
	op_convert(d, &want, &dense);
	into[UP] = dev_mat(d, type, ROWS, COLS);
	assert_ok(qblock_load(path, &(struct qplace){d, &b, into}, &c, 1, read));
	assert_string_equal(read, told);
	dev_get(d, first, &want);
	dev_get(d, second, &b.linear[UP].w);
	assert_ok(dev_status(d));
	assert_memory_equal(first, second, bytes);
	free(q.room);
	dev_release(d, mark);
	t_dir_end(folder);
	free(path);
}

static void
comes_back_as_it_went(void **state)
{
	(void)state;
	for (int bits = 2; bits <= 8; bits++)
		for (int k = 0; k < 8; k++)
			round_trip(bits, k & 1, k & 2, k & 4 ? BF16 : F32);
}

/* One bit anywhere, a name or a shape make another digest; where the arrays lie does not. */
static void
the_digest_tells_contents_apart(void **state)
{
	static uint8_t codes[2][5 << 20];
	static const uint16_t scale[2] = {1, 2};
	struct choice a = {.name = "a"}, other = {.name = "b"};
	struct qblock q = {.n = 1};
	char hex[4][SHA256_HEX];

	(void)state;
	q.v[0] = (struct qresult){.choice = &a, .q = {.bits = 8, .rows = 1, .cols = sizeof(codes[0]), .groups = 2, .sym = true,
	                                              .codes = codes[0], .scale = scale, .scale_type = BF16}};
	qblock_digest(&q, hex[0]);
	q.v[0].q.codes = codes[1];
	qblock_digest(&q, hex[1]);
	assert_string_equal(hex[0], hex[1]);
	codes[1][sizeof(codes[1]) - 1] = 1;
	qblock_digest(&q, hex[1]);
	q.v[0].choice = &other;
	qblock_digest(&q, hex[2]);
	q.v[0].q.scale_type = F16;
	qblock_digest(&q, hex[3]);
	for (int i = 0; i < 4; i++)
		for (int k = 0; k < i; k++)
			assert_string_not_equal(hex[i], hex[k]);
}

/* Keys of blocks hang on it: another text, another cut or another order would make every finished block run again. */
static void
the_digest_stays_what_it_was(void **state)
{
	static uint8_t codes[(8 << 20) + 1];
	static const uint16_t scale[2] = {1, 2};
	static const uint8_t zero[2] = {7, 8};
	static const int32_t group_of[6] = {0, 1, 1, 0, 1, 0};
	static const float wide[2] = {1, 2};
	struct choice a = {.name = "a"}, b = {.name = "b.c"}, c = {.name = "d"};
	struct qblock q = {.n = 3};
	char hex[SHA256_HEX];

	(void)state;
	for (size_t i = 0; i < sizeof(codes); i++)
		codes[i] = (uint8_t)((uint32_t)i * 2654435761u >> 20);
	q.v[0] = (struct qresult){.choice = &a, .q = {.bits = 8, .rows = 1, .cols = sizeof(codes), .groups = 2, .sym = true,
	                                              .codes = codes, .scale = scale, .scale_type = BF16}};
	q.v[1] = (struct qresult){.choice = &b, .q = {.bits = 4, .rows = 1, .cols = 16 << 20, .groups = 2,
	                                              .codes = codes, .scale = scale, .scale_type = F16, .zero = zero}};
	q.v[2] = (struct qresult){.choice = &c, .q = {.bits = 8, .rows = 1, .cols = 6, .groups = 2, .sym = true,
	                                              .codes = codes, .scale = wide, .scale_type = F32, .group_of = group_of}};
	qblock_digest(&q, hex);
	assert_string_equal(hex, "17f30a5d48616447500f4f18009d82109d0d0dcb9af255368afc018fb6546503");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_back_as_it_went),
		cmocka_unit_test(the_digest_tells_contents_apart),
		cmocka_unit_test(the_digest_stays_what_it_was),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
