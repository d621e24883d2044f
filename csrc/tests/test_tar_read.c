/* Rows of a layer, read from the chunks of its splitstream; and the sum of a header. */
#include "test.h"

#include <errno.h>
#include <string.h>

static void test_sum(void)
{
	for (size_t size = 0; size < 600; size++) {
		u8 *data = content(size);
		u64 sum = 0;

		for (size_t i = 0; i < size; i++)
			sum += data[i];
		CHECK(cfs_sum_bytes(data, size) == sum);
		memset(data, 0xff, size);
		CHECK(cfs_sum_bytes(data, size) == 255 * size);
		free(data);
	}
}

/* As tar.c has it. */
struct tar_row {
	u64 offset, number;
	u32 value_end;
	u16 directory;
	u8 kind, unused;
	u8 stat[24];
};

#define BLOCK	512

static const u8 tar_digests[] = "digest 0digest 1digest 2";

/* A plain header at data, which cannot be told from one of GNU tar or Go. */
static void put_header(u8 *data, const char *path, char type, size_t size, const char *link)
{
	unsigned int sum = 0;
	char *text = (char *)data;

	memset(data, 0, BLOCK);
	strncpy(text, path, 100);
	memcpy(text + 100, "0000644\0" "0000007 " "00000010", 24);
	sprintf(text + 124, "%011zo", size);
	memcpy(text + 136, "00000000005 ", 12);
	memset(text + 148, ' ', 8);
	text[156] = type;
	strncpy(text + 157, link, 100);
	memcpy(text + 257, "ustar\0" "00", 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += data[i];
	sprintf(text + 148, "%06o", sum);
}

static u8 *put_chunk(u8 *data, int64_t number)
{
	memcpy(data, &number, sizeof(number));
	return data + sizeof(number);
}

/* A directory, a file that is object 1, one of five bytes, two links, an empty file.  Return: the size. */
static size_t put_layer(u8 *data)
{
	u8 *end = put_chunk(data, -2 * BLOCK);

	put_header(end, "./usr/bin/", '5', 0, "");
	put_header(end + BLOCK, "usr/bin/large", '0', 100, "");
	end = put_chunk(end + 2 * BLOCK, 1);
	end = put_chunk(end, -(412 + 6 * BLOCK));
	memset(end, 0, 412 + 6 * BLOCK);
	end += 412;
	put_header(end, "/usr/bin//small", '\0', 5, "");
	memcpy(end + BLOCK, "small", 5);
	put_header(end + 2 * BLOCK, "hard", '1', 0, "usr/bin/small");
	put_header(end + 3 * BLOCK, "soft", '2', 0, "");
	put_header(end + 4 * BLOCK, "empty", '7', 0, "");
	return end + 6 * BLOCK - data;	/* and a block of zeros */
}

/* Read from memory that is just as large as it says, into such memory.  Return: that of cfs_tar_read(). */
static int read_tar(const u8 *data, size_t size, struct cfs_tar_place *place, size_t capacity, struct cfs_tar_rows *rows,
		    struct tar_row *records)
{
	u8 *source = memcpy(malloc(size ? size : 1), data, size), *digests = malloc(24);
	struct cfs_digests table = { memcpy(digests, tar_digests, 24), 8, 3 };
	int ret;

	*rows = (struct cfs_tar_rows){
		.rows = malloc(capacity * sizeof(*records) + 1), .names = malloc(capacity * 256 + 1),
		.directories = malloc(capacity * 256 + 1), .values = malloc(capacity * 256 + 1), .capacity = capacity,
	};
	ret = cfs_tar_read(source, size, place, &table, rows);
	if (ret == 0 && records)
		memcpy(records, rows->rows, rows->count * sizeof(*records));
	CHECK(ret < 0 || (place->position <= size && rows->count <= capacity));
	free(source);
	free(digests);
	return ret;
}

static void free_rows(struct cfs_tar_rows *rows)
{
	free(rows->rows);
	free(rows->names);
	free(rows->directories);
	free(rows->values);
}

static void test_tar_rows(void)
{
	static const u8 kinds[] = { 2, 0, 1, 7, 3 };
	static const u16 directories[] = { 0, 1, 2, 3, 3 };
	static const u32 value_ends[] = { 0, 8, 13, 26, 26 };
	static const u64 offsets[] = { 0, 1, 3, 5, 6 };	/* blocks */
	static const u8 stat[24] = "\xa4\1\0\0" "\7\0\0\0" "\10\0\0\0" "\5\0\0\0\0\0\0\0" "\0\0\0";
	struct cfs_tar_place place = { 0 };
	struct cfs_tar_rows rows;
	struct tar_row records[6];
	u8 data[8192];
	size_t size = put_layer(data);

	/* All but the last one. */
	CHECK(read_tar(data, size, &place, 100, &rows, records) == 0);
	CHECK(rows.count == 5 && rows.directory_count == 4);
	for (size_t i = 0; i < rows.count; i++) {
		CHECK(records[i].kind == kinds[i] && records[i].directory == directories[i]);
		CHECK(records[i].value_end == value_ends[i] && records[i].offset == offsets[i] * BLOCK);
		CHECK(records[i].number == (i == 1 ? 100 : 0));
		CHECK(memcmp(records[i].stat, stat, sizeof(stat)) == 0);
	}
	CHECK(rows.names_size == 26 && memcmp(rows.names, "bin/large/small/hard/soft/", 26) == 0);
	CHECK(rows.directories_size == 24 && memcmp(rows.directories, "./usr\0usr/bin\0usr/bin/\0", 24) == 0);
	CHECK(rows.values_size == 26 && memcmp(rows.values, "digest 1smallusr/bin/small", 26) == 0);
	CHECK(place.position == size - 2 * BLOCK && place.inline_left == 2 * BLOCK);
	CHECK(place.offset == 7 * BLOCK && place.padding == 0);
	free_rows(&rows);

	/* One at a time, from where the last one ended, gives none: each is the last. */
	place = (struct cfs_tar_place){ 0 };
	CHECK(read_tar(data, size, &place, 1, &rows, NULL) == 0 && rows.count == 0 && place.position == 0);
	free_rows(&rows);
	for (size_t count = 0; count < 5; count++) {
		CHECK(read_tar(data, size, &place, 2, &rows, records) == 0 && rows.count == 1);
		CHECK(records[0].kind == kinds[count] && records[0].offset == offsets[count] * BLOCK);
		CHECK(rows.directory_count == 1);
		free_rows(&rows);
		memmove(data, data + place.position, size -= place.position);
		place.position = 0;
	}
	CHECK(read_tar(data, size, &place, 2, &rows, records) == 0 && rows.count == 0);
	free_rows(&rows);
}

/* Layers that are cut anywhere, changed anywhere, or begin in a place that cannot be. */
static void test_tar_hostile(void)
{
	static const u8 bytes[] = { 0, ' ', '/', '0', '7', '8', 0x80, 0xff };
	static const u64 odd[] = { 1, 511, 512, 513, INT64_MAX, UINT64_MAX - 511, UINT64_MAX };
	struct cfs_tar_place place = { 0 };
	struct cfs_tar_rows rows;
	u8 data[8192], kept;
	size_t size = put_layer(data), most = 0;

	for (size_t cut = 0; cut <= size; cut++, place = (struct cfs_tar_place){ 0 }) {
		CHECK(read_tar(data, cut, &place, 100, &rows, NULL) == 0 && rows.count >= most);
		most = rows.count;
		free_rows(&rows);
	}
	CHECK(most == 5);
	for (size_t i = 0; i < size; i++) {
		kept = data[i];
		for (size_t j = 0; j < ARRAY_SIZE(bytes); j++, place = (struct cfs_tar_place){ 0 }) {
			data[i] = bytes[j];
			CHECK(read_tar(data, size, &place, 100, &rows, NULL) == 0);
			free_rows(&rows);
		}
		data[i] = kept;
	}
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		place = (struct cfs_tar_place){ .padding = odd[i] };
		CHECK(read_tar(data, size, &place, 100, &rows, NULL) == 0);
		free_rows(&rows);
		place = (struct cfs_tar_place){ .inline_left = odd[i], .offset = odd[i], .padding = odd[i] };
		CHECK(read_tar(data, size, &place, 100, &rows, NULL) == 0);
		free_rows(&rows);
		put_chunk(data, -odd[i]);
		place = (struct cfs_tar_place){ 0 };
		CHECK(read_tar(data, size, &place, 100, &rows, NULL) == 0);
		free_rows(&rows);
	}
	place = (struct cfs_tar_place){ .position = 1 };
	CHECK(read_tar(data, 0, &place, 1, &rows, NULL) == -EINVAL);
	free_rows(&rows);
	place.position = 0;
	CHECK(read_tar(data, 0, &place, UINT16_MAX + 1, &rows, NULL) == -EINVAL);
	free_rows(&rows);
	CHECK(cfs_tar_read(data, 0, &place, &(struct cfs_digests){ .size = 257 }, &rows) == -EINVAL);
}

