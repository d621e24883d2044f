/*
 * What Python calls.  This file is included by every C file and is, as it stands, the cdef of cffi: prototypes, structs
 * and comments only.  Results are 0 (or what the comment says) or a negative errno; nothing is copied, nothing is kept.
 */

/* Merkle trees.  alg: the kernel's FS_VERITY_HASH_ALG_*; block_size: a power of two, 1024 to 65536; salt: 0 to 32 bytes. */
int cfs_verity_digest(int alg, uint32_t block_size, const void *salt, size_t salt_size,
		      const void *data, size_t size, void *digest, size_t digest_size);
int cfs_verity_digest_fd(int alg, uint32_t block_size, const void *salt, size_t salt_size,
			 int fd, void *digest, size_t digest_size);

/*
 * Many files at once: their digests, back to back; for each the bytes that were hashed, or the -errno of what failed; and
 * when its inode was changed last, in nanoseconds, asked for afterwards.
 */
int cfs_verity_digest_fds(int alg, uint32_t block_size, const void *salt, size_t salt_size,
			  const int *fds, size_t count, void *digests, size_t digest_size,
			  int64_t *sizes, int64_t *ctimes);

/* The same for content that comes in pieces. */
struct cfs_verity;
int cfs_verity_new(int alg, uint32_t block_size, const void *salt, size_t salt_size, struct cfs_verity **verity);
int cfs_verity_update(struct cfs_verity *verity, const void *data, size_t size);
int cfs_verity_finish(struct cfs_verity *verity, void *digest, size_t digest_size);
void cfs_verity_free(struct cfs_verity *verity);

/* Implementations of a hash: the index-th which this CPU can run, fastest first (or NULL); the one in use; the choice. */
const char *cfs_hash_name(int alg, size_t index);
const char *cfs_hash_chosen(int alg);
int cfs_hash_choose(int alg, const char *name);

/* Files. */
int cfs_link_fd(int fd, int dir_fd, const char *path);
int cfs_rename(int old_dir_fd, const char *old_path, int new_dir_fd, const char *new_path, unsigned int flags);
int cfs_reflink(int source_fd, int target_fd);
int cfs_enable_verity(int fd, int alg, uint32_t block_size, const void *salt, size_t salt_size);
int cfs_measure_verity(int fd, int *alg, void *digest, size_t capacity);
int cfs_syncfs(int fd);
int cfs_store_file(int dir_fd, const void *data, size_t size);

/* The sum of all bytes, each from 0 to 255. */
uint64_t cfs_sum_bytes(const void *data, size_t size);

/* Where a reader is in the chunks of a layer. */
struct cfs_tar_place {
	uint64_t position;	/* in the data */
	uint64_t inline_left;	/* bytes of the chunk that are still to come; none: the head of a chunk comes */
	uint64_t offset;	/* in the archive */
	uint64_t padding;	/* bytes before the next header */
};

/* The digests of the objects, back to back. */
struct cfs_digests {
	const uint8_t *data;
	size_t size;		/* bytes of one */
	size_t count;
};

/* Entries: records of tar.c, 48 bytes each, and texts, for each of which there are 256 bytes a row. */
struct cfs_tar_rows {
	uint8_t *rows;
	char *names;		/* with a slash behind each */
	char *directories;	/* with a zero byte behind each */
	uint8_t *values;	/* digests, contents, targets of links */
	size_t capacity;	/* rows; at most 65535 */
	size_t count;		/* from here on set by C */
	size_t names_size, directories_size, values_size;
	size_t directory_count, last_directory_size;
};

/* Read plain entries of a layer from the decompressed chunks of its splitstream. */
int cfs_tar_read(const void *data, size_t size, struct cfs_tar_place *place, const struct cfs_digests *digests,
		 struct cfs_tar_rows *rows);

/* Put inodes into an EROFS image: records of them and of their xattrs are those of erofs.c.  -EINVAL: records that lie. */
int cfs_erofs_pack_inodes(void *image, size_t image_size, const void *inodes, size_t inodes_size,
			  const void *areas, size_t areas_size, const void *area_data, size_t area_data_size,
			  const void *payloads, size_t payloads_size);
