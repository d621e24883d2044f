/* Store objects, many in one call: look, write, seal, link. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* What became of an object, see cfs_api.h; these numbers are there, and in Python. */
enum result { OBJECT_FOUND, OBJECT_NEW, OBJECT_SEALED };

/* Name the file behind fd in the directory parent; if that is negative, it may have to be made.  Return: 0 or -errno. */
static int link_object(int fd, int parent, const char *name, int dir_fd, const char *directory)
{
	int made = -1, ret = 0;

	if (parent < 0) {
		ret = cfs_make_directory(dir_fd, directory, DIRECTORY_MODE);
		if (ret < 0 && ret != -EEXIST)
			return ret;
		ret = parent = made = open_subdirectory(dir_fd, directory);
	}
	if (ret >= 0)
		ret = cfs_link_fd(fd, parent, name);
	if (made >= 0)
		close(made);
	return ret;
}

/* Return: what cfs_store_objects() says of what stands under the name of an object. */
static int judge_found(int parent, int alg, const char *name, const struct stat *info, size_t size, const u8 *digest,
		       size_t digest_size)
{
	int fd, ret;

	if (!S_ISREG(info->st_mode) || (u64)info->st_size != size)
		return -EEXIST;
	if (!alg)
		return OBJECT_FOUND;
	/* What it may be by now: never follow a link, never wait. */
	fd = open_at(parent, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	ret = is_sealed(fd, alg, digest, digest_size);
	close(fd);
	return ret == 1 ? OBJECT_SEALED : -EEXIST;
}

static int store_object(int dir_fd, int alg, const u8 *data, size_t size, const u8 *digest, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE];
	const char *name = format_object_path(path, digest, digest_size);
	const char directory[] = { path[0], path[1], '\0' };
	int parent = open_subdirectory(dir_fd, directory), fd, ret = parent;
	struct stat info;

	if (parent >= 0 && fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
		ret = judge_found(parent, alg, name, &info, size, digest, digest_size);
		goto out;
	}
	if (parent >= 0)
		ret = -errno;
	if (ret != -ENOENT)
		goto out;
	ret = fd = cfs_store_file(dir_fd, data, size);
	if (fd < 0)
		goto out;
	ret = alg ? cfs_seal(fd, dir_fd, alg, digest, digest_size) : 0;
	if (ret == 0)
		ret = link_object(fd, parent, name, dir_fd, directory);
	close(fd);
	if (ret == 0)
		ret = OBJECT_NEW;
out:
	if (parent >= 0)
		close(parent);
	return ret;
}

/* Return: 0, or -EINVAL for sizes that cannot be; what became of each object is in results. */
int cfs_store_objects(int dir_fd, int alg, const void *data, size_t size, const struct cfs_span *spans, size_t count,
		      const void *digests, size_t digest_size, int *results)
{
	if (digest_size == 0 || digest_size > SHA2_DIGEST_MAX)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		const struct cfs_span *span = &spans[i];

		if (span->offset > size || span->size > size - span->offset)
			return -EINVAL;
		results[i] = store_object(dir_fd, alg, (const u8 *)data + span->offset, span->size,
					  (const u8 *)digests + i * digest_size, digest_size);
	}
	return 0;
}
