/* SHA-256 by the SHA extensions of x86: one message, or up to SHANI_LANES. */
#include "shani.h"

/*
 * Zen 5, blocks of 4096 bytes, against one message at a time: two lanes 1.83, three 1.91, four 2.04, which is all that
 * the throughput of sha256rnds2 allows.
 */
#define SHANI_LANES 4

SHANI static void compress_shani(struct sha2_state *state, const u8 *data, size_t count)
{
	struct shani_lane lane;

	shani_unpack(&lane, state->w32);
	for (; count > 0; count--, data += 64)
		shani_block(&lane, 1, &data, 0);
	shani_pack(&lane, state->w32);
}

SHANI static inline __attribute__((always_inline)) void shani_hash(const struct sha2_state *start, const u8 *const *data,
								   int count, size_t size, struct sha2_state *states)
{
	struct shani_lane lanes[SHANI_LANES];
	u8 padding[64] = { 0x80 };
	const u8 *const paddings[SHANI_LANES] = { padding, padding, padding, padding };

	put_word(padding + 60, 8 * (start->size + size));
	for (int l = 0; l < count; l++)
		shani_unpack(&lanes[l], start->w32);
	for (size_t offset = 0; offset < size; offset += 64)
		shani_block(lanes, count, data, offset);
	shani_block(lanes, count, paddings, 0);
	for (int l = 0; l < count; l++)
		shani_pack(&lanes[l], states[l].w32);
}

SHANI static void hash_lanes_shani(const struct sha2_state *start, const struct message *messages, size_t count, size_t size)
{
	struct sha2_state states[SHANI_LANES];
	const u8 *lane[SHANI_LANES];

	/* A lane without a message does the work of the last one again: four lanes hash three faster than two and one do. */
	for (size_t l = 0; l < SHANI_LANES; l++)
		lane[l] = messages[l < count ? l : count - 1].data;
	if (count > 2)
		shani_hash(start, lane, 4, size, states);
	else
		shani_hash(start, lane, 2, size, states);
	for (size_t l = 0; l < count; l++)
		for (int i = 0; i < 8; i++)
			put_word(messages[l].digest + i * sizeof(WORD), states[l].w32[i]);
}
