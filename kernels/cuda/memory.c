#include "kernels/cuda/memory.h"

#include <cuda.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/ahead.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/narrow.h"
#include "kernels/cuda/pinned.h"

enum {
	MIB = 1 << 20,
	STEP = 256 * MIB,        /* memory is mapped so much at a time, and less at the limit */
	GRAIN = 2 * MIB,         /* of what can be mapped */
	BUFFER = 32 * MIB,       /* pinned, twice; no more than cuBLAS's workspace */
	COPIERS = 8,             /* threads that fill a buffer: what it takes to keep up with the copy engine */
};

/* What a context, the libraries' code and cuBLAS's workspace take beside the arena. */
static const size_t beside = (size_t)DEV_BESIDE_MIB * MIB;

struct piece {
	CUmemGenericAllocationHandle handle;
	size_t bytes;
	struct piece *next;
};

struct room {
	void *bytes;
	size_t size;
	struct room *next;
};

struct memory {
	CUdeviceptr start;
	size_t reserved, mapped;
	CUmemAllocationProp kind;
	struct piece *pieces;
	struct room *rooms;
	char *buffer[2];
	cudaEvent_t copied[2];   /* the buffer's last copy has ended */
	int turn;
	struct ahead *ahead;     /* NULL: nothing is read ahead */
};

static struct memory *
memory_of(struct dev *d)
{
	return ((struct gpu *)d->own)->memory;
}

static bool
driver_ok(struct dev *d, const char *what, CUresult e)
{
	const char *why = "unknown error";

	if (e == CUDA_SUCCESS)
		return true;
	cuGetErrorString(e, &why);
	dev_fail(d, E_SYS, "%s: %s", what, why);
	return false;
}

/* ---- the arena ---- */

static size_t
round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static bool
reserve(struct dev *d, struct memory *m, size_t limit)
{
	const struct gpu *gpu = d->own;
	size_t free_bytes, all;

	if (!cuda_ok(d, "memory", cudaMemGetInfo(&free_bytes, &all)))
		return false;
	d->size = limit > 0 && limit < free_bytes ? limit : free_bytes;
	if (d->size <= beside) {
		dev_fail(d, E_SYS, "%.1f MiB are allowed or free, and the libraries alone take about %zu MiB; give more memory, or end "
		         "what else runs on the card", (double)d->size / MIB, beside / MIB);
		return false;
	}
	d->size = (d->size - beside) / GRAIN * GRAIN;
	m->reserved = round_up(d->size, STEP);
	m->kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	m->kind.location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = gpu->ordinal};
	if (!driver_ok(d, "reserve addresses", cuMemAddressReserve(&m->start, m->reserved, 0, 0, 0)))
		return false;
	d->arena = (char *)(uintptr_t)m->start;
	return true;
}

