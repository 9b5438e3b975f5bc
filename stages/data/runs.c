#include "stages/data/runs.h"

#include "stages/data/thrift.h"

static uint64_t
varint(struct runs *r)
{
	struct thrift t = {.p = r->p, .end = r->end};
	uint64_t v = thrift_varint(&t);

	r->p = t.p;
	r->bad = r->bad || t.bad;
	return v;
}

/* width bits from bit `at` on, least significant first. */
static uint64_t
bits_at(const uint8_t *p, uint64_t at, int width)
{
	uint64_t v = 0;

	for (int got = 0; got < width;) {
		int in = (int)((at + (uint64_t)got) % 8), take = 8 - in < width - got ? 8 - in : width - got;

		v |= (uint64_t)(p[(at + (uint64_t)got) / 8] >> in & ((1 << take) - 1)) << got;
		got += take;
	}
	return v;
}

static void
begin_run(struct runs *r)
{
	uint64_t head = varint(r), bytes = head & 1 ? (head >> 1) * (uint64_t)r->width : (uint64_t)(r->width + 7) / 8;

	if (r->bad || head >> 1 == 0 || head >> 1 > UINT32_MAX || bytes > (uint64_t)(r->end - r->p)) {
		r->bad = true;
		return;
	}
	r->packed = head & 1 ? r->p : NULL;
	r->left = head & 1 ? (head >> 1) * 8 : head >> 1;
	r->at = 0;
	if (!r->packed)
		r->value = (uint32_t)bits_at(r->p, 0, (int)bytes * 8);
	r->p += bytes;
}

uint32_t
runs_next(struct runs *r)
{
	uint32_t v;

	if (r->left == 0 && !r->bad)
		begin_run(r);
	if (r->bad)
		return 0;
	v = r->packed ? (uint32_t)bits_at(r->packed, r->at, r->width) : r->value;
	r->at += (uint64_t)r->width;
	r->left--;
	return v;
}

/* ---- deltas ---- */

struct deltas {
	struct thrift t;             /* only its numbers are wanted */
	uint64_t mini, minis;        /* values of a miniblock, miniblocks of a block */
	int64_t last;
};

/* One block's values, as many as are still wanted. */
static size_t
read_block(struct deltas *d, int64_t *to, size_t n)
{
	int64_t least = thrift_zigzag(&d->t);
	const uint8_t *widths = d->t.p;
	size_t got = 0;

	if (d->t.bad || d->minis > (uint64_t)(d->t.end - d->t.p))
		return 0;
	d->t.p += d->minis;
	for (uint64_t m = 0; m < d->minis && got < n; m++) {
		uint64_t bytes = d->mini / 8 * widths[m];

		if (widths[m] > 64 || bytes > (uint64_t)(d->t.end - d->t.p))
			return 0;
		for (uint64_t i = 0; i < d->mini && got < n; i++) {
			d->last = (int64_t)((uint64_t)d->last + (uint64_t)least + bits_at(d->t.p, i * widths[m], widths[m]));
			to[got++] = d->last;
		}
		d->t.p += bytes;
	}
	return got;
}

bool
deltas_read(int64_t *to, size_t n, const uint8_t **p, const uint8_t *end)
{
	struct deltas d = {.t = {.p = *p, .end = end}};
	uint64_t block = thrift_varint(&d.t), count;
	size_t got = 0, more = 1;

	d.minis = thrift_varint(&d.t);
	count = thrift_varint(&d.t);
	d.last = thrift_zigzag(&d.t);
	if (d.t.bad || count != n || block == 0 || block > 1 << 20 || d.minis == 0 || block % d.minis != 0 || block / d.minis % 32 != 0)
		return false;
	d.mini = block / d.minis;
	if (n > 0)
		to[got++] = d.last;
	while (got < n && more > 0) {
		more = read_block(&d, to + got, n - got);
		got += more;
	}
	*p = d.t.p;
	return got == n && !d.t.bad;
}
