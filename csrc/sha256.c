/* SHA-256: constants, functions, and the implementations. */
#include <endian.h>
#include <string.h>

#include "cfs.h"

#define WORD u32
#define WORDS(state) ((state).w32)
#define ROUNDS 64
#define K sha256_k
#define SUM0(x) (ROR(x, 2) ^ ROR(x, 13) ^ ROR(x, 22))
#define SUM1(x) (ROR(x, 6) ^ ROR(x, 11) ^ ROR(x, 25))
#define SIGMA0(x) (ROR(x, 7) ^ ROR(x, 18) ^ (x) >> 3)
#define SIGMA1(x) (ROR(x, 17) ^ ROR(x, 19) ^ (x) >> 10)

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const u32 sha256_k[ROUNDS] __attribute__((aligned(16))) = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline u32 get_word(const u8 *bytes)
{
	u32 word;

	memcpy(&word, bytes, sizeof(word));
	return be32toh(word);
}

static inline void put_word(u8 *bytes, u32 word)
{
	word = htobe32(word);
	memcpy(bytes, &word, sizeof(word));
}

#define FN(name) name##_generic
#define TARGET
#define LANES 1
#include "sha2.h"

#if defined(__x86_64__)
#include "x86/shani_lanes.h"

#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2,bmi2")))
#define LANES 8
#define LANE_BYTES 32
#include "sha2.h"

#define FN(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,bmi2")))
#define LANES 16
#define LANE_BYTES 64
#include "sha2.h"

#define FUSED_AFTER(i) ((i) % 4 == 3)
#define FUSED_BLOCKS 16
#include "x86/fused.h"
#elif defined(__AARCH64EL__)
#include "arm/sha256.h"
#endif

/*
 * Zen 5, files of 1 MiB, against OpenSSL's one message at a time: sixteen lanes of AVX-512 2.8, four of the SHA extensions
 * 1.8, avx2 0.96 (2.5 against OpenSSL without the SHA extensions).  Sixteen lanes take as long as nine messages by the SHA
 * extensions.  One more message beside the sixteen, as in x86/fused.h, would hash 5 % more.
 */
static const struct hash_impl impls[] = {
#if defined(__x86_64__)
	{ "avx512-shani", CPU_AVX512 | CPU_SHANI, compress_shani, hash_lanes_avx512, 16, 9, hash_lanes_fused },
	{ "shani", CPU_SHANI, compress_shani, hash_lanes_shani, SHANI_LANES, 2, NULL },
	{ "avx512", CPU_AVX512, compress_avx512, hash_lanes_avx512, 16, 9, NULL },
	{ "avx2", CPU_AVX2, compress_avx2, hash_lanes_avx2, 8, 3, NULL },
#elif defined(__AARCH64EL__)
	{ "arm-sha2", CPU_ARM_SHA2, compress_arm_sha2, hash_lanes_arm_sha2, 2, 2, NULL },
#endif
	{ "generic", 0, compress_generic, NULL, 0, 0, NULL },
};

static void store(const struct sha2_state *state, u8 *digest)
{
	for (int i = 0; i < 8; i++)
		put_word(digest + i * sizeof(WORD), WORDS(*state)[i]);
}

const struct hash_alg sha256_alg = {
	.digest_size = 32,
	.block_size = 64,
	/* First 32 bits of the fractional parts of the square roots of the first 8 primes. */
	.initial.w32 = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	},
	.store = store,
	.impls = impls,
	.impl_count = ARRAY_SIZE(impls),
};
