#include "stages/pack/layout.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "stages/project.h"

/* Costly expressions of a stranger's config.json are cut off here; real ones need a few dozen steps. */
enum { REGEX_STEPS = 100000, TILE = 16 };

/* Through a tile of its own: each line of memory is touched once, in one go, on either side.  Tiles turned in place were up to
 * three times slower where rows lie a power of two apart and push one another out of the cache. */
static void
tile_turn(unsigned char *to, const unsigned char *from, int64_t rows, int64_t cols)
{
	uint32_t in[TILE][TILE], out[TILE][TILE];

	for (int r = 0; r < TILE; r++)
		memcpy(in[r], from + r * cols * 4, sizeof(in[r]));
	for (int r = 0; r < TILE; r++)
		for (int c = 0; c < TILE; c++)
			out[c][r] = in[r][c];
	for (int c = 0; c < TILE; c++)
		memcpy(to + c * rows * 4, out[c], sizeof(out[c]));
}

void
words_turn(void *to, const void *from, int64_t rows, int64_t cols)
{
	unsigned char *t = to;
	const unsigned char *f = from;

	for (int64_t r0 = 0; r0 < rows; r0 += TILE)
		for (int64_t c0 = 0; c0 < cols; c0 += TILE) {
			if (rows - r0 >= TILE && cols - c0 >= TILE) {
				tile_turn(t + (c0 * rows + r0) * 4, f + (r0 * cols + c0) * 4, rows, cols);
				continue;
			}
			for (int64_t r = r0; r < r0 + TILE && r < rows; r++)
				for (int64_t c = c0; c < c0 + TILE && c < cols; c++)
					memcpy(t + (c * rows + r) * 4, f + (r * cols + c) * 4, 4);
		}
}

int64_t
group_nearest(int64_t cols, int64_t want)
{
	int64_t best = -1;

	for (int64_t g = 16; g <= 1024 && g <= cols; g *= 2)
		if (cols % g == 0 && (best < 0 || llabs(g - want) < llabs(best - want)))
			best = g;
	return best;
}

int
group_check(const struct choice *c)
{
	int64_t near;

	if (c->group > 0 && c->cols % c->group == 0)
		return 0;
	near = group_nearest(c->cols, c->group);
	return err_set(E_USE, "group_size %" PRId64 " does not divide in_features %" PRId64 " of %s; %" PRId64 " does%s",
	               c->group, c->cols, c->name, near, near < 0 ? " (one group a row)" : "");
}

/* ---- labels ---- */

bool
label_fits(const struct label *l, const struct choice *c)
{
	return l->bits == c->bits && l->sym == c->sym && (l->group == c->group || (l->group < 0 && c->group == c->cols));
}

struct label
label_of(const struct choice *c)
{
	return (struct label){c->bits, c->group == c->cols ? -1 : c->group, c->sym};
}

static size_t
count_fits(const struct project *p, const struct label *l)
{
	size_t n = 0;

	for (size_t i = 0; i < p->nchoices; i++)
		n += !p->choices[i].skip && label_fits(l, &p->choices[i]);
	return n;
}

/* Candidates: what the recipe says of all linears, then each linear's own group, then "one group a row". */
struct label
label_common(const struct project *p)
{
	struct label best = {0}, l = {0};
	size_t most = 0, n;

	p->s->method->defaults(p->s->method_params, &l.bits, &l.group, &l.sym);
	for (size_t i = 0; i <= 2 * p->nchoices; i++) {
		const struct choice *c = i ? &p->choices[(i - 1) % p->nchoices] : NULL;

		if (c && c->skip)
			continue;
		if (c)
			l = i > p->nchoices ? label_of(c) : (struct label){c->bits, c->group, c->sym};
		if (c && l.bits == best.bits && l.group == best.group && l.sym == best.sym)
			continue;
		n = count_fits(p, &l);
		if (n > most) {
			most = n;
			best = l;
		}
		if (most + 1 > p->nchoices)
			break;
	}
	return best;
}

