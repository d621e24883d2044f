/* Where zstd frames begin and end, however they are cut. */
#include "test.h"

#include <string.h>

#define WINDOW_MAX	(1u << 27)

static struct cfs_frames frames;

/* Walk the data in pieces of at most step bytes. */
static int walk(const u8 *data, size_t size, size_t step)
{
	cfs_frames_init(&frames, 100);
	for (size_t at = 0; at < size; at += step) {
		int ret = cfs_frames_walk(&frames, data + at, step < size - at ? step : size - at, WINDOW_MAX);

		if (ret != 0)
			return ret;
	}
	return 0;
}

static void test_whole(void)
{
	static const u8 data[] = {
		/* one segment of 3 bytes in a raw block, no checksum */
		0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 3 << 3 | 1, 0, 0, 'a', 'b', 'c',
		/* skippable: empty, and 2 bytes */
		0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0,
		0x5f, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y',
		/* a window, a dictionary of 4 bytes, 8 bytes of size; a repeated byte, an empty block, a checksum */
		0x28, 0xb5, 0x2f, 0xfd, 0xc7, 1 << 3 | 1, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0,
		5 << 3 | 1 << 1, 0, 0, 'r', 1, 0, 0, 'c', 'h', 'e', 'c',
	};
	static const size_t ends[] = { 12, 20, 30, sizeof(data) };

	for (size_t size = 0; size <= sizeof(data); size++) {
		u64 end = 0;

		for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
			if (ends[i] <= size)
				end = ends[i];
		for (size_t step = 1; step <= sizeof(data); step++) {
			CHECK(walk(data, size, step) == 0);
			CHECK(frames.offset == 100 + size);
			CHECK(frames.end == 100 + end);
		}
	}
	CHECK(frames.window == (1 << 11) / 8 * 9);
}

static void test_faults(void)
{
	static const u8 magic[] = { 0x28, 0xb5, 0x2f, 0xfe, 0 };
	static const u8 block[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 3 << 1 | 1, 0, 0, 0 };
	static const u8 window[] = { 0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3 | 1, 1, 0, 0 };
	static const u8 segment[] = { 0x28, 0xb5, 0x2f, 0xfd, 0xe0, 1, 0, 0, 8, 0, 0, 0, 0 };

	for (size_t step = 1; step < 20; step++) {
		CHECK(walk(magic, sizeof(magic), step) == 1 && frames.offset == 100 && frames.end == 100);
		CHECK(walk(block, sizeof(block), step) == 2 && frames.offset == 106);
		CHECK(walk(window, sizeof(window), step) == 3 && frames.offset == 105);
		CHECK(frames.window == (u64)WINDOW_MAX / 8 * 9);
		CHECK(walk(segment, sizeof(segment), step) == 3 && frames.window == (u64)WINDOW_MAX + 1);
	}
}

/* Windows of one segment have 1, 2, 4 or 8 bytes; the second begin at 256. */
static void test_segments(void)
{
	static const u8 one[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x20, 255 };
	static const u8 two[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x60, 1, 2 };
	static const u8 four[] = { 0x28, 0xb5, 0x2f, 0xfd, 0xa1, 77, 1, 0, 0, 8 };

	CHECK(walk(one, sizeof(one), 2) == 0 && frames.window == 255);
	CHECK(walk(two, sizeof(two), 2) == 0 && frames.window == 0x201 + 256);
	CHECK(walk(four, sizeof(four), 2) == 3 && frames.window == (u64)WINDOW_MAX + 1);
}

void test_frames(void)
{
	test_whole();
	test_faults();
	test_segments();
}
