/* Objects against their names: files are opened, read and hashed many at a time, and Python only sees what came out. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_SIZE (1 << 20)	/* bytes; files of up to half of it share it, and are hashed together: a guess */
#define PIECE_SIZE (1 << 18)	/* bytes of larger files that are read at a time: a guess */
#define FILES_MAX 256		/* that share the buffer */
#define VERITY_BLOCK 4096	/* bytes; the only size that composefs repositories have */

/* What is read and not yet hashed. */
struct batch {
	int alg;
	size_t digest_size;
	bool has_verity;		/* until the file system says no */
	size_t count, filled;
	struct cfs_span spans[FILES_MAX];
	size_t indexes[FILES_MAX];	/* of the objects */
	u8 digests[FILES_MAX * SHA2_DIGEST_MAX];
	u8 buffer[BUFFER_SIZE];
};

/* Return: 0, or -ENOMEM. */
static int hash_batch(struct batch *batch, struct cfs_objects *objects)
{
	const size_t digest_size = batch->digest_size;
	int ret = cfs_verity_digest_spans(batch->alg, VERITY_BLOCK, NULL, 0, batch->buffer, batch->filled, batch->spans,
					  batch->count, batch->digests, digest_size);

	for (size_t i = 0; i < batch->count; i++)
		memcpy(objects->found + batch->indexes[i] * digest_size, batch->digests + i * digest_size, digest_size);
	batch->count = batch->filled = 0;
	return ret;
}

/* Read up to size bytes.  Return: how many, fewer only at the end of the file; or the -errno of pread(2). */
static ssize_t read_piece(int fd, u8 *piece, size_t size, off_t offset)
{
	size_t filled = 0;

	while (filled < size) {
		ssize_t n = pread(fd, piece + filled, size - filled, offset + filled);

		if (n == 0)
			break;
		if (n > 0)
			filled += n;
		else if (errno != EINTR)
			return -errno;
	}
	return filled;
}

/* Hash a file of any size.  Return: 0, -ENOMEM, -ECANCELED, or the -errno of pread(2). */
static int hash_file(struct batch *batch, struct cfs_objects *objects, int fd, u8 *digest)
{
	struct cfs_verity *verity;
	u64 offset = 0;
	ssize_t n;
	int ret = hash_batch(batch, objects);

	if (ret < 0)
		return ret;
	ret = cfs_verity_new(batch->alg, VERITY_BLOCK, NULL, 0, &verity);
	if (ret < 0)
		return ret;
	while ((n = read_piece(fd, batch->buffer, PIECE_SIZE, offset)) > 0) {
		cfs_verity_update(verity, batch->buffer, n);
		offset += n;
		if (__atomic_load_n(objects->stop, __ATOMIC_RELAXED)) {
			n = -ECANCELED;
			break;
		}
	}
	ret = n < 0 ? (int)n : cfs_verity_finish(verity, digest, batch->digest_size);
	cfs_verity_free(verity);
	return ret;
}

/* Read a file of about that size, to be hashed with others or alone; errors are those of hash_file(). */
static int read_file(struct batch *batch, struct cfs_objects *objects, size_t index, int fd, u64 size)
{
	u8 *digest = objects->found + index * batch->digest_size;
	ssize_t n;

	if (size > BUFFER_SIZE / 2)
		return hash_file(batch, objects, fd, digest);
	if (batch->count == FILES_MAX || batch->filled + size >= BUFFER_SIZE) {
		int ret = hash_batch(batch, objects);

		if (ret < 0)
			return ret;
	}
	/* One byte more, if it is there, shows that the file has grown. */
	n = read_piece(fd, batch->buffer + batch->filled, size + 1, 0);
	if (n < 0)
		return (int)n;
	if ((u64)n > size)
		return hash_file(batch, objects, fd, digest);
	batch->spans[batch->count] = (struct cfs_span){ batch->filled, n };
	batch->indexes[batch->count++] = index;
	batch->filled += n;
	return 0;
}

