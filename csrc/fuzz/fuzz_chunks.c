/*
 * Chunks of a stream, right or wrong: rows are read of them from any place; and they are joined, in pieces of any size,
 * to the same bytes.  The first bytes of an input say how.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MAX	256
#define ROW_SIZE	48
#define OUT_MAX		(1 << 16)	/* bytes of merged content that are looked at */
#define DIGEST_SIZE	32

/* 0: a file of 700 bytes, 1: an empty file, 2: a directory, 3: a link; there is no 4. */
static const u8 digests_data[5 * DIGEST_SIZE] = { [0] = 0, [32] = 1, [64] = 2, [96] = 3, [128] = 4 };

/* The directory of objects, made once. */
static int open_objects(void)
{
	static int fd = -1;
	char path[] = "/tmp/composefs-fuzz-XXXXXX", name[2 * DIGEST_SIZE + 2];

	if (fd >= 0)
		return fd;
	REQUIRE(mkdtemp(path));
	fd = open(path, O_RDONLY | O_DIRECTORY);
	REQUIRE(fd >= 0);
	for (int i = 0; i < 4; i++) {
		int file;

		snprintf(name, 3, "%02x", i);
		REQUIRE(mkdirat(fd, name, 0700) == 0);
		memset(name + 2, '0', sizeof(name) - 3);
		name[2] = '/';
		name[sizeof(name) - 1] = '\0';
		if (i == 2) {
			REQUIRE(mkdirat(fd, name, 0700) == 0);
		} else if (i == 3) {
			REQUIRE(symlinkat("/dev/zero", fd, name) == 0);
		} else {
			u8 content[700];

			memset(content, 'o', sizeof(content));
			file = openat(fd, name, O_CREAT | O_EXCL | O_WRONLY, 0600);
			REQUIRE(file >= 0);
			REQUIRE(i == 1 || write(file, content, sizeof(content)) == sizeof(content));
			close(file);
		}
	}
	return fd;
}

static void check_rows(const u8 *data, size_t size, struct cfs_tar_place place, size_t capacity)
{
	struct cfs_digests digests = { exact_copy(digests_data, sizeof(digests_data)), DIGEST_SIZE, 5 };
	struct cfs_tar_rows rows = {
		.rows = exact(capacity * ROW_SIZE), .names = exact(capacity * TEXT_MAX),
		.directories = exact(capacity * TEXT_MAX), .values = exact(capacity * TEXT_MAX), .capacity = capacity,
	};
	struct cfs_tar_place before = place;

	REQUIRE(cfs_tar_read(data, size, &place, &digests, &rows) == 0);
	REQUIRE(place.position <= size && rows.count <= capacity && rows.directory_count <= rows.count);
	REQUIRE(rows.names_size <= capacity * TEXT_MAX && rows.directories_size <= capacity * TEXT_MAX &&
		rows.values_size <= capacity * TEXT_MAX);
	if (rows.count == 0)
		REQUIRE(memcmp(&place, &before, sizeof(place)) == 0);
	free((void *)digests.data);
	free(rows.rows), free(rows.names), free(rows.directories), free(rows.values);
}

/* Return: the bytes put out, or the error; how much of the chunks is done with goes to *used. */
static int64_t merge(const u8 *data, size_t size, size_t piece, size_t slot, u8 *out, size_t *used)
{
	struct cfs_digests digests = { digests_data, DIGEST_SIZE, 5 };
	struct cfs_merge place = { .fd = -1 };
	size_t filled = 0;
	int64_t ret = 0;

	*used = 0;
	for (;;) {
		size_t left = size - *used, given = left < piece ? left : piece, room = OUT_MAX - filled;
		u8 *chunks = exact_copy(data + *used, given);

		room = room < slot ? room : slot;
		ret = cfs_merge_chunks(chunks, given, &place, &digests, open_objects(), out + filled, room);
		free(chunks);
		if (ret < 0)
			break;
		REQUIRE((size_t)ret <= room && place.position <= given && place.head_size < 8);
		*used += place.position;
		filled += ret;
		if ((ret == 0 && given == 0) || filled == OUT_MAX)
			break;
	}
	if (place.fd >= 0)
		close(place.fd);
	return ret < 0 ? ret : (int64_t)filled;
}

static void check_merge(const u8 *data, size_t size, u64 state)
{
	u8 *whole = exact(OUT_MAX), *parts = exact(OUT_MAX);
	size_t used, used_in_parts;
	int64_t wanted = merge(data, size, SIZE_MAX, OUT_MAX, whole, &used), got;

	got = merge(data, size, 1 + next_number(&state, 40), 1 + next_number(&state, 900), parts, &used_in_parts);
	REQUIRE(wanted == -ERANGE || wanted == -EISDIR || wanted == -ELOOP || wanted == -ENOENT || wanted >= 0);
	REQUIRE(got == wanted);
	if (wanted >= 0 && wanted < OUT_MAX)
		REQUIRE(used == used_in_parts && memcmp(whole, parts, wanted) == 0);
	free(whole), free(parts);
}

/* Spans from anywhere: refused, or packed into what was said to be enough. */
static void check_pack(const u8 *data, size_t size, struct input numbers)
{
	size_t count = take(&numbers, 1) % 8, capacity = take(&numbers, 2) % 4096;
	struct cfs_span *spans = exact(count * sizeof(*spans));
	int64_t *indexes = exact(count * sizeof(*indexes)), packed;
	u8 *chunks = exact(capacity);
	u64 at = 0;

	for (size_t i = 0; i < count; i++) {
		u64 odd = take(&numbers, 1);

		at += take(&numbers, 1);
		spans[i] = (struct cfs_span){ odd < 8 ? UINT64_MAX - odd : at, odd > 248 ? UINT64_MAX - odd : take(&numbers, 1) };
		at += spans[i].size;
		indexes[i] = i;
	}
	packed = cfs_pack_chunks(data, size, spans, indexes, count, chunks, capacity);
	REQUIRE(packed == -EINVAL || (packed >= (int64_t)(8 * count) && packed <= (int64_t)capacity));
	free(spans), free(indexes), free(chunks);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input input = { data, size };
	u64 odd = take(&input, 1), state = number_of(data, size);
	struct cfs_tar_place place = { 0 };

	if (odd & 1)
		place.inline_left = odd & 2 ? take(&input, 8) : take(&input, 2);
	if (odd & 4)
		place.padding = odd & 8 ? take(&input, 8) : take(&input, 1);
	if (odd & 16)
		place.offset = take(&input, 8);
	check_rows(input.data, input.size, place, odd % 7);
	check_merge(input.data, input.size, state);
	check_pack(input.data, input.size, input);
	return 0;
}
