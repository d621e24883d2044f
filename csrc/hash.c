/* Which implementation of a hash is used, and how messages are shared out to its lanes. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "cfs.h"

/* Indexed by the kernel's numbers. */
static const struct hash_alg *const algs[] = { NULL, &sha256_alg, &sha512_alg };

/* Written once, when the module is imported (and by tests); NULL is the fastest. */
static const struct hash_impl *chosen[ARRAY_SIZE(algs)];

const struct hash_alg *find_alg(int alg)
{
	return alg > 0 && (size_t)alg < ARRAY_SIZE(algs) ? algs[alg] : NULL;
}

static bool usable(const struct hash_impl *impl)
{
	return (cpu_features() & impl->needs) == impl->needs;
}

const struct hash_impl *find_chosen(int alg)
{
	const struct hash_impl *impl = __atomic_load_n(&chosen[alg], __ATOMIC_RELAXED);

	for (impl = impl ? impl : algs[alg]->impls; !usable(impl); impl++)
		;
	return impl;
}

const char *cfs_hash_name(int alg, size_t index)
{
	const struct hash_alg *hash = find_alg(alg);

	for (size_t i = 0; hash && i < hash->impl_count; i++)
		if (usable(&hash->impls[i]) && index-- == 0)
			return hash->impls[i].name;
	return NULL;
}

const char *cfs_hash_chosen(int alg)
{
	return find_alg(alg) ? find_chosen(alg)->name : NULL;
}

/* Return: 0, -ENOENT if there is no such implementation, -EOPNOTSUPP if this CPU cannot run it. */
int cfs_hash_choose(int alg, const char *name)
{
	const struct hash_alg *hash = find_alg(alg);

	for (size_t i = 0; hash && i < hash->impl_count; i++) {
		const struct hash_impl *impl = &hash->impls[i];

		if (strcmp(impl->name, name) != 0)
			continue;
		if (!usable(impl))
			return -EOPNOTSUPP;
		__atomic_store_n(&chosen[alg], impl, __ATOMIC_RELAXED);
		return 0;
	}
	return -ENOENT;
}

void hash_padded(const struct hash_alg *hash, const struct hash_impl *impl, const struct sha2_state *start,
		 const u8 *data, size_t size, size_t padded_size, u8 *digest)
{
	static const u8 zeros[16 * SHA2_BLOCK_MAX];	/* enough for all lanes */
	struct sha2_state state = *start;
	size_t block_size = hash->block_size;
	size_t whole = size / block_size, rest = size % block_size;
	u8 last[SHA2_BLOCK_MAX] = { 0 };
	u64 bits = htobe64(8 * (start->size + padded_size));

	impl->compress(&state, data, whole);
	if (rest) {
		memcpy(last, data + whole * block_size, rest);
		impl->compress(&state, last, 1);
		memset(last, 0, rest);
		whole++;
	}
	for (size_t n, missing = padded_size / block_size - whole; missing > 0; missing -= n) {
		n = missing < sizeof(zeros) / block_size ? missing : sizeof(zeros) / block_size;
		impl->compress(&state, zeros, n);
	}
	last[0] = 0x80;
	memcpy(last + block_size - sizeof(bits), &bits, sizeof(bits));
	impl->compress(&state, last, 1);
	hash->store(&state, digest);
}

void hash_messages(const struct hash_alg *hash, const struct hash_impl *impl, const struct sha2_state *start,
		   const struct message *messages, size_t count, size_t size, struct cfs_stream *stream)
{
	const struct hash_impl *first = impl, *last = &hash->impls[hash->impl_count - 1];
	size_t n;

	for (; impl != last; impl++) {
		if (!impl->hash_lanes || !usable(impl))
			continue;
		for (; count >= impl->fewest; count -= n, messages += n) {
			n = count < impl->lanes ? count : impl->lanes;
			if (stream && impl->hash_lanes_fused)
				impl->hash_lanes_fused(start, messages, n, size, stream);
			else
				impl->hash_lanes(start, messages, n, size);
		}
	}
	for (; count > 0; count--, messages++)
		hash_padded(hash, first, start, messages->data, size, size, messages->digest);
}

/* Return: whether a stream that is hashed beside this hash costs less than alone. */
int cfs_hash_fuses(int alg)
{
	return find_alg(alg) && find_chosen(alg)->hash_lanes_fused;
}
