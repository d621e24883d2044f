/* Which objects there are, which of them are wanted, and an end to the others. */
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORY_FLAGS	(O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)

/* Parse the name of a file in the directory of that byte.  Return: whether it is one of an object; capitals are none. */
static bool parse_name(const char *name, size_t size, u8 byte, u8 *digest, size_t digest_size)
{
	u8 values[2 * SHA2_DIGEST_MAX], bad = 0;

	if (size != 2 * digest_size - 2)
		return false;
	for (size_t i = 0; i < size; i++) {	/* without branches, so that the compiler vectorises it */
		u8 digit = name[i] - '0', letter = name[i] - 'a';

		values[i] = digit < 10 ? digit : letter + 10;
		bad |= (digit >= 10) & (letter >= 6);
	}
	digest[0] = byte;
	for (size_t i = 1; i < digest_size; i++)
		digest[i] = values[2 * i - 2] << 4 | values[2 * i - 1];
	return !bad;
}

/* Make room for size more bytes.  Return: where they go, or NULL. */
static void *reserve(uint8_t **data, size_t filled, size_t *capacity, size_t size)
{
	if (filled + size > *capacity) {
		size_t wanted = 2 * (filled + size) + 4096;
		u8 *grown = realloc(*data, wanted);

		if (!grown)
			return NULL;
		*data = grown;
		*capacity = wanted;
	}
	return *data + filled;
}

/* A directory of objects that is being listed. */
struct directory {
	struct cfs_listing *listing;
	size_t digest_size;
	u8 byte;	/* with which the digests begin */
};

/* Return: 0, or -ENOMEM. */
static int add_entry(void *data, const char *name)
{
	const struct directory *directory = data;
	const size_t digest_size = directory->digest_size;
	struct cfs_listing *listing = directory->listing;
	u8 *room = reserve(&listing->digests, listing->count * digest_size, &listing->capacity, digest_size);
	size_t size = strlen(name);

	if (!room)
		return -ENOMEM;
	if (parse_name(name, size, directory->byte, room, digest_size)) {
		listing->count++;
		return 0;
	}
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	room = reserve(&listing->strays, listing->strays_size, &listing->strays_capacity, size + 1);
	if (!room)
		return -ENOMEM;
	memcpy(room, name, size + 1);
	listing->strays_size += size + 1;
	return 0;
}

/* Return: the first 8 bytes of a digest as a number, in the order of the digests. */
static u64 prefix(const u8 *digest)
{
	u64 word;

	memcpy(&word, digest, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	return word;
}

static int compare(const void *a, const void *b, void *digest_size)
{
	u64 first = prefix(a), second = prefix(b);

	if (first != second)
		return first < second ? -1 : 1;
	return memcmp(a, b, *(size_t *)digest_size);
}

/* Open the directory of objects whose digests begin with that byte.  Return: a descriptor, or a negative errno. */
static int open_directory(int dir_fd, u8 byte)
{
	char name[3];
	int fd;

	snprintf(name, sizeof(name), "%02x", byte);
	fd = open_at(dir_fd, name, DIRECTORY_FLAGS, 0);
	return fd < 0 ? -errno : fd;
}

/*
 * List the objects whose digests begin with that byte, sorted; cfs_free_listing() must follow, whatever comes out.
 * Return: 0, also if there is no such directory, or a negative errno.
 */
int cfs_list_objects(int dir_fd, uint8_t byte, size_t digest_size, struct cfs_listing *listing)
{
	struct directory directory = { listing, digest_size, byte };
	char name[3];
	int ret;

	memset(listing, 0, sizeof(*listing));
	if (digest_size < sizeof(u64) || digest_size > SHA2_DIGEST_MAX)
		return -EINVAL;
	snprintf(name, sizeof(name), "%02x", byte);
	ret = each_name(dir_fd, name, add_entry, &directory);
	if (ret == 0 && listing->count > 0)
		qsort_r(listing->digests, listing->count, digest_size, compare, &digest_size);
	return ret;
}

void cfs_free_listing(struct cfs_listing *listing)
{
	free(listing->digests);
	free(listing->strays);
	memset(listing, 0, sizeof(*listing));
}

/*
 * Find a digest among sorted ones.  They are as good as evenly spread, so the search begins where it should be, and goes
 * on in growing steps: of a million it looks at a few, and where they are not spread at all, at 40.
 * Return: its index, or count.
 */
static size_t find(const u8 *digests, size_t count, size_t digest_size, const u8 *digest)
{
	size_t guess = (unsigned __int128)prefix(digest) * count >> 64, step = 1, low = 0, high = count;

	if (count == 0)
		return count;
	if (memcmp(digests + guess * digest_size, digest, digest_size) <= 0) {
		low = guess;
		while (low + step < count && memcmp(digests + (low + step) * digest_size, digest, digest_size) <= 0) {
			low += step;
			step *= 2;
		}
		if (low + step < count)
			high = low + step;
	} else {
		high = guess;
		while (high > step && memcmp(digests + (high - step) * digest_size, digest, digest_size) > 0) {
			high -= step;
			step *= 2;
		}
		if (high > step)
			low = high - step;
	}
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (memcmp(digests + middle * digest_size, digest, digest_size) <= 0)
			low = middle;
		else
			high = middle;
	}
	return memcmp(digests + low * digest_size, digest, digest_size) == 0 ? low : count;
}

