#include "qjob/model/qlinear.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "qjob/base/err.h"

static const char path[] = "q.safetensors";

static uint32_t
bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static float
float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static void
codes_survive_packing(void **state)
{
	enum { N = 101 };
	uint8_t codes[N], packed[N + 1], back[N];
	uint32_t r = 12345;

	(void)state;
	for (int bits = 1; bits <= 8; bits++)
		for (int64_t n = 0; n <= N; n++) {
			size_t bytes = codes_bytes(n, bits);

			for (int64_t i = 0; i < n; i++) {
				r = r * 1664525 + 1013904223;
				codes[i] = (uint8_t)(r >> 24 & ((1u << bits) - 1));
			}
			memset(packed, 0xa5, sizeof(packed));
			codes_pack(packed, codes, n, bits);
			assert_int_equal(packed[bytes], 0xa5);
			codes_unpack(back, packed, n, bits);
			assert_memory_equal(back, codes, (size_t)n);
			for (int64_t i = 0; i < n * bits; i++)
				assert_int_equal(packed[i / 8] >> i % 8 & 1, codes[i / bits] >> i % bits & 1);
		}
}

static void
three_bits_cross_bytes(void **state)
{
	const uint8_t codes[] = {1, 2, 3, 4, 5, 6, 7, 0, 7};
	uint8_t packed[4];

	(void)state;
	assert_int_equal(codes_bytes(9, 3), 4);
	codes_pack(packed, codes, 9, 3);
	assert_int_equal(packed[0], 0xd1);
	assert_int_equal(packed[1], 0x58);
	assert_int_equal(packed[2], 0x1f);
	assert_int_equal(packed[3], 0x07);
}

/* Every half, there and back; and the midpoints between neighbours, which go to the even one. */
static void
halves_round_to_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x10000; h++) {
		float f = f16_float((uint16_t)h);

		if (isnan(f)) {
			assert_true((float_f16(f) & 0x7fff) > 0x7c00);
			continue;
		}
		assert_int_equal(float_f16(f), h);
		if ((h & 0x7fff) < 0x7bff) {
			float middle = (float)(((double)f + (double)f16_float((uint16_t)(h + 1))) / 2);
			uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);

			assert_int_equal(float_f16(middle), even);
			assert_int_equal(float_f16(nextafterf(middle, f)), h);
			assert_int_equal(float_f16(nextafterf(middle, 2 * f16_float((uint16_t)(h + 1)) - f)), h + 1);
		}
	}
	assert_int_equal(float_f16(65504), 0x7bff);
	assert_int_equal(float_f16(nextafterf(65520, 0)), 0x7bff);
	assert_int_equal(float_f16(65520), 0x7c00);
	assert_int_equal(float_f16(-1e30f), 0xfc00);
	assert_true(bits_of(f16_float(0x3555)) == bits_of(0.333251953125f));
	assert_true(f16_float(0x0001) == 0x1p-24f);
}

static void
brain_floats_round_to_even(void **state)
{
	(void)state;
	assert_int_equal(float_bf16(1.0f), 0x3f80);
	assert_int_equal(float_bf16(float_of(0x3f808000)), 0x3f80);
	assert_int_equal(float_bf16(float_of(0x3f808001)), 0x3f81);
	assert_int_equal(float_bf16(float_of(0x3f818000)), 0x3f82);
	assert_int_equal(float_bf16(float_of(0x7f7fffff)), 0x7f80);
	assert_int_equal(float_bf16(float_of(0xff800000)), 0xff80);
	assert_int_equal(float_bf16(float_of(0x7f800001)), 0x7fc0);
	assert_true(bf16_float(0xc040) == -3.0f);
}

/* 2 rows of 5 inputs in groups of 2: codes, scale F16, zeros, order. */
struct made {
	uint8_t codes[2][2], zero[2][3];
	uint16_t scale[2][3];
	int32_t group_of[5];
};

static const struct tensor tensors[] = {
	{.name = (char *)"x.codes",    .type = U8,  .rank = 2, .shape = {2, 2}},
	{.name = (char *)"x.zero",     .type = U8,  .rank = 2, .shape = {2, 3}},
	{.name = (char *)"x.scale",    .type = F16, .rank = 2, .shape = {2, 3}},
	{.name = (char *)"x.group_of", .type = I32, .rank = 1, .shape = {5}},
};

static void
make(struct made *m)
{
	const uint8_t codes[2][5] = {{0, 1, 2, 3, 4}, {7, 6, 5, 4, 3}};

	*m = (struct made){
		.zero = {{1, 2, 3}, {4, 5, 6}}, .scale = {{0x3c00, 0x4000, 0x3800}, {0x3c00, 0xbc00, 0x4400}},
		.group_of = {2, 0, 1, 0, 2},
	};
	for (int o = 0; o < 2; o++)
		codes_pack(m->codes[o], codes[o], 5, 3);
}

