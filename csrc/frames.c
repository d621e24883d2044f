/* Where zstd frames begin and end, in data that come in pieces.  Source: RFC 8878, section 3.1. */
#include "cfs.h"

#include <string.h>

#define MAGIC		0xfd2fb528u
#define SKIPPABLE	0x184d2a50u	/* and the fifteen numbers after it */
#define RLE		1		/* block type: one byte, repeated */
#define RESERVED	3
#define HEADER_MAX	13		/* bytes behind the descriptor: window or none, dictionary, content size */

_Static_assert(sizeof(((struct cfs_frames *)0)->part) >= HEADER_MAX, "every part fits");

enum { NO_MAGIC = 1, NO_BLOCK, LARGE_WINDOW };	/* what a walk returns */

/* The parts of a frame whose size is known before they come; between them are bodies, which are only counted. */
enum part { PART_MAGIC, PART_SKIPPABLE_SIZE, PART_DESCRIPTOR, PART_HEADER, PART_BLOCK };

static u64 little_endian(const u8 *bytes, size_t size)
{
	u64 value = 0;

	while (size-- > 0)
		value = value << 8 | bytes[size];
	return value;
}

static void expect(struct cfs_frames *frames, enum part next, size_t size)
{
	frames->next = next;
	frames->wanted = size;
	frames->got = 0;
}

static bool is_single_segment(u8 descriptor)
{
	return descriptor >> 5 & 1;
}

/* Return the bytes of the field for the size of the content. */
static size_t content_size_size(u8 descriptor)
{
	return descriptor >> 6 ? 1u << (descriptor >> 6) : is_single_segment(descriptor);
}

static void take_descriptor(struct cfs_frames *frames)
{
	u8 descriptor = frames->part[0];
	size_t dictionary_size = (descriptor & 3) == 3 ? 4 : descriptor & 3;

	frames->descriptor = descriptor;
	/* Never nothing: without a window there is a content size. */
	expect(frames, PART_HEADER, !is_single_segment(descriptor) + dictionary_size + content_size_size(descriptor));
}

static int take_header(struct cfs_frames *frames, u64 window_max)
{
	size_t size = content_size_size(frames->descriptor);
	u8 window = frames->part[0];

	if (is_single_segment(frames->descriptor)) {	/* the window is the content, whose size comes last */
		frames->window = little_endian(frames->part + frames->wanted - size, size);
		if (size == 2)
			frames->window += 256;
	} else {
		frames->window = ((u64)1 << (7 + (window >> 3))) * (8 + (window & 7));
	}
	if (frames->window > window_max)
		return LARGE_WINDOW;
	expect(frames, PART_BLOCK, 3);
	return 0;
}

static int take_block(struct cfs_frames *frames)
{
	u64 header = little_endian(frames->part, 3);

	if ((header >> 1 & 3) == RESERVED)
		return NO_BLOCK;
	frames->skip = (header >> 1 & 3) == RLE ? 1 : header >> 3;
	if (!(header & 1)) {
		expect(frames, PART_BLOCK, 3);
		return 0;
	}
	if (frames->descriptor >> 2 & 1)
		frames->skip += 4;	/* checksum */
	expect(frames, PART_MAGIC, 4);
	return 0;
}

/* Take a part that is whole. */
static int take(struct cfs_frames *frames, u64 window_max)
{
	u64 magic;

	switch (frames->next) {
	case PART_MAGIC:
		magic = little_endian(frames->part, 4);
		if (magic == MAGIC)
			expect(frames, PART_DESCRIPTOR, 1);
		else if ((magic & ~(u64)0xf) == SKIPPABLE)
			expect(frames, PART_SKIPPABLE_SIZE, 4);
		else
			return NO_MAGIC;
		return 0;
	case PART_SKIPPABLE_SIZE:
		frames->skip = little_endian(frames->part, 4);
		expect(frames, PART_MAGIC, 4);
		return 0;
	case PART_DESCRIPTOR:
		take_descriptor(frames);
		return 0;
	case PART_HEADER:
		return take_header(frames, window_max);
	default:
		return take_block(frames);
	}
}

void cfs_frames_init(struct cfs_frames *frames, uint64_t offset)
{
	memset(frames, 0, sizeof(*frames));
	frames->offset = frames->end = offset;
	expect(frames, PART_MAGIC, 4);
}

int cfs_frames_walk(struct cfs_frames *frames, const void *data, size_t size, uint64_t window_max)
{
	const u8 *at = data, *end = at + size;

	while (at < end) {
		size_t n = (size_t)(end - at);

		if (frames->skip > 0) {
			if (n > frames->skip)
				n = (size_t)frames->skip;
			frames->skip -= n;
		} else {
			if (n > frames->wanted - frames->got)
				n = frames->wanted - frames->got;
			memcpy(frames->part + frames->got, at, n);
			frames->got += n;
		}
		at += n;
		frames->offset += n;
		if (frames->got == frames->wanted) {
			int ret = take(frames, window_max);

			if (ret != 0) {
				frames->offset -= frames->wanted;
				return ret;
			}
		}
		if (frames->next == PART_MAGIC && frames->got == 0 && frames->skip == 0)
			frames->end = frames->offset;
	}
	return 0;
}
