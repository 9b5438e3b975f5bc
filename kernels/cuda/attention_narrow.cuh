/* Attention with operands of 16 bits, T (__half or __nv_bfloat16), in tensor cores.  Included by attention.cu alone.
 *
 * k and v are laid out once so that a tile of them is the image of shared memory.  A block holds 128 queries, eight warps of 16; a
 * ninth fetches tiles of keys and values ahead of them into rings of a few tiles. */
#ifndef QJOB_KERNELS_CUDA_ATTENTION_NARROW_CUH
#define QJOB_KERNELS_CUDA_ATTENTION_NARROW_CUH

#include <math.h>

#include "kernels/cuda/attention_job.cuh"
#include "kernels/cuda/attention_ptx.cuh"

enum {
	QUERIES = 128,               /* of a block: two times the 64 rows of a wgmma */
	WARPS = QUERIES / 16,        /* that compute; one more fetches, and three make it a warpgroup, which registers are moved by */
	USERS = WARPS * 32,
	THREADS = USERS + 128,
	FETCHER_REGISTERS = 24,
	USER_REGISTERS = 240,        /* with the others' 24, and 128 threads of each warpgroup, all that a multiprocessor has */
};

/* ---- operands ---- */

/* Eight columns from col on of a head, rounded; zero past its width. */
template <class T>
__device__ __forceinline__ uint4
read_eight(const struct floats &m, int64_t row, int head, int col, int width)
{
	const float *from = m.p + row * m.ld + (int64_t)head * width + col;
	float x[8];

	if (m.vectors && col + 8 <= width) {
		*(float4 *)x = *(const float4 *)from;
		*(float4 *)(x + 4) = *(const float4 *)(from + 4);
	} else {
		#pragma unroll
		for (int i = 0; i < 8; i++)
			x[i] = col + i < width ? from[i] : 0.f;
	}
	return make_uint4(pack_pair<T>(x[0], x[1]), pack_pair<T>(x[2], x[3]), pack_pair<T>(x[4], x[5]), pack_pair<T>(x[6], x[7]));
}

/* A thread per chunk of keys (y 0) or values (y 1): rows of an image are swizzled by position, as tile_offset does. */
template <class T>
static __global__ void __launch_bounds__(256)
make_images(struct job j, int kv_heads, int panels)
{
	int chunks = panels * 8, chunk, head, position;
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, token;
	uint16_t *image = (uint16_t *)(blockIdx.y ? j.values : j.keys);

	chunk = (int)(i % chunks);
	head = (int)(i / chunks % kv_heads);
	token = i / chunks / kv_heads;
	if (token >= j.tokens)
		return;
	position = (int)(token % j.seqlen);
	image += (((int64_t)head * panels + chunk / 8) * j.tokens + token) * 64 + ((chunk ^ position) & 7) * 8;
	*(uint4 *)image = read_eight<T>(blockIdx.y ? j.v : j.k, token, head, chunk * 8, j.width);
}

/* ---- a block's shared memory ---- */

/* The queries, then rings of STAGES tiles of KEYS keys and values, then their barriers. */
template <int WIDTH, int KEYS, int STAGES>
struct ring {
	static constexpr int PANELS = WIDTH / 64;
	static constexpr int QUERY_BYTES = PANELS * QUERIES * 128;
	static constexpr int TILE_BYTES = PANELS * KEYS * 128;
	static constexpr int BARRIERS = QUERY_BYTES + 2 * STAGES * TILE_BYTES;
	static constexpr int BYTES = BARRIERS + 4 * STAGES * 8 + 1024;   /* room to begin at a multiple of 1024 */
};

/* What a tile is of. */
enum { KEY, VALUE };

template <class RING, int STAGES>
__device__ __forceinline__ uint32_t
tile_at(uint32_t room, int kind, int i)
{
	return room + RING::QUERY_BYTES + (kind * STAGES + i % STAGES) * RING::TILE_BYTES;
}

/* Of tile i: it is there (full), or it is no longer needed. */
template <class RING, int STAGES>
__device__ __forceinline__ uint32_t
barrier_at(uint32_t room, int kind, bool full, int i)
{
	return room + RING::BARRIERS + ((kind * 2 + full) * STAGES + i % STAGES) * 8;
}

