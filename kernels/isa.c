#include "kernels/isa.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#ifdef __x86_64__
# include <cpuid.h>
#endif

#include "qjob/base/buf.h"
#include "qjob/base/err.h"

#ifdef __x86_64__

/* Bits of CPUID leaf 7: EDX of subleaf 0, EAX of subleaf 1. */
enum { EDX_AMX_BF16 = 1 << 22, EDX_AVX512_FP16 = 1 << 23, EDX_AMX_TILE = 1 << 24, EAX_AVX512_BF16 = 1 << 5 };

static bool
has_sse41(void)
{
	return __builtin_cpu_supports("sse4.1");
}

static bool
has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool
has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
	       && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static unsigned
leaf7(unsigned subleaf, bool edx)
{
	unsigned a, b, c, d;

	if (!__get_cpuid_count(7, subleaf, &a, &b, &c, &d))
		return 0;
	return edx ? d : a;
}

static bool
has_bf16(void)
{
	return has_avx512() && (leaf7(1, false) & EAX_AVX512_BF16);
}

static bool
has_amx(void)
{
	unsigned d = leaf7(0, true);

	return has_bf16() && (d & EDX_AMX_BF16) && (d & EDX_AMX_TILE);
}

/* Intel's cores that were made for AMX multiply bf16 pairs in vector registers at a quarter of the rate of fp32 (measured:
 * 76 against 153 GFLOP/s a core), so where a hypervisor hides AMX from one of them, fp32 is twice as fast. */
static bool
has_fast_bf16(void)
{
	return has_bf16() && (has_amx() || !(leaf7(0, true) & EDX_AVX512_FP16) || !__builtin_cpu_is("intel"));
}

#else

static bool
always(void)
{
	return true;
}

#endif

/* Best first.  `good` says where auto takes it. */
static const struct row {
	struct isa isa;
	bool (*has)(void), (*good)(void);
} rows[] = {
#ifdef __x86_64__
	{{"amx",         "SkylakeX"}, has_amx,    has_amx},
	{{"avx512_bf16", "SkylakeX"}, has_bf16,   has_fast_bf16},
	{{"avx512",      "SkylakeX"}, has_avx512, has_avx512},
	{{"avx2",        "Haswell"},  has_avx2,   has_avx2},
	{{"sse41",       "Nehalem"},  has_sse41,  has_sse41},
#else
	{{"generic",     NULL},       always,     always},
#endif
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static int
unusable(const char *name)
{
	struct buf b = {0};
	int i, e;

	buf_puts(&b, "auto");
	for (i = 0; i < ROWS; i++) {
		if (rows[i].has())
			buf_printf(&b, ", %s", rows[i].isa.name);
	}
	e = err_set(E_USE, "isa: %s is not an instruction set of this machine; it has %s", name, buf_text(&b));
	buf_release(&b);
	return e;
}

int
isa_find(const struct isa **isa, const char *name)
{
	bool automatic = !name || strcmp(name, "auto") == 0;
	int i;

	for (i = 0; i < ROWS; i++) {
		if (automatic ? rows[i].good() : strcmp(rows[i].isa.name, name) == 0 && rows[i].has()) {
			*isa = &rows[i].isa;
			return E_OK;
		}
	}
	return unusable(automatic ? "auto" : name);
}
