/* Choices: what the recipe means for each linear, decided from the headers before any work. */
#include <fnmatch.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "qjob/base/err.h"
#include "stages/pack/format.h"
#include "stages/pack/kernel.h"
#include "stages/project.h"

/* "re:..." is a POSIX extended regular expression over the whole name, anything else a glob. */
static bool
matches(const char *pattern, const char *name)
{
	regex_t re;
	bool hit;

	if (strncmp(pattern, "re:", 3) != 0)
		return fnmatch(pattern, name, 0) == 0;
	if (regcomp(&re, pattern + 3, REG_EXTENDED | REG_NOSUB) != 0)
		return false;   /* refused when the recipe was read */
	hit = regexec(&re, name, 0, NULL, 0) == 0;
	regfree(&re);
	return hit;
}

static void
apply_overrides(const struct quantize_params *q, struct choice *c, bool *used)
{
	const struct override *o = q->overrides.v;

	for (size_t i = 0; i < q->overrides.n; i++) {
		if (!matches(o[i].match, c->name))
			continue;
		used[i] = true;
		c->skip = o[i].skip;
		if (o[i].bits)
			c->bits = o[i].bits;
		if (o[i].group_size)
			c->group = o[i].group_size;
		if (o[i].sym)
			c->sym = strcmp(o[i].sym, "true") == 0;
	}
}

static void
make_block(struct project *p, int block, bool *used)
{
	const struct config *config = &p->weights.config;
	enum part parts[4];

	for (enum site s = 0; s < SITES; s++) {
		int n = site_parts(config->family, s, parts);

		for (int i = 0; i < n; i++) {
			struct choice *c = &p->choices[p->nchoices++];

			*c = (struct choice){.block = block, .part = parts[i], .site = s};
			part_name(config->family, parts[i], block, c->name, sizeof(c->name));
			c->rows = part_rows(config, parts[i]);
			c->cols = site_width(config, s);
			p->s->method->defaults(p->s->method_params, &c->bits, &c->group, &c->sym);
			apply_overrides(&p->s->quantize, c, used);
			if (c->group < 0)
				c->group = c->cols;
		}
	}
}

static int
check_choice(const struct project *p, const struct choice *c)
{
	int rc;

	if (c->skip)
		return 0;
	rc = p->s->format->check(p->s->format_params, c, p->wish.ordered);
	if (rc < 0)
		return rc;
	return kernel_check(&p->s->pack, c, p->wish.ordered);
}

/* A problem is told once for each part of a block, at the first block that has it. */
static void
check_all(const struct project *p, const struct yaml *tree, struct diag *d)
{
	struct place at = settings_place(tree, "quantize", "group_size");
	bool told[PARTS] = {false};

	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];

		if (told[c->part] || check_choice(p, c) == 0)
			continue;
		told[c->part] = true;
		diag_add(d, at, "quantize: %s", err_text());
	}
}

void
choices_make(struct project *p, const struct yaml *tree, struct diag *d)
{
	const struct quantize_params *q = &p->s->quantize;
	const struct override *o = q->overrides.v;
	bool *used = mem_new(q->overrides.n + 1, sizeof(*used));
	size_t most = (size_t)p->weights.config.L * PARTS;

	p->choices = mem_new(most, sizeof(*p->choices));
	for (int b = 0; b < p->weights.config.L; b++)
		make_block(p, b, used);
	for (size_t i = 0; i < q->overrides.n; i++)
		if (!used[i])
			diag_add(d, settings_place(tree, "quantize", "overrides"),
			         "quantize.overrides[%zu].match: '%s' matches no linear; they are named like %s", i, o[i].match,
			         p->choices[0].name);
	check_all(p, tree, d);
	free(used);
}