/* By the warp that fetches; a copy may then be begun. */
template <class RING, int STAGES>
__device__ __forceinline__ void
init_barriers(uint32_t room)
{
	int i = threadIdx.x % 32;

	if (i < 2 * STAGES) {
		barrier_init(barrier_at<RING, STAGES>(room, i / STAGES, true, i), HAS_WGMMA ? 1 : 32);
		barrier_init(barrier_at<RING, STAGES>(room, i / STAGES, false, i), WARPS);
	}
	publish_stores();
	__syncwarp();
}

/* ---- the warp that fetches ---- */

/* Rows [row, row + n) of a head's image, into a tile. */
template <int PANELS, int KEYS>
__device__ __forceinline__ void
fetch_tile(const struct job &j, int kind, uint32_t to, int head, int64_t row, int n, uint32_t full)
{
	const uint16_t *from = (kind == KEY ? j.keys : j.values) + ((int64_t)head * PANELS * j.tokens + row) * 64;

#if HAS_WGMMA
	barrier_expect(full, (uint32_t)(PANELS * n * 128));
	#pragma unroll
	for (int panel = 0; panel < PANELS; panel++)
		copy_bulk(to + panel * KEYS * 128, from + panel * j.tokens * 64, (uint32_t)(n * 128), full);
#else
	#pragma unroll
	for (int panel = 0; panel < PANELS; panel++) {
		for (int i = threadIdx.x % 32; i < n * 8; i += 32)
			copy_16(to + panel * KEYS * 128 + i * 16, from + panel * j.tokens * 64 + i * 8);
	}
	barrier_arrive_copied(full);
#endif
}

/* Tiles i .. end - 1, which go from that of the last query back to the first that any query of the block sees. */
template <class RING, int KEYS, int STAGES>
__device__ __forceinline__ void
fetch_tiles(const struct job &j, const struct place &at, uint32_t room, int last, int i, int end)
{
	int head = at.head / j.group;

#if HAS_WGMMA
	if (threadIdx.x % 32 != 0)
		return;
#endif
	for (; i < end; i++) {
		int key = (last - i) * KEYS, n = min(KEYS, j.seqlen - key);

		for (int kind = KEY; kind <= VALUE; kind++) {
			if (i >= STAGES)
				barrier_wait(barrier_at<RING, STAGES>(room, kind, false, i), (i / STAGES - 1) & 1);
			fetch_tile<RING::PANELS, KEYS>(j, kind, tile_at<RING, STAGES>(room, kind, i), head, at.start + key, n,
			                               barrier_at<RING, STAGES>(room, kind, true, i));
		}
	}
#if !HAS_WGMMA
	await_copies();
#endif
}

/* ---- products of a warp's 16 queries; wgmma has those of four warps, whose share of registers is the same ----
 *
 * Registers i of scores and sums: column i / 4 * 8 + lane % 4 * 2 + i % 2 of row lane / 4 + i / 2 % 2 * 8. */

/* s = q k^T; under wgmma it is only begun. */
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void
score_keys(float (&s)[KEYS / 2], uint32_t q, uint32_t k, int warp)
{
#if HAS_WGMMA
	uint32_t rows = q + warp / 4 * 64 * 128;

	hold(s);
	wgmma_begin();
	#pragma unroll
	for (int i = 0; i < WIDTH / 16; i++)
		wgmma_rows<T>(s, describe(rows + i / 4 * QUERIES * 128 + i % 4 * 32, 16),
		              describe(k + i / 4 * KEYS * 128 + i % 4 * 32, 16), i > 0);
	wgmma_commit();
#else
	int lane = threadIdx.x % 32;

	#pragma unroll
	for (int i = 0; i < KEYS / 2; i++)
		s[i] = 0;
	#pragma unroll
	for (int i = 0; i < WIDTH / 16; i++) {
		uint32_t a[4], b[4];

		load_rows(a, q + tile_offset(QUERIES, warp * 16 + lane % 16, i * 2 + lane / 16));
		#pragma unroll
		for (int n = 0; n < KEYS / 16; n++) {
			load_rows(b, k + tile_offset(KEYS, n * 16 + lane / 16 * 8 + lane % 8, i * 2 + lane / 8 % 2));
			mma<T>(s, n * 8, a, 0, b[0], b[1]);
			mma<T>(s, n * 8 + 4, a, 0, b[2], b[3]);
		}
	}
#endif
}

