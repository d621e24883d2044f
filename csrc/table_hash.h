/* A hash of short texts that are looked up in tables here, and nowhere else. */
#ifndef TABLE_HASH_H
#define TABLE_HASH_H

#include "cfs.h"

#include <string.h>

/* Multiply, and fold the 128 bits of the product. */
static inline u64 hash_mix(u64 a, u64 b)
{
#ifdef __SIZEOF_INT128__
	unsigned __int128 product = (unsigned __int128)a * b;

	return (u64)product ^ (u64)(product >> 64);
#else
	u64 low = (a & UINT32_MAX) * (b & UINT32_MAX), high = (a >> 32) * (b >> 32);
	u64 middle = (a >> 32) * (b & UINT32_MAX), other = (a & UINT32_MAX) * (b >> 32);
	u64 carry = (low >> 32) + (middle & UINT32_MAX) + (other & UINT32_MAX);

	return a * b ^ (high + (middle >> 32) + (other >> 32) + (carry >> 32));
#endif
}

/* Hash a text.  With a seed that nobody knows, nobody can choose texts that fall together. */
static inline u64 hash_bytes(u64 seed, const void *data, size_t size)
{
	const u8 *bytes = data;
	u64 hash = seed ^ size, word;

	while (size >= sizeof(word)) {
		memcpy(&word, bytes, sizeof(word));
		hash = hash_mix(hash ^ word ^ 0xa0761d6478bd642f, seed ^ 0xe7037ed1a0b428db);
		bytes += sizeof(word);
		size -= sizeof(word);
	}
	word = 0;
	memcpy(&word, bytes, size);
	return hash_mix(hash ^ word ^ 0x8ebc6af09c88c6e3, seed ^ 0x589965cc75374cc3);
}

#endif
