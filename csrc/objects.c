/* Which objects of a repository exist. */
#include "objects.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LISTING_PAYS	32	/* objects of one directory, from which on a listing is faster than a look at each; a guess */
#define AHEAD		8	/* digests asked for before they are needed */

/* The names in one directory that are as long as those of objects, size bytes each, and a table to find them by. */
struct listing {
	size_t size, count, capacity;
	char *names;
	u32 *slots;		/* one more than an index into the names, or zero */
	size_t slot_capacity;	/* allocated */
	size_t mask;
};

/* Write size bytes in hexadecimal; arithmetic instead of a table, so that the compiler vectorises it. */
static void format_hex(char *text, const u8 *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		u8 high = data[i] >> 4, low = data[i] & 15;

		text[2 * i] = high + (high < 10 ? '0' : 'a' - 10);
		text[2 * i + 1] = low + (low < 10 ? '0' : 'a' - 10);
	}
}

const char *format_object_path(char *path, const u8 *digest, size_t digest_size)
{
	format_hex(path, digest, 1);
	path[OBJECT_PREFIX - 1] = '/';
	format_hex(path + OBJECT_PREFIX, digest + 1, digest_size - 1);
	path[OBJECT_PREFIX + 2 * (digest_size - 1)] = '\0';
	return path + OBJECT_PREFIX;
}

/* Return: where the search for a name begins; 16 digits of a digest, with which it begins, are as good as random. */
static size_t first_slot(const struct listing *listing, const char *name)
{
	u64 words[2];

	memcpy(words, name, sizeof(words));
	/* A digit is in the low nibble of its character, with what tells letters in bit 6: both words take part. */
	return (words[0] * 0x9e3779b97f4a7c15 ^ words[1] * 0xc2b2ae3d27d4eb4f) >> 32 & listing->mask;
}

int each_name(int dir_fd, const char *name, int (*add)(void *data, const char *name), void *data)
{
	struct dirent *entry;
	int fd, ret = 0;
	DIR *dir;

	fd = open_at(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		ret = -errno;
		close(fd);
		return ret;
	}
	errno = 0;
	while (ret == 0 && (entry = readdir(dir))) {
		ret = add(data, entry->d_name);
		errno = 0;
	}
	if (ret == 0)
		ret = -errno;
	closedir(dir);
	return ret;
}

/* Return: 0, or -ENOMEM. */
static int add_name(void *data, const char *name)
{
	struct listing *listing = data;

	if (strlen(name) != listing->size)
		return 0;
	if (listing->count == listing->capacity) {
		size_t capacity = listing->capacity ? 2 * listing->capacity : 1024;
		char *names = reallocarray(listing->names, capacity, listing->size);

		if (!names)
			return -ENOMEM;
		listing->names = names;
		listing->capacity = capacity;
	}
	memcpy(listing->names + listing->count++ * listing->size, name, listing->size);
	return 0;
}

/* Return: 0, or -ENOMEM. */
static int make_table(struct listing *listing)
{
	size_t needed = 64;

	while (needed < 2 * listing->count)
		needed *= 2;
	if (needed > listing->slot_capacity) {
		free(listing->slots);
		listing->slots = calloc(needed, sizeof(*listing->slots));
		listing->slot_capacity = listing->slots ? needed : 0;
		if (!listing->slots)
			return -ENOMEM;
	} else {
		memset(listing->slots, 0, needed * sizeof(*listing->slots));
	}
	listing->mask = needed - 1;
	for (size_t i = 0; i < listing->count; i++) {
		size_t slot = first_slot(listing, listing->names + i * listing->size);

		while (listing->slots[slot])
			slot = (slot + 1) & listing->mask;
		listing->slots[slot] = i + 1;
	}
	return 0;
}

/* List the directory whose name path begins with.  Return: 0, also if there is none, or a negative errno. */
static int list_names(struct listing *listing, int dir_fd, const char *path)
{
	const char name[] = { path[0], path[1], '\0' };
	int ret;

	listing->count = 0;
	ret = each_name(dir_fd, name, add_name, listing);
	return ret ? ret : make_table(listing);
}

static bool is_listed(const struct listing *listing, const char *name)
{
	size_t slot = first_slot(listing, name);

	while (listing->slots[slot]) {
		if (memcmp(listing->names + (listing->slots[slot] - 1) * listing->size, name, listing->size) == 0)
			return true;
		slot = (slot + 1) & listing->mask;
	}
	return false;
}

/* Return: 1 if there is a file, 0 if there is none, or a negative errno. */
static int exists(int dir_fd, const char *path)
{
	struct stat info;

	if (fstatat(dir_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : -errno;
}

/*
 * Mark those of the digests in order, which begin with the same byte, that have no file.
 * Return: 0, or a negative errno.
 */
static int look_up(struct listing *listing, int dir_fd, const u8 *digests, size_t digest_size, const u32 *order,
		   size_t count, u8 *missing)
{
	bool lists = count >= LISTING_PAYS;
	char path[OBJECT_PATH_SIZE];

	for (size_t i = 0; i < count; i++) {
		/* They lie anywhere in some megabytes: without this, waiting for them is two thirds of all but the listing. */
		if (i + AHEAD < count)
			__builtin_prefetch(digests + order[i + AHEAD] * digest_size);

		const char *name = format_object_path(path, digests + order[i] * digest_size, digest_size);
		int ret = lists && i == 0 ? list_names(listing, dir_fd, path) : 0;

		if (ret == 0)
			ret = lists ? is_listed(listing, name) : exists(dir_fd, path);
		if (ret < 0)
			return ret;
		missing[order[i]] = !ret;
	}
	return 0;
}

/*
 * Look which of count objects have no file xx/rest below dir_fd, and set missing[i] to 1 for these, else to 0.
 * Return: 0, or the -errno of what failed.
 */
int cfs_missing_objects(int dir_fd, const void *digests, size_t count, size_t digest_size, uint8_t *missing)
{
	size_t starts[256 + 1] = { 0 };	/* of the digests with each first byte, in the order */
	struct listing listing = { .size = 2 * digest_size - 2 };
	const u8 *data = digests;
	int ret = 0;
	u32 *order;

	if (digest_size <= sizeof(u64) || digest_size > SHA2_DIGEST_MAX || count > UINT32_MAX)
		return -EINVAL;
	if (count == 0)
		return 0;
	order = malloc(count * sizeof(*order));
	if (!order)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		starts[data[i * digest_size]]++;
	for (size_t byte = 1; byte <= 256; byte++)
		starts[byte] += starts[byte - 1];
	for (size_t i = count; i-- > 0;)	/* until here they are ends */
		order[--starts[data[i * digest_size]]] = i;
	for (size_t byte = 0; byte < 256 && ret == 0; byte++) {
		size_t start = starts[byte], size = starts[byte + 1] - start;

		if (size > 0)
			ret = look_up(&listing, dir_fd, data, digest_size, order + start, size, missing);
	}
	free(listing.names);
	free(listing.slots);
	free(order);
	return ret;
}
