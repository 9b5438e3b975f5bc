/* Codes as little-endian bit streams: code i of a row lies at bits i*bits .. of the stream, its least bit first. */
#ifndef QJOB_KERNELS_CODES_H
#define QJOB_KERNELS_CODES_H

#include <stddef.h>
#include <stdint.h>

size_t codes_bytes(int64_t n, int bits);      /* ceil(n * bits / 8): of a row of n codes */
void codes_pack(uint8_t *to, const uint8_t *codes, int64_t n, int bits);       /* a code a byte -> bit stream; bits past the end are 0 */
void codes_unpack(uint8_t *codes, const uint8_t *from, int64_t n, int bits);

#endif
