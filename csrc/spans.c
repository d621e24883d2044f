/*
 * fs-verity digests of many files that lie in one buffer.  Half of all files have one block, so that lanes are full only
 * if the blocks of different files share them: whatever is to be hashed waits in a queue until there is one for each lane.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "merkle.h"

/* A group, a guess: large enough that the lanes that stay empty at its end hardly count, small enough for the L2 cache. */
#define FILES_MAX 64
#define LEAVES_MAX 256

struct file {
	const u8 *data;
	u64 size;
	size_t leaves;		/* blocks of data */
	u8 *hashes;		/* of them, if there is more than one: the root's block, without the zeros at its end */
	u8 *digest;
};

/* Files whose trees are at most two levels high. */
struct group {
	struct tree tree;
	struct file files[FILES_MAX];
	size_t count, leaves;
	struct descriptor descriptors[FILES_MAX];
	struct message queue[LANES_MAX];
	size_t queued, lanes;	/* lanes: it runs when it has so many */
	u8 hashes[LEAVES_MAX * SHA2_DIGEST_MAX];
	u8 padded[];		/* a block for each of the queue, for those that need zeros at their end */
};

static void flush(struct group *group)
{
	const struct tree *tree = &group->tree;

	tree_hash(tree, &tree->salted, group->queue, group->queued, tree->block_size);
	group->queued = 0;
}

/* Queue a block of the tree that has size bytes before its padding. */
static void add_block(struct group *group, const u8 *data, size_t size, u8 *digest)
{
	const size_t block_size = group->tree.block_size;
	u8 *padded = group->padded + group->queued * block_size;

	if (size < block_size) {
		memcpy(padded, data, size);
		memset(padded + size, 0, block_size - size);
		data = padded;
	}
	group->queue[group->queued++] = (struct message){ data, digest };
	if (group->queued == group->lanes)
		flush(group);
}

/* Queue a file's leaves, whose hashes follow each other. */
static void add_leaves(struct group *group, const struct file *file, u8 *hashes)
{
	const size_t block_size = group->tree.block_size;

	for (size_t i = 0, left = file->size; i < file->leaves; i++, left -= block_size)
		add_block(group, file->data + i * block_size, left < block_size ? left : block_size,
			  hashes + i * group->tree.hash->digest_size);
}

/* Hash all files of the group, which is empty afterwards. */
static void finish_group(struct group *group)
{
	const struct tree *tree = &group->tree;
	struct message messages[FILES_MAX];
	size_t single = 0;

	for (size_t i = 0; i < group->count; i++)
		if (group->files[i].leaves > 1)
			add_leaves(group, &group->files[i], group->files[i].hashes);
	/* Files of one block fill the lanes that those leave, and again those that the roots leave. */
	for (size_t i = 0; i < group->count; i++) {
		if (group->files[i].leaves == 1) {
			add_leaves(group, &group->files[i], group->descriptors[i].root_hash);
			single++;
		}
	}
	if (group->queued > single)
		flush(group);	/* leaves that the roots need */
	for (size_t i = 0; i < group->count; i++)
		if (group->files[i].leaves > 1)
			add_block(group, group->files[i].hashes, group->files[i].leaves * tree->hash->digest_size,
				  group->descriptors[i].root_hash);
	flush(group);

	for (size_t i = 0; i < group->count; i++)
		messages[i] = (struct message){ (const u8 *)&group->descriptors[i], group->files[i].digest };
	tree_hash(tree, &tree->hash->initial, messages, group->count, sizeof(struct descriptor));
	group->count = group->leaves = 0;
}

/* Add a file of at most as many leaves as a block has hashes. */
static void add_file(struct group *group, const u8 *data, u64 size, size_t leaves, u8 *digest)
{
	if (group->count == FILES_MAX || group->leaves + leaves > LEAVES_MAX)
		finish_group(group);
	group->files[group->count] = (struct file){
		.data = data,
		.size = size,
		.leaves = leaves,
		.hashes = group->hashes + group->leaves * group->tree.hash->digest_size,
		.digest = digest,
	};
	group->descriptors[group->count] = group->tree.descriptor;
	group->descriptors[group->count].data_size = htole64(size);
	group->leaves += leaves;
	group->count++;
}

/* Return: 0 or -ENOMEM. */
static int digest_large(const struct group *group, const u8 *data, u64 size, u8 *digest)
{
	const struct descriptor *descriptor = &group->tree.descriptor;
	struct cfs_verity *verity;
	int ret = cfs_verity_new(descriptor->hash_algorithm, group->tree.block_size, descriptor->salt, descriptor->salt_size,
				 &verity);

	if (ret < 0)
		return ret;
	cfs_verity_update_fused(verity, data, size, group->tree.stream);
	ret = cfs_verity_finish(verity, digest, group->tree.hash->digest_size);
	cfs_verity_free(verity);
	return ret;
}

/*
 * Return: 0, -EINVAL for parameters that fs-verity does not have, a wrong size of the digest, or a span that leaves the
 * data, or -ENOMEM.
 */
int cfs_verity_digest_spans_fused(int alg, u32 block_size, const void *salt, size_t salt_size,
				  const void *data, size_t data_size, const struct cfs_span *spans, size_t count,
				  void *digests, size_t digest_size, struct cfs_stream *stream)
{
	struct group *group;
	struct tree tree;
	size_t lanes;
	int ret = tree_init(&tree, alg, block_size, salt, salt_size);

	if (ret < 0)
		return ret;
	if (digest_size != tree.hash->digest_size)
		return -EINVAL;
	for (size_t i = 0; i < count; i++)
		if (spans[i].offset > data_size || spans[i].size > data_size - spans[i].offset)
			return -EINVAL;

	lanes = tree.impl->lanes ? tree.impl->lanes : 1;
	group = malloc(sizeof(*group) + lanes * block_size);
	if (!group)
		return -ENOMEM;
	if (stream)
		stream_align(stream);
	group->tree = tree;
	group->tree.stream = stream;
	group->count = group->leaves = group->queued = 0;
	group->lanes = lanes;
	for (size_t i = 0; i < count && ret == 0; i++) {
		const u8 *content = (const u8 *)data + spans[i].offset;
		u8 *digest = (u8 *)digests + i * digest_size;
		u64 size = spans[i].size, leaves = size / block_size + (size % block_size > 0);

		/* A larger tree fills the lanes by itself. */
		if (leaves > LEAVES_MAX || leaves > block_size / digest_size)
			ret = digest_large(group, content, size, digest);
		else
			add_file(group, content, size, leaves, digest);
	}
	finish_group(group);
	free(group);
	return ret;
}

int cfs_verity_digest_spans(int alg, u32 block_size, const void *salt, size_t salt_size,
			    const void *data, size_t data_size, const struct cfs_span *spans, size_t count,
			    void *digests, size_t digest_size)
{
	return cfs_verity_digest_spans_fused(alg, block_size, salt, salt_size, data, data_size, spans, count,
					     digests, digest_size, NULL);
}
