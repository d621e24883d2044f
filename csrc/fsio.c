/* System calls that Python's os module lacks, or needs several of. */
#include "cfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
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

/*
 * Open the file behind fd for reading once more, in the mount that dir_fd is in: a link leads from no mount to another,
 * also of the same file system, and container storage is mounted once more in its own place.
 * Return: a descriptor, or -errno: EPERM without CAP_DAC_READ_SEARCH, ESTALE on another file system.
 */
int cfs_reopen_near(int fd, int dir_fd)
{
	union {
		struct file_handle head;
		u8 room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} handle = { .head.handle_bytes = MAX_HANDLE_SZ };
	int mount_id, found;

	if (name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) != 0)
		return -errno;
	found = open_by_handle_at(dir_fd, &handle.head, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return found < 0 ? -errno : found;
}

int open_subdirectory(int dir_fd, const char *name)
{
	int fd = open_at(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/*
 * Give what was just made in dir_fd the mode that was asked for, whatever the umask; fd may be of O_PATH.  Where the
 * directory has a default ACL, there is no umask, and what the ACL takes away stays away.
 * Return: 0 or -errno.
 */
int cfs_set_mode(int fd, int dir_fd, unsigned int mode)
{
	char proc[sizeof("/proc/self/fd/") + 3 * sizeof(fd)];
	struct stat info;

	if (fstat(fd, &info) < 0)
		return -errno;
	if ((info.st_mode & 0777) == mode)
		return 0;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", dir_fd);	/* which may be of O_PATH, too */
	if (dir_fd != AT_FDCWD && getxattr(proc, "system.posix_acl_default", NULL, 0) > 0)
		return 0;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return chmod(proc, mode | (info.st_mode & S_ISGID)) < 0 ? -errno : 0;
}

/* Return: 0, -EEXIST if something has that name, or another -errno. */
int cfs_make_directory(int dir_fd, const char *name, unsigned int mode)
{
	int fd, ret;

	if (mkdirat(dir_fd, name, mode) < 0)
		return -errno;
	fd = open_subdirectory(dir_fd, name);
	if (fd < 0)
		return fd;
	ret = cfs_set_mode(fd, dir_fd, mode);
	close(fd);
	return ret;
}

/* Open path, a name or two, below dir_fd; neither may be a link.  Return: the descriptor, or -errno. */
int cfs_open_below(int dir_fd, const char *path, int flags)
{
	const char *slash = strchr(path, '/');
	char directory[NAME_MAX + 1] = "";
	int fd, parent, ret;

	if (!slash) {
		fd = open_at(dir_fd, path, flags | O_NOFOLLOW | O_CLOEXEC, 0);
		return fd < 0 ? -errno : fd;
	}
	if ((size_t)(slash - path) >= sizeof(directory))
		return -ENAMETOOLONG;
	memcpy(directory, path, slash - path);
	parent = open_subdirectory(dir_fd, directory);
	if (parent < 0)
		return parent;
	fd = open_at(parent, slash + 1, flags | O_NOFOLLOW | O_CLOEXEC, 0);
	ret = fd < 0 ? -errno : fd;
	close(parent);
	return ret;
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
	int ret;

	do
		ret = syncfs(fd);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
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
	int fd = open_at(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
	int ret;

	if (fd < 0)
		return -errno;
	ret = cfs_set_mode(fd, dir_fd, FILE_MODE);
	if (ret == 0)
		ret = write_all(fd, data, size);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}