/* o += p v; under wgmma it is only begun, and p must stay as it is. */
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void
weigh_values(float (&o)[WIDTH / 2], const uint32_t (&p)[KEYS / 4], uint32_t v)
{
#if HAS_WGMMA
	constexpr uint32_t PANEL = KEYS * 128;

	hold(o);
	wgmma_begin();
	#pragma unroll
	for (int i = 0; i < KEYS / 16; i++) {
		uint32_t a0 = p[4 * i], a1 = p[4 * i + 1], a2 = p[4 * i + 2], a3 = p[4 * i + 3], rows = v + i * 16 * 128;

		if constexpr (WIDTH == 64)
			wgmma_columns_64<T, 0>(o, a0, a1, a2, a3, describe(rows, PANEL));
		else
			wgmma_columns_128<T, 0>(o, a0, a1, a2, a3, describe(rows, PANEL));
		if constexpr (WIDTH == 192)
			wgmma_columns_64<T, 64>(o, a0, a1, a2, a3, describe(rows + 2 * PANEL, PANEL));
		if constexpr (WIDTH == 256)
			wgmma_columns_128<T, 64>(o, a0, a1, a2, a3, describe(rows + 2 * PANEL, PANEL));
	}
	wgmma_commit();
#else
	int lane = threadIdx.x % 32;

	#pragma unroll
	for (int i = 0; i < KEYS / 16; i++) {
		#pragma unroll
		for (int n = 0; n < WIDTH / 16; n++) {
			uint32_t b[4];

			load_columns(b, v + tile_offset(KEYS, i * 16 + lane % 16, n * 2 + lane / 16));
			mma<T>(o, n * 8, p, i * 4, b[0], b[1]);
			mma<T>(o, n * 8 + 4, p, i * 4, b[2], b[3]);
		}
	}
#endif
}

/* Waits until at most PENDING products are unfinished, d's not among them. */
template <int PENDING, int N>
__device__ __forceinline__ void
finish(float (&d)[N])
{
#if HAS_WGMMA
	wgmma_wait<PENDING>();
	hold(d);
#endif
}

/* Of a warp: it no longer needs the tile. */
__device__ __forceinline__ void
release_tile(uint32_t barrier)
{
	__syncwarp();
	if (threadIdx.x % 32 == 0)
		barrier_arrive(barrier);
}

/* ---- softmax ---- */

/* Of the two rows of which a thread has a share; total is of its own columns. */
struct softmax {
	float max[2], total[2];
};

/* softcap tanh(s scale / softcap), less the factor softcap.  1 - 2 / (e^2x + 1) is within 2^-23 everywhere; tanh.approx, within
 * 2^-11, would move scores by as much as p is rounded. */
template <int N>
__device__ __forceinline__ void
cap_scores(float (&s)[N], float by)
{
	#pragma unroll
	for (int i = 0; i < N; i++)
		s[i] = 1 - __fdividef(2, exp2_fast(s[i] * by) + 1);
}

/* query: of row lane / 4; key: of the tile's first column. */
template <int N>
__device__ __forceinline__ void
mask_scores(float (&s)[N], int query, int key, int window)
{
	int col = key + threadIdx.x % 4 * 2;

	#pragma unroll
	for (int i = 0; i < N; i++) {
		if (!is_seen(query + i / 2 % 2 * 8, col + i / 4 * 8 + i % 2, window))
			s[i] = -INFINITY;
	}
}

/* s = 2^(scale (s - max)), max being the largest of all so far; by: what brings earlier weights to this measure. */
template <int N>
__device__ __forceinline__ void
weigh_scores(float (&s)[N], struct softmax &m, float (&by)[2], float scale)
{
	#pragma unroll
	for (int half = 0; half < 2; half++) {
		float max = m.max[half], base, total = 0;

		#pragma unroll
		for (int i = half * 2; i < N; i += 4)
			max = fmaxf(max, fmaxf(s[i], s[i + 1]));
		max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, 1));
		max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, 2));
		/* A row may have seen no key yet: its weights must come out 0, not NaN. */
		base = max == -INFINITY ? 0.f : max * scale;
		by[half] = exp2_fast(fmaf(m.max[half], scale, -base));
		m.max[half] = max;
		#pragma unroll
		for (int i = half * 2; i < N; i += 4) {
			s[i] = exp2_fast(fmaf(s[i], scale, -base));
			s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -base));
			total += s[i] + s[i + 1];
		}
		m.total[half] = fmaf(m.total[half], by[half], total);
	}
}

