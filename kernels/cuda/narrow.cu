/* Gathers the elements of a narrow matrix, or puts them in their places.  Bound by memory: a sector of 32 bytes each row. */
#include "kernels/cuda/narrow.h"

#include "kernels/cuda/cuda.h"

enum {
	THREADS = 256,
	NARROW = 64,             /* bytes of a row, from which on the copy engine does well */
	FEW = 64,                /* rows that are not worth a kernel */
};

/* A thread an element. */
template <typename T> __global__ static void
pack(T *to, const T *from, int64_t ld, int64_t cols, int64_t all)
{
	int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (k < all)
		to[k] = from[k / cols * ld + k % cols];
}

template <typename T> __global__ static void
unpack(T *to, const T *from, int64_t ld, int64_t cols, int64_t all)
{
	int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (k < all)
		to[k / cols * ld + k % cols] = from[k];
}

/* m's elements as numbers of their size. */
template <typename T> static void
move(struct dev *d, const struct mat *m, void *dense, bool back)
{
	int64_t all = m->rows * m->cols;
	unsigned blocks = (unsigned)((all + THREADS - 1) / THREADS);
	cudaStream_t stream = cuda_gpu(d)->stream;

	if (back)
		unpack<<<blocks, THREADS, 0, stream>>>((T *)m->p, (const T *)dense, m->ld, m->cols, all);
	else
		pack<<<blocks, THREADS, 0, stream>>>((T *)dense, (const T *)m->p, m->ld, m->cols, all);
	cuda_launched(d, "copy");
}

static void
move_sized(struct dev *d, const struct mat *m, void *dense, bool back)
{
	switch (cuda_size(m->type)) {
	case 1: move<uint8_t>(d, m, dense, back); break;
	case 2: move<uint16_t>(d, m, dense, back); break;
	case 4: move<uint32_t>(d, m, dense, back); break;
	default: move<uint64_t>(d, m, dense, back); break;
	}
}

bool
is_narrow(const struct mat *m)
{
	return m->rows >= FEW && m->ld != m->cols && (size_t)m->cols * cuda_size(m->type) < NARROW;
}

void
narrow_pack(struct dev *d, void *to, const struct mat *from)
{
	move_sized(d, from, to, false);
}

void
narrow_unpack(struct dev *d, const struct mat *to, const void *from)
{
	move_sized(d, to, (void *)from, true);
}
