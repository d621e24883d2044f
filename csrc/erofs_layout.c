/*
 * Where each inode and its data stand, once all sizes are known.
 *
 * An inode begins at the next slot, unless its tail would cross a block or so would a symbolic link: then later.  The
 * two epochs differ in what exactly they keep together.  Data blocks follow the shared xattrs, in the order of the
 * inodes.
 *
 * Source: the images of composefs-rs and libcomposefs, which agree; the kernel asks only that no inline tail crosses a
 * block.
 */
#include "erofs.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define INODES_OFFSET	1152	/* bytes from the start of the image */
#define ADDRESS_SIZE	4	/* bytes, of a chunk */
#define BLOCK_BITS	12
#define CHUNK_BITS_MAX	43	/* log2 of the largest chunk in bytes: 31 over that of a block */

static u64 round_up(u64 number, u64 unit)
{
	return (number + unit - 1) / unit * unit;
}

/* Count the blocks of a directory, and the directories in it. */
static void measure_directory(const struct cfs_erofs_tree *tree, const struct directory_record *directory)
{
	struct inode_record *inodes = tree->inodes, *inode = &inodes[directory->inode];
	struct dirent_cursor cursor = erofs_first_dirent(tree, directory);
	struct dirents block;
	size_t last = 0;

	inode->block_count = 0;
	while (erofs_next_block(&cursor, &block)) {
		inode->block_count++;
		last = block.size;
	}
	inode->tail_size = last <= TAIL_MAX ? last : 0;
	inode->block_count -= inode->tail_size > 0;
	inode->format = inode->tail_size ? LAYOUT_INLINE : LAYOUT_PLAIN;
	inode->size = (u64)inode->block_count * BLOCK_SIZE + inode->tail_size;
	inode->link_count = 2;
	for (u32 i = directory->first; i < directory->first + directory->count; i++)
		inode->link_count += S_ISDIR(inodes[tree->children[i]].mode);
}

/* Say how a regular file is stored whose content is elsewhere. */
static void shape_elsewhere(struct inode_record *inode, int epoch)
{
	u32 bits = inode->size > 1 ? 64 - __builtin_clzll(inode->size - 1) : 0;

	if (epoch == 2)
		bits = CHUNK_BITS_MAX;
	if (bits < BLOCK_BITS)
		bits = BLOCK_BITS;
	if (bits > CHUNK_BITS_MAX)
		bits = CHUNK_BITS_MAX;
	inode->format = LAYOUT_CHUNKED;
	inode->pointer = bits - BLOCK_BITS;
	if (epoch == 2)
		inode->tail_size = inode->storage == STORED_ELSEWHERE ? 0 : ADDRESS_SIZE;
	else	/* of huge files more than any block holds; the others are left out there */
		inode->tail_size = ((inode->size >> bits) + !!(inode->size & (((u64)1 << bits) - 1))) * ADDRESS_SIZE;
}

/* Say how the data of anything but a directory are stored. */
static void shape_inode(struct inode_record *inode, int epoch)
{
	if (S_ISLNK(inode->mode)) {
		inode->format = LAYOUT_INLINE;
		inode->tail_size = inode->payload_size;
	} else if (S_ISREG(inode->mode) && inode->storage != STORED_HERE) {
		shape_elsewhere(inode, epoch);
	} else if (epoch == 2) {
		inode->tail_size = inode->payload_size;
		inode->format = inode->tail_size ? LAYOUT_INLINE : LAYOUT_PLAIN;
	} else {
		inode->block_count = inode->payload_size / BLOCK_SIZE;
		inode->tail_size = inode->payload_size % BLOCK_SIZE;
		if (inode->tail_size > TAIL_MAX) {
			inode->block_count++;
			inode->tail_size = 0;
		}
		inode->format = inode->tail_size ? LAYOUT_INLINE : LAYOUT_PLAIN;
	}
}

/* Return: where an inode begins, at position or later, whose tail is start bytes behind that. */
static u64 fit_in_epoch1(struct inode_record *inode, u64 position, u64 start)
{
	u64 room, padding;

	if (S_ISLNK(inode->mode)) {
		/* It is whole in one block, also where the target then is not there. */
		if (position / BLOCK_SIZE != (position + start + inode->tail_size - 1) / BLOCK_SIZE)
			position = round_up(position, BLOCK_SIZE);
		if (start + inode->tail_size >= BLOCK_SIZE) {
			inode->format = LAYOUT_PLAIN;
			inode->tail_size = 0;
			inode->block_count = 1;
		}
		return position;
	}
	room = BLOCK_SIZE - (position + start) % BLOCK_SIZE;
	if (room >= inode->tail_size)
		return position;
	padding = round_up(room, SLOT_SIZE);
	if (inode->tail_size <= BLOCK_SIZE - (position + padding + start) % BLOCK_SIZE)
		return position + padding;
	/* Of many addresses of chunks, which then are a block. */
	inode->tail_size = 0;
	inode->block_count = 1;
	return round_up(position, BLOCK_SIZE);
}

