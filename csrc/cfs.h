/* What the C files share. */
#ifndef CFS_H
#define CFS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cfs_api.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* cpu.c: sets of instructions whose registers the kernel saves. */
#define CPU_SHANI	(1u << 0)	/* and SSE4.1 */
#define CPU_AVX2	(1u << 1)	/* and BMI2 */
#define CPU_AVX512	(1u << 2)	/* F, BW, VL, and BMI2 */

u32 cpu_features(void);

#define SHA2_DIGEST_MAX	64	/* bytes */
#define SHA2_BLOCK_MAX	128	/* bytes that one compression takes */

/* A hash in progress, at the border of two of its blocks. */
struct sha2_state {
	union {
		u32 w32[8];	/* SHA-256 */
		u64 w64[8];	/* SHA-512 */
	};
	u64 size;		/* bytes hashed so far */
};

/* One way to compute a hash; what is too little for its lanes is left to the next in its table that this CPU can run. */
struct hash_impl {
	const char *name;
	u32 needs;		/* CPU_* */

	/* Hash count blocks (of the hash) into the words of *state, but do not count them. */
	void (*compress)(struct sha2_state *state, const u8 *data, size_t count);

	/*
	 * Hash count messages of size bytes (a multiple of the hash's block), which follow each other in data, into
	 * count digests, back to back.  Each message continues *start.  NULL in the last: compress does the rest.
	 */
	void (*hash_lanes)(const struct sha2_state *start, const u8 *data, size_t count, size_t size, u8 *digests);
	size_t lanes;		/* largest count */
	size_t fewest;		/* smallest count for which this is faster than the next */
};

struct hash_alg {
	u32 digest_size;		/* bytes */
	u32 block_size;			/* bytes that one compression takes */
	struct sha2_state initial;
	void (*store)(const struct sha2_state *state, u8 *digest);
	const struct hash_impl *impls;	/* fastest first; the last runs everywhere */
	size_t impl_count;
};

extern const struct hash_alg sha256_alg, sha512_alg;

#endif
