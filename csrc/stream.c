/* SHA-256 of a stream: the digests that OCI names blobs and layers by. */
#include <endian.h>
#include <string.h>

#include "cfs.h"

#define BLOCK sizeof(((struct cfs_sha256 *)NULL)->pending)

static void compress(struct cfs_sha256 *hash, const void *data, size_t count)
{
	struct sha2_state state;

	memcpy(state.w32, hash->words, sizeof(state.w32));
	find_chosen(1)->compress(&state, data, count);
	memcpy(hash->words, state.w32, sizeof(state.w32));
}

void cfs_sha256_init(struct cfs_sha256 *hash)
{
	*hash = (struct cfs_sha256){ 0 };
	memcpy(hash->words, sha256_alg.initial.w32, sizeof(hash->words));
}

void cfs_sha256_update(struct cfs_sha256 *hash, const void *data, size_t size)
{
	const u8 *next = data;
	size_t pending = hash->size % BLOCK, n;

	hash->size += size;
	if (pending) {
		n = size < BLOCK - pending ? size : BLOCK - pending;
		memcpy(hash->pending + pending, next, n);
		if (pending + n < BLOCK)
			return;
		compress(hash, hash->pending, 1);
		next += n;
		size -= n;
	}
	compress(hash, next, size / BLOCK);
	if (size % BLOCK)
		memcpy(hash->pending, next + size - size % BLOCK, size % BLOCK);
}

void cfs_sha256_final(const struct cfs_sha256 *hash, void *digest)
{
	static const u8 padding[BLOCK] = { 0x80 };
	struct cfs_sha256 padded = *hash;
	struct sha2_state state;
	u64 bits = htobe64(8 * hash->size);

	/* Until eight bytes are left of a block. */
	cfs_sha256_update(&padded, padding, 1 + (2 * BLOCK - 9 - hash->size % BLOCK) % BLOCK);
	cfs_sha256_update(&padded, &bits, sizeof(bits));
	memcpy(state.w32, padded.words, sizeof(state.w32));
	sha256_alg.store(&state, digest);
}

void stream_align(struct cfs_stream *stream)
{
	size_t n = -stream->hash->size % BLOCK;

	n = n < stream->size ? n : stream->size;
	cfs_sha256_update(stream->hash, stream->data, n);
	stream->data += n;
	stream->size -= n;
}
