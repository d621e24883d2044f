/*
 * Messages in the lanes of AVX-512, and a SHA-256 beside them.  The rounds of one message wait for each other: the SHA
 * extensions alone leave most of the CPU idle.  The including file defines
 *
 *	FUSED_AFTER(i)		whether a block of the stream follows round i of sixteen
 *	FUSED_BLOCKS		how many these are in a compression: about as many bytes as the lanes take
 *
 * Whole blocks, because the CPU looks further ahead than one takes; smaller steps were no faster.
 *
 * Zen 5, the files in 256 KiB of data and the stream of it, against the same lanes and then OpenSSL's stream: with SHA-256
 * 13 to 16 % less time, with SHA-512 17 to 20 %; the least with files of 2 KiB, the most with one file.
 */
#include "shani.h"

#define FUSED __attribute__((target("avx512f,avx512bw,avx512vl,bmi2,sha,sse4.1")))
#define FUSED_INLINE static inline __attribute__((always_inline)) FUSED
#define FUSED_LANES (sizeof(vec_avx512) / sizeof(WORD))

/*
 * The SHA extensions reach only 16 of the 32 registers.  Compilers give these to words of the schedule and put the stream
 * in memory, on the very chain that all wait for: half of the gain is lost.
 */
#define WAIT_IN_MEMORY(x) __asm__("" : "+m"(x))

FUSED_INLINE void rounds_fused(vec_avx512 s[8], vec_avx512 w[16], const WORD *k, bool more, struct shani_lane *beside,
			       const u8 **data)
{
	vec_avx512 a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7], last;

#pragma GCC unroll 16
	for (int i = 0; i < 16; i++) {
		ROUND(next_avx512(w, k, i, more), a, b, c, d, e, f, g, h);
		last = h, h = g, g = f, f = e, e = d, d = c, c = b, b = a, a = last;
		if (more)
			WAIT_IN_MEMORY(w[i]);
		if (FUSED_AFTER(i)) {
			shani_block(beside, 1, data, 0);
			*data += 64;
		}
	}
	s[0] = a, s[1] = b, s[2] = c, s[3] = d, s[4] = e, s[5] = f, s[6] = g, s[7] = h;
}

FUSED_INLINE void block_fused(vec_avx512 s[8], vec_avx512 w[16], struct shani_lane *beside, const u8 **data)
{
	vec_avx512 sum[8];

	for (int i = 0; i < 16; i++)
		WAIT_IN_MEMORY(w[i]);
	for (int i = 0; i < 8; i++)
		sum[i] = s[i];
	for (int i = 0; i < ROUNDS - 16; i += 16)
		rounds_fused(sum, w, K + i, true, beside, data);
	rounds_fused(sum, w, K + ROUNDS - 16, false, beside, data);
	for (int i = 0; i < 8; i++)
		s[i] += sum[i];
}

FUSED static void hash_lanes_fused(const struct sha2_state *start, const struct message *messages, size_t count, size_t size,
				   struct cfs_stream *stream)
{
	const u8 *lane[FUSED_LANES], *next = stream->data, *const end = next + stream->size;
	struct shani_lane beside;
	vec_avx512 s[8], w[16];

	shani_unpack(&beside, stream->hash->words);
	begin_avx512(s, lane, start, messages, count);
	for (size_t offset = 0; offset <= size; offset += sizeof(WORD) * 16) {
		if (offset < size)
			load_block_avx512(w, lane, offset);
		else
			pad_block_avx512(w, start->size + size);
		if (end - next >= 64 * FUSED_BLOCKS)
			block_fused(s, w, &beside, &next);
		else
			block_avx512(s, w);
	}
	finish_avx512(s, messages, count);
	shani_pack(&beside, stream->hash->words);
	stream->hash->size += next - stream->data;
	stream->data = next;
	stream->size = end - next;
}