static u64 fit_in_epoch2(struct inode_record *inode, u64 position, u64 start)
{
	u64 last = position + start - 1;

	if (inode->format != LAYOUT_INLINE)
		return position;
	if (last / BLOCK_SIZE != (last + 1 + inode->tail_size) / BLOCK_SIZE)
		position = round_up(position + BLOCK_SIZE - last % BLOCK_SIZE, SLOT_SIZE);
	return position;
}

/* Tell whether an inode is compact: it has the oldest mtime, and its other numbers are small. */
static bool is_compact(const struct inode_record *inode, const struct cfs_erofs_layout *layout)
{
	return inode->mtime == (u64)layout->oldest && inode->nanoseconds == layout->oldest_nanoseconds &&
	       (inode->uid | inode->gid | inode->link_count) >> 16 == 0 && inode->size >> 32 == 0;
}

/* Find the smallest mtime; without a sign, what is before 1970 comes after all else. */
static void find_oldest(const struct cfs_erofs_tree *tree, struct cfs_erofs_layout *layout)
{
	const struct inode_record *inodes = tree->inodes;
	u64 flip = layout->is_signed ? (u64)1 << 63 : 0;

	layout->oldest = inodes[0].mtime;
	layout->oldest_nanoseconds = inodes[0].nanoseconds;
	for (size_t i = 1; i < tree->inode_count; i++) {
		u64 mtime = inodes[i].mtime ^ flip, oldest = (u64)layout->oldest ^ flip;

		if (mtime < oldest || (mtime == oldest && inodes[i].nanoseconds < layout->oldest_nanoseconds)) {
			layout->oldest = inodes[i].mtime;
			layout->oldest_nanoseconds = inodes[i].nanoseconds;
		}
	}
}

static int place_inodes(const struct cfs_erofs_tree *tree, struct cfs_erofs_layout *layout)
{
	const struct area_record *areas = layout->areas;
	struct inode_record *inodes = tree->inodes;
	u64 position = INODES_OFFSET;

	for (size_t i = 0; i < tree->inode_count; i++) {
		u32 index = layout->order ? layout->order[i] : i;
		struct inode_record *inode;
		u64 start;

		if (index >= tree->inode_count || inodes[index].xattrs >= layout->area_count)
			return -EINVAL;
		inode = &inodes[index];
		if (layout->epoch == 2 || !is_compact(inode, layout))
			inode->format |= FORMAT_EXTENDED;
		start = erofs_header_size(inode) + (u64)areas[inode->xattrs].size;
		if (position % BLOCK_SIZE + start + inode->tail_size >= BLOCK_SIZE) {	/* else all is in one block */
			u16 extended = inode->format & FORMAT_EXTENDED;

			inode->format &= ~FORMAT_EXTENDED;
			position = layout->epoch == 1 ? fit_in_epoch1(inode, position, start)
						      : fit_in_epoch2(inode, position, start);
			inode->format |= extended;
		}
		inode->nid = position / SLOT_SIZE;
		inode->number = layout->epoch == 1 ? i : inode->nid;
		position = round_up(position + start + inode->tail_size, SLOT_SIZE);
		if (position / SLOT_SIZE > UINT32_MAX)
			return -EOVERFLOW;
	}
	layout->inodes_end = position;
	return 0;
}

static int place_blocks(const struct cfs_erofs_tree *tree, struct cfs_erofs_layout *layout)
{
	struct inode_record *inodes = tree->inodes;
	u64 block = round_up(layout->inodes_end + layout->shared_size, BLOCK_SIZE) / BLOCK_SIZE;

	for (size_t i = 0; i < tree->inode_count; i++) {
		struct inode_record *inode = &inodes[layout->order ? layout->order[i] : i];

		if (!inode->block_count)
			continue;
		inode->first_block = block;
		/* Where addresses of chunks have a block, the lower half of its number is lost. */
		if (inode->format & LAYOUT_CHUNKED)
			inode->pointer |= block & 0xffff0000;
		else
			inode->pointer = block;
		block += inode->block_count;
		if (block > UINT32_MAX)
			return -EOVERFLOW;
	}
	layout->block_count = block;
	return 0;
}

/*
 * Say of all inodes of a tree where they stand; the numbers of their xattrs are those of areas.
 * Return: 0; -EINVAL for numbers of nothing; -EOVERFLOW for what no image has room for.
 */
int cfs_erofs_place(const struct cfs_erofs_tree *tree, struct cfs_erofs_layout *layout)
{
	const struct directory_record *directories = tree->directories;
	struct inode_record *inodes = tree->inodes;
	int ret;

	if (!erofs_is_consistent(tree))
		return -EINVAL;
	for (size_t i = 0; i < tree->inode_count; i++) {
		inodes[i].format = inodes[i].tail_size = inodes[i].block_count = 0;
		if (!S_ISDIR(inodes[i].mode))
			shape_inode(&inodes[i], layout->epoch);
	}
	for (size_t i = 0; i < tree->directory_count; i++)
		measure_directory(tree, &directories[i]);
	layout->oldest = layout->oldest_nanoseconds = 0;
	if (layout->epoch == 1)
		find_oldest(tree, layout);
	ret = place_inodes(tree, layout);
	return ret < 0 ? ret : place_blocks(tree, layout);
}
