/* SHA-256 by FEAT_SHA256 of Armv8: four rounds a step. */
#include <arm_neon.h>

#define FN(name) name##_arm_sha2
#if defined(__clang__)
#define TARGET __attribute__((target("sha2")))
#else
#define TARGET __attribute__((target("+crypto")))	/* what <arm_neon.h> of gcc 9 and older asks for */
#endif
#define VEC uint32x4_t

TARGET static inline __attribute__((always_inline)) VEC FN(load)(const u8 *data)
{
	return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
}

TARGET static inline __attribute__((always_inline)) void FN(step)(VEC s[2], VEC w[4], const u32 *k, size_t i, bool more)
{
	VEC wk = vaddq_u32(w[i], vld1q_u32(k + 4 * i)), abcd = s[0];

	s[0] = vsha256hq_u32(abcd, s[1], wk);
	s[1] = vsha256h2q_u32(s[1], abcd, wk);
	if (more)
		w[i] = vsha256su1q_u32(vsha256su0q_u32(w[i], w[(i + 1) & 3]), w[(i + 2) & 3], w[(i + 3) & 3]);
}

#include "lanes.h"
