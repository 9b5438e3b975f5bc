/* Digests.  SHA-256 (OpenSSL) is identity; XXH3-128 is the fast local check, never identity.
 * Both are written as lower-case hexadecimal. */
#ifndef QJOB_BASE_HASH_H
#define QJOB_BASE_HASH_H

#include <stddef.h>

enum { SHA256_HEX = 65, XXH3_HEX = 33 };   /* with the NUL */

struct sha256;                              /* opaque running digest */

struct sha256 *sha256_new(void);
void sha256_add(struct sha256 *h, const void *p, size_t n);
void sha256_end(struct sha256 *h, char hex[SHA256_HEX]);    /* frees h */
void sha256_of(const void *p, size_t n, char hex[SHA256_HEX]);
int sha256_file(const char *path, char hex[SHA256_HEX]);
void xxh3_of(const void *p, size_t n, char hex[XXH3_HEX]);
int xxh3_file(const char *path, char hex[XXH3_HEX]);

#endif
