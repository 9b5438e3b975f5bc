/* A device: where tensors live and where arithmetic happens.
 *
 * "auto" is the first CUDA card where the program has a CUDA backend and the machine a card that it runs on, else the CPU.
 *
 * Operations (ops.h) return nothing.  The first one that fails marks the device, with a sentence
 * saying which and why; every later one does nothing.  So a forward pass reads like the formula, and
 * the caller asks once, at the end, whether it all worked (dev_status).
 *
 * Backends are libraries opened at first need (libqjob-cpu.so, libqjob-cuda.so beside the program or
 * in ../lib/qjob; $QJOB_BACKENDS is looked into first): a run that computes nothing loads no linear algebra.
 *
 * Memory taken from a device belongs to it: dev_close frees everything, and dev_release frees what was
 * taken since a mark.  On the CPU the arena is reserved address space; pages cost only once touched,
 * and dev_release gives them back.
 *
 * Results depend on the backend, the instruction set and dev_options.math, never on the number of
 * threads; dev_facts says what must go into a key. */
#ifndef QJOB_KERNELS_DEV_H
#define QJOB_KERNELS_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/mat.h"

struct dev;

enum math {
	MATH_AUTO,      /* MATH_BF16 where the device (on the CPU: the isa held to) multiplies bf16 natively, else MATH_F32 */
	MATH_F32,       /* products of fp32 values, fp32 accumulation */
	MATH_BF16,      /* operands of matrix products rounded to bf16, fp32 accumulation */
	MATH_F16,       /* the same to fp16: eight times closer, and infinite beyond 65504 */
};

struct dev_options {
	const char *name;     /* "auto", "cpu", "cuda", "cuda:1"; NULL: auto */
	const char *isa;      /* CPU: "auto" (NULL too), "sse41", "avx2", "avx512", "avx512_bf16", "amx"; one for a process */
	int threads;          /* CPU: 0: as many as the process may use */
	size_t memory;        /* most bytes the arena may hold; 0: what the device has */
};

int dev_open(struct dev **d, const struct dev_options *o);
void dev_close(struct dev *d);
int dev_status(struct dev *d);                   /* waits; 0 or the first failure, as err_set */
const char *dev_name(const struct dev *d);       /* "cpu", "cuda:0" */

/* What a given device would be, without computing: lines "device cpu\nisa avx512\nonednn 2.6.3\n..." naming every
 * library version and instruction set that can change bytes.  Opens no device and, when the answer is
 * remembered by the caller, need not be asked at all.  Appends to text (capacity size), E_USE for an unknown name. */
int dev_facts(const struct dev_options *o, char *text, size_t size);
/* Whether "auto" passes over a card although an NVIDIA driver and a backend for it are there; then text (capacity size) says why. */
bool dev_passed_over(char *text, size_t size);

/* For people: what this kind of device ("cpu", "cuda") finds here, a line each: cards, drivers, libraries, or the reason why there
 * is none.  Appends to text (capacity size). */
void dev_describe(const char *kind, char *text, size_t size);

/* "auto", "float32", "bfloat16", "float16": as recipes and reports write it; any other word is MATH_AUTO. */
enum math math_find(const char *word);
const char *math_name(enum math math);
/* The arithmetic of matrix products from here on; MATH_AUTO is resolved and returned. */
enum math dev_math(struct dev *d, enum math math);

struct mat dev_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols);   /* uninitialised, 64-byte aligned rows start */
struct mat dev_zeros(struct dev *d, enum dtype type, int64_t rows, int64_t cols);
void dev_put(struct dev *d, struct mat *m, const void *from);   /* host to device; from is dense, of m's type */
void dev_get(struct dev *d, void *to, const struct mat *m);     /* device to host, dense; waits */
/* Host memory that outlives the call, seen as a matrix: on the CPU the bytes themselves (they must stay
 * mapped and unchanged until the mark is released, any alignment), elsewhere a copy. */
struct mat dev_view(struct dev *d, enum dtype type, int64_t rows, int64_t cols, const void *from);
/* Host memory that will be put or viewed soon, so that a device with memory of its own may fetch it while it computes; it stays mapped
 * and unchanged until then, or until the next list, which replaces this one; an empty list ends it.  Nothing of the list before is read
 * any more once it returns, and it returns soon.  A card takes as much memory of the host as the largest list has bytes, and
 * keeps it until dev_close.  Says nothing of results. */
struct span {
	const void *p;
	size_t n;            /* bytes */
};
void dev_ahead(struct dev *d, const struct span *v, size_t n);
/* Host memory beside the device, for what does not fit on it; d's until dev_close, and only these two touch it: they copy a
 * matrix there, dense, and back, in order with the operations around them.  NULL after marking the device failed. */
void *dev_room(struct dev *d, size_t bytes);
void dev_park(struct dev *d, void *room, const struct mat *m);
void dev_unpark(struct dev *d, struct mat *m, const void *room);

/* Devices that compute nothing: what is asked of one takes as much of its arena as on a real one, dev_get gives ones, and rooms and
 * lists read ahead are counted.  They tell what a work would take before a device is opened or asked.  Those of dev_dry are of a kind
 * ("cpu", "cuda") with o->memory for a limit (0: none); those of dev_dry_like stand where a device stands. */
enum { DEV_BESIDE_MIB = 1280 };                   /* of a card, taken by libraries beside the arena */
int dev_dry(struct dev **d, const struct dev_options *o);
struct dev *dev_dry_like(const struct dev *d);
bool dev_is_dry(const struct dev *d);
/* The most that a dry device would have held at once: of a card, and of the host. */
void dev_taken(const struct dev *dry, size_t *device, size_t *host);

size_t dev_mark(const struct dev *d);
void dev_release(struct dev *d, size_t mark);
size_t dev_peak(const struct dev *d);             /* most bytes the arena held at once */
size_t dev_size(const struct dev *d);             /* most bytes it may hold */
/* How many tokens at a time keep the device busy (2048 on a CPU); a multiple of 2048. */
int64_t dev_tokens(const struct dev *d);
/* What activations between two products are held in: BF16 under MATH_BF16, F16 under MATH_F16, else F32. */
enum dtype dev_operand(const struct dev *d);
bool dev_failed(const struct dev *d);

#endif
