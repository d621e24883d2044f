/* Compressions of SHA-256 by the SHA extensions of x86: of one message, or of a few interleaved. */
#ifndef CFS_SHANI_H
#define CFS_SHANI_H

#include <immintrin.h>

#define SHANI __attribute__((target("sha,sse4.1")))

/* The instructions want the words of the state as (f, e, b, a) and (h, g, d, c), lowest lane first. */
struct shani_lane {
	__m128i feba, hgdc;
	__m128i w[4];		/* sixteen words of the schedule */
};

SHANI static inline __m128i shani_swap_pairs(__m128i x)
{
	return _mm_shuffle_epi32(x, _MM_SHUFFLE(2, 3, 0, 1));
}

SHANI static inline void shani_unpack(struct shani_lane *lane, const u32 words[8])
{
	__m128i badc = shani_swap_pairs(_mm_loadu_si128((const void *)words));
	__m128i fehg = shani_swap_pairs(_mm_loadu_si128((const void *)(words + 4)));

	lane->feba = _mm_unpacklo_epi64(fehg, badc);
	lane->hgdc = _mm_unpackhi_epi64(fehg, badc);
}

SHANI static inline void shani_pack(const struct shani_lane *lane, u32 words[8])
{
	__m128i badc = _mm_unpackhi_epi64(lane->feba, lane->hgdc);
	__m128i fehg = _mm_unpacklo_epi64(lane->feba, lane->hgdc);

	_mm_storeu_si128((void *)words, shani_swap_pairs(badc));
	_mm_storeu_si128((void *)(words + 4), shani_swap_pairs(fehg));
}

/* Rounds 4 i to 4 i + 3, with the words that they need: loaded at first, then from the schedule. */
SHANI static inline __attribute__((always_inline)) void shani_rounds(struct shani_lane *lane, const u8 *data, int i)
{
	const __m128i reverse = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
	__m128i *w = lane->w, *now = &w[i & 3];

	if (i < 4) {
		*now = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(data + 16 * i)), reverse);
	} else {
		__m128i last = w[(i + 3) & 3];
		__m128i seventh = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);	/* words 7 before those wanted */

		*now = _mm_add_epi32(_mm_sha256msg1_epu32(*now, w[(i + 1) & 3]), seventh);
		*now = _mm_sha256msg2_epu32(*now, last);
	}
	__m128i wk = _mm_add_epi32(*now, _mm_load_si128((const void *)(sha256_k + 4 * i)));

	lane->hgdc = _mm_sha256rnds2_epu32(lane->hgdc, lane->feba, wk);
	lane->feba = _mm_sha256rnds2_epu32(lane->feba, lane->hgdc, _mm_unpackhi_epi64(wk, wk));
}

/* One compression a lane, of the blocks at data, data + stride, ...; count (1, 2 or 4) is known when this is compiled. */
SHANI static inline __attribute__((always_inline)) void shani_block(struct shani_lane *lanes, int count,
								    const u8 *const *data, size_t offset)
{
	__m128i feba[4], hgdc[4];

	for (int l = 0; l < count; l++)
		feba[l] = lanes[l].feba, hgdc[l] = lanes[l].hgdc;
#pragma GCC unroll 16
	for (int i = 0; i < 16; i++) {
		/* Not a loop: clang 14 would keep it, and all lanes in memory. */
		shani_rounds(&lanes[0], data[0] + offset, i);
		if (count > 1)
			shani_rounds(&lanes[1], data[1] + offset, i);
		if (count > 2) {
			shani_rounds(&lanes[2], data[2] + offset, i);
			shani_rounds(&lanes[3], data[3] + offset, i);
		}
	}
	for (int l = 0; l < count; l++) {
		lanes[l].feba = _mm_add_epi32(lanes[l].feba, feba[l]);
		lanes[l].hgdc = _mm_add_epi32(lanes[l].hgdc, hgdc[l]);
	}
}

#endif
