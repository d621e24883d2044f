/*
 * An archive: split in bulk it is what it is one entry at a time; and the chunks that its stream has, read again, are the
 * same entries.
 */
#include "fuzz.h"

#include "index.h"

#define BLOCK		512
#define ROW_SIZE	48
#define TEXT_MAX	256
#define CAPACITY	64

/* What is split, in memory of just the size that cfs_api.h promises. */
struct split {
	struct cfs_tar_rows rows;
	struct cfs_tar_objects objects;
};

static struct cfs_tar_rows new_rows(size_t capacity)
{
	return (struct cfs_tar_rows){
		.rows = exact(capacity * ROW_SIZE), .names = exact(capacity * TEXT_MAX),
		.directories = exact(capacity * TEXT_MAX), .values = exact(capacity * TEXT_MAX), .capacity = capacity,
	};
}

static void free_rows(struct cfs_tar_rows *rows)
{
	free(rows->rows), free(rows->names), free(rows->directories), free(rows->values);
}

static struct split new_split(size_t capacity, size_t digest_size)
{
	return (struct split){
		.rows = new_rows(capacity),
		.objects = {
			.spans = exact(capacity * sizeof(struct cfs_span)), .digests = exact(capacity * digest_size),
			.digest_size = digest_size,
		},
	};
}

static void free_split(struct split *split)
{
	free_rows(&split->rows);
	free(split->objects.spans), free(split->objects.digests);
}

/* What a row says; composefs/oci/rows.py unpacks it. */
struct row {
	u64 offset, number;
	u32 value_end;
	u16 directory;
	u8 kind, unused;
	u8 stat[24];
};
_Static_assert(sizeof(struct row) == ROW_SIZE, "as in tar.c");

static struct row row_at(const struct cfs_tar_rows *rows, size_t number)
{
	struct row row;

	memcpy(&row, rows->rows + number * ROW_SIZE, sizeof(row));
	return row;
}

/* The texts of a row: value, name and directory, each in its place. */
static void check_texts(const struct cfs_tar_rows *rows)
{
	const char *name = rows->names, *names_end = name + rows->names_size;
	u32 value_end = 0;
	size_t directories = 0;

	REQUIRE(rows->count <= rows->capacity && rows->directory_count <= rows->count);
	for (size_t i = 0; i < rows->count; i++) {
		struct row row = row_at(rows, i);
		const char *slash = memchr(name, '/', names_end - name);

		REQUIRE(slash && slash > name);
		name = slash + 1;
		REQUIRE(row.value_end >= value_end && row.directory < rows->directory_count && row.kind <= ENTRY_HARD_LINK);
		value_end = row.value_end;
	}
	REQUIRE(name == names_end && value_end == rows->values_size);
	for (size_t i = 0; i < rows->directories_size; i++)
		directories += rows->directories[i] == '\0';
	REQUIRE(directories == rows->directory_count);
}

/* One entry at a time, each from where the last one ended; all are those in bulk. */
static void check_one_by_one(int alg, const u8 *data, size_t size, const struct split *whole, size_t end)
{
	struct split one = new_split(1, whole->objects.digest_size);
	struct cfs_tar_place place = { 0 };
	size_t count = 0, objects = 0;

	for (; count < whole->rows.count; count++) {
		struct row wanted = row_at(&whole->rows, count), got;

		REQUIRE(cfs_tar_split(alg, data, size, &place, &one.rows, &one.objects, NULL) == 0 && one.rows.count == 1);
		check_texts(&one.rows);
		got = row_at(&one.rows, 0);
		REQUIRE(got.offset == wanted.offset && got.number == wanted.number && got.kind == wanted.kind);
		REQUIRE(memcmp(got.stat, wanted.stat, sizeof(got.stat)) == 0);
		REQUIRE(one.objects.count == (got.kind == ENTRY_OBJECT));
		if (one.objects.count) {
			REQUIRE(memcmp(one.objects.digests, whole->objects.digests + objects * one.objects.digest_size,
				       one.objects.digest_size) == 0);
			objects++;
		}
	}
	REQUIRE(place.position == end && objects == whole->objects.count);
	free_split(&one);
}

/* The chunks of the archive, as the stream of a layer has them.  Return: their size. */
static size_t pack(const u8 *data, size_t end, const struct cfs_tar_objects *objects, u8 **chunks)
{
	size_t count = objects->count, first = count ? objects->spans[0].offset : end;
	const struct cfs_span *last = count ? &objects->spans[count - 1] : NULL;
	size_t behind = last ? last->offset + last->size : end, room = end + 16 * (count + 2);
	int64_t *indexes = exact(count * sizeof(*indexes)), head, packed;
	u8 *next = *chunks = exact(room);

	for (size_t i = 0; i < count; i++)
		indexes[i] = i;
	if (first) {
		head = -(int64_t)first;
		next = mempcpy(mempcpy(next, &head, sizeof(head)), data, first);
	}
	packed = cfs_pack_chunks(data, end, objects->spans, indexes, count, next, room - (next - *chunks));
	REQUIRE(packed >= 0);
	next += packed;
	if (behind < end) {
		head = -(int64_t)(end - behind);
		next = mempcpy(mempcpy(next, &head, sizeof(head)), data + behind, end - behind);
	}
	free(indexes);
	return next - *chunks;
}

