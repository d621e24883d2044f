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

/* Many files that lie in one buffer: their digests, back to back.  For small files faster than one after the other. */
struct cfs_span {
	uint64_t offset;
	uint64_t size;
};
int cfs_verity_digest_spans(int alg, uint32_t block_size, const void *salt, size_t salt_size,
			    const void *data, size_t data_size, const struct cfs_span *spans, size_t count,
			    void *digests, size_t digest_size);

/* The same for content that comes in pieces. */
struct cfs_verity;
int cfs_verity_new(int alg, uint32_t block_size, const void *salt, size_t salt_size, struct cfs_verity **verity);
int cfs_verity_update(struct cfs_verity *verity, const void *data, size_t size);
int cfs_verity_finish(struct cfs_verity *verity, void *digest, size_t digest_size);
void cfs_verity_free(struct cfs_verity *verity);

/* SHA-256 of what comes in pieces; the state is the caller's. */
struct cfs_sha256 {
	uint32_t words[8];
	uint64_t size;		/* bytes so far */
	uint8_t pending[64];	/* the last size % 64 of them */
};
void cfs_sha256_init(struct cfs_sha256 *hash);
void cfs_sha256_update(struct cfs_sha256 *hash, const void *data, size_t size);
void cfs_sha256_final(const struct cfs_sha256 *hash, void *digest);	/* 32 bytes; more may follow */

/*
 * A stream that is hashed while files are, on units of the CPU that idle meanwhile: the functions below take of data what
 * they have room for (perhaps nothing), and leave the rest, for the next of them or for cfs_sha256_update().
 */
struct cfs_stream {
	struct cfs_sha256 *hash;
	const uint8_t *data;
	size_t size;
};
int cfs_verity_digest_spans_fused(int alg, uint32_t block_size, const void *salt, size_t salt_size,
				  const void *data, size_t data_size, const struct cfs_span *spans, size_t count,
				  void *digests, size_t digest_size, struct cfs_stream *stream);
int cfs_verity_update_fused(struct cfs_verity *verity, const void *data, size_t size, struct cfs_stream *stream);

/* Implementations of a hash: the index-th which this CPU can run, fastest first (or NULL); the one in use; the choice. */
const char *cfs_hash_name(int alg, size_t index);
const char *cfs_hash_chosen(int alg);
int cfs_hash_choose(int alg, const char *name);
int cfs_hash_fuses(int alg);

/* Files. */
int cfs_link_fd(int fd, int dir_fd, const char *path);
int cfs_reopen_near(int fd, int dir_fd);
int cfs_rename(int old_dir_fd, const char *old_path, int new_dir_fd, const char *new_path, unsigned int flags);
int cfs_reflink(int source_fd, int target_fd);
int cfs_enable_verity(int fd, int alg, uint32_t block_size, const void *salt, size_t salt_size);
int cfs_measure_verity(int fd, int *alg, void *digest, size_t capacity);

/*
 * Have the kernel enforce the digest of the file behind fd, which becomes read-only.  A file that others keep open for
 * writing is replaced by a copy, unnamed in the file system of dir_fd, which fd stands for then; -1: it is not.
 */
int cfs_seal(int fd, int dir_fd, int alg, const void *digest, size_t digest_size);
int cfs_syncfs(int fd);
int cfs_store_file(int dir_fd, const void *data, size_t size);

/* Modes of what is made do not depend on the umask; nothing is opened through a link. */
int cfs_set_mode(int fd, int dir_fd, unsigned int mode);
int cfs_make_directory(int dir_fd, const char *name, unsigned int mode);
int cfs_open_below(int dir_fd, const char *path, int flags);

/* Contexts of file systems, mounts, loop devices. */
int cfs_fsopen(const char *type);
int cfs_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux);
int cfs_fsmount(int fd, unsigned int attributes);
int cfs_move_mount(int fd, const char *path);
int cfs_clone_mount(int fd);
int cfs_idmap_mount(int fd, int user_namespace_fd);
int cfs_unmount(const char *path, int flags);
int cfs_loop_find(int control_fd);
int cfs_loop_configure(int loop_fd, int file_fd);

/* Which of count objects have no file xx/rest below dir_fd: missing[i] is 1 for these, else 0. */
int cfs_missing_objects(int dir_fd, const void *digests, size_t count, size_t digest_size, uint8_t *missing);

/*
 * Store objects, whose digests are back to back, in the directory dir_fd of them, unless they are there.  alg: seal them
 * by it; 0: do not.  results, of each: 1 it is stored; 0 a file of that name and size is there, without alg; 2 it is
 * there, and the kernel enforces its digest, with alg; else the -errno of what failed, and nothing is left behind.
 */
int cfs_store_objects(int dir_fd, int alg, const void *data, size_t size, const struct cfs_span *spans, size_t count,
		      const void *digests, size_t digest_size, int *results);

