/* SHA-512 by FEAT_SHA512 of Armv8.2: two rounds a step. */
#include <arm_neon.h>

#define FN(name) name##_arm_sha512
#if defined(__clang__)
#define TARGET __attribute__((target("sha3")))		/* what compilers call FEAT_SHA512 and FEAT_SHA3 together */
#else
#define TARGET __attribute__((target("arch=armv8.2-a+sha3")))	/* what <arm_neon.h> of gcc 13 and older asks for */
#endif
#define VEC uint64x2_t

TARGET static inline __attribute__((always_inline)) VEC FN(load)(const u8 *data)
{
	return vreinterpretq_u64_u8(vrev64q_u8(vld1q_u8(data)));
}

TARGET static inline __attribute__((always_inline)) void FN(step)(VEC s[4], VEC w[8], const u64 *k, size_t i, bool more)
{
	/* Vectors keep their places, and change their names: what was gh becomes ab, ab becomes cd, ... */
	VEC *ab = &s[-i & 3], *cd = &s[(1 - i) & 3], *ef = &s[(2 - i) & 3], *gh = &s[(3 - i) & 3];
	VEC wk = vaddq_u64(w[i], vld1q_u64(k + 2 * i)), sum;

	sum = vaddq_u64(*gh, vextq_u64(wk, wk, 1));	/* the first of two rounds takes the upper half */
	sum = vsha512hq_u64(sum, vextq_u64(*ef, *gh, 1), vextq_u64(*cd, *ef, 1));
	*gh = vsha512h2q_u64(sum, *cd, *ab);
	*cd = vaddq_u64(*cd, sum);
	if (more)
		w[i] = vsha512su1q_u64(vsha512su0q_u64(w[i], w[(i + 1) & 7]), w[(i + 7) & 7],
				       vextq_u64(w[(i + 4) & 7], w[(i + 5) & 7], 1));
}

#include "lanes.h"
