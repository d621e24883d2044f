/* Objects against their names, and the content of a splitstream that is made of them. */
#include "test.h"
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const size_t sizes[] = { 0, 1, 4096, 65536, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, (1 << 20) + 5 };

#define COUNT ARRAY_SIZE(sizes)

/* Write a file where an object of that digest is; the directory may exist. */
static void write_object(int dir_fd, const u8 *digest, size_t digest_size, const u8 *data, size_t size)
{
	char path[OBJECT_PATH_SIZE];
	int fd;

	format_object_path(path, digest, digest_size);
	path[2] = 0;
	CHECK(mkdirat(dir_fd, path, 0755) == 0 || errno == EEXIST);
	path[2] = '/';
	fd = openat(dir_fd, path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	CHECK(fd >= 0);
	CHECK(write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static void remove_objects(int dir_fd, const u8 *digests, size_t digest_size)
{
	char path[OBJECT_PATH_SIZE];

	for (size_t i = 0; i < COUNT; i++) {
		format_object_path(path, digests + i * digest_size, digest_size);
		unlinkat(dir_fd, path, 0);
		unlinkat(dir_fd, path, AT_REMOVEDIR);
		path[2] = 0;
		unlinkat(dir_fd, path, AT_REMOVEDIR);
	}
}

static int measured_alg;
static size_t measured_size;	/* of the digest */

static int ioctl_measures(unsigned long request, void *arg)
{
	u16 head[] = { measured_alg, measured_size };

	if (request != 0xc0046686) {	/* FS_IOC_MEASURE_VERITY */
		errno = ENOTTY;
		return -1;
	}
	memcpy(arg, head, sizeof(head));
	memset((u8 *)arg + sizeof(head), 0x5a, measured_size);
	return 0;
}

/* What the kernel enforces is believed, and read, since it checks only what is read. */
static void check_sealed(int alg, int dir_fd, size_t digest_size, struct cfs_objects *objects)
{
	const int stop = 1, *goes_on = objects->stop;

	fake_ioctl = ioctl_measures;
	measured_alg = alg;
	measured_size = digest_size;
	for (objects->require_verity = 0; objects->require_verity < 2; objects->require_verity++) {
		CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == 0);
		for (size_t i = 0; i < COUNT; i++) {
			CHECK(objects->states[i] == OBJECT_MEASURED && objects->errors[i] == 0);
			CHECK(objects->found[i * digest_size] == 0x5a);
		}
		read_error = EIO;
		CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == 0);
		for (size_t i = 0; i < COUNT; i++) {
			CHECK(objects->states[i] == (sizes[i] ? OBJECT_NOT_READ : OBJECT_MEASURED));
			CHECK(objects->errors[i] == (sizes[i] ? EIO : 0));
		}
		read_error = 0;
		objects->stop = &stop;
		CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == -ECANCELED);
		objects->stop = goes_on;
	}
	measured_alg = 3 - alg;
	objects->require_verity = 1;
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == 0);
	CHECK(objects->states[1] == OBJECT_NOT_SEALED);
	objects->require_verity = 0;
	fake_ioctl = NULL;
}

/* Stamps are those of all inodes, by whichever function, and none of what is missing or was changed too late. */
static void check_stamps(int alg, int dir_fd, size_t digest_size, struct cfs_objects *objects)
{
	u64 seen[COUNT], stamps[COUNT];
	char path[OBJECT_PATH_SIZE];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };

	objects->stamps = seen;
	objects->time = INT64_MAX;
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == 0);
	CHECK(cfs_stamp_objects(dir_fd, objects->digests, COUNT, digest_size, INT64_MAX, stamps) == 0);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(stamps[i] && stamps[i] == seen[i]);
	format_object_path(path, objects->digests, digest_size);
	CHECK(utimensat(dir_fd, path, times, 0) == 0);
	CHECK(cfs_stamp_objects(dir_fd, objects->digests, 1, digest_size, INT64_MAX, stamps) == 0);
	CHECK(stamps[0] && stamps[0] != seen[0]);
	CHECK(cfs_stamp_objects(dir_fd, objects->digests, 1, digest_size, 0, stamps) == 0);
	CHECK(stamps[0] == 0);
	objects->time = 0;
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, objects) == 0);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(seen[i] == 0);
	CHECK(cfs_stamp_objects(dir_fd, objects->digests, 1, 0, 0, stamps) == -EINVAL);
	CHECK(cfs_stamp_objects(dir_fd, objects->digests, 1, SHA2_DIGEST_MAX + 1, 0, stamps) == -EINVAL);
	objects->stamps = NULL;
}

