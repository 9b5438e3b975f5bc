#include "qjob/base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"

enum { CHUNK = 1 << 20 };

struct sha256 {
	EVP_MD_CTX *ctx;
};

static void
hex_of(const unsigned char *p, size_t n, char *hex)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digits[p[i] >> 4];
		hex[2 * i + 1] = digits[p[i] & 15];
	}
	hex[2 * n] = '\0';
}

/* libcrypto fails here only when it is broken or out of memory: a digest must never be wrong. */
static void
must(int ok)
{
	if (ok)
		return;
	fputs("qjob: libcrypto refuses SHA-256\n", stderr);
	abort();
}

struct sha256 *
sha256_new(void)
{
	struct sha256 *h = mem_new(1, sizeof(*h));

	h->ctx = EVP_MD_CTX_new();
	must(h->ctx && EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL));
	return h;
}

void
sha256_add(struct sha256 *h, const void *p, size_t n)
{
	must(EVP_DigestUpdate(h->ctx, p, n));
}

void
sha256_end(struct sha256 *h, char hex[SHA256_HEX])
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	must(EVP_DigestFinal_ex(h->ctx, md, &n) && n == 32);
	hex_of(md, n, hex);
	EVP_MD_CTX_free(h->ctx);
	free(h);
}

void
sha256_of(const void *p, size_t n, char hex[SHA256_HEX])
{
	struct sha256 *h = sha256_new();

	sha256_add(h, p, n);
	sha256_end(h, hex);
}

static void
xxh3_hex(XXH128_hash_t h, char hex[XXH3_HEX])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, h);
	hex_of(c.digest, sizeof(c.digest), hex);
}

void
xxh3_of(const void *p, size_t n, char hex[XXH3_HEX])
{
	xxh3_hex(XXH3_128bits(p, n), hex);
}

/* Read, not mapped: a file that shrinks meanwhile must not kill the process. */
static int
feed(const char *path, void (*add)(void *to, const void *p, size_t n), void *to)
{
	unsigned char *chunk;
	ssize_t n = -1;
	int rc = 0, fd = fault("hash.open") ? -1 : open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys("%s", path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	chunk = mem_new(CHUNK, 1);
	while (n != 0) {
		n = fault("hash.read") ? -1 : read(fd, chunk, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = err_sys("%s", path);
			break;
		}
		add(to, chunk, (size_t)n);
	}
	free(chunk);
	close(fd);
	return rc;
}

static void
add_sha256(void *to, const void *p, size_t n)
{
	sha256_add(to, p, n);
}

static void
add_xxh3(void *to, const void *p, size_t n)
{
	XXH3_128bits_update(to, p, n);
}

int
sha256_file(const char *path, char hex[SHA256_HEX])
{
	struct sha256 *h = sha256_new();
	int rc = feed(path, add_sha256, h);

	sha256_end(h, hex);
	if (rc < 0)
		hex[0] = '\0';
	return rc;
}

int
xxh3_file(const char *path, char hex[XXH3_HEX])
{
	XXH3_state_t *s = XXH3_createState();
	int rc;

	if (!s)
		abort();
	XXH3_128bits_reset(s);
	rc = feed(path, add_xxh3, s);
	xxh3_hex(XXH3_128bits_digest(s), hex);
	XXH3_freeState(s);
	if (rc < 0)
		hex[0] = '\0';
	return rc;
}
