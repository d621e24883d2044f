/* Listing objects, marking those that are wanted, and what happens to the others. */
#include "test.h"
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT	300
#define BYTE	0x5a

static const int go_on, stop = 1;

/* Digests of objects in one directory; in order, and where they are spread none is near its neighbours. */
static u8 *make_digests(size_t digest_size, bool spread)
{
	u8 *digests = calloc(COUNT, digest_size);

	CHECK(digests);
	for (size_t i = 0; i < COUNT; i++) {
		u8 *digest = digests + i * digest_size;

		digest[0] = spread ? i * 256 / COUNT : BYTE;
		digest[spread ? 1 : digest_size - 2] = i >> 8;
		digest[spread ? 2 : digest_size - 1] = i;
	}
	return digests;
}

static void check_marks(size_t digest_size, bool spread)
{
	u8 *digests = make_digests(digest_size, spread), *wanted = calloc(2 * COUNT, digest_size), marks[COUNT] = { 0 };
	size_t size = 0;

	CHECK(wanted);
	for (size_t i = 0; i < COUNT; i += 3)
		memcpy(wanted + size++ * digest_size, digests + (COUNT - 1 - i) * digest_size, digest_size);
	for (size_t i = 0; i < COUNT; i++) {	/* what is not there: before and behind each */
		u8 *digest = wanted + size++ * digest_size;

		memcpy(digest, digests + i * digest_size, digest_size);
		digest[digest_size / 2] ^= 0x80;
	}
	for (size_t count = 0; count <= COUNT; count = count < 4 ? count + 1 : count + 37) {
		memset(marks, 0, sizeof(marks));
		CHECK(cfs_mark_objects(digests, count, digest_size, wanted, size, marks) == 0);
		for (size_t i = 0; i < COUNT; i++)
			CHECK(marks[i] == (i < count && (COUNT - 1 - i) % 3 == 0));
	}
	memset(wanted, 0xff, digest_size);
	memset(wanted + digest_size, 0, digest_size);
	memset(marks, 0, sizeof(marks));
	CHECK(cfs_mark_objects(digests, COUNT, digest_size, wanted, 2, marks) == 0);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(marks[i] == (spread && i == 0));
	free(digests);
	free(wanted);
}

static void touch(int dir_fd, const char *path, size_t size)
{
	int fd = openat(dir_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	CHECK(ftruncate(fd, size) == 0);
	close(fd);
}

static size_t count_files(int dir_fd, size_t digest_size)
{
	struct cfs_listing listing;
	size_t count;

	CHECK(cfs_list_objects(dir_fd, BYTE, digest_size, &listing) == 0);
	count = listing.count;
	cfs_free_listing(&listing);
	return count;
}

static void make_objects(int dir_fd, const u8 *digests, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE];

	for (size_t i = COUNT; i-- > 0;) {
		format_object_path(path, digests + i * digest_size, digest_size);
		touch(dir_fd, path, i);
	}
}

static void check_listing(int dir_fd, const u8 *digests, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE + 1];
	struct cfs_listing listing;

	make_objects(dir_fd, digests, digest_size);
	CHECK(cfs_list_objects(dir_fd, BYTE, digest_size, &listing) == 0);
	CHECK(listing.count == COUNT && listing.strays_size == 0);
	CHECK(memcmp(listing.digests, digests, COUNT * digest_size) == 0);
	cfs_free_listing(&listing);

	/* What is no object: capitals, a digit that is none, one too few, one too many. */
	format_object_path(path, digests, digest_size);
	path[10] = 'A';
	touch(dir_fd, path, 0);
	path[10] = 'g';
	touch(dir_fd, path, 0);
	path[10] = '0';
	path[2 * digest_size] = '\0';
	touch(dir_fd, path, 0);
	strcat(path, "00");
	touch(dir_fd, path, 0);
	CHECK(cfs_list_objects(dir_fd, BYTE, digest_size, &listing) == 0);
	CHECK(listing.count == COUNT && listing.strays_size == 4 * (2 * digest_size - 1));
	cfs_free_listing(&listing);
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	path[2 * digest_size] = '\0';
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	format_object_path(path, digests, digest_size);
	path[10] = 'A';
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	path[10] = 'g';
	CHECK(unlinkat(dir_fd, path, 0) == 0);

	CHECK(cfs_list_objects(dir_fd, BYTE + 1, digest_size, &listing) == 0 && listing.count == 0);
	CHECK(symlinkat("5a", dir_fd, "5b") == 0);
	CHECK(cfs_list_objects(dir_fd, BYTE + 1, digest_size, &listing) == -ENOTDIR);
	CHECK(unlinkat(dir_fd, "5b", 0) == 0);
	CHECK(cfs_list_objects(-1, BYTE, digest_size, &listing) == -EBADF);
	CHECK(cfs_list_objects(dir_fd, BYTE, 65, &listing) == -EINVAL);
}

