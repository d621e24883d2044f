/* System calls that Python's os module lacks, or needs several of. */
#include "cfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>

/* Kernel headers older than 5.4, such as those of the manylinux_2_28 images, have no fs-verity. */
#if __has_include(<linux/fsverity.h>)
#include <linux/fsverity.h>
#else
#include <linux/types.h>

struct fsverity_enable_arg {
	__u32 version;
	__u32 hash_algorithm;
	__u32 block_size;
	__u32 salt_size;
	__u64 salt_ptr;
	__u32 sig_size;
	__u32 __reserved1;
	__u64 sig_ptr;
	__u64 __reserved2[11];
};

struct fsverity_digest {
	__u16 digest_algorithm;
	__u16 digest_size;
	__u8 digest[];
};

#define FS_IOC_ENABLE_VERITY	_IOW('f', 133, struct fsverity_enable_arg)
#define FS_IOC_MEASURE_VERITY	_IOWR('f', 134, struct fsverity_digest)
#endif
_Static_assert(sizeof(struct fsverity_enable_arg) == 128, "the kernel's ABI");
_Static_assert(sizeof(struct fsverity_digest) == 4, "the kernel's ABI");

/*
 * Name the unnamed (O_TMPFILE) file behind fd: path, relative to dir_fd.
 * Return: 0, -EEXIST if the name is taken, or another -errno of linkat(2).
 */
int cfs_link_fd(int fd, int dir_fd, const char *path)
{
	char proc[sizeof("/proc/self/fd/") + 3 * sizeof(fd)];

	/*
	 * Two thirds of the time of what comes below, on tmpfs.  Kernels before 6.10 want CAP_DAC_READ_SEARCH for it, and
	 * say ENOENT without; as any does where the directory does not exist.
	 */
	if (linkat(fd, "", dir_fd, path, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno == EEXIST)
		return -errno;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, proc, dir_fd, path, AT_SYMLINK_FOLLOW) != 0)
		return -errno;
	return 0;
}

/* Return: 0, or the -errno of renameat2(2). */
int cfs_rename(int old_dir_fd, const char *old_path, int new_dir_fd, const char *new_path, unsigned int flags)
{
	long ret;

	/* Not every libc has renameat2(), and not every kernel or sandbox: only who asks for flags depends on it. */
	if (flags)
		ret = syscall(SYS_renameat2, old_dir_fd, old_path, new_dir_fd, new_path, flags);
	else
		ret = renameat(old_dir_fd, old_path, new_dir_fd, new_path);
	return ret < 0 ? -errno : 0;
}

/* Let the target share all blocks of the source.  Return: 0, or the -errno of ioctl_ficlone(2). */
int cfs_reflink(int source_fd, int target_fd)
{
	return ioctl(target_fd, FICLONE, source_fd) < 0 ? -errno : 0;
}

#define ENABLE_ATTEMPTS	3
#define ENABLE_PAUSE	1000000	/* nanoseconds */

/* Return: 0, or the -errno of FS_IOC_ENABLE_VERITY. */
int cfs_enable_verity(int fd, int alg, u32 block_size, const void *salt, size_t salt_size)
{
	static const struct timespec pause = { .tv_nsec = ENABLE_PAUSE };
	struct fsverity_enable_arg arg = {
		.version = 1,
		.hash_algorithm = alg,
		.block_size = block_size,
		.salt_size = salt_size,
		.salt_ptr = (uintptr_t)salt,
	};

	/* A child that another thread forks has our writable descriptor until it calls exec. */
	for (int attempt = 1;; attempt++) {
		if (ioctl(fd, FS_IOC_ENABLE_VERITY, &arg) == 0)
			return 0;
		if (errno != ETXTBSY || attempt == ENABLE_ATTEMPTS)
			return -errno;
		nanosleep(&pause, NULL);
	}
}

/* Return: the size of the digest, or the -errno of FS_IOC_MEASURE_VERITY, -EOVERFLOW if it does not fit. */
int cfs_measure_verity(int fd, int *alg, void *digest, size_t capacity)
{
	union {
		struct fsverity_digest head;
		u8 bytes[sizeof(struct fsverity_digest) + SHA2_DIGEST_MAX];
	} arg = { .head.digest_size = capacity < SHA2_DIGEST_MAX ? capacity : SHA2_DIGEST_MAX };

	if (ioctl(fd, FS_IOC_MEASURE_VERITY, &arg) < 0)
		return -errno;
	*alg = arg.head.digest_algorithm;
	memcpy(digest, arg.bytes + sizeof(arg.head), arg.head.digest_size);
	return arg.head.digest_size;
}

/* Return: 0, or the -errno of syncfs(2). */
int cfs_syncfs(int fd)
{
	return syncfs(fd) < 0 ? -errno : 0;
}

/* Write all of data at the end of fd.  Return: 0, or the -errno of write(2). */
static int write_all(int fd, const u8 *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n >= 0) {
			data += n;
			size -= n;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

/*
 * Write data to a new unnamed file (O_TMPFILE) in the file system of dir_fd.
 * Return: its descriptor, open for reading and writing, or the -errno of what failed.
 */
int cfs_store_file(int dir_fd, const void *data, size_t size)
{
	int fd = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
	int ret;

	if (fd < 0)
		return -errno;
	ret = write_all(fd, data, size);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}
