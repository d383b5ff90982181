/*
 * SHA-256 (FIPS 180-4), for naming content: weights, pictures, prompts.
 */
#ifndef NB_KERNELS_BASE_SHA256_H
#define NB_KERNELS_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { NB_SHA256_BYTES = 32, NB_SHA256_BLOCK = 64 };

typedef struct nb_sha256 {
    uint32_t state[8];
    uint64_t bytes; /* taken in so far */
    unsigned char block[NB_SHA256_BLOCK];
} nb_sha256;

void nb_sha256_init(nb_sha256 *h);
void nb_sha256_update(nb_sha256 *h, const void *data, size_t bytes);
void nb_sha256_final(nb_sha256 *h, unsigned char digest[NB_SHA256_BYTES]);

/* The digest as 64 lower-case hex digits and a 0. */
void nb_sha256_hex(const unsigned char digest[NB_SHA256_BYTES], char hex[65]);

/* The digest of `bytes` of data, in hex. */
void nb_sha256_of(const void *data, size_t bytes, char hex[65]);

#endif