/* Weights as the operand a of the next product: registers of 16 columns are those of two 8-column blocks, two by two. */
template <class T, int N>
__device__ __forceinline__ void
round_weights(uint32_t (&p)[N / 2], const float (&s)[N])
{
	#pragma unroll
	for (int i = 0; i < N / 2; i++)
		p[i] = pack_pair<T>(s[2 * i], s[2 * i + 1]);
}

template <int N>
__device__ __forceinline__ void
scale_rows(float (&o)[N], const float (&by)[2])
{
	#pragma unroll
	for (int i = 0; i < N; i++)
		o[i] *= by[i / 2 % 2];
}

/* Scores of the tile from key on become weights.  Only tiles on an edge of what the warp's queries see are masked. */
template <int KEYS>
__device__ __forceinline__ void
meet_scores(const struct job &j, float (&s)[KEYS / 2], struct softmax &m, float (&by)[2], int query, int key)
{
	constexpr float LOG2_E = 1.4426950408889634f;
	float scale = j.scale * LOG2_E;

	if (j.softcap > 0) {
		cap_scores(s, 2 * LOG2_E * j.scale / j.softcap);
		scale = j.softcap * LOG2_E;
	}
	if (key + KEYS - 1 > query || query + 15 - key >= j.window)
		mask_scores(s, query + threadIdx.x % 32 / 4, key, j.window);
	weigh_scores(s, m, by, scale);
}

/* ---- a block ---- */

/* By the warps that compute.  The first tile may end with the sequence: weights there are 0, and so must values be, since
 * 0 times what is left in shared memory may be NaN. */
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void
load_queries(const struct job &j, const struct place &at, uint32_t q, uint32_t v, int keys)
{
	constexpr int CHUNKS = WIDTH / 8;

	#pragma unroll 4
	for (int i = threadIdx.x; i < QUERIES * CHUNKS; i += USERS) {
		int row = i / CHUNKS, chunk = i % CHUNKS;
		uint4 x = make_uint4(0, 0, 0, 0);

		if (row < at.count)
			x = read_eight<T>(j.q, at.start + at.first + row, at.head, chunk * 8, j.width);
		store_16(q + tile_offset(QUERIES, row, chunk), x);
	}
	for (int i = keys * CHUNKS + threadIdx.x; i < KEYS * CHUNKS; i += USERS)
		store_16(v + tile_offset(KEYS, i / CHUNKS, i % CHUNKS), make_uint4(0, 0, 0, 0));
}

template <int N>
__device__ __forceinline__ void
write_sums(const struct job &j, const struct place &at, const float (&o)[N], const struct softmax &m, int warp)
{
	int lane = threadIdx.x % 32;

	#pragma unroll
	for (int half = 0; half < 2; half++) {
		int row = warp * 16 + lane / 4 + half * 8;
		float total = m.total[half], by;

		total += __shfl_xor_sync(0xffffffff, total, 1);
		total += __shfl_xor_sync(0xffffffff, total, 2);
		by = 1 / total;
		if (row >= at.count)
			continue;
		#pragma unroll
		for (int i = half * 2; i < N; i += 4)
			write_pair(j, at, at.first + row, i / 4 * 8 + lane % 4 * 2, o[i] * by, o[i + 1] * by);
	}
}

/* Weights of a tile are summed while the scores of the next are computed and made weights; mma.sync, which waits for its result
 * anyhow, sums them at once and so needs no registers for both. */
