/*
 * fs-verity digests: the Merkle tree over a file's blocks, and the descriptor whose hash is the digest.
 * Source: Documentation/filesystems/fsverity.rst of the kernel.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "merkle.h"

#define LEVELS_MAX 15		/* 2^64 bytes in blocks of 2^10 with 2^4 hashes: one level, and 54 / 4 above it */
#define GROUP 8			/* blocks; divides the hashes of a block, so that a group never crosses two parents */
#define GROUP_BLOCKS 128	/* blocks hashed at once: enough that hardly a lane stays empty */
#define READ_SIZE 65536		/* bytes read at once: a guess, it fills all lanes and stays in the L2 cache */

/*
 * A tree that grows from the left: of each level only what is not yet a full block is kept.  A full block is hashed at
 * once into the level above.  Level 0 has the hashes of the data's blocks, and waits for a group of full blocks: hashing
 * them in lanes makes large files 6 % faster.
 */
struct cfs_verity {
	struct tree tree;
	bool busy;
	u64 size;			/* bytes of data so far */
	u64 hashes[LEVELS_MAX];		/* how many a level has got so far */
	u8 blocks[];			/* an unfinished block of data, GROUP of level 0, one of each other level */
};

int tree_init(struct tree *tree, int alg, u32 block_size, const void *salt, size_t salt_size)
{
	const struct hash_alg *hash = find_alg(alg);

	if (!hash || block_size < BLOCK_SIZE_MIN || block_size > BLOCK_SIZE_MAX || (block_size & (block_size - 1)) ||
	    salt_size > SALT_MAX)
		return -EINVAL;

	*tree = (struct tree){
		.hash = hash,
		.impl = find_chosen(alg),
		.block_size = block_size,
		.salted = hash->initial,
		.descriptor = {
			.version = 1,
			.hash_algorithm = alg,
			.log_block_size = __builtin_ctz(block_size),
			.salt_size = salt_size,
		},
	};
	if (salt_size > 0) {
		u8 padded[SHA2_BLOCK_MAX] = { 0 };

		memcpy(padded, salt, salt_size);
		tree->impl->compress(&tree->salted, padded, 1);
		tree->salted.size = hash->block_size;
		memcpy(tree->descriptor.salt, salt, salt_size);
	}
	return 0;
}

/* Hash count blocks into as many digests: one that lies elsewhere (or NULL), and those of data, next to each other. */
static void hash_blocks(const struct tree *tree, const u8 *first, const u8 *data, size_t count, u8 *digests)
{
	struct message messages[GROUP_BLOCKS];

	while (count > 0) {
		size_t n = count < GROUP_BLOCKS ? count : GROUP_BLOCKS;

		for (size_t i = 0; i < n; i++, digests += tree->hash->digest_size) {
			messages[i] = (struct message){ first ? first : data, digests };
			data += first ? 0 : tree->block_size;
			first = NULL;
		}
		tree_hash(tree, &tree->salted, messages, n, tree->block_size);
		count -= n;
	}
}

/* The digest of a file of size bytes, from the root hash of its tree. */
static void tree_finish(const struct tree *tree, u64 size, const u8 *root_hash, u8 *digest)
{
	struct descriptor descriptor = tree->descriptor;

	descriptor.data_size = htole64(size);
	memcpy(descriptor.root_hash, root_hash, tree->hash->digest_size);
	hash_padded(tree->hash, tree->impl, &tree->hash->initial, (const u8 *)&descriptor, sizeof(descriptor),
		    sizeof(descriptor), digest);
}

/* How many hashes of a level are kept before they go up. */
static u32 level_capacity(const struct tree *tree, unsigned int level)
{
	return (level == 0 ? GROUP : 1) * tree->block_size / tree->hash->digest_size;
}

static u8 *level_start(struct cfs_verity *verity, unsigned int level)
{
	return verity->blocks + (level == 0 ? 1 : GROUP + level) * (size_t)verity->tree.block_size;
}

/* Where the next hash of a level goes; *room: how many have place from there on. */
static u8 *level_end(struct cfs_verity *verity, unsigned int level, u32 *room)
{
	u32 capacity = level_capacity(&verity->tree, level), used = verity->hashes[level] % capacity;

	*room = capacity - used;
	return level_start(verity, level) + used * verity->tree.hash->digest_size;
}

