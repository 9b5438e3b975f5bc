/* The instructions that attention.cu is made of and C++ has no words for, one function each.
 * T is the type of operands, __half or __nv_bfloat16.
 *
 * Shared memory is named by its 32-bit address.  Matrices in it are tiles: panels of 64 columns, each [rows][128 bytes], with the
 * 16-byte chunk c of row r at c ^ r % 8.  That is the 128-byte swizzle of wgmma's descriptors, and it keeps the eight rows of an
 * ldmatrix on different banks.  A tile begins at a multiple of 1024 bytes. */
#ifndef QJOB_KERNELS_CUDA_ATTENTION_PTX_CUH
#define QJOB_KERNELS_CUDA_ATTENTION_PTX_CUH

#include <stdint.h>

#include <cuda_fp16.h>

/* wgmma and bulk copies: of Hopper alone, and only in code built for 90a.  Everything else multiplies by mma.sync. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#else
#define HAS_WGMMA 0
#endif

template <class T> constexpr bool IS_F16 = false;
template <> constexpr bool IS_F16<__half> = true;

/* asm of a product: NAME is what comes before the types of its operands, REST what comes after; then as asm has it. */
#define MULTIPLY(T, NAME, REST, ...) \
	do { \
		if constexpr (IS_F16<T>) \
			asm volatile(NAME ".f16.f16" REST __VA_ARGS__); \
		else \
			asm volatile(NAME ".bf16.bf16" REST __VA_ARGS__); \
	} while (0)

/* Bytes from the tile's start to a chunk of 8 columns. */
__device__ __forceinline__ uint32_t
tile_offset(int rows, int row, int chunk)
{
	return (uint32_t)((chunk / 8 * rows + row) * 128 + ((chunk ^ row) & 7) * 16);
}

