/* Objects stored in bulk: what is new, what is there, and what is in the way; nothing is left of what fails. */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "objects.h"

#define COUNT	8
#define SIZE	5000	/* bytes of the data */

/* An object whose name is not that of its contents: nothing here looks at them. */
static void set_digests(u8 *digests, size_t digest_size)
{
	for (size_t i = 0; i < COUNT; i++) {
		memset(digests + i * digest_size, 0x5a, digest_size);
		digests[i * digest_size] = 0xc0 + i % 2;	/* two directories */
		digests[(i + 1) * digest_size - 1] = i;
	}
}

static void path_of(char *path, const u8 *digests, size_t i, size_t digest_size)
{
	format_object_path(path, digests + i * digest_size, digest_size);
}

static void check_file(int dir_fd, const char *path, const u8 *data, size_t size)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	u8 *found = malloc(size + 1);
	struct stat info;

	CHECK(fd >= 0 && found && fstat(fd, &info) == 0);
	CHECK((size_t)info.st_size == size && (info.st_mode & 07777) == 0644);
	CHECK(read(fd, found, size + 1) == (ssize_t)size && memcmp(found, data, size) == 0);
	close(fd);
	free(found);
}

/* Return: how many files and directories there are. */
static int count_entries(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = -2;
	DIR *directory = fdopendir(fd);

	CHECK(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static int next_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* Make what is no object of that size, under the name of one. */
static void put_in_the_way(int dir_fd, const char *path, size_t i)
{
	int fd;

	switch (i) {
	case 0:
		CHECK(mkdirat(dir_fd, path, 0755) == 0);
		return;
	case 1:	/* to what would be one */
		fd = openat(dir_fd, "target", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0 && symlinkat("../target", dir_fd, path) == 0);
		close(fd);
		return;
	case 2:
		CHECK(mkfifoat(dir_fd, path, 0644) == 0);
		return;
	default:
		fd = openat(dir_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		CHECK(fd >= 0 && ftruncate(fd, SIZE + 1) == 0);
		close(fd);
	}
}

static void test_size(int dir_fd, size_t digest_size)
{
	static const struct cfs_span spans[COUNT] = {
		{ 0, 0 }, { 0, SIZE }, { SIZE, 0 }, { SIZE - 1, 1 }, { 1, 4096 }, { 1, 4097 }, { 7, 100 }, { 7, 100 },
	};
	u8 *data = content(SIZE), *digests = malloc(COUNT * digest_size);
	char path[OBJECT_PATH_SIZE];
	int *results = malloc(COUNT * sizeof(*results)), fd = next_fd();
	mode_t mask = umask(0);
	struct stat info;

	CHECK(digests && results);
	set_digests(digests, digest_size);
	for (int again = 0; again < 2; again++) {
		CHECK(cfs_store_objects(dir_fd, 0, data, SIZE, spans, COUNT, digests, digest_size, results) == 0);
		for (size_t i = 0; i < COUNT; i++) {
			CHECK(results[i] == !again);
			path_of(path, digests, i, digest_size);
			check_file(dir_fd, path, data + spans[i].offset, spans[i].size);
		}
	}
	CHECK(count_entries(dir_fd) == 2);
	CHECK(fstatat(dir_fd, "c0", &info, 0) == 0 && (info.st_mode & 07777) == 0755);

	/* What is in the way stays, and the others are stored. */
	for (size_t i = 0; i < COUNT; i++) {
		path_of(path, digests, i, digest_size);
		CHECK(unlinkat(dir_fd, path, 0) == 0);
		if (i < 4)
			put_in_the_way(dir_fd, path, i);
	}
	CHECK(cfs_store_objects(dir_fd, 0, data, SIZE, spans, COUNT, digests, digest_size, results) == 0);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(results[i] == (i < 4 ? -EEXIST : 1));

	/* The same object twice in a call. */
	path_of(path, digests, 7, digest_size);
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	memcpy(digests + 6 * digest_size, digests + 7 * digest_size, digest_size);
	CHECK(cfs_store_objects(dir_fd, 0, data, SIZE, spans + 6, 2, digests + 6 * digest_size, digest_size, results) == 0);
	CHECK(results[0] == 1 && results[1] == 0);

	set_digests(digests, digest_size);
	for (size_t i = 0; i < COUNT; i++) {
		path_of(path, digests, i, digest_size);
		CHECK(unlinkat(dir_fd, path, i == 0 ? AT_REMOVEDIR : 0) == 0);
	}
	CHECK(unlinkat(dir_fd, "target", 0) == 0);
	CHECK(unlinkat(dir_fd, "c0", AT_REMOVEDIR) == 0 && unlinkat(dir_fd, "c1", AT_REMOVEDIR) == 0);
	CHECK(next_fd() == fd);
	umask(mask);
	free(data), free(digests), free(results);
}

/* Spans outside the data, sizes of digests that there are not, a file where the directory should be. */
static void test_wrong(int dir_fd)
{
	static const struct cfs_span outside[] = {
		{ 0, 11 }, { 10, 1 }, { 11, 0 }, { UINT64_MAX, 1 }, { 1, UINT64_MAX }, { UINT64_MAX, UINT64_MAX },
	};
	static const struct cfs_span inside = { 0, 10 };
	u8 *data = content(10), digest[SHA2_DIGEST_MAX + 1] = { 0xc0 };
	int result, fd;

	for (size_t i = 0; i < ARRAY_SIZE(outside); i++)
		CHECK(cfs_store_objects(dir_fd, 0, data, 10, &outside[i], 1, digest, 32, &result) == -EINVAL);
	CHECK(cfs_store_objects(dir_fd, 0, data, 10, &inside, 1, digest, 0, &result) == -EINVAL);
	CHECK(cfs_store_objects(dir_fd, 0, data, 10, &inside, 1, digest, SHA2_DIGEST_MAX + 1, &result) == -EINVAL);
	CHECK(cfs_store_objects(dir_fd, 0, NULL, 0, NULL, 0, NULL, 32, NULL) == 0);
	CHECK(count_entries(dir_fd) == 0);

	CHECK(cfs_store_objects(-1, 0, data, 10, &inside, 1, digest, 32, &result) == 0 && result == -EBADF);
	fd = openat(dir_fd, "c0", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	CHECK(fd >= 0);
	close(fd);
	CHECK(cfs_store_objects(dir_fd, 0, data, 10, &inside, 1, digest, 32, &result) == 0 && result == -ENOTDIR);
	CHECK(unlinkat(dir_fd, "c0", 0) == 0);
	free(data);
}

/* A kernel that seals: what it says of each request, and what it measures then. */
static int enable_errno, measure_errno;
static int busy_count;		/* requests that find the file open for writing, before that */
static int enable_count;
static u16 measured[2];		/* hash and size */
static u8 measured_byte;

static int ioctl_seals(unsigned long request, void *arg)
{
	bool enables = request == 0x40806685;	/* FS_IOC_ENABLE_VERITY */

	enable_count += enables;
	errno = enables ? (busy_count-- > 0 ? ETXTBSY : enable_errno) : measure_errno;
	if (errno)
		return -1;
	if (!enables) {
		memcpy(arg, measured, sizeof(measured));
		memset((u8 *)arg + sizeof(measured), measured_byte, 64);
	}
	return 0;
}

/* The kernel as it is where all goes well. */
static void set_kernel(void)
{
	enable_errno = measure_errno = busy_count = enable_count = 0;
	measured[0] = 2;
	measured[1] = 64;
	measured_byte = 0x5a;
	fake_ioctl = ioctl_seals;
}

#define ATTEMPTS	3	/* of each file that is open for writing */
#define COPIES		8

/* What is sealed gets its name only if the kernel has the same digest; what is there is proved. */
static void test_seal(int dir_fd)
{
	static const struct {
		int enable_errno, measure_errno;
		u16 alg, size;
		u8 byte;
		int busy_count, result;
	} cases[] = {
		{ EOPNOTSUPP, 0, 2, 64, 0x5a, 0, -EOPNOTSUPP },
		{ 0, ENODATA, 2, 64, 0x5a, 0, -ENODATA },
		{ 0, 0, 1, 64, 0x5a, 0, -EBADMSG },
		{ 0, 0, 2, 32, 0x5a, 0, -EBADMSG },
		{ 0, 0, 2, 64, 0x5b, 0, -EBADMSG },
		{ 0, 0, 2, 64, 0x5a, ATTEMPTS * (1 + COPIES), -ETXTBSY },
		{ EIO, 0, 2, 64, 0x5a, ATTEMPTS, -EIO },	/* of the copy */
		{ 0, 0, 2, 64, 0x5a, 0, 1 },
		{ EIO, 0, 2, 64, 0x5a, 0, 2 },		/* it is there: it is only measured */
		{ EIO, 0, 2, 64, 0x5b, 0, -EEXIST },
		{ EIO, 0, 1, 64, 0x5a, 0, -EEXIST },
		{ EIO, ENODATA, 2, 64, 0x5a, 0, -EEXIST },
	};
	static const struct cfs_span span = { 10, 100 };
	u8 *data = content(SIZE), digest[64];
	char path[OBJECT_PATH_SIZE];
	int fd = next_fd(), result;
	bool exists = false;

	memset(digest, 0x5a, sizeof(digest));
	format_object_path(path, digest, sizeof(digest));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		set_kernel();
		enable_errno = cases[i].enable_errno;
		measure_errno = cases[i].measure_errno;
		measured[0] = cases[i].alg;
		measured[1] = cases[i].size;
		measured_byte = cases[i].byte;
		busy_count = cases[i].busy_count;
		CHECK(cfs_store_objects(dir_fd, 2, data, SIZE, &span, 1, digest, sizeof(digest), &result) == 0);
		CHECK(result == cases[i].result);
		exists |= result == 1;
		CHECK((faccessat(dir_fd, path, F_OK, 0) == 0) == exists);
		CHECK(next_fd() == fd);
	}
	check_file(dir_fd, path, data + 10, 100);
	CHECK(unlinkat(dir_fd, path, 0) == 0);

	/* Others keep it open for writing, shorter, or longer than one waits: then a copy is stored, as good as it. */
	for (int i = 0; i <= COPIES; i++) {
		for (int more = 0; more < ATTEMPTS; more++) {
			set_kernel();
			busy_count = i * ATTEMPTS + more;
			CHECK(cfs_store_objects(dir_fd, 2, data, SIZE, &span, 1, digest, sizeof(digest), &result) == 0);
			CHECK(result == 1 && enable_count == i * ATTEMPTS + more + 1);
			check_file(dir_fd, path, data + 10, 100);
			CHECK(unlinkat(dir_fd, path, 0) == 0);
		}
	}
	fake_ioctl = NULL;
	CHECK(unlinkat(dir_fd, "5a", AT_REMOVEDIR) == 0);
	CHECK(next_fd() == fd && count_entries(dir_fd) == 0);
	free(data);
}

/* One file: read-only afterwards under the same number, and the same file as long as nobody else has it open. */
static void test_seal_file(int dir_fd)
{
	const size_t size = (3 << 20) + 5;
	u8 *data = content(size), *found = malloc(size + 1), digest[64];
	int first = next_fd();

	CHECK(found);
	memset(digest, 0x5a, sizeof(digest));
	for (int copies = 0; copies < 3; copies++) {
		int fd = cfs_store_file(dir_fd, data, size);
		struct stat before, after;

		CHECK(fd >= 0 && fstat(fd, &before) == 0);
		CHECK(fchmod(fd, 0640) == 0);
		set_kernel();
		busy_count = copies * ATTEMPTS;
		CHECK(cfs_seal(fd, dir_fd, 2, digest, sizeof(digest)) == 0);
		CHECK(fstat(fd, &after) == 0);
		if (copies < 2)	/* the second copy may get the number of the first file */
			CHECK((after.st_ino == before.st_ino) == (copies == 0));
		CHECK((after.st_mode & 07777) == 0640 && (size_t)after.st_size == size);
		CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY && fcntl(fd, F_GETFD) == FD_CLOEXEC);
		CHECK(pread(fd, found, size + 1, 0) == (ssize_t)size && memcmp(found, data, size) == 0);

		/* It was sealed before; again; by another hash. */
		enable_errno = EEXIST;
		CHECK(cfs_seal(fd, dir_fd, 2, digest, sizeof(digest)) == 0);
		measured[0] = 1;
		CHECK(cfs_seal(fd, -1, 2, digest, sizeof(digest)) == -EBADMSG);

		/* No copy is wanted, or none can be made. */
		set_kernel();
		busy_count = 100;
		CHECK(cfs_seal(fd, -1, 2, digest, sizeof(digest)) == -ETXTBSY && enable_count == ATTEMPTS);
		set_kernel();
		busy_count = 100;
		CHECK(cfs_seal(fd, fd, 2, digest, sizeof(digest)) == -ENOTDIR);
		CHECK(fstat(fd, &before) == 0 && before.st_ino == after.st_ino);
		close(fd);
	}
	CHECK(cfs_seal(first, dir_fd, 2, digest, sizeof(digest)) == -EBADF);
	fake_ioctl = NULL;
	CHECK(next_fd() == first && count_entries(dir_fd) == 0);
	free(data), free(found);
}

void test_store_objects(int dir_fd)
{
	test_size(dir_fd, 32);
	test_size(dir_fd, 64);
	test_wrong(dir_fd);
	test_seal(dir_fd);
	test_seal_file(dir_fd);
	puts("objects in bulk: passed");
}
