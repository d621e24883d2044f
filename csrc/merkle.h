/* What a tree is made of, for the files that make them. */
#ifndef CFS_MERKLE_H
#define CFS_MERKLE_H

#include "cfs.h"

#define SALT_MAX 32		/* bytes */
#define BLOCK_SIZE_MIN 1024	/* bytes; as in the kernel, whose maximum is the page size: 64 KiB at most */
#define BLOCK_SIZE_MAX 65536

/* What the kernel hashes last; little-endian. */
struct descriptor {
	u8 version;
	u8 hash_algorithm;
	u8 log_block_size;
	u8 salt_size;
	u8 reserved1[4];
	u64 data_size;
	u8 root_hash[64];
	u8 salt[SALT_MAX];
	u8 reserved2[144];
};
_Static_assert(sizeof(struct descriptor) == 256, "the format says so");

/* What the blocks of one tree have in common. */
struct tree {
	const struct hash_alg *hash;
	const struct hash_impl *impl;	/* the choice when the tree was begun */
	u32 block_size;
	struct sha2_state salted;	/* what each block continues: the salt, padded to a block of the hash */
	struct descriptor descriptor;	/* without data_size and root_hash */
	struct cfs_stream *stream;	/* hashed meanwhile, during a call; or NULL */
};

/* Return: 0, or -EINVAL for parameters that fs-verity does not have. */
int tree_init(struct tree *tree, int alg, u32 block_size, const void *salt, size_t salt_size);

/* Hash count messages of size bytes, as hash_messages(). */
static inline void tree_hash(const struct tree *tree, const struct sha2_state *start, const struct message *messages,
			     size_t count, size_t size)
{
	hash_messages(tree->hash, tree->impl, start, messages, count, size, tree->stream);
}

#endif