/*
 * Set marks[i] to 1 for each of count digests, sorted, that is among the wanted ones, which are in any order.
 * Return: 0, or -EINVAL.
 */
int cfs_mark_objects(const void *digests, size_t count, size_t digest_size, const void *wanted, size_t wanted_count,
		     uint8_t *marks)
{
	if (digest_size < sizeof(u64) || digest_size > SHA2_DIGEST_MAX)
		return -EINVAL;
	for (size_t i = 0; i < wanted_count; i++) {
		size_t index = find(digests, count, digest_size, (const u8 *)wanted + i * digest_size);

		if (index < count)
			__atomic_store_n(marks + index, 1, __ATOMIC_RELAXED);	/* of several threads */
	}
	return 0;
}

/* Rename an object, unless there is one already, which stays instead.  Return: 0, or a negative errno. */
static int move_object(int dir_fd, int target_fd, const char *name)
{
	struct stat info;
	int ret = cfs_rename(dir_fd, name, target_fd, name, 1);	/* RENAME_NOREPLACE */

	if (ret == -EINVAL) {	/* this file system does not have it, and nobody else is here */
		if (fstatat(target_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0)
			ret = -EEXIST;
		else
			ret = cfs_rename(dir_fd, name, target_fd, name, 0);
	}
	if (ret == -EEXIST)
		return unlinkat(dir_fd, name, 0) == 0 ? 0 : -errno;
	return ret;
}

/* Return: 0, or a negative errno. */
static int sweep_object(struct cfs_sweep *sweep, int dir_fd, int target_fd, const char *name)
{
	struct stat info;

	switch (sweep->action) {
	case SWEEP_WEIGH:
		if (fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if (S_ISDIR(info.st_mode))
			return -EISDIR;
		sweep->bytes += info.st_size;
		if (info.st_ctime > sweep->newest)
			sweep->newest = info.st_ctime;
		return 0;
	case SWEEP_REMOVE:
		return unlinkat(dir_fd, name, 0) == 0 ? 0 : -errno;
	default:
		return move_object(dir_fd, target_fd, name);
	}
}

/*
 * Do something with each object, all of one directory below dir_fd, that is not marked; what is gone is passed over.
 * target_fd: the directory of objects that they move to, which has one of the same name.
 * Return: 0, or a negative errno; then failed is the index of the object, or count.
 */
int cfs_sweep_objects(int dir_fd, int target_fd, size_t digest_size, struct cfs_sweep *sweep)
{
	char path[OBJECT_PATH_SIZE];
	int fd = -1, to = -1, ret = 0;

	sweep->failed = sweep->count;
	sweep->done = sweep->bytes = 0;
	sweep->newest = 0;
	if (digest_size > SHA2_DIGEST_MAX)
		return -EINVAL;
	for (size_t i = 0; i < sweep->count; i++) {
		const u8 *digest = sweep->digests + i * digest_size;
		const char *name;

		if (sweep->marks[i])
			continue;
		if (fd < 0) {
			fd = open_directory(dir_fd, digest[0]);
			if (fd < 0)
				return fd == -ENOENT ? 0 : fd;
		}
		if (to < 0 && sweep->action == SWEEP_MOVE) {
			to = open_directory(target_fd, digest[0]);
			if (to < 0) {
				ret = to;
				break;
			}
		}
		name = format_object_path(path, digest, digest_size);
		ret = __atomic_load_n(sweep->stop, __ATOMIC_RELAXED) ? -ECANCELED : sweep_object(sweep, fd, to, name);
		if (ret < 0 && ret != -ENOENT) {
			sweep->failed = i;
			break;
		}
		sweep->done += ret == 0;
		ret = 0;
	}
	if (to >= 0)
		close(to);
	if (fd >= 0)
		close(fd);
	return ret;
}