/* Maps one more piece behind the arena. */
static bool
map_piece(struct dev *d, struct memory *m, size_t bytes)
{
	CUmemAccessDesc access = {.location = m->kind.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	struct piece *p = calloc(1, sizeof(*p));
	size_t free_bytes = 0, all = 0;

	if (!p) {
		dev_fail(d, E_SYS, "out of host memory");
		return false;
	}
	if (cuMemCreate(&p->handle, bytes, &m->kind, 0) != CUDA_SUCCESS) {
		free(p);
		cudaMemGetInfo(&free_bytes, &all);
		dev_fail(d, E_SYS, "out of memory: %.1f MiB more are needed, with %.1f MiB in use, and %.1f MiB of the card are free; end "
		         "what else runs on it, or take fewer or shorter samples", (double)bytes / MIB, (double)m->mapped / MIB,
		         (double)free_bytes / MIB);
		return false;
	}
	p->bytes = bytes;
	p->next = m->pieces;
	m->pieces = p;
	if (!driver_ok(d, "map memory", cuMemMap(m->start + m->mapped, bytes, 0, p->handle, 0))
	    || !driver_ok(d, "map memory", cuMemSetAccess(m->start + m->mapped, bytes, &access, 1)))
		return false;
	m->mapped += bytes;
	return true;
}

bool
memory_grow(struct dev *d, size_t to)
{
	struct memory *m = memory_of(d);
	size_t want = round_up(to, STEP);

	if (want > d->size)
		want = round_up(to, GRAIN);
	return want <= m->mapped || map_piece(d, m, want - m->mapped);
}

static bool
take_buffers(struct dev *d, struct memory *m)
{
	for (int i = 0; i < 2; i++)
		if (!cuda_ok(d, "pinned buffer", pinned_take((void **)&m->buffer[i], BUFFER))
		    || !cuda_ok(d, "event", cudaEventCreateWithFlags(&m->copied[i], cudaEventDisableTiming)))
			return false;
	return true;
}

bool
memory_open(struct dev *d, size_t limit)
{
	struct gpu *gpu = d->own;

	gpu->memory = calloc(1, sizeof(*gpu->memory));
	if (!gpu->memory) {
		dev_fail(d, E_SYS, "out of host memory");
		return false;
	}
	if (!reserve(d, gpu->memory, limit) || !take_buffers(d, gpu->memory))
		return false;
	gpu->memory->ahead = ahead_open(gpu->ordinal);
	return true;
}

void
memory_close(struct dev *d)
{
	struct memory *m = memory_of(d);

	if (!m)
		return;
	ahead_close(m->ahead);
	for (int i = 0; i < 2; i++) {
		if (m->copied[i])
			cudaEventDestroy(m->copied[i]);
		pinned_back(m->buffer[i], BUFFER);
	}
	for (struct room *r = m->rooms, *next; r; r = next) {
		next = r->next;
		pinned_back(r->bytes, r->size);
		free(r);
	}
	if (m->mapped)
		cuMemUnmap(m->start, m->mapped);
	for (struct piece *p = m->pieces, *next; p; p = next) {
		next = p->next;
		cuMemRelease(p->handle);
		free(p);
	}
	if (m->start)
		cuMemAddressFree(m->start, m->reserved);
	free(m);
}

/* ---- to the card and back ---- */

/* memcpy by several threads. */
static void
copy(char *to, const char *from, size_t n)
{
	size_t share = round_up(n / COPIERS + 1, 4096);

	if (n < 4 * MIB) {
		memcpy(to, from, n);
		return;
	}
	#pragma omp parallel for num_threads(COPIERS) schedule(static, 1)
	for (size_t at = 0; at < n; at += share)
		memcpy(to + at, from + at, n - at < share ? n - at : share);
}

/* The buffer whose turn it is, once its last copy has ended. */
static char *
next_buffer(struct dev *d, struct memory *m)
{
	m->turn ^= 1;
	return cuda_ok(d, "copy", cudaEventSynchronize(m->copied[m->turn])) ? m->buffer[m->turn] : NULL;
}

static int64_t
rows_a_time(size_t row)
{
	return row < BUFFER ? (int64_t)(BUFFER / row) : 1;
}

/* From the buffer: a piece of a row too long for it, or whole rows. */
static bool
send(struct dev *d, const struct mat *to, const char *buffer, size_t row, int64_t rows)
{
	cudaStream_t stream = ((struct gpu *)d->own)->stream;
	size_t width = (size_t)to->ld * cuda_size(to->type);

	if (rows == 1 || to->ld == to->cols)
		return cuda_ok(d, "put", cudaMemcpyAsync(to->p, buffer, row * (size_t)rows, cudaMemcpyHostToDevice, stream));
	return cuda_ok(d, "put", cudaMemcpy2DAsync(to->p, width, buffer, row, row, (size_t)rows, cudaMemcpyHostToDevice, stream));
}

static bool
receive(struct dev *d, char *buffer, const struct mat *from, size_t row, int64_t rows)
{
	cudaStream_t stream = ((struct gpu *)d->own)->stream;
	size_t width = (size_t)from->ld * cuda_size(from->type);

	if (rows == 1 || from->ld == from->cols)
		return cuda_ok(d, "get", cudaMemcpyAsync(buffer, from->p, row * (size_t)rows, cudaMemcpyDeviceToHost, stream));
	return cuda_ok(d, "get", cudaMemcpy2DAsync(buffer, row, from->p, width, row, (size_t)rows, cudaMemcpyDeviceToHost, stream));
}

/* m as dense bytes in the workspace of cuBLAS: between two products it is free, for all of them are in the stream. */
static struct mat
dense_twin(struct dev *d, const struct mat *m)
{
	struct mat twin = *m;

	twin.p = ((struct gpu *)d->own)->workspace;
	twin.ld = m->cols;
	return twin;
}

static bool
put_piece(struct dev *d, const struct mat *to, const char *from, size_t row, int64_t rows)
{
	struct gpu *gpu = d->own;
	char *buffer = next_buffer(d, gpu->memory);
	bool narrow = is_narrow(to);
	struct mat there = narrow ? dense_twin(d, to) : *to;

	if (!buffer)
		return false;
	copy(buffer, from, row * (size_t)rows);
	if (!send(d, &there, buffer, row, rows)
	    || !cuda_ok(d, "put", cudaEventRecord(gpu->memory->copied[gpu->memory->turn], gpu->stream)))
		return false;
	if (narrow)
		narrow_unpack(d, to, there.p);
	return !cuda_failed(d);
}

static bool
get_piece(struct dev *d, char *to, const struct mat *from, size_t row, int64_t rows)
{
	struct gpu *gpu = d->own;
	char *buffer = next_buffer(d, gpu->memory);
	bool narrow = is_narrow(from);
	struct mat there = narrow ? dense_twin(d, from) : *from;

	if (!buffer)
		return false;
	if (narrow)
		narrow_pack(d, there.p, from);
	if (!receive(d, buffer, &there, row, rows) || !cuda_ok(d, "get", cudaStreamSynchronize(gpu->stream)))
		return false;
	copy(to, buffer, row * (size_t)rows);
	return true;
}

/* A view of rows [at, at + n), or of a part of one row. */
static struct mat
part(const struct mat *m, int64_t row, int64_t rows, size_t byte)
{
	struct mat p = *m;

	p.p = (char *)m->p + (size_t)row * (size_t)m->ld * cuda_size(m->type) + byte;
	p.rows = rows;
	return p;
}

/* What was announced lies in pinned memory already. */
static bool
put_announced(struct dev *d, struct mat *to, const void *from, size_t row)
{
	struct gpu *gpu = d->own;
	size_t bytes = row * (size_t)to->rows, width = (size_t)to->ld * cuda_size(to->type);
	const void *pinned = bytes >= BUFFER / 32 && gpu->memory->ahead ? ahead_find(gpu->memory->ahead, from, bytes) : NULL;

	if (!pinned)
		return false;
	cuda_ok(d, "put", cudaMemcpy2DAsync(to->p, width, pinned, row, row, (size_t)to->rows, cudaMemcpyHostToDevice, gpu->stream));
	return true;
}

void
memory_ahead(struct dev *d, const struct span *v, size_t n)
{
	struct gpu *gpu = d->own;

	if (gpu->memory->ahead)
		ahead_announce(gpu->memory->ahead, v, n, gpu->stream);
}

void
memory_put(struct dev *d, struct mat *to, const void *from)
{
	size_t row = (size_t)to->cols * cuda_size(to->type);
	int64_t most = row ? rows_a_time(row) : 1;

	if (put_announced(d, to, from, row))
		return;
	for (int64_t at = 0; row && at < to->rows; at += most) {
		int64_t n = to->rows - at < most ? to->rows - at : most;
		const char *p = (const char *)from + (size_t)at * row;

		for (size_t byte = 0; byte < row; byte += BUFFER) {
			size_t width = row - byte < BUFFER ? row - byte : BUFFER;
			struct mat m = part(to, at, n, byte);

			if (!put_piece(d, &m, p + byte, width, n))
				return;
		}
	}
}

void
memory_get(struct dev *d, void *to, const struct mat *from)
{
	size_t row = (size_t)from->cols * cuda_size(from->type);
	int64_t most = row ? rows_a_time(row) : 1;

	for (int64_t at = 0; row && at < from->rows; at += most) {
		int64_t n = from->rows - at < most ? from->rows - at : most;
		char *p = (char *)to + (size_t)at * row;

		for (size_t byte = 0; byte < row; byte += BUFFER) {
			size_t width = row - byte < BUFFER ? row - byte : BUFFER;
			struct mat m = part(from, at, n, byte);

			if (!get_piece(d, p + byte, &m, width, n))
				return;
		}
	}
}

/* ---- rooms ---- */

void *
memory_room(struct dev *d, size_t bytes)
{
	struct memory *m = memory_of(d);
	struct room *r = calloc(1, sizeof(*r));

	if (!r) {
		dev_fail(d, E_SYS, "out of host memory");
		return NULL;
	}
	if (!cuda_ok(d, "host memory", pinned_take(&r->bytes, bytes))) {
		free(r);
		return NULL;
	}
	r->size = bytes;
	r->next = m->rooms;
	m->rooms = r;
	return r->bytes;
}

void
memory_park(struct dev *d, void *room, const struct mat *m)
{
	size_t row = (size_t)m->cols * cuda_size(m->type), width = (size_t)m->ld * cuda_size(m->type);
	struct gpu *gpu = d->own;

	cuda_ok(d, "park", cudaMemcpy2DAsync(room, row, m->p, width, row, (size_t)m->rows, cudaMemcpyDeviceToHost, gpu->stream));
}

void
memory_unpark(struct dev *d, struct mat *m, const void *room)
{
	size_t row = (size_t)m->cols * cuda_size(m->type), width = (size_t)m->ld * cuda_size(m->type);
	struct gpu *gpu = d->own;

	cuda_ok(d, "unpark", cudaMemcpy2DAsync(m->p, width, room, row, row, (size_t)m->rows, cudaMemcpyHostToDevice, gpu->stream));
}
