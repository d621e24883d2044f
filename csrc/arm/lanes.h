/*
 * SHA-2 by the instructions of Armv8, which work on one message: a template for one message at a time, or two
 * interleaved, so that one computes while the other waits.  The including file defines for the hash, besides what
 * sha2.h wants of it,
 *
 *	FN(name)			name of the functions
 *	TARGET				their target attribute
 *	VEC				a vector of WORDs, 16 bytes
 *	FN(load)(data)			big-endian load of a VEC
 *	FN(step)(s, w, k, i, more)	rounds with w[i], the i-th vector of the schedule, and of the constants k; s is the state,
 *					in order; with more the words sixteen places later take the place of w[i]
 *
 * The speed was never measured: no AArch64 machine was at hand.  By LLVM's models of Arm's Software Optimization Guides one
 * pipe of Neoverse N1, V1 and V2 has these instructions; sha256h and sha256h2 take 4 cycles, the others 2.  What gcc 12
 * compiles is by llvm-mca 19 in two lanes 1.4 times as fast as in one (SHA-256), or 1.5 times (SHA-512; N2: 1.1).  Four
 * lanes gain 6 % at most (SHA-256), or lose: there are too few registers.
 */
#define INLINE static inline __attribute__((always_inline)) TARGET
#define PER_VEC (sizeof(VEC) / sizeof(WORD))
#define BLOCK (16 * sizeof(WORD))			/* bytes */
#define LANES 2

/* Sixteen rounds in each of count lanes. */
INLINE void FN(rounds)(VEC s[][8 / PER_VEC], VEC w[][16 / PER_VEC], const WORD *k, int count, bool more)
{
#pragma GCC unroll 8
	for (size_t i = 0; i < 16 / PER_VEC; i++) {
		FN(step)(s[0], w[0], k, i, more);
		if (count > 1)
			FN(step)(s[1], w[1], k, i, more);
	}
}

/* One compression a lane, of the blocks at data[l] + offset; count, 1 or 2, is known when this is compiled. */
INLINE void FN(block)(VEC s[][8 / PER_VEC], const u8 *const *data, size_t offset, int count)
{
	VEC sum[LANES][8 / PER_VEC], w[LANES][16 / PER_VEC];

	for (int l = 0; l < count; l++) {
		for (size_t i = 0; i < 8 / PER_VEC; i++)
			sum[l][i] = s[l][i];
		for (size_t i = 0; i < 16 / PER_VEC; i++)
			w[l][i] = FN(load)(data[l] + offset + i * sizeof(VEC));
	}
	for (int i = 0; i < ROUNDS - 16; i += 16)
		FN(rounds)(sum, w, K + i, count, true);
	FN(rounds)(sum, w, K + ROUNDS - 16, count, false);
	for (int l = 0; l < count; l++)
		for (size_t i = 0; i < 8 / PER_VEC; i++)
			s[l][i] += sum[l][i];
}

INLINE void FN(unpack)(VEC s[8 / PER_VEC], const struct sha2_state *state)
{
	for (size_t i = 0; i < 8 / PER_VEC; i++)
		memcpy(&s[i], WORDS(*state) + i * PER_VEC, sizeof(VEC));
}

INLINE void FN(pack)(const VEC s[8 / PER_VEC], struct sha2_state *state)
{
	for (size_t i = 0; i < 8 / PER_VEC; i++)
		memcpy(WORDS(*state) + i * PER_VEC, &s[i], sizeof(VEC));
}

TARGET static void FN(compress)(struct sha2_state *state, const u8 *data, size_t count)
{
	VEC s[1][8 / PER_VEC];

	FN(unpack)(s[0], state);
	for (; count > 0; count--, data += BLOCK)
		FN(block)(s, &data, 0, 1);
	FN(pack)(s[0], state);
}

/* count is LANES. */
TARGET static void FN(hash_lanes)(const struct sha2_state *start, const struct message *messages, size_t count, size_t size)
{
	const u8 *const lane[LANES] = { messages[0].data, messages[1].data };
	u8 padding[BLOCK] = { 0x80 };
	const u8 *const paddings[LANES] = { padding, padding };
	struct sha2_state states[LANES];
	VEC s[LANES][8 / PER_VEC];

	put_word(padding + BLOCK - sizeof(WORD), 8 * (start->size + size));
	FN(unpack)(s[0], start);
	FN(unpack)(s[1], start);
	for (size_t offset = 0; offset < size; offset += BLOCK)
		FN(block)(s, lane, offset, LANES);
	FN(block)(s, paddings, 0, LANES);
	FN(pack)(s[0], &states[0]);
	FN(pack)(s[1], &states[1]);
	for (size_t l = 0; l < count; l++)
		for (int i = 0; i < 8; i++)
			put_word(messages[l].digest + i * sizeof(WORD), WORDS(states[l])[i]);
}

#undef VEC
#undef INLINE
#undef PER_VEC
#undef BLOCK
#undef FN
#undef TARGET
#undef LANES