/* Tell whether the kernel enforces a digest for the file, which is put in its place. */
static bool measure(struct batch *batch, int fd, u8 *digest)
{
	int alg = 0, ret;

	if (!batch->has_verity)
		return false;
	ret = cfs_measure_verity(fd, &alg, digest, batch->digest_size);
	batch->has_verity = ret != -ENOTTY && ret != -EOPNOTSUPP;
	return ret == (int)batch->digest_size && alg == batch->alg;
}

/*
 * Read a file of that size, of which the kernel checks what comes from the disk.
 * Return: 0, -ENOMEM, -ECANCELED, or the -errno of pread(2).
 */
static int read_sealed(struct batch *batch, struct cfs_objects *objects, int fd, u64 size)
{
	int ret = batch->filled + PIECE_SIZE > BUFFER_SIZE ? hash_batch(batch, objects) : 0;

	for (u64 offset = 0; ret == 0 && offset < size; offset += PIECE_SIZE) {
		u64 left = size - offset;
		ssize_t n = read_piece(fd, batch->buffer + batch->filled, left < PIECE_SIZE ? left : PIECE_SIZE, offset);

		if (n < 0)
			ret = (int)n;
		else if (__atomic_load_n(objects->stop, __ATOMIC_RELAXED))
			ret = -ECANCELED;
	}
	return ret;
}

/* Find out what an open file is.  Return: 0, or the -errno that ends it all. */
static int check_file(struct batch *batch, struct cfs_objects *objects, size_t index, int fd)
{
	struct stat info;
	int ret = 0;

	if (fstat(fd, &info) < 0) {
		objects->states[index] = OBJECT_NOT_READ;
		objects->errors[index] = errno;
		return 0;
	}
	if (objects->stamps)
		objects->stamps[index] = stamp_object(&info, objects->time);
	if (!S_ISREG(info.st_mode)) {
		objects->states[index] = OBJECT_NO_FILE;
	} else if (measure(batch, fd, objects->found + index * batch->digest_size)) {
		objects->states[index] = OBJECT_MEASURED;
		ret = read_sealed(batch, objects, fd, info.st_size);
	} else if (objects->require_verity) {
		objects->states[index] = OBJECT_NOT_SEALED;
	} else {
		objects->states[index] = OBJECT_HASHED;
		ret = read_file(batch, objects, index, fd, info.st_size);
	}
	if (ret == -ENOMEM || ret == -ECANCELED)
		return ret;
	if (ret < 0) {
		objects->states[index] = OBJECT_NOT_READ;
		objects->errors[index] = -ret;
	}
	return 0;
}

/* Return: 0, -EINVAL for an unknown hash or a wrong size of its digests, -ENOMEM, or -ECANCELED. */
int cfs_check_objects(int alg, int dir_fd, size_t digest_size, struct cfs_objects *objects)
{
	const struct hash_alg *hash = find_alg(alg);
	char path[OBJECT_PATH_SIZE];
	struct batch *batch;
	int ret = 0;

	if (!hash || hash->digest_size != digest_size)
		return -EINVAL;
	batch = malloc(sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	batch->alg = alg;
	batch->digest_size = digest_size;
	batch->has_verity = true;
	batch->count = batch->filled = 0;
	for (size_t i = 0; i < objects->count && ret == 0; i++) {
		int fd;

		format_object_path(path, objects->digests + i * digest_size, digest_size);
		/* Whatever stands there: never follow a link, never wait. */
		fd = open_at(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
		objects->errors[i] = 0;
		if (objects->stamps)
			objects->stamps[i] = 0;
		if (fd < 0) {
			objects->states[i] = OBJECT_NOT_OPENED;
			objects->errors[i] = errno;
			continue;
		}
		ret = check_file(batch, objects, i, fd);
		close(fd);
		if (__atomic_load_n(objects->stop, __ATOMIC_RELAXED))
			ret = -ECANCELED;
	}
	if (ret == 0)
		ret = hash_batch(batch, objects);
	free(batch);
	return ret;
}
