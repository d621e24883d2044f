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

#include "cfs.h"

#define SALT_MAX 32		/* bytes */
#define BLOCK_SIZE_MIN 1024	/* bytes; as in the kernel, whose maximum is the page size: 64 KiB at most */
#define BLOCK_SIZE_MAX 65536
#define LEVELS_MAX 15		/* 2^64 bytes in blocks of 2^10 with 2^4 hashes: one level, and 54 / 4 above it */
#define GROUP 8			/* blocks; divides the hashes of a block, so that a group never crosses two parents */
#define READ_SIZE 65536		/* bytes read at once: a guess, it fills all lanes and stays in the L2 cache */

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
};

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

/* Indexed by the kernel's numbers. */
static const struct hash_alg *const algs[] = { NULL, &sha256_alg, &sha512_alg };

/* Written once, when the module is imported (and by tests); NULL is the fastest. */
static const struct hash_impl *chosen[ARRAY_SIZE(algs)];

static const struct hash_alg *find_alg(int alg)
{
	return alg > 0 && (size_t)alg < ARRAY_SIZE(algs) ? algs[alg] : NULL;
}

static bool usable(const struct hash_impl *impl)
{
	return (cpu_features() & impl->needs) == impl->needs;
}

static const struct hash_impl *find_chosen(int alg)
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

/* Hash data, continuing *start, as if zeros followed it up to padded_size bytes (a multiple of the hash's block). */
static void hash_padded(const struct tree *tree, const struct sha2_state *start, const u8 *data, size_t size,
			size_t padded_size, u8 *digest)
{
	static const u8 zeros[16 * SHA2_BLOCK_MAX];	/* enough for all lanes */
	const struct hash_impl *impl = tree->impl;
	struct sha2_state state = *start;
	size_t block_size = tree->hash->block_size;
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
	tree->hash->store(&state, digest);
}

/* Hash count blocks of the tree: each implementation does what it is the fastest for, and leaves the rest. */
static void hash_blocks(const struct tree *tree, const u8 *data, size_t count, u8 *digests)
{
	const struct hash_impl *last = &tree->hash->impls[tree->hash->impl_count - 1];
	size_t n;

	for (const struct hash_impl *impl = tree->impl; impl != last; impl++) {
		if (!impl->hash_lanes || !usable(impl))
			continue;
		for (; count >= impl->fewest; count -= n) {
			n = count < impl->lanes ? count : impl->lanes;
			impl->hash_lanes(&tree->salted, data, n, tree->block_size, digests);
			data += n * tree->block_size;
			digests += n * tree->hash->digest_size;
		}
	}
	for (; count > 0; count--) {
		hash_padded(tree, &tree->salted, data, tree->block_size, tree->block_size, digests);
		data += tree->block_size;
		digests += tree->hash->digest_size;
	}
}

static int tree_init(struct tree *tree, int alg, u32 block_size, const void *salt, size_t salt_size)
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

/* The digest of a file of size bytes, from the root hash of its tree. */
static void tree_finish(const struct tree *tree, u64 size, const u8 *root_hash, u8 *digest)
{
	struct descriptor descriptor = tree->descriptor;

	descriptor.data_size = htole64(size);
	memcpy(descriptor.root_hash, root_hash, tree->hash->digest_size);
	hash_padded(tree, &tree->hash->initial, (const u8 *)&descriptor, sizeof(descriptor), sizeof(descriptor), digest);
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
	hash_blocks(tree, level_start(verity, level), count, parent);
	verity->hashes[level + 1] += count;
	if (count == room)
		level_up(verity, level + 1);
}

/* Hash whole blocks of data into level 0. */
static void add_blocks(struct cfs_verity *verity, const u8 *data, size_t count)
{
	while (count > 0) {
		u32 room;
		u8 *end = level_end(verity, 0, &room);
		size_t n = count < room ? count : room;

		hash_blocks(&verity->tree, data, n, end);
		verity->hashes[0] += n;
		if (n == room)
			level_up(verity, 0);
		data += n * verity->tree.block_size;
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
int cfs_verity_update(struct cfs_verity *verity, const void *data, size_t size)
{
	const u32 block_size = verity->tree.block_size;
	const u8 *next = data;
	size_t pending, n;

	if (__atomic_exchange_n(&verity->busy, true, __ATOMIC_ACQUIRE))
		return -EBUSY;
	pending = verity->size % block_size;
	verity->size += size;
	if (pending) {
		n = size < block_size - pending ? size : block_size - pending;
		memcpy(verity->blocks + pending, next, n);
		next += n;
		size -= n;
		if (pending + n == block_size)
			add_blocks(verity, verity->blocks, 1);
	}
	add_blocks(verity, next, size / block_size);
	/* What is left is less than a block; if data did not reach the end of the pending one, it is nothing. */
	if (size % block_size)
		memcpy(verity->blocks, next + size - size % block_size, size % block_size);
	__atomic_store_n(&verity->busy, false, __ATOMIC_RELEASE);
	return 0;
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

		hash_padded(tree, &tree->salted, verity->blocks, verity->size % tree->block_size, tree->block_size, end);
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
			hash_padded(&tree, &tree.salted, data, size, block_size, root);
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