/* Objects by their names, which are digests, back to back. */
struct cfs_objects {
	const uint8_t *digests;
	size_t count;
	int require_verity;
	const int *stop;	/* may be set meanwhile: -ECANCELED */
	uint8_t *found;		/* from here on set by C: digests of what is hashed or measured, back to back */
	uint8_t *states;	/* what each is: enum object_state of cfs.h */
	int *errors;		/* errno, or 0 */
	uint64_t *stamps;	/* as of cfs_stamp_objects(), from before they were read; NULL: they are not wanted */
	int64_t time;		/* for these; set by the caller */
};

/* Look at the objects in the directory dir_fd, each at xx/rest. */
int cfs_check_objects(int alg, int dir_fd, size_t digest_size, struct cfs_objects *objects);

/*
 * A number for inode, size, mtime and ctime of each object; 0: it is no file, or was changed at or after the time, in
 * nanoseconds.
 */
int cfs_stamp_objects(int dir_fd, const void *digests, size_t count, size_t digest_size, int64_t time,
		      uint64_t *stamps);

/* The objects in one directory, and what is none. */
struct cfs_listing {
	uint8_t *digests;	/* sorted, back to back */
	size_t count;
	uint8_t *strays;	/* names, each with its end */
	size_t strays_size;	/* bytes */
	size_t capacity, strays_capacity;
};

/* List the objects whose digests begin with that byte, in the directory dir_fd of all. */
int cfs_list_objects(int dir_fd, uint8_t byte, size_t digest_size, struct cfs_listing *listing);
void cfs_free_listing(struct cfs_listing *listing);

/* Set marks[i] to 1 for each of the digests, sorted, that is among the wanted ones. */
int cfs_mark_objects(const void *digests, size_t count, size_t digest_size, const void *wanted, size_t wanted_count,
		     uint8_t *marks);

/* Objects whose digests begin with the same byte, and what to do with those that are not marked. */
struct cfs_sweep {
	const uint8_t *digests;
	const uint8_t *marks;
	size_t count;
	int action;		/* enum sweep_action of cfs.h */
	const int *stop;	/* may be set meanwhile: -ECANCELED */
	size_t done;		/* from here on set by C: objects that it was done with */
	size_t failed;		/* index of the one that it could not be done with */
	uint64_t bytes;		/* of the sizes of those that were weighed */
	int64_t newest;		/* when an inode of theirs was changed last, in seconds */
};

int cfs_sweep_objects(int dir_fd, int target_fd, size_t digest_size, struct cfs_sweep *sweep);

/* The sum of all bytes, each from 0 to 255. */
uint64_t cfs_sum_bytes(const void *data, size_t size);

/*
 * Where zstd frames begin and end in what comes in pieces.  A walk ends above zero at a part that is none, where offset is
 * then: 1 no frame begins so; 2 no block is of that type; 3 window is more than window_max.
 */
struct cfs_frames {
	uint64_t offset;	/* bytes before the next piece */
	uint64_t end;		/* bytes up to the end of the last whole frame */
	uint64_t window;	/* bytes of memory that the last frame asks for */
	uint64_t skip;		/* bytes to come of a body */
	uint32_t next;		/* part */
	uint32_t wanted, got;	/* bytes of it */
	uint8_t descriptor;
	uint8_t part[15];
};
void cfs_frames_init(struct cfs_frames *frames, uint64_t offset);
int cfs_frames_walk(struct cfs_frames *frames, const void *data, size_t size, uint64_t window_max);

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

/* Where a reader of merged content is; at first all zero, but for fd. */
struct cfs_merge {
	uint64_t position;	/* in the chunks given: how many of their bytes are done with */
	uint64_t inline_left;	/* bytes of an inline chunk that are still to come */
	uint64_t object;	/* number of the last object */
	int fd;			/* of the object being read, or -1; the caller closes it if there is an end before its own */
	uint8_t head[8];	/* what came of the head of a chunk */
	uint8_t head_size;
};

/* Put the merged content of decompressed chunks into out, until that is full or they are done with. */
int64_t cfs_merge_chunks(const void *chunks, size_t size, struct cfs_merge *merge, const struct cfs_digests *digests,
			 int dir_fd, void *out, size_t capacity);

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

/* The contents of the entries that become objects, in order. */
struct cfs_tar_objects {
	struct cfs_span *spans;	/* one for each row that there may be */
	uint8_t *digests;	/* back to back; as many */
	size_t digest_size;
	size_t count;		/* set by C */
};

/* Split off plain entries of a layer's archive, and compute the digests of their contents. */
int cfs_tar_split(int alg, const void *data, size_t size, struct cfs_tar_place *place, struct cfs_tar_rows *rows,
		  struct cfs_tar_objects *objects, struct cfs_stream *stream);

/* Splitstream chunks of data from start to end, which begins with an object and ends with one. */
int64_t cfs_pack_chunks(const void *data, size_t size, const struct cfs_span *spans, const int64_t *indexes,
			size_t count, void *chunks, size_t capacity);