/* Names as long as they can be, more of them than there is memory for. */
static void test_tar_long(void)
{
	struct cfs_tar_place place = { .inline_left = 4 * BLOCK };
	struct cfs_tar_rows rows;
	u8 data[4 * BLOCK];
	unsigned int sum;

	for (size_t i = 0; i < 4; i++) {
		char *header = (char *)data + i * BLOCK;

		put_header((u8 *)header, "", '2', 0, "");
		memset(header + 157, 'l', 100);
		memset(header + 345, i == 3 ? '/' : 'p', 155);
		memset(header, 'n', i == 1 ? 0 : 100);
		memset(header + 148, ' ', 8);
		sum = 0;
		for (size_t j = 0; j < BLOCK; j++)
			sum += (u8)header[j];
		sprintf(header + 148, "%06o", sum);
	}
	CHECK(read_tar(data, sizeof(data), &place, 4, &rows, NULL) == 0);
	CHECK(rows.count == 3 && rows.names_size == 101 + 156 + 101 && rows.values_size == 300);
	CHECK(rows.directory_count == 3 && rows.directories_size == 156 + 1 + 156);
	free_rows(&rows);
}

void test_tar_read(void)
{
	test_sum();
	test_tar_rows();
	test_tar_hostile();
	test_tar_long();
}
