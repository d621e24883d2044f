/* Chunks of a splitstream: inline bytes and objects; written, and joined again to the merged content. */
#include "objects.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Begin with an object.  Return: 0, -ERANGE if there is none of that number, or the -errno of openat(2). */
static int open_object(struct cfs_merge *merge, const struct cfs_digests *digests, int dir_fd, u64 number)
{
	char path[OBJECT_PATH_SIZE];

	merge->object = number;
	if (number >= digests->count)
		return -ERANGE;
	format_object_path(path, digests->data + number * digests->size, digests->size);
	/* Whatever stands there: never follow a link, never wait. */
	merge->fd = open_at(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
	return merge->fd < 0 ? -errno : 0;
}

/* Read on in the object, and close it at its end.  Return: how many bytes, or the -errno of read(2). */
static ssize_t read_object(struct cfs_merge *merge, u8 *out, size_t room)
{
	ssize_t n;

	do
		n = read(merge->fd, out, room);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* A regular file gives less than is asked for only at its end. */
	if ((size_t)n < room) {
		close(merge->fd);
		merge->fd = -1;
	}
	return n;
}

/* Return: the bytes put out, -ERANGE for a reference to no object, or the -errno of what failed with an object. */
int64_t cfs_merge_chunks(const void *chunks, size_t size, struct cfs_merge *merge, const struct cfs_digests *digests,
			 int dir_fd, void *out, size_t capacity)
{
	const u8 *next = chunks, *end = next + size;
	size_t filled = 0;
	int64_t head;
	int ret;

	while (filled < capacity) {
		size_t room = capacity - filled, n;

		if (merge->fd >= 0) {
			ssize_t got = read_object(merge, (u8 *)out + filled, room);

			if (got < 0)
				return got;
			filled += got;
		} else if (next == end) {
			break;
		} else if (merge->inline_left) {
			n = (size_t)(end - next) < room ? (size_t)(end - next) : room;
			n = merge->inline_left < n ? merge->inline_left : n;
			memcpy((u8 *)out + filled, next, n);
			filled += n;
			next += n;
			merge->inline_left -= n;
		} else {
			merge->head[merge->head_size++] = *next++;
			if (merge->head_size < sizeof(merge->head))
				continue;
			merge->head_size = 0;
			memcpy(&head, merge->head, sizeof(head));
			head = le64toh(head);
			if (head < 0) {
				merge->inline_left = -(u64)head;
				continue;
			}
			ret = open_object(merge, digests, dir_fd, head);
			if (ret < 0)
				return ret;
		}
	}
	merge->position = next - (const u8 *)chunks;
	return filled;
}

static u8 *put_number(u8 *chunks, int64_t number)
{
	u64 head = htole64(number);

	return mempcpy(chunks, &head, sizeof(head));
}

/*
 * Write the chunks of an archive's data from its first object to its last: for each its
 * index, and what is between two of them inline.
 * Return: bytes of chunks, or -EINVAL for spans that are not in order, or too little capacity.
 */
int64_t cfs_pack_chunks(const void *data, size_t size, const struct cfs_span *spans, const int64_t *indexes,
			size_t count, void *chunks, size_t capacity)
{
	u8 *next = chunks;
	u64 position = count ? spans[0].offset : 0;

	for (size_t i = 0; i < count; i++) {
		u64 inline_size = spans[i].offset - position;

		if (spans[i].offset < position || spans[i].offset > size || spans[i].size > size - spans[i].offset ||
		    capacity - (next - (u8 *)chunks) < 2 * sizeof(u64) + inline_size)
			return -EINVAL;
		if (inline_size) {
			next = put_number(next, -(int64_t)inline_size);
			next = mempcpy(next, (const u8 *)data + position, inline_size);
		}
		next = put_number(next, indexes[i]);
		position = spans[i].offset + spans[i].size;
	}
	return next - (u8 *)chunks;
}