/* Read again what was split: the same rows, all but the last one. */
static void check_read(const u8 *data, size_t end, const struct split *whole)
{
	const struct cfs_tar_objects *objects = &whole->objects;
	struct cfs_digests digests = { objects->digests, objects->digest_size, objects->count };
	struct cfs_tar_rows rows = new_rows(whole->rows.count);
	struct cfs_tar_place place = { 0 };
	u8 *chunks;
	size_t size = pack(data, end, objects, &chunks);
	u8 *copy = exact_copy(chunks, size);

	REQUIRE(cfs_tar_read(copy, size, &place, &digests, &rows) == 0);
	check_texts(&rows);
	REQUIRE(rows.count + (whole->rows.count > 0) == whole->rows.count);
	REQUIRE(memcmp(rows.rows, whole->rows.rows, rows.count * ROW_SIZE) == 0);
	REQUIRE(memcmp(rows.names, whole->rows.names, rows.names_size) == 0);
	REQUIRE(memcmp(rows.directories, whole->rows.directories, rows.directories_size) == 0);
	REQUIRE(memcmp(rows.values, whole->rows.values, rows.values_size) == 0);
	free(chunks), free(copy);
	free_rows(&rows);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	u64 number = number_of(data, size);
	int alg = 1 + number % 2;
	struct split whole = new_split(CAPACITY, alg == 1 ? 32 : 64);
	struct cfs_tar_place place = { 0 };
	struct cfs_sha256 hash, alone;
	struct cfs_stream stream = { &hash, data, size };
	u8 wanted[32], got[32];

	cfs_sha256_init(&hash);
	cfs_sha256_init(&alone);
	REQUIRE(cfs_tar_split(alg, data, size, &place, &whole.rows, &whole.objects, &stream) == 0);
	REQUIRE(place.position <= size && place.offset == place.position && place.padding < BLOCK);
	check_texts(&whole.rows);
	cfs_sha256_update(&hash, stream.data, stream.size);
	cfs_sha256_update(&alone, data, size);
	cfs_sha256_final(&hash, got);
	cfs_sha256_final(&alone, wanted);
	REQUIRE(memcmp(wanted, got, sizeof(got)) == 0);
	check_one_by_one(alg, data, size, &whole, place.position);
	if (whole.rows.count)
		check_read(data, place.position, &whole);
	free_split(&whole);
	return 0;
}

static void set_sum(u8 *header)
{
	unsigned int sum = 0;

	memset(header + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += header[i];
	snprintf((char *)header + 148, 8, "%06o", sum);
}

/* Change anything, and mostly make the sum of a header right again. */
size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max_size, unsigned int seed)
{
	static const struct { u16 offset, size; } fields[] = {
		{ 0, 100 }, { 100, 24 }, { 124, 12 }, { 124, 12 }, { 136, 12 }, { 156, 1 }, { 157, 100 }, { 257, 8 },
		{ 329, 16 }, { 345, 155 },
	};
	static const char *const texts[] = { "00000000000", "00000000100", "00000000101", "00000001000", "77777777777", "8", "",
					     "..", ".", "a/", ".wh.a", "/", "usr/lib/", "0", "5", "2", "1", "7" };
	u64 state = seed;
	size_t blocks = size / BLOCK;

	if (blocks && next_number(&state, 3)) {
		u8 *header = data + next_number(&state, blocks) * BLOCK;

		if (memcmp(header + 257, "ustar", 5) == 0) {
			size_t chosen = next_number(&state, ARRAY_SIZE(fields));
			const char *text = texts[next_number(&state, ARRAY_SIZE(texts))];
			size_t length = strlen(text) + next_number(&state, 2), room = fields[chosen].size;

			if (next_number(&state, 4))
				memcpy(header + fields[chosen].offset, text, length < room ? length : room);
			else
				LLVMFuzzerMutate(header + fields[chosen].offset, room, room);
			if (next_number(&state, 8))
				set_sum(header);
			return size;
		}
	}
	size = LLVMFuzzerMutate(data, size, max_size);
	for (size_t at = 0; at + BLOCK <= size && next_number(&state, 8); at += BLOCK)
		if (memcmp(data + at + 257, "ustar", 5) == 0)
			set_sum(data + at);
	return size;
}