/* A batch of the index of a layer: records and texts are those of index.h and composefs/oci/index.py. */
struct cfs_batch {
	const void *rows;
	size_t row_count;
	const char *names;		/* with a slash behind each */
	size_t names_size;
	const char *directories;
	size_t directories_size;
	const uint32_t *directory_ends;
	size_t directory_count;
	const void *stats;
	const uint32_t *xattrs;		/* numbers of sets that the caller knows, by number of the stat */
	size_t stat_count;
	const char *values;
	size_t values_size;
};

/* Layers put over each other: apply batches, look, and list.  A result above zero of apply says why a row is refused. */
struct cfs_merger;
int cfs_merger_new(struct cfs_merger **merger);
int cfs_merger_apply(struct cfs_merger *merger, const struct cfs_batch *batch, size_t *refused);
int cfs_merger_find(const struct cfs_merger *merger, const char *path, size_t size, uint8_t *kind, void *stat,
		    uint32_t *xattrs);
void cfs_merger_free(struct cfs_merger *merger);

/* What room a list takes, at most; and the list, depth first and by name, each node where it comes first. */
struct cfs_merged_sizes {
	size_t dirent_count, names_size, values_size, stat_count;
};
struct cfs_merged {
	void *nodes;			/* struct merged_node of merge.h */
	void *directories;		/* struct directory_record of erofs.h */
	uint32_t *children;		/* of the dirents: nodes */
	uint32_t *name_ends;		/* of the dirents, in the names */
	char *names;
	char *values;			/* of the nodes, back to back */
	void *stats;			/* struct index_stat, by number */
	uint32_t *xattrs;		/* numbers of sets, by number of the stat */
	size_t node_count, directory_count, dirent_count, names_size, values_size;	/* set by C */
};
void cfs_merger_measure(const struct cfs_merger *merger, struct cfs_merged_sizes *sizes);
int cfs_merger_list(const struct cfs_merger *merger, struct cfs_merged *merged);

/* The list as a dump. */
struct cfs_dumper;
int cfs_dumper_new(const struct cfs_merged *merged, const char *xattrs, const uint32_t *xattr_ends, size_t set_count,
		   struct cfs_dumper **dumper);
int64_t cfs_dumper_write(struct cfs_dumper *dumper, void *data, size_t size);
void cfs_dumper_free(struct cfs_dumper *dumper);

/* The inodes of an image of such a list: 1 if any is one that asks for more than this knows. */
int cfs_erofs_inodes(const struct cfs_merged *merged, const uint32_t *sets, size_t set_count, int epoch,
		     size_t whiteout_count, void *inodes);

/* A tree as the EROFS writer has it; the records are those of erofs.h.  The first inode and directory are the root's. */
struct cfs_erofs_tree {
	void *inodes;
	size_t inode_count;
	const void *directories;
	size_t directory_count;
	const uint32_t *children;	/* inodes of the dirents: those of a directory by name, and those of all follow */
	const uint32_t *name_ends;	/* of the dirents, in the names */
	size_t dirent_count;
	const char *names;		/* of the dirents, back to back */
	size_t names_size;
	const void *payloads;		/* of the inodes, back to back */
	size_t payloads_size;
};

/* Where all that is in an image. */
struct cfs_erofs_layout {
	int epoch;			/* 1 or 2 */
	bool is_signed;			/* mtimes may be before 1970 */
	const uint32_t *order;		/* inodes, as they stand in the image; NULL: as they are */
	const void *areas;		/* xattrs, by what inodes have for their number: records */
	size_t area_count;
	size_t shared_size;		/* bytes of shared xattrs */
	int64_t oldest;			/* set by C: the mtime of compact inodes */
	uint32_t oldest_nanoseconds;
	uint64_t inodes_end;		/* bytes from the start of the image */
	uint64_t block_count;		/* of the image */
	const void *area_data;		/* only to pack */
	size_t area_data_size;
	void *image;
	size_t image_size;
};

/* Inodes whose xattrs are the same in the image. */
struct cfs_erofs_group {
	uint32_t first, count;		/* inodes */
	uint32_t xattrs;		/* number of their set */
	uint32_t is_repeated;		/* whether they are all the same object */
	uint64_t payload_offset;	/* of the first one */
};

/* The order of epoch 1; groups, by their numbers for each inode; places; and bytes. */
int cfs_erofs_order(const struct cfs_erofs_tree *tree, uint32_t *order);
int64_t cfs_erofs_group(const struct cfs_erofs_tree *tree, struct cfs_erofs_group *groups);
int cfs_erofs_place(const struct cfs_erofs_tree *tree, struct cfs_erofs_layout *layout);
int cfs_erofs_pack(const struct cfs_erofs_tree *tree, const struct cfs_erofs_layout *layout);