/* A level is full, or has got all its hashes: each of its blocks becomes a hash of the level above. */
static void level_up(struct cfs_verity *verity, unsigned int level)
{
	const struct tree *tree = &verity->tree;
	u32 capacity = level_capacity(tree, level), used = verity->hashes[level] % capacity, room;
	size_t size = (used ? used : capacity) * tree->hash->digest_size;
	size_t padding = -size % tree->block_size, count = (size + padding) / tree->block_size;
	u8 *parent = level_end(verity, level + 1, &room);

	memset(level_start(verity, level) + size, 0, padding);
	hash_blocks(tree, NULL, level_start(verity, level), count, parent);
	verity->hashes[level + 1] += count;
	if (count == room)
		level_up(verity, level + 1);
}

/* Hash whole blocks into level 0, as hash_blocks(). */
static void add_blocks(struct cfs_verity *verity, const u8 *first, const u8 *data, size_t count)
{
	while (count > 0) {
		u32 room;
		u8 *end = level_end(verity, 0, &room);
		size_t n = count < room ? count : room;

		hash_blocks(&verity->tree, first, data, n, end);
		verity->hashes[0] += n;
		if (n == room)
			level_up(verity, 0);
		data += (n - (first ? 1 : 0)) * verity->tree.block_size;
		first = NULL;
		count -= n;
	}
}

/* Return: 0, -EINVAL for parameters that fs-verity does not have, or -ENOMEM. */
int cfs_verity_new(int alg, u32 block_size, const void *salt, size_t salt_size, struct cfs_verity **verity)
{
	unsigned int levels = 1;
	struct tree tree;
	int ret = tree_init(&tree, alg, block_size, salt, salt_size);

	if (ret < 0)
		return ret;
	/* Until 2^64 bytes give one hash. */
	for (int bits = 64 - __builtin_ctz(block_size); bits > 0; bits -= __builtin_ctz(level_capacity(&tree, 1)))
		levels++;
	*verity = malloc(sizeof(**verity) + (GROUP + levels) * (size_t)block_size);
	if (!*verity)
		return -ENOMEM;
	**verity = (struct cfs_verity){ .tree = tree };
	return 0;
}

/* Return: 0, or -EBUSY: another thread is inside. */
int cfs_verity_update_fused(struct cfs_verity *verity, const void *data, size_t size, struct cfs_stream *stream)
{
	const u32 block_size = verity->tree.block_size;
	const u8 *next = data, *first = NULL;
	size_t pending, n;

	if (__atomic_exchange_n(&verity->busy, true, __ATOMIC_ACQUIRE))
		return -EBUSY;
	if (stream)
		stream_align(stream);
	verity->tree.stream = stream;
	pending = verity->size % block_size;
	verity->size += size;
	if (pending) {
		n = size < block_size - pending ? size : block_size - pending;
		memcpy(verity->blocks + pending, next, n);
		next += n;
		size -= n;
		/* It shares the lanes with those of data. */
		if (pending + n == block_size)
			first = verity->blocks;
	}
	add_blocks(verity, first, next, (first ? 1 : 0) + size / block_size);
	/* What is left is less than a block; if data did not reach the end of the pending one, it is nothing. */
	if (size % block_size)
		memcpy(verity->blocks, next + size - size % block_size, size % block_size);
	verity->tree.stream = NULL;
	__atomic_store_n(&verity->busy, false, __ATOMIC_RELEASE);
	return 0;
}

int cfs_verity_update(struct cfs_verity *verity, const void *data, size_t size)
{
	return cfs_verity_update_fused(verity, data, size, NULL);
}

/* Nothing but cfs_verity_free() may follow.  Return: 0, -EINVAL for a wrong size of the digest, or -EBUSY. */
int cfs_verity_finish(struct cfs_verity *verity, void *digest, size_t digest_size)
{
	static const u8 no_root[SHA2_DIGEST_MAX];
	const struct tree *tree = &verity->tree;
	const u8 *root = no_root;
	u32 room;

	if (digest_size != tree->hash->digest_size)
		return -EINVAL;
	if (__atomic_exchange_n(&verity->busy, true, __ATOMIC_ACQUIRE))
		return -EBUSY;
	if (verity->size % tree->block_size) {
		u8 *end = level_end(verity, 0, &room);

		hash_padded(tree->hash, tree->impl, &tree->salted, verity->blocks, verity->size % tree->block_size,
			    tree->block_size, end);
		verity->hashes[0]++;
		if (room == 1)
			level_up(verity, 0);
	}
	if (verity->size > 0) {
		unsigned int level = 0;

		/* A level of one hash is the root, also where a full tree has just made it. */
		for (; verity->hashes[level] > 1; level++)
			if (verity->hashes[level] % level_capacity(tree, level))
				level_up(verity, level);
		root = level_start(verity, level);
	}
	tree_finish(tree, verity->size, root, digest);
	return 0;
}

void cfs_verity_free(struct cfs_verity *verity)
{
	free(verity);
}

