/* Archives split in bulk: what comes out is in order, wherever they are cut; csrc/fuzz/fuzz_tar.c has broken ones. */
#include "test.h"

#include <errno.h>
#include <string.h>

#define BLOCK		512
#define CAPACITY	12
#define TEXT_MAX	256
#define ROW_SIZE	48
#define DATA_MAX	(64 * BLOCK)

static void set_sum(u8 *header)
{
	unsigned int sum = 0;

	memset(header + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += header[i];
	sprintf((char *)header + 148, "%06o", sum);
}

/* Return: where the next header goes. */
static u8 *put_entry(u8 *data, const char *prefix, const char *name, char type, size_t size)
{
	char *text = (char *)data;

	memset(data, 0, BLOCK);
	memcpy(text, name, strnlen(name, 100));
	memcpy(text + 100, "0000644\0" "0000007\0" "0000010\0", 24);
	sprintf(text + 124, "%011zo", size);
	memcpy(text + 136, "00000000005", 12);
	text[156] = type;
	if (type == '1' || type == '2')
		memset(text + 157, 't', 100);
	memcpy(text + 257, "ustar\0" "00", 8);
	memcpy(text + 345, prefix, strnlen(prefix, 155));
	set_sum(data);
	data += BLOCK;
	for (size_t i = 0; i < size; i++)
		data[i] = 7 * i + size;
	memset(data + size, 0, -size % BLOCK);
	return data + size + -size % BLOCK;
}

/* Return: the size of an archive of one of each plain kind, whose texts are as long as they can be. */
static size_t put_archive(u8 *data)
{
	char name[101], prefix[156];
	u8 *end;

	memset(name, 'n', 100), memset(prefix, 'p', 155);
	name[100] = prefix[155] = '\0';
	end = put_entry(data, prefix, name, '5', 0);
	end = put_entry(end, prefix, name, '0', 64);
	end = put_entry(end, "", "usr/large", '0', 65);
	end = put_entry(end, "", "usr/larger", '\0', 9000);
	end = put_entry(end, "usr", "link", '2', 0);
	end = put_entry(end, "", "./usr/hard", '1', 0);
	end = put_entry(end, "", "full", '7', 512);
	end = put_entry(end, "", "empty", '0', 0);
	memset(end, 0, 2 * BLOCK);
	return end + 2 * BLOCK - data;
}

struct result {
	struct cfs_tar_rows rows;
	struct cfs_tar_objects objects;
	struct cfs_sha256 hash;
	int ret;
};

static void free_result(struct result *result)
{
	free(result->rows.rows), free(result->rows.names), free(result->rows.directories), free(result->rows.values);
	free(result->objects.spans), free(result->objects.digests);
}

/* Split from memory that is just as large as it says, into such memory, with the digest of all of it beside. */
static struct result split(int alg, const u8 *data, size_t size, struct cfs_tar_place *place, size_t capacity)
{
	size_t digest_size = alg == 1 ? 32 : 64;
	u8 *source = memcpy(malloc(size ? size : 1), data, size);
	struct result result = {
		.rows = {
			.rows = malloc(capacity * ROW_SIZE + 1), .names = malloc(capacity * TEXT_MAX + 1),
			.directories = malloc(capacity * TEXT_MAX + 1), .values = malloc(capacity * TEXT_MAX + 1),
			.capacity = capacity,
		},
		.objects = {
			.spans = malloc(capacity * sizeof(struct cfs_span) + 1), .digests = malloc(capacity * digest_size + 1),
			.digest_size = digest_size,
		},
	};
	struct cfs_stream stream = { &result.hash, source, size };
	u64 before = place->offset - place->position;

	cfs_sha256_init(&result.hash);
	result.ret = cfs_tar_split(alg, source, size, place, &result.rows, &result.objects, &stream);
	cfs_sha256_update(&result.hash, stream.data, stream.size);
	if (result.ret == 0) {
		const struct cfs_tar_objects *objects = &result.objects;
		u64 last = 0;

		CHECK(place->position <= size && place->offset - place->position == before);
		CHECK(result.rows.count <= capacity && objects->count <= result.rows.count);
		CHECK(result.rows.names_size <= capacity * TEXT_MAX && result.rows.values_size <= capacity * TEXT_MAX);
		for (size_t i = 0; i < objects->count; i++) {
			u8 digest[SHA2_DIGEST_MAX];
			const struct cfs_span *span = &objects->spans[i];

			CHECK(span->offset >= last + BLOCK && span->size > 64 && span->offset + span->size <= place->position);
			last = span->offset + span->size;
			CHECK(cfs_verity_digest(alg, 4096, NULL, 0, source + span->offset, span->size, digest, digest_size) == 0);
			CHECK(memcmp(digest, objects->digests + i * digest_size, digest_size) == 0);
		}
	}
	free(source);
	return result;
}

static void check_sum(const struct result *result, const u8 *data, size_t size)
{
	struct cfs_sha256 whole;
	u8 want[32], got[32];

	cfs_sha256_init(&whole);
	cfs_sha256_update(&whole, data, size);
	cfs_sha256_final(&whole, want);
	cfs_sha256_final(&result->hash, got);
	CHECK(memcmp(want, got, sizeof(want)) == 0);
}

/* Cut anywhere, and with any capacity: never more entries than are whole, and never fewer than of less. */
static void test_cuts(int alg, const u8 *data, size_t size)
{
	size_t most = 0;

	for (size_t end = 0; end <= size; end++) {
		struct cfs_tar_place place = { 0 };
		struct result result = split(alg, data, end, &place, CAPACITY);

		CHECK(result.ret == 0 && result.rows.count >= most && result.rows.count <= 8);
		check_sum(&result, data, end);
		most = result.rows.count;
		free_result(&result);
	}
	CHECK(most == 8);
	for (size_t capacity = 0; capacity <= CAPACITY; capacity++) {
		struct cfs_tar_place place = { 0 };
		struct result result = split(alg, data, size, &place, capacity);

		CHECK(result.ret == 0 && result.rows.count == (capacity < 8 ? capacity : 8));
		free_result(&result);
	}
	/* One at a time, each from where the last one ended. */
	struct cfs_tar_place place = { .offset = 1000 };
	for (size_t i = 0; i < 8; i++) {
		struct result result = split(alg, data, size, &place, 1);

		CHECK(result.ret == 0 && result.rows.count == 1);
		free_result(&result);
	}
	CHECK(place.position == size - 2 * BLOCK - place.padding && place.offset == place.position + 1000);
}

static void test_places(const u8 *data, size_t size)
{
	static const u64 odd[] = { 1, 511, 513, INT64_MAX, UINT64_MAX - 511, UINT64_MAX - BLOCK + 1, UINT64_MAX };
	struct cfs_tar_place place;
	struct result result;

	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		place = (struct cfs_tar_place){ .padding = odd[i] };
		result = split(1, data, size, &place, CAPACITY);
		CHECK(result.ret == 0 && result.rows.count == 0 && place.position == 0);
		free_result(&result);
		place = (struct cfs_tar_place){ .position = odd[i] };
		result = split(1, data, 0, &place, CAPACITY);
		CHECK(result.ret == -EINVAL);
		free_result(&result);
		place = (struct cfs_tar_place){ .offset = odd[i] };
		result = split(1, data, size, &place, CAPACITY);
		CHECK(result.ret == 0 && result.rows.count == 8);
		free_result(&result);
	}
	place = (struct cfs_tar_place){ 0 };
	result = split(1, data, size, &place, UINT16_MAX + 1);
	CHECK(result.ret == -EINVAL);
	free_result(&result);
	for (size_t digest_size = 0; digest_size <= TEXT_MAX + 1; digest_size += 257) {
		struct cfs_tar_objects objects = { .digest_size = digest_size };

		CHECK(cfs_tar_split(1, data, 0, &place, &(struct cfs_tar_rows){ 0 }, &objects, NULL) == -EINVAL);
	}
}

