/* Keys: the cache key is the SHA-256 of a text a person can read.
 *
 *     qjob-key 1
 *     stage quantize 3
 *     device cpu
 *     in tensor model.norm.weight sha256:9f2c...
 *     set quantize.bits 4
 *
 * One fact a line, sorted by byte value after the first line, no doubles; a value holds no newline (the writer escapes), so two
 * different jobs cannot write the same text.  The text is stored beside the record; why a node ran again is the diff of two of them. */
#ifndef QJOB_CACHE_KEY_H
#define QJOB_CACHE_KEY_H

#include "qjob/base/buf.h"
#include "qjob/base/hash.h"

/* Sorts the lines of facts, drops doubles, puts the first line in front, and hashes.  Replaces what manifest held. */
void key_make(const struct buf *facts, struct buf *manifest, char key[SHA256_HEX]);

#endif
