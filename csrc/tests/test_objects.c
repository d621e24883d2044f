/* Which objects exist: names of files against digests. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT	200

static const u8 first_bytes[] = { 0x00, 0x7f, 0xff };

/* The digest of an object: the first byte is the directory; of two numbers it differs at both ends. */
static void set_digest(u8 *digest, size_t digest_size, u8 first_byte, u32 number)
{
	memset(digest, 0xa5, digest_size);
	digest[0] = first_byte;
	memcpy(digest + 1, &number, sizeof(number));
	memcpy(digest + digest_size - sizeof(number), &number, sizeof(number));
}

static void set_path(char *path, const u8 *digest, size_t digest_size)
{
	for (size_t i = 0; i < digest_size; i++)
		path += sprintf(path, i == 0 ? "%02x/" : "%02x", digest[i]);
}

static void touch(int dir_fd, const char *path)
{
	int fd = openat(dir_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	close(fd);
}

/* Ask for wanted objects of each directory, each of them twice; those with an odd number do not exist. */
static void check_missing(int dir_fd, size_t digest_size, size_t wanted)
{
	size_t count = wanted * 2 * ARRAY_SIZE(first_bytes);
	u8 *digests = malloc(count * digest_size + 1), *missing = malloc(count + 1);

	CHECK(digests && missing);
	memset(missing, 2, count);
	for (size_t i = 0; i < count; i++) {
		u8 first_byte = first_bytes[i % ARRAY_SIZE(first_bytes)];

		set_digest(digests + i * digest_size, digest_size, first_byte, i / 2 / ARRAY_SIZE(first_bytes));
	}
	CHECK(cfs_missing_objects(dir_fd, digests, count, digest_size, missing) == 0);
	for (size_t i = 0; i < count; i++)
		CHECK(missing[i] == (i / 2 / ARRAY_SIZE(first_bytes)) % 2);

	failing_malloc = 1;
	CHECK(cfs_missing_objects(dir_fd, digests, count, digest_size, missing) == (count ? -ENOMEM : 0));
	failing_malloc = 0;
	free(digests);
	free(missing);
}

static void test_size(int dir_fd, size_t digest_size)
{
	char path[2 * SHA2_DIGEST_MAX + sizeof("/x")];
	u8 digest[SHA2_DIGEST_MAX], missing[40];

	for (size_t d = 0; d < ARRAY_SIZE(first_bytes); d++) {
		for (u32 number = 0; number < COUNT; number += 2) {
			set_digest(digest, digest_size, first_bytes[d], number);
			set_path(path, digest, digest_size);
			if (number == 0) {
				path[2] = '\0';
				CHECK(mkdirat(dir_fd, path, 0755) == 0);
				path[2] = '/';
			}
			touch(dir_fd, path);
		}
		/* What is no object: shorter, and longer. */
		strcat(path, "0");
		touch(dir_fd, path);
		path[2 * digest_size] = '\0';
		touch(dir_fd, path);
	}
	for (size_t wanted = 0; wanted <= COUNT; wanted = wanted < 40 ? wanted + 1 : wanted + 40)
		check_missing(dir_fd, digest_size, wanted);

	/* A directory that is not there, and one that is a file; few and many. */
	for (size_t count = 1; count <= sizeof(missing); count += sizeof(missing) - 1) {
		u8 *digests = calloc(count, digest_size);

		CHECK(digests);
		for (size_t i = 0; i < count; i++)
			digests[i * digest_size] = 0x33;
		CHECK(cfs_missing_objects(dir_fd, digests, count, digest_size, missing) == 0);
		CHECK(missing[0] == 1 && missing[count - 1] == 1);
		touch(dir_fd, "33");
		CHECK(cfs_missing_objects(dir_fd, digests, count, digest_size, missing) == -ENOTDIR);
		CHECK(unlinkat(dir_fd, "33", 0) == 0);
		free(digests);
	}

	for (size_t d = 0; d < ARRAY_SIZE(first_bytes); d++) {
		for (u32 number = 0; number < COUNT; number += 2) {
			set_digest(digest, digest_size, first_bytes[d], number);
			set_path(path, digest, digest_size);
			CHECK(unlinkat(dir_fd, path, 0) == 0);
		}
		strcat(path, "0");
		CHECK(unlinkat(dir_fd, path, 0) == 0);
		path[2 * digest_size] = '\0';
		CHECK(unlinkat(dir_fd, path, 0) == 0);
		path[2] = '\0';
		CHECK(unlinkat(dir_fd, path, AT_REMOVEDIR) == 0);
	}
}

void test_objects(int dir_fd)
{
	u8 digest[SHA2_DIGEST_MAX] = { 0 }, missing[1];

	test_size(dir_fd, 32);
	test_size(dir_fd, 64);
	CHECK(cfs_missing_objects(dir_fd, digest, 1, 8, missing) == -EINVAL);
	CHECK(cfs_missing_objects(dir_fd, digest, 1, 65, missing) == -EINVAL);
	CHECK(cfs_missing_objects(-1, digest, 1, 32, missing) == -EBADF);
}
