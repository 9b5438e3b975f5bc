#include "kernels/cuda/words.h"

#include <stdlib.h>

#include "qjob/base/err.h"

static bool
fetch_ids(struct dev *d, const char *op, int32_t *to, const struct mat *ids)
{
	cudaStream_t stream = cuda_gpu(d)->stream;
	size_t bytes = (size_t)ids->cols * sizeof(*to);

	return cuda_ok(d, op, cudaMemcpyAsync(to, ids->p, bytes, cudaMemcpyDeviceToHost, stream))
	       && cuda_ok(d, op, cudaStreamSynchronize(stream));
}

bool
words_exist(struct dev *d, const char *op, const char *of, const struct mat *ids, int64_t rows)
{
	int32_t *id = malloc((size_t)ids->cols * sizeof(*id) + 1);
	bool good = true;
	int64_t t;

	if (!id) {
		cuda_fail(d, E_SYS, "out of host memory");
		return false;
	}
	good = fetch_ids(d, op, id, ids);
	for (t = 0; good && t < ids->cols; t++) {
		if (id[t] < 0 || id[t] >= rows) {
			cuda_fail(d, E_DATA, "%s: token %lld is id %d, and the %s has %lld rows", op, (long long)t, (int)id[t], of,
			          (long long)rows);
			good = false;
		}
	}
	free(id);
	return good;
}
