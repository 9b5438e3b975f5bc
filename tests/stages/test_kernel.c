#include "stages/pack/kernel.h"

#include "tests/stages/fake.h"

static const struct kernel_row {
	const char *kernel, *format;
	int devices;
	struct choice c;
	bool order;
	const char *text;            /* NULL: taken */
} kernel_rows[] = {
	{"any", "gptq", 1, {.name = "l", .rows = 576, .cols = 576, .bits = 3, .group = 64, .sym = true}, true, NULL},
	{"any", "gptq", 1, {.name = "l", .rows = 576, .cols = 576, .bits = 4, .group = 48, .sym = true}, false,
	 "kernel torch has no group_size 48 for l; of -1, 16, 32, 64, 128, 256, 512 or 1024, 32 is nearest; possible kernels: exllama"},
	{"any", "compressed-tensors", 1, {.name = "l", .rows = 576, .cols = 576, .bits = 4, .group = 48, .sym = false}, false, NULL},
	{"marlin", "gptq", 1, {.name = "l", .rows = 4096, .cols = 4096, .bits = 4, .group = 128, .sym = true}, false, NULL},
	{"marlin", "gptq", 1, {.name = "l", .rows = 576, .cols = 576, .bits = 4, .group = 64, .sym = true}, false,
	 "kernel marlin needs in_features in multiples of 128, and l has 576; possible kernels: machete, exllama, "
		"exllamav2, triton, torch"},
	{"marlin", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 3, .group = 64, .sym = true}, false,
	 "kernel marlin has no 3 bits for l; 4 or 8; possible kernels: torch"},
	{"marlin", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 64, .sym = false}, false,
	 "kernel marlin has no zero points for l; use sym: true, or format compressed-tensors with 4 bits; possible "
		"kernels: exllamav2, triton, torch"},
	{"marlin", "compressed-tensors", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 64, .sym = false}, false, NULL},
	{"marlin", "compressed-tensors", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 8, .group = 64, .sym = false}, false,
	 "kernel marlin has no zero points for l; use sym: true"},
	{"marlin", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 16, .sym = true}, false,
	 "kernel marlin has no group_size 16 for l; of -1, 32, 64 or 128, 32 is nearest; possible kernels: exllama, triton, torch"},
	{"marlin", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 512, .sym = true}, true, NULL},
	{"marlin", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 128, .sym = true}, true,
	 "kernel marlin takes no desc_act with groups (l); use actorder: static; possible kernels: exllamav2, triton, torch"},
	{"marlin", "gptq", 8, {.name = "l", .site = SITE_DOWN, .rows = 3584, .cols = 18944, .bits = 4, .group = 128, .sym = true}, false,
	 "tensor_parallel 8 leaves 2368 inputs a device of l, which group_size 128 does not divide"},
	{"marlin", "gptq", 8, {.name = "l", .site = SITE_DOWN, .rows = 3584, .cols = 18944, .bits = 4, .group = 64, .sym = true}, false,
	 "kernel marlin needs in_features in multiples of 128, and l has 2368 a device; possible kernels: machete, "
		"exllama, exllamav2, triton, torch"},
	{"marlin", "gptq", 3, {.name = "l", .site = SITE_UP, .rows = 512, .cols = 512, .bits = 4, .group = 128, .sym = true}, false,
	 "tensor_parallel 3 does not divide the 512 outputs of l"},
	{"machete", "gptq", 1, {.name = "l", .site = SITE_O, .rows = 576, .cols = 576, .bits = 4, .group = 64, .sym = true}, false,
	 "kernel machete needs out_features in multiples of 128, and l has 576; possible kernels: exllama, exllamav2, triton, torch"},
	{"machete", "gptq", 1, {.name = "l", .rows = 512, .cols = 512, .bits = 4, .group = 32, .sym = true}, false,
	 "kernel machete has no group_size 32 for l; of -1, 64 or 128, 64 is nearest; possible kernels: marlin, "
		"exllama, exllamav2, triton, torch"},
	{"exllama", "gptq", 1, {.name = "l", .rows = 512, .cols = 576, .bits = 8, .group = 96, .sym = true}, false, NULL},
	{"exllamav2", "gptq", 1, {.name = "l", .rows = 40, .cols = 512, .bits = 4, .group = 32, .sym = false}, true,
	 "kernel exllamav2 needs out_features in multiples of 32, and l has 40; possible kernels: torch"},
	{"exllamav2", "gptq", 2, {.name = "l", .rows = 64, .cols = 512, .bits = 4, .group = 32, .sym = false}, true,
	 "desc_act with groups cannot be split over tensor_parallel 2 devices (l); use actorder: static"},
	{"torch", "compressed-tensors", 1, {.name = "l", .rows = 64, .cols = 64, .bits = 4, .group = 32, .sym = true}, false,
	 "kernel torch does not read format compressed-tensors; possible kernels: exllama"},
	{"triton", "gptq", 1, {.name = "l", .rows = 64, .cols = 64, .bits = 3, .group = 32, .sym = true}, false,
	 "kernel triton has no 3 bits for l; 2, 4 or 8; possible kernels: torch"},
};

static void
checks_kernels(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(kernel_rows) / sizeof(kernel_rows[0]); i++) {
		const struct kernel_row *r = &kernel_rows[i];
		struct pack_params pack = {.format = r->format, .kernel = r->kernel, .tensor_parallel = r->devices};

		if (!r->text) {
			assert_ok(kernel_check(&pack, &r->c, r->order));
			continue;
		}
		assert_int_equal(kernel_check(&pack, &r->c, r->order), E_USE);
		assert_string_equal(err_text(), r->text);
	}
}

static void
checks_fused_linears(void **state)
{
	struct fake f;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	assert_ok(kernel_check_fused(&f.p));
	f.s.pack.kernel = "machete";
	assert_ok(kernel_check_fused(&f.p) == E_USE ? 0 : -1);
	assert_string_equal(err_text(), "kernel machete needs out_features in multiples of 128, and "
	                    "model.layers.0.self_attn.o_proj has 64");
	f.s.pack.kernel = "marlin";
	assert_ok(kernel_check_fused(&f.p));   /* q 64, k 32 and v 32 are 128 together; gate and up 320 */
	f.s.pack.tensor_parallel = 2;
	assert_ok(kernel_check_fused(&f.p) == E_USE ? 0 : -1);
	assert_string_equal(err_text(), "kernel marlin needs out_features in multiples of 64, and "
	                    "model.layers.0.mlp.gate_proj with those of its "
	                    "input has 160 a device");
	f.s.pack.tensor_parallel = 1;
	fake_choice(&f, "model.layers.1.self_attn.v_proj")->bits = 8;
	assert_ok(kernel_check_fused(&f.p) == E_USE ? 0 : -1);
	assert_string_equal(err_text(), "kernel marlin runs model.layers.1.self_attn.q_proj and "
	                    "model.layers.1.self_attn.v_proj as one linear, so "
	                    "they need the same settings");
	fake_close(&f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_kernels),
		cmocka_unit_test(checks_fused_linears),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
