#include "stages/pack/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "stages/pack/format.h"

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t
digits(const char *s)
{
	size_t n = 0;

	while (is_digit(s[n]))
		n++;
	return n;
}

int
name_order(const char *a, const char *b)
{
	while (*a && *b) {
		size_t na = digits(a), nb = digits(b), zero_a = strspn(a, "0"), zero_b = strspn(b, "0");
		int by;

		if (!na || !nb) {
			if (*a != *b)
				break;
			a++;
			b++;
			continue;
		}
		zero_a = zero_a < na ? zero_a : na;
		zero_b = zero_b < nb ? zero_b : nb;
		if (na - zero_a != nb - zero_b)
			return na - zero_a < nb - zero_b ? -1 : 1;
		by = memcmp(a + zero_a, b + zero_b, na - zero_a);
		if (by != 0 || na != nb)
			return by != 0 ? by : na < nb ? -1 : 1;
		a += na;
		b += nb;
	}
	return (unsigned char)*a - (unsigned char)*b;
}

static int
by_name(const void *a, const void *b)
{
	const struct tensor *const *ta = a, *const *tb = b;

	return name_order((*ta)->name, (*tb)->name);
}

/* A head that is tied to the embedding is not stored: loaders make it from the embedding. */
static bool
is_tied_head(const struct project *p, const char *name)
{
	const struct config *c = &p->weights.config;
	size_t n = c->family->names[HEAD] ? strlen(c->family->names[HEAD]) : 0;

	return c->tied && n && strncmp(name, c->family->names[HEAD], n) == 0 && strcmp(name + n, ".weight") == 0;
}

static const struct tensor **
sorted_source(const struct project *p, size_t *n)
{
	const struct tensor **v;
	size_t most = 0;

	*n = 0;
	for (size_t i = 0; i < p->weights.nfiles; i++)
		most += p->weights.files[i].st.n;
	v = mem_new(most + 1, sizeof(*v));
	for (size_t i = 0; i < p->weights.nfiles; i++)
		for (size_t j = 0; j < p->weights.files[i].st.n; j++)
			if (!is_tied_head(p, p->weights.files[i].st.v[j].name))
				v[(*n)++] = &p->weights.files[i].st.v[j];
	qsort(v, *n, sizeof(*v), by_name);
	return v;
}

/* The tensors that stand for one of the source, at the end of s->tensors. */
static size_t
add_tensor(struct shards *s, const struct project *p, const struct tensor *from)
{
	const struct choice *c = project_choice(p, from->name);
	enum dtype scale = p->s->format->scale_type(p->s->format_params, p->weights.config.dtype);
	struct packed_tensor *to = s->tensors + s->ntensors;
	struct tensor made[FORMAT_TENSORS];
	int n;

	if (!c) {
		*to = (struct packed_tensor){.t = *from};
		to->t.name = mem_text(from->name);
		s->ntensors++;
		return 1;
	}
	n = p->s->format->tensors(p->s->format_params, c, scale, p->wish.ordered, made);
	for (int k = 0; k < n; k++)
		to[k] = (struct packed_tensor){made[k], c, k};
	s->ntensors += (size_t)n;
	return (size_t)n;
}

static void
add_to_shards(struct shards *s, size_t n, uint64_t limit)
{
	struct shard *last = s->n ? &s->v[s->n - 1] : NULL;
	uint64_t bytes = 0;

	for (size_t i = s->ntensors - n; i < s->ntensors; i++)
		bytes += s->tensors[i].t.bytes;
	if (!last || last->bytes + bytes > limit) {
		last = &s->v[s->n++];
		last->first = s->ntensors - n;
	}
	last->n += n;
	last->bytes += bytes;
	s->bytes += bytes;
}

/* A run ends a while after its last block, as long as it takes to write and digest the last shard: a large one is cut to an eighth of
 * what others may have. */
static void
cut_last(struct shards *s, uint64_t limit)
{
	const uint64_t worth = 64 << 20, most = limit / 8 > worth ? limit / 8 : worth;
	struct shard *last = &s->v[s->n - 1], *next = &s->v[s->n];
	uint64_t bytes = 0;

	if (s->n < 2 || last->bytes <= most)
		return;
	for (size_t i = s->ntensors; i > last->first + 1 && bytes + s->tensors[i - 1].t.bytes <= most; i--) {
		bytes += s->tensors[i - 1].t.bytes;
		if (s->tensors[i - 1].k == 0)      /* what stands for one tensor of the source stays together */
			*next = (struct shard){.first = i - 1, .n = s->ntensors - (i - 1), .bytes = bytes};
	}
	if (!next->n)
		return;
	last->n -= next->n;
	last->bytes -= next->bytes;
	s->n++;
}

int
shards_plan(struct shards *s, const struct project *p)
{
	uint64_t limit;
	size_t n;
	const struct tensor **source;
	int rc = settings_bytes(p->s->pack.max_shard_size, &limit);

	*s = (struct shards){0};
	if (rc < 0)
		return err_in(rc, "pack.max_shard_size");
	source = sorted_source(p, &n);
	s->tensors = mem_new((n + 1) * FORMAT_TENSORS, sizeof(*s->tensors));
	s->v = mem_new(n + 2, sizeof(*s->v));
	for (size_t i = 0; i < n; i++)
		add_to_shards(s, add_tensor(s, p, source[i]), limit);
	cut_last(s, limit);
	for (size_t i = 0; i < s->n; i++)
		s->v[i].name = s->n == 1 ? mem_text("model.safetensors") : mem_format("model-%05zu-of-%05zu.safetensors", i + 1, s->n);
	free(source);
	return 0;
}

void
shards_release(struct shards *s)
{
	for (size_t i = 0; i < s->ntensors; i++)
		free(s->tensors[i].t.name);
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i].name);
	free(s->tensors);
	free(s->v);
	*s = (struct shards){0};
}
