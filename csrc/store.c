/* Store objects, many in one call: look, write, seal, link. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Have the kernel build the tree of *fd, which becomes read-only, and compare what it got.  Return: 0 or -errno. */
static int seal(int *fd, int alg, const u8 *digest, size_t digest_size)
{
	char proc[sizeof("/proc/self/fd/") + 3 * sizeof(*fd)];
	u8 measured[SHA2_DIGEST_MAX];
	int ret, measured_alg = 0, read_only;	/* 0: gcc at -O3 does not see that it is set */

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", *fd);
	read_only = open(proc, O_RDONLY | O_CLOEXEC);
	if (read_only < 0)
		return -errno;
	close(*fd);
	*fd = read_only;
	ret = cfs_enable_verity(*fd, alg, 4096, NULL, 0);
	if (ret < 0)
		return ret;
	ret = cfs_measure_verity(*fd, &measured_alg, measured, sizeof(measured));
	if (ret < 0)
		return ret;
	if (measured_alg != alg || (size_t)ret != digest_size || memcmp(measured, digest, digest_size) != 0)
		return -EBADMSG;
	return 0;
}

/* Name the file behind fd, in a directory that may not exist yet.  Return: 0, or a -errno. */
static int link_object(int fd, int dir_fd, const char *path)
{
	const char directory[] = { path[0], path[1], '\0' };
	int ret = cfs_link_fd(fd, dir_fd, path);

	if (ret != -ENOENT)
		return ret;
	if (mkdirat(dir_fd, directory, 0755) < 0 && errno != EEXIST)
		return -errno;
	return cfs_link_fd(fd, dir_fd, path);
}

static int store_object(int dir_fd, int alg, const u8 *data, size_t size, const u8 *digest, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE];
	struct stat info;
	int fd, ret;

	format_object_path(path, digest, digest_size);
	if (fstatat(dir_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0)
		return S_ISREG(info.st_mode) && (u64)info.st_size == size ? 0 : -EEXIST;
	if (errno != ENOENT)
		return -errno;
	fd = cfs_store_file(dir_fd, data, size);
	if (fd < 0)
		return fd;
	ret = alg ? seal(&fd, alg, digest, digest_size) : 0;
	if (ret == 0)
		ret = link_object(fd, dir_fd, path);
	close(fd);
	return ret == 0 ? 1 : ret;
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
