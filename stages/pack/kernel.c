#include "stages/pack/kernel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "stages/pack/layout.h"
#include "stages/project.h"

enum {
	GPTQ = 1 << 0, CT = 1 << 1,       /* formats that reach it */
	ASYM = 1 << 2, CT_ASYM = 1 << 3,  /* zero points: always; 4 bits of compressed-tensors alone */
	ORDER = 1 << 4,                   /* g_idx */
	FUSED = 1 << 5,                   /* q,k,v and gate,up run as one linear, split over devices */
	DIVIDES = 1 << 6,                 /* any group that divides in_features */
};

struct kernel {
	const char *name;
	unsigned flags;
	const char *bits;
	const char *groups;        /* besides DIVIDES; -1: one group a row */
	int64_t k, n;              /* multiples that in_features and out_features (of one device) must be */
};

/* exllama is vLLM's: it packs 32 / bits outputs in a word, 8 in the worst case here; vLLM has refused its 2 and 3 bits, zero points
 * and g_idx since 0.32.  any: what the plain kernel of some stock loader runs. */
static const struct kernel kernels[] = {
	/* name        flags                              bits       groups                               K    N */
	{"any",        CT | ASYM | CT_ASYM | DIVIDES,     "2 3 4 8", "-1",                                 1,   1},
	{"marlin",     GPTQ | CT | CT_ASYM | FUSED,       "4 8",     "-1 32 64 128",                     128,  64},
	{"machete",    GPTQ | CT | CT_ASYM | FUSED,       "4 8",     "-1 64 128",                         64, 128},
	{"exllama",    GPTQ | CT | FUSED | DIVIDES,       "4 8",     "-1",                                 1,   8},
	{"exllamav2",  GPTQ | ASYM | ORDER,               "4",       "-1 32 64 128",                      32,  32},
	{"triton",     GPTQ | ASYM | ORDER,               "2 4 8",   "-1 16 32 64 128 256 512 1024",      32,  32},
	{"torch",      GPTQ | ASYM | ORDER,               "2 3 4 8", "-1 16 32 64 128 256 512 1024",       1,   1},
};

enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static const struct kernel *
kernel_find(const char *name)
{
	for (size_t i = 0; i < KERNELS; i++)
		if (strcmp(kernels[i].name, name) == 0)
			return &kernels[i];
	return NULL;
}

/* Is n one of the numbers of a list like "-1 32 64"? */
static bool
has_number(const char *list, int64_t n)
{
	while (*list) {
		char *end;

		if (strtoll(list, &end, 10) == n)
			return true;
		list = end + (*end == ' ');
	}
	return false;
}

static void
list_numbers(const char *list, const char *last, struct buf *out)
{
	for (; *list; list++) {
		bool is_last = *list == ' ' && !strchr(list + 1, ' ');

		buf_puts(out, *list != ' ' ? (char[2]){*list, '\0'} : is_last ? last : ", ");
	}
}

static bool
fits_group(const struct kernel *k, const struct choice *c, int64_t group)
{
	if (group >= c->cols)
		return has_number(k->groups, -1);
	return (k->flags & DIVIDES) || has_number(k->groups, group);
}

/* The group that the kernel takes and that divides in_features, nearest to the wanted one; -1: one a row. */
static int64_t
nearest_group(const struct kernel *k, const struct choice *c)
{
	const char *list = k->groups;
	int64_t best = -1;

	while (*list) {
		char *end;
		int64_t g = strtoll(list, &end, 10);

		list = end + (*end == ' ');
		if (g > 0 && c->cols % g == 0 && (best < 0 || llabs(g - c->group) < llabs(best - c->group)))
			best = g;
	}
	return best;
}

/* ", 4 and 8" style refusals, one a property; each names the linear, the value and what would do. */
static int
check_code(const struct kernel *k, const struct choice *c, bool ct)
{
	struct buf list = {0};
	int rc = 0;

	if (!has_number(k->bits, c->bits)) {
		list_numbers(k->bits, " or ", &list);
		rc = err_set(E_USE, "kernel %s has no %d bits for %s; %s", k->name, c->bits, c->name, buf_text(&list));
	} else if (!fits_group(k, c, c->group)) {
		list_numbers(k->groups, " or ", &list);
		rc = err_set(E_USE, "kernel %s has no group_size %" PRId64 " for %s; of %s, %" PRId64 " is nearest",
		             k->name, c->group, c->name,
		             buf_text(&list), nearest_group(k, c));
	} else if (!c->sym && !(k->flags & ASYM) && !((k->flags & CT_ASYM) && ct && c->bits == 4)) {
		rc = err_set(E_USE, "kernel %s has no zero points for %s; use sym: true%s", k->name, c->name,
		             (k->flags & CT_ASYM) && !ct ? ", or format compressed-tensors with 4 bits" : "");
	}
	buf_release(&list);
	return rc;
}