/* Chunks fill what they are given; spans out of order or outside are refused, and so is too little room. */
static void test_chunks(void)
{
	static const struct cfs_span spans[] = { { 5, 10 }, { 15, 1 }, { 20, 80 } };
	static const struct cfs_span wrong[][2] = {
		{ { 10, 5 }, { 14, 1 } }, { { 10, 5 }, { 5, 5 } }, { { 0, 101 }, { 101, 0 } }, { { 101, 0 }, { 101, 0 } },
		{ { 1, UINT64_MAX }, { 0, 1 } }, { { 0, 1 }, { UINT64_MAX, 1 } }, { { UINT64_MAX, 2 }, { 1, 1 } },
	};
	static const int64_t indexes[] = { 3, 0, INT64_MAX };
	u8 *data = content(100), want[4 * 8 + 4], *chunks;
	int64_t numbers[] = { 3, 0, -4, INT64_MAX };
	size_t needed = 3 * 16 + 4;

	memcpy(want, numbers, 3 * 8);
	memcpy(want + 3 * 8, data + 16, 4);
	memcpy(want + 3 * 8 + 4, numbers + 3, 8);
	for (size_t capacity = 0; capacity <= needed; capacity++) {
		int64_t size = cfs_pack_chunks(data, 100, spans, indexes, 3, chunks = malloc(capacity ? capacity : 1), capacity);

		CHECK(size == -EINVAL || (size == sizeof(want) && memcmp(chunks, want, sizeof(want)) == 0));
		CHECK(capacity != needed || size > 0);
		free(chunks);
	}
	chunks = malloc(1000);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		CHECK(cfs_pack_chunks(data, 100, wrong[i], indexes, 2, chunks, 1000) == -EINVAL);
	CHECK(cfs_pack_chunks(data, 100, NULL, NULL, 0, chunks, 1000) == 0);
	free(chunks), free(data);
}

void test_tar_split(void)
{
	u8 *data = malloc(DATA_MAX);
	size_t size;

	CHECK(data);
	size = put_archive(data);
	CHECK(size <= DATA_MAX);
	for (int alg = 1; alg <= 2; alg++)
		test_cuts(alg, data, size);
	test_places(data, size);
	test_chunks();
	free(data);
	puts("archives in bulk: passed");
}