static void check_sweep(int dir_fd, int target_fd, const u8 *digests, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE];
	u8 marks[COUNT] = { 0 };
	struct cfs_sweep sweep = { .digests = digests, .marks = marks, .count = COUNT, .stop = &go_on };
	u64 size = 0;

	for (size_t i = 0; i < COUNT; i++) {
		marks[i] = i % 3 == 0;
		size += marks[i] ? 0 : i;
	}
	sweep.action = SWEEP_WEIGH;
	CHECK(cfs_sweep_objects(dir_fd, -1, digest_size, &sweep) == 0);
	CHECK(sweep.done == COUNT * 2 / 3 && sweep.bytes == size && sweep.newest > 0);
	CHECK(count_files(dir_fd, digest_size) == COUNT);

	sweep.stop = &stop;
	CHECK(cfs_sweep_objects(dir_fd, -1, digest_size, &sweep) == -ECANCELED && sweep.failed == 1);
	sweep.stop = &go_on;

	/* A directory in the place of an object is found before anything happens. */
	format_object_path(path, digests + 4 * digest_size, digest_size);
	CHECK(unlinkat(dir_fd, path, 0) == 0 && mkdirat(dir_fd, path, 0755) == 0);
	CHECK(cfs_sweep_objects(dir_fd, -1, digest_size, &sweep) == -EISDIR && sweep.failed == 4 && sweep.done == 2);
	CHECK(unlinkat(dir_fd, path, AT_REMOVEDIR) == 0);

	/* The one that has gone makes no difference. */
	sweep.action = SWEEP_MOVE;
	CHECK(cfs_sweep_objects(dir_fd, target_fd, digest_size, &sweep) == -ENOENT && sweep.failed == COUNT);
	CHECK(mkdirat(target_fd, "5a", 0755) == 0);
	format_object_path(path, digests + digest_size, digest_size);
	touch(target_fd, path, 77);
	CHECK(cfs_sweep_objects(dir_fd, target_fd, digest_size, &sweep) == 0);
	CHECK(sweep.done == COUNT * 2 / 3 - 1 && sweep.bytes == 0);
	CHECK(count_files(dir_fd, digest_size) == COUNT / 3 && count_files(target_fd, digest_size) == COUNT * 2 / 3 - 1);

	/* What was there stays. */
	struct stat info;
	CHECK(fstatat(target_fd, path, &info, 0) == 0 && info.st_size == 77);

	sweep.action = SWEEP_REMOVE;
	CHECK(cfs_sweep_objects(target_fd, -1, digest_size, &sweep) == 0 && sweep.done == COUNT * 2 / 3 - 1);
	CHECK(cfs_sweep_objects(target_fd, -1, digest_size, &sweep) == 0 && sweep.done == 0);
	CHECK(unlinkat(target_fd, "5a", AT_REMOVEDIR) == 0);
	CHECK(cfs_sweep_objects(target_fd, -1, digest_size, &sweep) == 0 && sweep.done == 0);
	CHECK(cfs_sweep_objects(-1, -1, digest_size, &sweep) == -EBADF && sweep.failed == COUNT);
	memset(marks, 0, sizeof(marks));
	CHECK(cfs_sweep_objects(dir_fd, -1, digest_size, &sweep) == 0 && sweep.done == COUNT / 3);
	memset(marks, 1, sizeof(marks));
	CHECK(cfs_sweep_objects(-1, -1, digest_size, &sweep) == 0);	/* nothing to do */
	CHECK(cfs_sweep_objects(dir_fd, -1, 65, &sweep) == -EINVAL);
}

void test_sweep(int dir_fd)
{
	static const size_t sizes[] = { 32, 64 };
	int target_fd;

	CHECK(mkdirat(dir_fd, "target", 0755) == 0);
	target_fd = openat(dir_fd, "target", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(target_fd >= 0);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		u8 *digests = make_digests(sizes[i], false);

		check_marks(sizes[i], false);
		check_marks(sizes[i], true);
		CHECK(mkdirat(dir_fd, "5a", 0755) == 0);
		check_listing(dir_fd, digests, sizes[i]);
		check_sweep(dir_fd, target_fd, digests, sizes[i]);
		CHECK(unlinkat(dir_fd, "5a", AT_REMOVEDIR) == 0);
		free(digests);
	}
	CHECK(cfs_mark_objects(NULL, 0, 65, NULL, 0, NULL) == -EINVAL);
	close(target_fd);
	CHECK(unlinkat(dir_fd, "target", AT_REMOVEDIR) == 0);
}