/* Return: 0, -EINVAL for parameters that fs-verity does not have or a wrong size of the digest, or -ENOMEM. */
int cfs_verity_digest(int alg, u32 block_size, const void *salt, size_t salt_size,
		      const void *data, size_t size, void *digest, size_t digest_size)
{
	struct cfs_verity *verity;
	struct tree tree;
	int ret = tree_init(&tree, alg, block_size, salt, salt_size);

	if (ret < 0)
		return ret;
	if (digest_size != tree.hash->digest_size)
		return -EINVAL;

	/* Every second file of a system has one block: it needs no tree. */
	if (size <= block_size) {
		u8 root[SHA2_DIGEST_MAX] = { 0 };

		if (size > 0)
			hash_padded(tree.hash, tree.impl, &tree.salted, data, size, block_size, root);
		tree_finish(&tree, size, root, digest);
		return 0;
	}

	ret = cfs_verity_new(alg, block_size, salt, salt_size, &verity);
	if (ret < 0)
		return ret;
	cfs_verity_update(verity, data, size);
	ret = cfs_verity_finish(verity, digest, digest_size);
	cfs_verity_free(verity);
	return ret;
}

/* Return: 0, or -EINVAL for parameters that fs-verity does not have or a wrong size of the digest. */
static int check_parameters(int alg, u32 block_size, const void *salt, size_t salt_size, size_t digest_size)
{
	struct tree tree;
	int ret = tree_init(&tree, alg, block_size, salt, salt_size);

	if (ret == 0 && digest_size != tree.hash->digest_size)
		ret = -EINVAL;
	return ret;
}

/*
 * The digest of the file behind fd, read through a buffer of READ_SIZE bytes; also the size that it had.
 * Return: as cfs_verity_digest(), or the -errno of pread(2).
 */
static int digest_file(int alg, u32 block_size, const void *salt, size_t salt_size,
		       int fd, u8 *buffer, void *digest, size_t digest_size, u64 *size)
{
	struct cfs_verity *verity = NULL;
	size_t filled = 0;
	ssize_t n;
	int ret;

	*size = 0;
	while ((n = pread(fd, buffer + filled, READ_SIZE - filled, *size)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			ret = -errno;
			goto out;
		}
		*size += n;
		filled += n;
		if (filled < READ_SIZE)
			continue;
		if (!verity) {
			ret = cfs_verity_new(alg, block_size, salt, salt_size, &verity);
			if (ret < 0)
				goto out;
		}
		cfs_verity_update(verity, buffer, filled);
		filled = 0;
	}
	/* Most files fit into the buffer: they need no state. */
	if (!verity)
		return cfs_verity_digest(alg, block_size, salt, salt_size, buffer, filled, digest, digest_size);
	cfs_verity_update(verity, buffer, filled);
	ret = cfs_verity_finish(verity, digest, digest_size);
out:
	cfs_verity_free(verity);
	return ret;
}

/* Return: as cfs_verity_digest(), or the -errno of pread(2). */
int cfs_verity_digest_fd(int alg, u32 block_size, const void *salt, size_t salt_size,
			 int fd, void *digest, size_t digest_size)
{
	int ret = check_parameters(alg, block_size, salt, salt_size, digest_size);
	u8 *buffer;
	u64 size;

	if (ret < 0)
		return ret;
	buffer = malloc(READ_SIZE);
	if (!buffer)
		return -ENOMEM;
	ret = digest_file(alg, block_size, salt, salt_size, fd, buffer, digest, digest_size, &size);
	free(buffer);
	return ret;
}

/* Return: 0, -EINVAL as cfs_verity_digest(), or -ENOMEM. */
int cfs_verity_digest_fds(int alg, u32 block_size, const void *salt, size_t salt_size, const int *fds, size_t count,
			  void *digests, size_t digest_size, int64_t *sizes, int64_t *ctimes)
{
	int ret = check_parameters(alg, block_size, salt, salt_size, digest_size);
	u8 *buffer;

	if (ret < 0)
		return ret;
	buffer = malloc(READ_SIZE);
	if (!buffer)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		u8 *digest = (u8 *)digests + i * digest_size;
		struct stat info = { 0 };
		u64 size;

		ret = digest_file(alg, block_size, salt, salt_size, fds[i], buffer, digest, digest_size, &size);
		if (ret == 0 && fstat(fds[i], &info) < 0)
			ret = -errno;
		sizes[i] = ret < 0 ? ret : (int64_t)size;
		ctimes[i] = info.st_ctim.tv_sec * INT64_C(1000000000) + info.st_ctim.tv_nsec;
	}
	free(buffer);
	return 0;
}
