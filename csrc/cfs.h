/* What the C files share. */
#ifndef CFS_H
#define CFS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cfs_api.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* openat(2), again where it was interrupted, as network file systems and those in user space may let it be. */
static inline int open_at(int dir_fd, const char *path, int flags, mode_t mode)
{
	int fd;

	do
		fd = openat(dir_fd, path, flags, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

/* cpu.c: sets of instructions whose registers the kernel saves. */
#define CPU_SHANI	(1u << 0)	/* and SSE4.1 */
#define CPU_AVX2	(1u << 1)	/* and BMI2 */
#define CPU_AVX512	(1u << 2)	/* F, BW, VL, and BMI2 */
#define CPU_ARM_SHA2	(1u << 3)
#define CPU_ARM_SHA512	(1u << 4)

u32 cpu_features(void);

#define SHA2_DIGEST_MAX	64	/* bytes */
#define SHA2_BLOCK_MAX	128	/* bytes that one compression takes */

/* A hash in progress, at the border of two of its blocks. */
struct sha2_state {
	union {
		u32 w32[8];	/* SHA-256 */
		u64 w64[8];	/* SHA-512 */
	};
	u64 size;		/* bytes hashed so far */
};

/* What a lane hashes, and where the digest goes; it may overwrite the data. */
struct message {
	const u8 *data;
	u8 *digest;
};

/* One way to compute a hash; what is too little for its lanes is left to the next in its table that this CPU can run. */
struct hash_impl {
	const char *name;
	u32 needs;		/* CPU_* */

	/* Hash count blocks (of the hash) into the words of *state, but do not count them. */
	void (*compress)(struct sha2_state *state, const u8 *data, size_t count);

	/*
	 * Hash count messages of size bytes (a multiple of the hash's block), each of which continues *start.
	 * NULL in the last: compress does the rest.
	 */
	void (*hash_lanes)(const struct sha2_state *start, const struct message *messages, size_t count, size_t size);
	size_t lanes;		/* largest count */
	size_t fewest;		/* smallest count for which this is faster than the next */

	/* Like hash_lanes, and hash whole blocks of the stream meanwhile, while it has some; or NULL. */
	void (*hash_lanes_fused)(const struct sha2_state *start, const struct message *messages, size_t count, size_t size,
				 struct cfs_stream *stream);
};

struct hash_alg {
	u32 digest_size;		/* bytes */
	u32 block_size;			/* bytes that one compression takes */
	struct sha2_state initial;
	void (*store)(const struct sha2_state *state, u8 *digest);
	const struct hash_impl *impls;	/* fastest first; the last runs everywhere */
	size_t impl_count;
};

extern const struct hash_alg sha256_alg, sha512_alg;
extern const u32 sha256_k[64];	/* its constants */

#define LANES_MAX 16	/* most that an implementation has */

/* hash.c: the hash of that number, or NULL; the implementation to begin with. */
const struct hash_alg *find_alg(int alg);
const struct hash_impl *find_chosen(int alg);

/* Hash data, continuing *start, as if zeros followed it up to padded_size bytes (a multiple of the hash's block). */
void hash_padded(const struct hash_alg *hash, const struct hash_impl *impl, const struct sha2_state *start,
		 const u8 *data, size_t size, size_t padded_size, u8 *digest);

/*
 * Hash count messages of size bytes: each implementation, from impl on, does what it is the fastest for.  A stream (or
 * NULL) may be hashed meanwhile, if it is at the border of two blocks.
 */
void hash_messages(const struct hash_alg *hash, const struct hash_impl *impl, const struct sha2_state *start,
		   const struct message *messages, size_t count, size_t size, struct cfs_stream *stream);

/* stream.c: hash as much of the stream as leads to the border of two blocks, if it has that. */
void stream_align(struct cfs_stream *stream);

#define FILE_MODE	0644	/* of what is made in a repository, as the next */
#define DIRECTORY_MODE	0755

/* fsio.c: open a directory, for its names only.  Return: the descriptor, or -errno. */
int open_subdirectory(int dir_fd, const char *name);

/* check.c: what an object turned out to be. */
enum object_state {
	OBJECT_HASHED,		/* its digest was computed */
	OBJECT_MEASURED,	/* the kernel enforces its digest, and all of it could be read */
	OBJECT_NOT_OPENED,	/* as the error says */
	OBJECT_NO_FILE,		/* but something else */
	OBJECT_NOT_READ,		/* as the error says */
	OBJECT_NOT_SEALED,	/* the kernel enforces no digest, or one of another hash, though it is required to */
};

/* What cfs_sweep_objects() does; composefs/_native/sweep.py has the same numbers. */
enum sweep_action {
	SWEEP_WEIGH,	/* only look */
	SWEEP_REMOVE,
	SWEEP_MOVE,	/* to the other directory, unless one is there: then remove */
};

#endif
