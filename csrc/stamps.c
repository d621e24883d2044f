/* What tells that an object may have been changed since it was looked into, as one number each. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define NANOSECONDS 1000000000ll

/* The finaliser of MurmurHash3: for each hash, other values give other results, and for each value other hashes do. */
static u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0xff51afd7ed558ccd;
	hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53;
	return hash ^ hash >> 33;
}

static int64_t nanoseconds(const struct timespec *time)
{
	return (int64_t)time->tv_sec * NANOSECONDS + time->tv_nsec;
}

u64 stamp_object(const struct stat *info, int64_t time)
{
	u64 hash = 0;

	if (!S_ISREG(info->st_mode) || nanoseconds(&info->st_ctim) >= time)
		return 0;
	hash = mix(hash, info->st_ino);
	hash = mix(hash, info->st_size);
	hash = mix(hash, nanoseconds(&info->st_mtim));
	hash = mix(hash, nanoseconds(&info->st_ctim));
	return hash ? hash : 1;
}

/* Return: 0, or -EINVAL for sizes that cannot be. */
int cfs_stamp_objects(int dir_fd, const void *digests, size_t count, size_t digest_size, int64_t time, uint64_t *stamps)
{
	char path[OBJECT_PATH_SIZE];
	struct stat info;

	if (digest_size == 0 || digest_size > SHA2_DIGEST_MAX)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		format_object_path(path, (const u8 *)digests + i * digest_size, digest_size);
		stamps[i] = fstatat(dir_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0 ? stamp_object(&info, time) : 0;
	}
	return 0;
}