/* The first n tensors of v, data from m. */
static void
save(const struct tensor *v, size_t n, const struct made *m)
{
	const void *const data[] = {m->codes, m->zero, m->scale, m->group_of};
	struct safetensors_out *o;

	assert_int_equal(safetensors_begin(&o, path, v, n), 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(safetensors_add(o, data[i], tensor_bytes(&v[i])), 0);
	assert_int_equal(safetensors_end(o), 0);
}

static void
a_linear_reads_back(void **state)
{
	static const float want[2][5] = {{-1.5f, 0, 0, 2, 0.5f}, {4, 2, 0, 0, -12}};
	static const float plain[2][5] = {{-1, 0, 0, 2, 0.5f}, {3, 2, 0, 1, -12}};
	struct safetensors s;
	struct qlinear q;
	struct made m;
	float out[2][5];

	(void)state;
	make(&m);
	save(tensors, 4, &m);
	assert_int_equal(safetensors_open(&s, path), 0);
	if (qlinear_read(&q, &s, "x", 3, 2, 5, 2, false) < 0)
		fail_msg("%s", err_text());
	assert_int_equal(q.groups, 3);
	assert_int_equal(q.scale_type, F16);
	assert_true(qlinear_scale(&q, 1, 2) == 4);
	assert_int_equal(qlinear_zero(&q, 0, 1), 2);
	assert_int_equal(qlinear_group(&q, 3), 0);
	qlinear_dequant(&q, out[0]);
	for (int o = 0; o < 2; o++)
		for (int i = 0; i < 5; i++) {
			int g = m.group_of[i], code = o ? 7 - i : i;
			float w = f16_float(m.scale[o][g]) * (float)(code - m.zero[o][g]);

			assert_true(out[o][i] == w);
		}
	assert_true(out[0][0] == want[0][0] && out[0][3] == want[0][3]);
	safetensors_close(&s);
	save(tensors, 3, &m);
	assert_int_equal(safetensors_open(&s, path), 0);
	assert_int_equal(qlinear_read(&q, &s, "x", 3, 2, 5, 2, false), 0);
	assert_int_equal(qlinear_group(&q, 3), 1);
	qlinear_dequant(&q, out[0]);
	assert_true(out[0][0] == plain[0][0] && out[0][4] == plain[0][4] && out[1][0] == plain[1][0]);
	safetensors_close(&s);
}

static void
symmetric_zero_is_the_middle(void **state)
{
	const struct tensor v[] = {tensors[0], {.name = (char *)"x.scale", .type = F32, .rank = 2, .shape = {2, 1}}};
	const float scale[2] = {2, 0.5f};
	struct safetensors_out *o;
	struct safetensors s;
	struct qlinear q;
	struct made m;
	float out[2][5];

	(void)state;
	make(&m);
	assert_int_equal(safetensors_begin(&o, path, v, 2), 0);
	assert_int_equal(safetensors_add(o, m.codes, 4), 0);
	assert_int_equal(safetensors_add(o, scale, 8), 0);
	assert_int_equal(safetensors_end(o), 0);
	assert_int_equal(safetensors_open(&s, path), 0);
	assert_int_equal(qlinear_read(&q, &s, "x", 3, 2, 5, 5, true), 0);
	qlinear_dequant(&q, out[0]);
	assert_true(out[0][0] == -8 && out[0][4] == 0 && out[1][0] == 1.5f);
	safetensors_close(&s);
}

static void
wrong_tensors_are_named(void **state)
{
	static const struct {
		int bits;
		int64_t rows, cols, group;
		bool sym;
		const char *message;
	} rows[] = {
		{0, 2, 5, 2, false, "x: 0 bits, 2 x 5 weights in groups of 2 cannot be"},
		{4, 2, 5, 2, false, "tensor \"x.codes\" is not of shape [2, 3]"},
		{3, 3, 5, 2, false, "tensor \"x.codes\" is not of shape [3, 2]"},
		{3, 2, 5, 3, false, "tensor \"x.scale\" is not of shape [2, 2]"},
		{3, 2, 5, 2, true,  "tensor \"x.zero\" belongs to no symmetric linear"},
		{2, 2, 6, 2, false, "tensor \"x.zero\" holds 4, which has more than 2 bits"},
		{3, 2, 5, 2, false, "tensor \"x.group_of\" names group 3 of 3"},
	};
	struct safetensors s;
	struct qlinear q;
	struct made m;

	(void)state;
	make(&m);
	m.group_of[4] = 3;
	save(tensors, 4, &m);
	assert_int_equal(safetensors_open(&s, path), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(qlinear_read(&q, &s, "x", rows[i].bits, rows[i].rows, rows[i].cols, rows[i].group,
		                              rows[i].sym), E_DATA);
		assert_string_equal(err_text(), rows[i].message);
	}
	assert_int_equal(qlinear_read(&q, &s, "y", 3, 2, 5, 2, false), E_DATA);
	assert_string_equal(err_text(), "tensor \"y.codes\" is missing");
	safetensors_close(&s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_survive_packing),
		cmocka_unit_test(three_bits_cross_bytes),
		cmocka_unit_test(halves_round_to_even),
		cmocka_unit_test(brain_floats_round_to_even),
		cmocka_unit_test(a_linear_reads_back),
		cmocka_unit_test(symmetric_zero_is_the_middle),
		cmocka_unit_test(wrong_tensors_are_named),
	};
	char folder[] = "/tmp/qjob-test-XXXXXX";
	int failed;

	if (!mkdtemp(folder) || chdir(folder) != 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	if (chdir("/") != 0 || rmdir(folder) != 0)
		return 1;
	return failed;
}
