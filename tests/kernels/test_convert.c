#include "tests/kernels/data.h"

enum { FLOAT_TYPES = 4 };
static const enum dtype float_types[FLOAT_TYPES] = {F32, F16, BF16, F64};

static void
every_conversion_rounds_to_even(void **state)
{
	struct dev *d = device(2, MATH_F32);
	int i, j, k;

	(void)state;
	for (i = 0; i < FLOAT_TYPES; i++) {
		for (j = 0; j < FLOAT_TYPES; j++) {
			struct host h = host_new(3, 1031, float_types[i], 7);
			struct mat x = upload(d, &h), y = dev_mat(d, float_types[j], 3, 1031);
			double *got;

			op_convert(d, &y, &x);
			got = download(d, &y);
			for (k = 0; k < 3 * 1031; k++)
				assert_close("convert", k, got[k], round_to(h.v[k], float_types[j]), 0);
			test_free(got);
			host_free(&h);
		}
	}
	dev_close(d);
}

/* Values at, and just beside, the middle of two neighbours of the shorter type. */
static void
middles_are_rounded_once(void **state)
{
	static const double v[] = {
		1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-8 - 0x1p-40, 1 + 0x1p-11, 1 + 3 * 0x1p-11, 1 + 0x1p-11 + 0x1p-40,
		1 + 3 * 0x1p-11 - 0x1p-40, 65519.99, 65504, 0x1p-24, 0x1p-25, 0x1p-25 + 0x1p-60, 3 * 0x1p-25, 0x1p-14, 0x1p-14 - 0x1p-25,
		0x1.ffcp-15, 0x1.ffep-15, 0x1.fffp-15, -0x1.002p0, -0x1.006p0, 0, -0.0, 0x1p-30, 0x1p-26,
	};
	enum { N = sizeof(v) / sizeof(v[0]) };
	struct dev *d = device(1, MATH_F32);
	struct mat x = dev_mat(d, F64, 1, N), y;
	double *got;
	int i, j;

	(void)state;
	dev_put(d, &x, v);
	for (j = 0; j < FLOAT_TYPES; j++) {
		y = dev_mat(d, float_types[j], 1, N);
		op_convert(d, &y, &x);
		got = download(d, &y);
		for (i = 0; i < N; i++)
			assert_close(dtype_name(float_types[j]), i, got[i], round_to(v[i], float_types[j]), 0);
		test_free(got);
	}
	dev_close(d);
}

static void
all_half_floats_survive(void **state)
{
	struct dev *d = device(1, MATH_F32);
	uint16_t *from = test_malloc(65536 * 2), *to = test_malloc(65536 * 2);
	static const enum dtype half[] = {F16, BF16};
	int i, j;

	(void)state;
	for (i = 0; i < 65536; i++)
		from[i] = (uint16_t)i;
	for (j = 0; j < 2; j++) {
		struct mat x = dev_view(d, half[j], 1, 65536, from), y = dev_mat(d, F32, 1, 65536), z = dev_mat(d,
		                                                                                                half[j], 1, 65536);
		int exponent = half[j] == F16 ? 0x7c00 : 0x7f80;

		op_convert(d, &y, &x);
		op_convert(d, &z, &y);
		dev_get(d, to, &z);
		assert_good(d);
		for (i = 0; i < 65536; i++) {
			if ((i & 0x7fff) > exponent)
				assert_true((to[i] & 0x7fff) > exponent);      /* NaN stays NaN */
			else
				assert_int_equal(to[i], from[i]);
		}
	}
	test_free(from);
	test_free(to);
	dev_close(d);
}

static void
what_is_too_large_becomes_infinite(void **state)
{
	static const double v[] = {65520, -65520, 1e39, -1e300, INFINITY};
	struct dev *d = device(1, MATH_F32);
	struct mat x = dev_mat(d, F64, 1, 5), h = dev_mat(d, F16, 1, 5), b = dev_mat(d, BF16, 1, 5);
	uint16_t got[5];
	static const uint16_t f16[] = {0x7c00, 0xfc00, 0x7c00, 0xfc00, 0x7c00}, bf16[] = {0x4780, 0xc780, 0x7f80,
	                                                                                  0xff80, 0x7f80};

	(void)state;
	dev_put(d, &x, v);
	op_convert(d, &h, &x);
	op_convert(d, &b, &x);
	dev_get(d, got, &h);
	assert_memory_equal(got, f16, sizeof(got));
	dev_get(d, got, &b);
	assert_memory_equal(got, bf16, sizeof(got));
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_conversion_rounds_to_even),
		cmocka_unit_test(middles_are_rounded_once),
		cmocka_unit_test(all_half_floats_survive),
		cmocka_unit_test(what_is_too_large_becomes_infinite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