template <class T, class RING, int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void
use_tiles(const struct job &j, const struct place &at, uint32_t room, int last, int tiles, int warp)
{
	float s[KEYS / 2], o[WIDTH / 2] = {0}, by[2];
	uint32_t p[KEYS / 4];
	struct softmax m = {{-INFINITY, -INFINITY}, {0, 0}};
	int query = at.first + warp * 16, i = 0;

#if HAS_WGMMA
	barrier_wait(barrier_at<RING, STAGES>(room, KEY, true, 0), 0);
	score_keys<T, WIDTH, KEYS>(s, room, tile_at<RING, STAGES>(room, KEY, 0), warp);
	finish<0>(s);
	release_tile(barrier_at<RING, STAGES>(room, KEY, false, 0));
	meet_scores<KEYS>(j, s, m, by, query, last * KEYS);
	round_weights<T>(p, s);
	for (i = 1; i < tiles; i++) {
		barrier_wait(barrier_at<RING, STAGES>(room, KEY, true, i), i / STAGES & 1);
		score_keys<T, WIDTH, KEYS>(s, room, tile_at<RING, STAGES>(room, KEY, i), warp);
		barrier_wait(barrier_at<RING, STAGES>(room, VALUE, true, i - 1), (i - 1) / STAGES & 1);
		weigh_values<T, WIDTH, KEYS>(o, p, tile_at<RING, STAGES>(room, VALUE, i - 1));
		finish<1>(s);
		release_tile(barrier_at<RING, STAGES>(room, KEY, false, i));
		meet_scores<KEYS>(j, s, m, by, query, (last - i) * KEYS);
		hold(s);
		/* Over already.  It is a loop, and so what keeps ptxas from putting the exponentials off until after the next wait, which
		 * they are to fill. */
		barrier_wait(barrier_at<RING, STAGES>(room, VALUE, true, i - 1), (i - 1) / STAGES & 1);
		finish<0>(o);
		hold(p);
		release_tile(barrier_at<RING, STAGES>(room, VALUE, false, i - 1));
		scale_rows(o, by);
		round_weights<T>(p, s);
	}
	barrier_wait(barrier_at<RING, STAGES>(room, VALUE, true, i - 1), (i - 1) / STAGES & 1);
	weigh_values<T, WIDTH, KEYS>(o, p, tile_at<RING, STAGES>(room, VALUE, i - 1));
	finish<0>(o);
#else
	for (i = 0; i < tiles; i++) {
		barrier_wait(barrier_at<RING, STAGES>(room, KEY, true, i), i / STAGES & 1);
		score_keys<T, WIDTH, KEYS>(s, room, tile_at<RING, STAGES>(room, KEY, i), warp);
		release_tile(barrier_at<RING, STAGES>(room, KEY, false, i));
		meet_scores<KEYS>(j, s, m, by, query, (last - i) * KEYS);
		scale_rows(o, by);
		round_weights<T>(p, s);
		barrier_wait(barrier_at<RING, STAGES>(room, VALUE, true, i), i / STAGES & 1);
		weigh_values<T, WIDTH, KEYS>(o, p, tile_at<RING, STAGES>(room, VALUE, i));
		release_tile(barrier_at<RING, STAGES>(room, VALUE, false, i));
	}
#endif
	write_sums(j, at, o, m, warp);
}

/* One block per multiprocessor, for its registers: scores, weights and sums of a thread take 160 of them at a width of 128. */
template <class T, int WIDTH, int KEYS, int STAGES>
static __global__ void __launch_bounds__(THREADS, 1)
attend_narrow(const __grid_constant__ struct job j)
{
	using RING = ring<WIDTH, KEYS, STAGES>;
	extern __shared__ char shared[];
	uint32_t room = ((uint32_t)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024;
	int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);   /* so that the compiler knows it is the warp's, not the thread's */
	struct place at = place_of(j, QUERIES);
	int end = at.first + at.count, last = (end - 1) / KEYS, tiles = last - max(at.first - (j.window - 1), 0) / KEYS + 1;

	if (warp == WARPS) {
		init_barriers<RING, STAGES>(room);
		fetch_tiles<RING, KEYS, STAGES>(j, at, room, last, 0, min(STAGES, tiles));
	} else if (warp < WARPS) {
		load_queries<T, WIDTH, KEYS>(j, at, room, tile_at<RING, STAGES>(room, VALUE, 0), min(KEYS, j.seqlen - last * KEYS));
		publish_stores();
	}
	__syncthreads();
	if (warp >= WARPS) {
#if HAS_WGMMA
		keep_registers<FETCHER_REGISTERS>();
#endif
		if (warp == WARPS)
			fetch_tiles<RING, KEYS, STAGES>(j, at, room, last, STAGES, tiles);
	} else {
#if HAS_WGMMA
		take_registers<USER_REGISTERS>();
#endif
		use_tiles<T, RING, WIDTH, KEYS, STAGES>(j, at, room, last, tiles, warp);
	}
}

#endif
