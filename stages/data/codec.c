#include "stages/data/codec.h"

#include <lz4.h>
#include <snappy-c.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "qjob/base/err.h"

enum { UNCOMPRESSED, SNAPPY, GZIP, LZO, BROTLI, LZ4_HADOOP, ZSTD, LZ4_RAW };

static bool
unpack_gzip(void *to, size_t size, const void *from, size_t n)
{
	enum { EITHER = 32 + 15 };       /* zlib's own head or gzip's, and the largest window */
	z_stream z = {.next_in = (Bytef *)(size_t)from, .avail_in = (uInt)n, .next_out = to, .avail_out = (uInt)size};
	bool good;

	if (n > UINT32_MAX || size > UINT32_MAX || inflateInit2(&z, EITHER) != Z_OK)
		return false;
	good = inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_out == 0;
	inflateEnd(&z);
	return good;
}

static bool
unpack_snappy(void *to, size_t size, const void *from, size_t n)
{
	size_t whole;

	return snappy_uncompressed_length(from, n, &whole) == SNAPPY_OK && whole == size
	       && snappy_uncompress(from, n, to, &whole) == SNAPPY_OK;
}

static bool
unpack_lz4(void *to, size_t size, const void *from, size_t n)
{
	return n <= LZ4_MAX_INPUT_SIZE && size <= LZ4_MAX_INPUT_SIZE && LZ4_decompress_safe(from, to, (int)n, (int)size) == (int)size;
}

int
codec_unpack(int codec, void *to, size_t size, const void *from, size_t n)
{
	static const char *const names[] = {"no", "snappy", "gzip", "lzo", "brotli", "hadoop's lz4", "zstd", "lz4"};
	bool good;

	switch (codec) {
	case UNCOMPRESSED:
		good = n == size;
		if (good && n > 0)
			memcpy(to, from, n);
		break;
	case SNAPPY: good = unpack_snappy(to, size, from, n); break;
	case GZIP: good = unpack_gzip(to, size, from, n); break;
	case ZSTD: good = ZSTD_decompress(to, size, from, n) == size; break;
	case LZ4_RAW: good = unpack_lz4(to, size, from, n); break;
	default:
		return err_set(E_DATA, "its pages are packed by %s, and only snappy, gzip, zstd and lz4 are read",
		               codec >= 0 && codec <= LZ4_RAW ? names[codec] : "a codec that is not known");
	}
	return good ? 0 : err_set(E_DATA, "a page is damaged: it does not unpack to %zu bytes (%s compression)", size, names[codec]);
}