bool
method_setting(const struct project *p, const char *name, struct buf *out)
{
	const struct param *row = p->s->method->params;

	for (; row && row->name; row++) {
		if (strcmp(row->name, name) != 0)
			continue;
		param_value(row, p->s->method_params, out);
		return true;
	}
	return false;
}

const char *
part_suffix(const struct family *f, enum part part)
{
	const char *at = strstr(f->names[part], "%d");

	return at ? at + 2 : f->names[part];
}

/* ---- regular expressions ---- */

bool
regex_match(const char *pattern, const char *name)
{
	pcre2_match_data *data = NULL;
	pcre2_match_context *limits = pcre2_match_context_create(NULL);
	size_t at;
	int code, hit = -1;
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED, &code, &at, NULL);

	if (re && limits) {
		data = pcre2_match_data_create_from_pattern(re, NULL);
		pcre2_set_match_limit(limits, REGEX_STEPS);
		pcre2_set_depth_limit(limits, 1000);
		if (data)
			hit = pcre2_match(re, (PCRE2_SPTR)name, strlen(name), 0, 0, data, limits);
	}
	pcre2_match_data_free(data);
	pcre2_match_context_free(limits);
	pcre2_code_free(re);
	return hit >= 0;
}

void
regex_quote(const char *name, struct buf *out)
{
	for (; *name; name++) {
		if (strchr("\\^$.|?*+()[]{}", *name))
			buf_add(out, "\\", 1);
		buf_add(out, name, 1);
	}
}

/* ---- reading ---- */

static bool
is_float(enum dtype t)
{
	return t == F32 || t == F16 || t == BF16;
}

int
need_tensor(const struct tensor **out, const struct weights *w, const char *linear, const char *suffix,
            enum dtype type, int rank, int64_t d0, int64_t d1)
{
	char name[512];
	const struct tensor *t;
	int n = snprintf(name, sizeof(name), "%s.%s", linear, suffix);

	t = n > 0 && (size_t)n < sizeof(name) ? weights_find(w, name) : NULL;
	if (!t)
		return err_set(E_DATA, "%s.%s is missing", linear, suffix);
	if (type == DTYPES ? !is_float(t->type) : t->type != type)
		return err_set(E_DATA, "%s is %s, not %s", name, dtype_name(t->type), type == DTYPES
		               ? "F16, BF16 or F32" : dtype_name(type));
	if (t->rank != rank || (d0 >= 0 && t->shape[0] != d0) || (rank > 1 && d1 >= 0 && t->shape[1] != d1)) {
		struct buf want = {0}, got = {0};
		int rc;

		if (rank == 1)
			buf_printf(&want, "[%" PRId64 "]", d0);
		else
			buf_printf(&want, "[%" PRId64 ", %" PRId64 "]", d0, d1);
		for (int i = 0; i < t->rank; i++)
			buf_printf(&got, "%s%" PRId64, i ? ", " : "", t->shape[i]);
		rc = err_set(E_DATA, "%s has shape [%s], not %s", name, buf_text(&got), buf_text(&want));
		buf_release(&want);
		buf_release(&got);
		return rc;
	}
	*out = t;
	return 0;
}

int
read_scales(float *to, const struct tensor *t)
{
	const unsigned char *p = t->p;
	size_t each = dtype_size(t->type), n = t->bytes / each;

	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		if (t->type == F32) {
			memcpy(&to[i], p + i * each, 4);
		} else {
			memcpy(&h, p + i * each, 2);
			to[i] = t->type == F16 ? f16_float(h) : bf16_float(h);
		}
		if (!isfinite(to[i]))
			return err_set(E_DATA, "%s holds %s at element %zu", t->name, isnan(to[i]) ? "NaN" : "an infinity", i);
	}
	return 0;
}
