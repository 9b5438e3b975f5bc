/* How Parquet compresses a page. */
#ifndef QJOB_STAGES_DATA_CODEC_H
#define QJOB_STAGES_DATA_CODEC_H

#include <stddef.h>

/* to[size] = what n bytes of `from` unpack to, exactly; codec as in parquet.thrift's CompressionCodec.  E_DATA: they do not, or the
 * codec is not one of uncompressed, snappy, gzip, zstd, lz4 (raw). */
int codec_unpack(int codec, void *to, size_t size, const void *from, size_t n);

#endif