static void check_states(int alg, int dir_fd, const u8 *digests, size_t digest_size)
{
	u8 found[COUNT * SHA2_DIGEST_MAX], states[COUNT];
	int errors[COUNT], stop = 0;
	struct cfs_objects objects = {
		.digests = digests, .count = COUNT, .stop = &stop, .found = found, .states = states, .errors = errors,
	};
	char path[OBJECT_PATH_SIZE];

	CHECK(cfs_check_objects(alg, dir_fd, digest_size, &objects) == 0);
	CHECK(memcmp(found, digests, COUNT * digest_size) == 0);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(states[i] == OBJECT_HASHED && errors[i] == 0);
	check_stamps(alg, dir_fd, digest_size, &objects);

	CHECK(cfs_check_objects(alg, dir_fd, digest_size + 1, &objects) == -EINVAL);
	CHECK(cfs_check_objects(7, dir_fd, digest_size, &objects) == -EINVAL);
	for (int i = 1; i <= 3; i++) {
		failing_malloc = i;
		CHECK(cfs_check_objects(alg, dir_fd, digest_size, &objects) == -ENOMEM);
	}
	failing_malloc = 0;
	stop = 1;
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, &objects) == -ECANCELED);
	stop = 0;

	check_sealed(alg, dir_fd, digest_size, &objects);
	objects.require_verity = 1;
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, &objects) == 0);
	CHECK(states[0] == OBJECT_NOT_SEALED);
	objects.require_verity = 0;

	/* The first is gone, in the place of the second is a directory. */
	format_object_path(path, digests, digest_size);
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	format_object_path(path, digests + digest_size, digest_size);
	CHECK(unlinkat(dir_fd, path, 0) == 0);
	CHECK(mkdirat(dir_fd, path, 0755) == 0);
	CHECK(cfs_check_objects(alg, dir_fd, digest_size, &objects) == 0);
	CHECK(states[0] == OBJECT_NOT_OPENED && errors[0] == ENOENT);
	CHECK(states[1] == OBJECT_NO_FILE && errors[1] == 0);
	CHECK(states[2] == OBJECT_HASHED);
}

/* Join chunks that refer to the last object twice, through buffers of that size. */
static void check_merge(int dir_fd, const u8 *digests, size_t digest_size, const u8 *data, size_t piece, size_t room)
{
	const struct cfs_digests table = { digests, digest_size, COUNT };
	struct cfs_merge merge = { .fd = -1 };
	const size_t size = sizes[COUNT - 1], whole = 2 * size + 5;
	u8 chunks[8 + 8 + 5 + 8], *out = malloc(room), *joined = malloc(whole + room);
	int64_t number = COUNT - 1, inlined = -5, n;
	size_t filled = 0, given = 0;

	CHECK(out && joined);
	memcpy(chunks, &number, 8);
	memcpy(chunks + 8, &inlined, 8);
	memcpy(chunks + 16, "hello", 5);
	memcpy(chunks + 21, &number, 8);
	do {
		size_t left = sizeof(chunks) - given;

		n = cfs_merge_chunks(chunks + given, left < piece ? left : piece, &merge, &table, dir_fd, out, room);
		CHECK(n >= 0);
		memcpy(joined + filled, out, n);
		filled += n;
		given += merge.position;
	} while (n > 0 || given < sizeof(chunks));
	CHECK(filled == whole && merge.fd < 0 && merge.inline_left == 0 && merge.head_size == 0);
	CHECK(memcmp(joined, data, size) == 0);
	CHECK(memcmp(joined + size, "hello", 5) == 0);
	CHECK(memcmp(joined + size + 5, data, size) == 0);
	free(out);
	free(joined);
}

static void check_bad_merges(int dir_fd, const u8 *digests, size_t digest_size)
{
	const struct cfs_digests table = { digests, digest_size, COUNT };
	struct cfs_merge merge = { .fd = -1 };
	int64_t number = COUNT;
	u8 out[16];

	CHECK(cfs_merge_chunks(&number, 8, &merge, &table, dir_fd, out, sizeof(out)) == -ERANGE);
	CHECK(merge.object == COUNT);
	number = 0;	/* is gone */
	CHECK(cfs_merge_chunks(&number, 8, &merge, &table, dir_fd, out, sizeof(out)) == -ENOENT);
	CHECK(merge.object == 0 && merge.fd < 0);
	number = 1;	/* is a directory */
	CHECK(cfs_merge_chunks(&number, 8, &merge, &table, dir_fd, out, sizeof(out)) == -EISDIR);
	CHECK(merge.fd >= 0);
	close(merge.fd);
}

void test_check(int dir_fd)
{
	for (int alg = 1; alg <= 2; alg++) {
		const size_t digest_size = alg == 1 ? 32 : 64;
		u8 *data = content(sizes[COUNT - 1]), digests[COUNT * SHA2_DIGEST_MAX];

		for (size_t i = 0; i < COUNT; i++) {
			u8 *digest = digests + i * digest_size;

			CHECK(cfs_verity_digest(alg, 4096, NULL, 0, data, sizes[i], digest, digest_size) == 0);
			write_object(dir_fd, digest, digest_size, data, sizes[i]);
		}
		check_states(alg, dir_fd, digests, digest_size);
		check_merge(dir_fd, digests, digest_size, data, 1, 1 << 16);
		check_merge(dir_fd, digests, digest_size, data, 64, sizes[COUNT - 1]);
		check_merge(dir_fd, digests, digest_size, data, 64, 3 << 20);
		check_bad_merges(dir_fd, digests, digest_size);
		remove_objects(dir_fd, digests, digest_size);
		free(data);
	}
}
