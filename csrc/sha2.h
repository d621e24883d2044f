/*
 * SHA-2 (FIPS 180-4), a template: one message at a time, or LANES messages of equal size in the lanes of vectors.
 * The including file defines for the hash
 *
 *	WORD			u32 or u64
 *	WORDS(state)		the WORDs of a struct sha2_state
 *	ROUNDS, K		count and constants
 *	SUM0 SUM1 SIGMA0 SIGMA1	the hash's four functions
 *	get_word, put_word	big-endian load and store
 *
 * and for each instance, undefined again at the end of this file,
 *
 *	FN(name)		name of the instance's functions
 *	TARGET			its target attribute, or nothing
 *	LANES			messages at once: 1, or 4 to 16, which give FN(hash_lanes) besides FN(compress)
 *	LANE_BYTES		with more than one lane: the bytes of a vector
 *
 * The first instance is called "generic", has one lane, and serves the others where there is nothing to share out.
 */

#if LANES == 1
typedef WORD FN(vec);
#else
typedef WORD FN(vec) __attribute__((vector_size(LANES * sizeof(WORD))));
typedef u8 FN(bytes) __attribute__((vector_size(LANES * sizeof(WORD))));
#endif

#define VEC FN(vec)
#define INLINE static inline __attribute__((always_inline)) TARGET

#ifndef ROR
#define ROR(x, n) ((x) >> (n) | (x) << (8 * sizeof(WORD) - (n)))
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

/* The order of the sums keeps the way from one e to the next short. */
#define ROUND(word, a, b, c, d, e, f, g, h) do {				\
	h += word;								\
	h += CHOOSE(e, f, g);							\
	h += SUM1(e);								\
	d += h;									\
	h += SUM0(a) + MAJORITY(a, b, c);					\
} while (0)

/* Eight rounds; NEXT(i) is the sum of word and constant for each. */
#define ROUNDS_8(NEXT, i) do {							\
	ROUND(NEXT((i) + 0), a, b, c, d, e, f, g, h);				\
	ROUND(NEXT((i) + 1), h, a, b, c, d, e, f, g);				\
	ROUND(NEXT((i) + 2), g, h, a, b, c, d, e, f);				\
	ROUND(NEXT((i) + 3), f, g, h, a, b, c, d, e);				\
	ROUND(NEXT((i) + 4), e, f, g, h, a, b, c, d);				\
	ROUND(NEXT((i) + 5), d, e, f, g, h, a, b, c);				\
	ROUND(NEXT((i) + 6), c, d, e, f, g, h, a, b);				\
	ROUND(NEXT((i) + 7), b, c, d, e, f, g, h, a);				\
} while (0)
#endif

/*
 * Return the i-th of sixteen words plus its constant.  Where more words are wanted, the one sixteen places later in the
 * message schedule takes its place; done here, between the rounds, this is a tenth faster than all sixteen at once.
 */
INLINE VEC FN(next)(VEC w[16], const WORD *k, int i, bool more)
{
	VEC sum = w[i] + k[i];

	if (more)
		w[i] += SIGMA0(w[(i + 1) & 15]) + w[(i + 9) & 15] + SIGMA1(w[(i + 14) & 15]);
	return sum;
}

/* Sixteen rounds; the state s is a, b, ... h. */
INLINE void FN(rounds)(VEC s[8], VEC w[16], const WORD *k, bool more)
{
	VEC a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];

#define NEXT(i) FN(next)(w, k, i, more)
	ROUNDS_8(NEXT, 0);
	ROUNDS_8(NEXT, 8);
#undef NEXT

	s[0] = a, s[1] = b, s[2] = c, s[3] = d, s[4] = e, s[5] = f, s[6] = g, s[7] = h;
}

/* One compression: s takes in the block w, which is used up. */
INLINE void FN(block)(VEC s[8], VEC w[16])
{
	VEC sum[8];

	for (int i = 0; i < 8; i++)
		sum[i] = s[i];
	for (int i = 0; i < ROUNDS - 16; i += 16)
		FN(rounds)(sum, w, K + i, true);
	FN(rounds)(sum, w, K + ROUNDS - 16, false);
	for (int i = 0; i < 8; i++)
		s[i] += sum[i];
}

#if LANES == 1

TARGET static void FN(compress)(struct sha2_state *state, const u8 *data, size_t count)
{
	WORD w[16];

	for (; count > 0; count--, data += sizeof(w)) {
		for (int i = 0; i < 16; i++)
			w[i] = get_word(data + i * sizeof(WORD));
		FN(block)(WORDS(*state), w);
	}
}

/* One compression, with a schedule made before: wk[i * stride] is the sum of word and constant of round i. */
INLINE void FN(scheduled)(WORD s[8], const WORD *wk, size_t stride)
{
	WORD a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];

#define NEXT(i) wk[(i) * stride]
	for (int i = 0; i < ROUNDS; i += 8)
		ROUNDS_8(NEXT, i);
#undef NEXT

	s[0] += a, s[1] += b, s[2] += c, s[3] += d, s[4] += e, s[5] += f, s[6] += g, s[7] += h;
}

#else