/* Column-parallel linears split their outputs over the devices, o and down their inputs. */
static int
check_shape(const struct kernel *k, const struct choice *c, int devices)
{
	bool by_rows = c->site == SITE_O || c->site == SITE_DOWN;
	int64_t cols = by_rows ? c->cols / devices : c->cols, rows = by_rows ? c->rows : c->rows / devices;
	const char *share = devices > 1 ? " a device" : "";

	if (by_rows ? c->cols % devices : c->rows % devices)
		return err_set(E_USE, "tensor_parallel %d does not divide the %" PRId64 " %s of %s", devices, by_rows ? c->cols : c->rows,
		               by_rows ? "inputs" : "outputs", c->name);
	if (by_rows && c->group < c->cols && cols % c->group != 0)
		return err_set(E_USE, "tensor_parallel %d leaves %" PRId64 " inputs a device of %s, which group_size "
		               "%" PRId64 " does not divide",
		               devices, cols, c->name, c->group);
	if (cols % k->k != 0)
		return err_set(E_USE, "kernel %s needs in_features in multiples of %" PRId64 ", and %s has "
		               "%" PRId64 "%s", k->name, k->k, c->name,
		               cols, share);
	if (rows % k->n != 0 && (by_rows || !(k->flags & FUSED)))
		return err_set(E_USE, "kernel %s needs out_features in multiples of %" PRId64 ", and %s has "
		               "%" PRId64 "%s", k->name, k->n, c->name,
		               rows, share);
	return 0;
}

static int
check_one(const struct kernel *k, const struct pack_params *pack, const struct choice *c, bool has_order)
{
	bool ct = strcmp(pack->format, "gptq") != 0, ordered = has_order && c->group < c->cols;
	int rc;

	if (!(k->flags & (ct ? CT : GPTQ)))
		return err_set(E_USE, "kernel %s does not read format %s", k->name, pack->format);
	if (ordered && !(k->flags & ORDER))
		return err_set(E_USE, "kernel %s takes no desc_act with groups (%s); use actorder: static", k->name, c->name);
	if (ordered && pack->tensor_parallel > 1)
		return err_set(E_USE, "desc_act with groups cannot be split over tensor_parallel %d devices (%s); use actorder: static",
		               pack->tensor_parallel, c->name);
	rc = check_code(k, c, ct);
	return rc < 0 ? rc : check_shape(k, c, pack->tensor_parallel);
}

/* The kernels that would take what `k` refused, appended: " (exllamav2, torch do)". */
static void
others(const struct kernel *k, const struct pack_params *pack, const struct choice *c, bool has_order, struct buf *out)
{
	for (size_t i = 1; i < KERNELS; i++)
		if (&kernels[i] != k && check_one(&kernels[i], pack, c, has_order) == 0)
			buf_printf(out, "%s%s", out->n ? ", " : "; possible kernels: ", kernels[i].name);
}

int
kernel_check(const struct pack_params *pack, const struct choice *c, bool has_order)
{
	/* `any` with format gptq is the torch kernel of GPTQModel, which every stock loader of that format falls back to. */
	bool any = strcmp(pack->kernel, "any") == 0;
	const struct kernel *k = kernel_find(any && strcmp(pack->format, "gptq") == 0 ? "torch" : pack->kernel);
	struct buf also = {0};
	char *text;
	int rc;

	if (!k)
		return err_set(E_USE, "kernel %s is not known", pack->kernel);
	rc = check_one(k, pack, c, has_order);
	if (rc == 0)
		return 0;
	text = mem_text(err_text());
	others(k, pack, c, has_order, &also);
	rc = err_set(rc, "%s%s", text, buf_text(&also));
	buf_release(&also);
	free(text);
	return rc;
}

/* ---- linears that run as one ---- */

static int
check_site(const struct kernel *k, const struct project *p, const struct choice *c, size_t n)
{
	int devices = p->s->pack.tensor_parallel;
	bool by_rows = c->site == SITE_O || c->site == SITE_DOWN;
	int64_t rows = 0;

	for (size_t i = 0; i < n; i++) {
		if (c[i].skip != c->skip || (!c->skip && (c[i].bits != c->bits || c[i].group != c->group || c[i].sym != c->sym)))
			return err_set(E_USE, "kernel %s runs %s and %s as one linear, so they need the same "
			               "settings", k->name, c->name, c[i].name);
		rows += c[i].rows;
	}
	rows /= by_rows ? 1 : devices;
	if (!c->skip && rows % k->n != 0)
		return err_set(E_USE, "kernel %s needs out_features in multiples of %" PRId64 ", and %s%s has "
		               "%" PRId64 "%s", k->name, k->n, c->name,
		               n > 1 ? " with those of its input" : "", rows, devices > 1 && !by_rows ? " a device" : "");
	return 0;
}

int
kernel_check_fused(const struct project *p)
{
	const struct kernel *k = kernel_find(p->s->pack.kernel);

	for (size_t i = 0, n; k && (k->flags & FUSED) && i < p->nchoices; i += n) {
		const struct choice *c = &p->choices[i];
		int rc;

		for (n = 1; i + n < p->nchoices && c[n].site == c->site && c[n].block == c->block; n++)
			continue;
		rc = check_site(k, p, c, n);
		if (rc < 0)
			return rc;
	}
	return 0;
}
