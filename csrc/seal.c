/* Have the kernel enforce the contents of files that were just written, and prove that it enforces the right ones. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERITY_BLOCK	4096	/* bytes; the only size that composefs repositories have */
#define COPIES_MAX	8	/* of a file that others have open for writing; a guess */
#define PIECE_MAX	(1 << 30)	/* bytes copied at a time; offset and size must fit an off_t together */

int is_sealed(int fd, int alg, const u8 *digest, size_t digest_size)
{
	u8 measured[SHA2_DIGEST_MAX];
	int measured_alg = 0, ret = cfs_measure_verity(fd, &measured_alg, measured, sizeof(measured));

	if (ret < 0)
		return ret;
	return measured_alg == alg && (size_t)ret == digest_size && memcmp(measured, digest, digest_size) == 0;
}

/* Let fd stand for another open file.  Return: 0 or -errno. */
static int replace_fd(int fd, int by)
{
	int ret = dup3(by, fd, O_CLOEXEC) < 0 ? -errno : 0;

	close(by);
	return ret;
}

/* Let the kernel count no writer for fd, as far as it is ours.  Return: 0 or -errno. */
static int make_read_only(int fd)
{
	char proc[sizeof("/proc/self/fd/") + 3 * sizeof(fd)];
	int flags = fcntl(fd, F_GETFL), read_only;

	if (flags < 0)
		return -errno;
	if ((flags & O_ACCMODE) == O_RDONLY)
		return 0;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	read_only = open_at(AT_FDCWD, proc, O_RDONLY | O_CLOEXEC, 0);
	return read_only < 0 ? -errno : replace_fd(fd, read_only);
}

/* Copy all of a file to the end of another.  Return: 0 or -errno. */
static int copy_all(int from, int to)
{
	off_t offset = 0;
	ssize_t n;

	do
		n = copy_file_range(from, &offset, to, NULL, PIECE_MAX, 0);
	while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : 0;
}

/* Let fd stand for a copy of its file, unnamed in the file system of dir_fd, read-only.  Return: 0 or -errno. */
static int replace_by_copy(int fd, int dir_fd)
{
	struct stat info;
	int copy, ret;

	if (fstat(fd, &info) < 0)
		return -errno;
	copy = open_at(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, info.st_mode & 0777);
	if (copy < 0)
		return -errno;
	ret = cfs_set_mode(copy, dir_fd, info.st_mode & 0777);
	if (ret == 0)
		ret = copy_all(fd, copy);
	if (ret < 0) {
		close(copy);
		return ret;
	}
	ret = replace_fd(fd, copy);
	return ret < 0 ? ret : make_read_only(fd);
}

/* Return: 0, -EBADMSG for other contents, or the -errno of what failed. */
int cfs_seal(int fd, int dir_fd, int alg, const void *digest, size_t digest_size)
{
	int ret = make_read_only(fd);

	if (ret == 0)
		ret = cfs_enable_verity(fd, alg, VERITY_BLOCK, NULL, 0);
	for (int copies = 0; ret == -ETXTBSY && dir_fd >= 0 && copies < COPIES_MAX; copies++) {
		ret = replace_by_copy(fd, dir_fd);
		if (ret == 0)
			ret = cfs_enable_verity(fd, alg, VERITY_BLOCK, NULL, 0);
	}
	if (ret < 0 && ret != -EEXIST)	/* enabled before, which only the measurement can judge */
		return ret;
	ret = is_sealed(fd, alg, digest, digest_size);
	if (ret < 0)
		return ret;
	return ret ? 0 : -EBADMSG;
}