#ifndef INDEXES_4
/* f(s, i), ... f(s, i + N - 1): __builtin_shufflevector() wants every index spelled out. */
#define INDEXES_4(f, s, i) f(s, (i)), f(s, (i) + 1), f(s, (i) + 2), f(s, (i) + 3)
#define INDEXES_8(f, s, i) INDEXES_4(f, s, i), INDEXES_4(f, s, (i) + 4)
#define INDEXES_16(f, s, i) INDEXES_8(f, s, i), INDEXES_8(f, s, (i) + 8)
#define INDEXES_32(f, s, i) INDEXES_16(f, s, i), INDEXES_16(f, s, (i) + 16)
#define INDEXES_64(f, s, i) INDEXES_32(f, s, i), INDEXES_32(f, s, (i) + 32)
#define INDEXES__(n, f, s) INDEXES_##n(f, s, 0)
#define INDEXES_(n, f, s) INDEXES__(n, f, s)

#define LOW(s, i) ((i) & (s) ? LANES + (i) - (s) : (i))
#define HIGH(s, i) ((i) & (s) ? LANES + (i) : (i) + (s))
#define REVERSE(s, i) ((i) ^ ((s) - 1))

/* Exchange the off-diagonal s x s squares of each 2s x 2s square. */
#define TRANSPOSE(v, s) do {									\
	for (int i = 0; i < LANES; i++) {							\
		if (i & (s))									\
			continue;								\
		VEC low = __builtin_shufflevector(v[i], v[i + (s)], INDEXES_(LANES, LOW, s));	\
		v[i + (s)] = __builtin_shufflevector(v[i], v[i + (s)], INDEXES_(LANES, HIGH, s)); \
		v[i] = low;									\
	}											\
} while (0)
#endif

/* LANES words of each message become LANES vectors with one word of all messages. */
INLINE void FN(load)(VEC v[LANES], const u8 *const lane[LANES], size_t offset)
{
	for (int i = 0; i < LANES; i++) {
		FN(bytes) b;

		__builtin_memcpy(&b, lane[i] + offset, sizeof(b));
		v[i] = (VEC)__builtin_shufflevector(b, b, INDEXES_(LANE_BYTES, REVERSE, sizeof(WORD)));
	}
	TRANSPOSE(v, 1);
	TRANSPOSE(v, 2);
#if LANES > 4
	TRANSPOSE(v, 4);
#endif
#if LANES > 8
	TRANSPOSE(v, 8);
#endif
}

INLINE void FN(load_block)(VEC w[16], const u8 *const lane[LANES], size_t offset)
{
	for (int i = 0; i < 16; i += LANES)
		FN(load)(w + i, lane, offset + i * sizeof(WORD));
}

/*
 * One message.  Its compressions wait for each other, but their message schedules do not: those of LANES blocks are made
 * at once, which leaves the scalar rounds.
 */
TARGET static void FN(compress)(struct sha2_state *state, const u8 *data, size_t count)
{
	const size_t block_size = 16 * sizeof(WORD);
	WORD wk[ROUNDS][LANES];
	const u8 *lane[LANES];
	VEC w[16];

	/* Not at the end: gcc 12 jumps to it without vzeroupper, and all SSE code after that takes four times as long. */
	compress_generic(state, data, count % LANES);
	data += count % LANES * block_size;

	for (count /= LANES; count > 0; count--, data += LANES * block_size) {
		for (int i = 0; i < LANES; i++)
			lane[i] = data + i * block_size;
		FN(load_block)(w, lane, 0);
		for (int round = 0; round < ROUNDS; round += 16) {
#pragma GCC unroll 16
			for (int i = 0; i < 16; i++) {
				VEC sum = FN(next)(w, K + round, i, round + 16 < ROUNDS);

				__builtin_memcpy(wk[round + i], &sum, sizeof(sum));
			}
		}
		for (int i = 0; i < LANES; i++)
			scheduled_generic(WORDS(*state), &wk[0][i], LANES);
	}
}

/* The last block of messages of size bytes. */
INLINE void FN(pad_block)(VEC w[16], u64 size)
{
	for (int i = 0; i < 16; i++)
		w[i] = (VEC){};
	w[0] += (WORD)1 << (8 * sizeof(WORD) - 1);
	w[15] += (WORD)(8 * size);
}

_Static_assert(LANES <= LANES_MAX, "queues have no more places");

INLINE void FN(begin)(VEC s[8], const u8 *lane[LANES], const struct sha2_state *start, const struct message *messages,
		      size_t count)
{
	/* A lane without a message does the work of the last one again. */
	for (size_t i = 0; i < LANES; i++)
		lane[i] = messages[i < count ? i : count - 1].data;
	for (int i = 0; i < 8; i++)
		s[i] = (VEC){} + WORDS(*start)[i];
}

INLINE void FN(finish)(const VEC s[8], const struct message *messages, size_t count)
{
	for (size_t i = 0; i < count; i++)
		for (int j = 0; j < 8; j++)
			put_word(messages[i].digest + j * sizeof(WORD), s[j][i]);
}

TARGET static void FN(hash_lanes)(const struct sha2_state *start, const struct message *messages, size_t count, size_t size)
{
	const u8 *lane[LANES];
	VEC s[8], w[16];

	FN(begin)(s, lane, start, messages, count);
	for (size_t offset = 0; offset < size; offset += sizeof(WORD) * 16) {
		FN(load_block)(w, lane, offset);
		FN(block)(s, w);
	}
	FN(pad_block)(w, start->size + size);
	FN(block)(s, w);
	FN(finish)(s, messages, count);
}

#endif

#undef VEC
#undef INLINE
#undef FN
#undef TARGET
#undef LANES
#undef LANE_BYTES