__device__ __forceinline__ void
store_16(uint32_t to, uint4 v)
{
	asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" :: "r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

/* One instruction of the special function unit; exp2f would spend three more on denormal results, which are nothing here. */
__device__ __forceinline__ float
exp2_fast(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* ---- barriers in shared memory: who fetches tiles and who uses them wait for one another without stopping the block ---- */

__device__ __forceinline__ void
barrier_init(uint32_t barrier, int arrivals)
{
	asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void
barrier_arrive(uint32_t barrier)
{
	asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" :: "r"(barrier) : "memory");
}

/* Until the phase of this parity is over; phases count from 0. */
__device__ __forceinline__ void
barrier_wait(uint32_t barrier, int parity)
{
	uint32_t done = 0;

	while (!done) {
#if HAS_WGMMA
		/* Sleeps in hardware for a while before it answers no. */
		asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
		             : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
#else
		asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
		             : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
#endif
	}
}

/* What this thread stored in shared memory, barriers too, is seen by wgmma and bulk copies that come after the next barrier. */
__device__ __forceinline__ void
publish_stores(void)
{
#if HAS_WGMMA
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if HAS_WGMMA

/* This thread's arrival, and as many bytes of copies to come. */
__device__ __forceinline__ void
barrier_expect(uint32_t barrier, uint32_t bytes)
{
	asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}"
	             :: "r"(barrier), "r"(bytes) : "memory");
}

/* One thread moves a whole panel: no address arithmetic, no registers, no other thread. */
__device__ __forceinline__ void
copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
	             :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

/* Registers of a thread, for a whole warpgroup: those that fetch give theirs to those that compute. */
template <int REGISTERS>
__device__ __forceinline__ void
keep_registers(void)
{
	asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void
take_registers(void)
{
	asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(REGISTERS));
}

/* ---- wgmma: 64 rows by four warps, A in shared memory or registers, B in shared memory ---- */

/* across: bytes from one panel to the next, where columns of the tile are the product's; else it has no meaning. */
__device__ __forceinline__ uint64_t
describe(uint32_t at, uint32_t across)
{
	constexpr uint64_t SWIZZLE_128 = 1ull << 62, EIGHT_ROWS = 1024 >> 4;

	return SWIZZLE_128 | EIGHT_ROWS << 32 | (uint64_t)(across >> 4) << 16 | (at & 0x3ffff) >> 4;
}

__device__ __forceinline__ void
wgmma_begin(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void
wgmma_commit(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING committed groups are unfinished. */
template <int PENDING>
__device__ __forceinline__ void
wgmma_wait(void)
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

/* Registers 0 .. of the lists below. */
#define NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32 NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_64 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
	",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SUMS_16(d, i) SUMS_4(d, i), SUMS_4(d, (i) + 4), SUMS_4(d, (i) + 8), SUMS_4(d, (i) + 12)
#define SUMS_32(d, i) SUMS_16(d, i), SUMS_16(d, (i) + 16)
#define SUMS_64(d, i) SUMS_32(d, i), SUMS_32(d, (i) + 32)

/* d[64,N] (N / 2 registers of a thread) = or += a b^T: rows of both tiles are 16 long here. */
template <class T>
__device__ __forceinline__ void
wgmma_rows(float (&d)[16], uint64_t a, uint64_t b, int add)
{
	MULTIPLY(T, "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32",
	         " {" NAMES_16 "}, %16, %17, p, 1, 1, 0, 0;\n}" : SUMS_16(d, 0) : "l"(a), "l"(b), "r"(add));
}

template <class T>
__device__ __forceinline__ void
wgmma_rows(float (&d)[32], uint64_t a, uint64_t b, int add)
{
	MULTIPLY(T, "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32",
	         " {" NAMES_32 "}, %32, %33, p, 1, 1, 0, 0;\n}" : SUMS_32(d, 0) : "l"(a), "l"(b), "r"(add));
}

template <class T>
__device__ __forceinline__ void
wgmma_rows(float (&d)[64], uint64_t a, uint64_t b, int add)
{
	MULTIPLY(T, "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32",
	         " {" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;\n}" : SUMS_64(d, 0) : "l"(a), "l"(b), "r"(add));
}

/* d[64, 64 or 128 columns] in registers AT .. += a b: a[64,16] in four registers, the rows of b's tile are what is summed over. */
template <class T, int AT, int D>
__device__ __forceinline__ void
wgmma_columns_64(float (&d)[D], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
	MULTIPLY(T, "wgmma.mma_async.sync.aligned.m64n64k16.f32",
	         " {" NAMES_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
	         : SUMS_32(d, AT) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

template <class T, int AT, int D>
__device__ __forceinline__ void
wgmma_columns_128(float (&d)[D], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
	MULTIPLY(T, "wgmma.mma_async.sync.aligned.m64n128k16.f32",
	         " {" NAMES_64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
	         : SUMS_64(d, AT) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

/* The compiler may not move what it knows of these registers across here: wgmma writes them behind its back. */
template <int N>
__device__ __forceinline__ void
hold(float (&d)[N])
{
	#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(d[i]) :: "memory");
}

template <int N>
__device__ __forceinline__ void
hold(uint32_t (&d)[N])
{
	#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+r"(d[i]) :: "memory");
}

#else

__device__ __forceinline__ void
copy_16(uint32_t to, const void *from)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}

/* This thread's arrival, once all its copies so far have landed. */
__device__ __forceinline__ void
barrier_arrive_copied(uint32_t barrier)
{
	asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" :: "r"(barrier) : "memory");
}

/* Until this thread's copies have landed: it may not end before. */
__device__ __forceinline__ void
await_copies(void)
{
	asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- mma.sync: 16 rows by one warp ---- */

/* Four 8x8 matrices; lanes 8 i .. 8 i + 7 name the rows of matrix i.  A lane gets of each the columns 2 (lane % 4), + 1 of row lane / 4. */
__device__ __forceinline__ void
load_rows(uint32_t (&r)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

/* The same of the transposed matrices. */
__device__ __forceinline__ void
load_columns(uint32_t (&r)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

/* Registers at .. at + 3 of d, [16,8], += a[16,16] (registers from .. of a) times b[16,8]. */
template <class T, int D, int A>
__device__ __forceinline__ void
mma(float (&d)[D], int at, const uint32_t (&a)[A], int from, uint32_t b0, uint32_t b1)
{
	MULTIPLY(T, "mma.sync.aligned.m16n8k16.row.col.f32", ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	         : "+f"(d[at]), "+f"(d[at + 1]), "+f"(d[at + 2]), "+f"(d[at + 3])
	         : "r"(a[from]), "r"(a[from + 1]), "r"(a[from + 2]), "r"(a[from + 3]), "r"(b0), "r"(b1));
}

#endif
#endif
