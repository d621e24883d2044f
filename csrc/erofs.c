/* Make the bytes of an EROFS image, once it is known what stands where. */
#include "erofs.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define XATTR_UNIT	4	/* bytes */

/* Source of these: the kernel's fs/erofs/erofs_fs.h. */
struct compact_inode {
	u16 i_format, i_xattr_icount, i_mode, i_nlink;
	u32 i_size, i_reserved, i_u, i_ino;
	u16 i_uid, i_gid;
	u32 i_reserved2;
};
_Static_assert(sizeof(struct compact_inode) == 32, "as in the kernel");

struct extended_inode {
	u16 i_format, i_xattr_icount, i_mode, i_reserved;
	u64 i_size;
	u32 i_u, i_ino, i_uid, i_gid;
	u64 i_mtime;
	u32 i_mtime_nsec, i_nlink;
	u8 i_reserved2[16];
};
_Static_assert(sizeof(struct extended_inode) == 64, "as in the kernel");

struct dirent {
	u64 nid;
	u16 nameoff;
	u8 file_type, reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct dirent) == 12, "as in the kernel");

static void put_header(u8 *place, const struct inode_record *inode, u16 xattr_count)
{
	struct extended_inode extended = {
		.i_format = htole16(inode->format),
		.i_xattr_icount = htole16(xattr_count),
		.i_mode = htole16(inode->mode),
		.i_size = htole64(inode->size),
		.i_u = htole32(inode->pointer),
		.i_ino = htole32(inode->number),
		.i_uid = htole32(inode->uid),
		.i_gid = htole32(inode->gid),
		.i_mtime = htole64(inode->mtime),
		.i_mtime_nsec = htole32(inode->nanoseconds),
		.i_nlink = htole32(inode->link_count),
	};
	struct compact_inode compact = {
		.i_format = htole16(inode->format),
		.i_xattr_icount = htole16(xattr_count),
		.i_mode = htole16(inode->mode),
		.i_nlink = htole16(inode->link_count),
		.i_size = htole32(inode->size),
		.i_u = htole32(inode->pointer),
		.i_ino = htole32(inode->number),
		.i_uid = htole16(inode->uid),
		.i_gid = htole16(inode->gid),
	};

	if (inode->format & FORMAT_EXTENDED)
		memcpy(place, &extended, sizeof(extended));
	else
		memcpy(place, &compact, sizeof(compact));
}

/* Put the path that an object has below the object directory: two digits, a slash, the others. */
static void put_path(u8 *place, const u8 *digest, size_t size)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		*place++ = digits[digest[i] >> 4];
		*place++ = digits[digest[i] & 15];
		if (i == 0)
			*place++ = '/';
	}
}

/* Tell whether all that an inode consists of has its place in the image, and in what it is made of. */
static bool has_places(const struct cfs_erofs_layout *layout, const struct inode_record *inode,
		       const struct area_record *area)
{
	u64 offset = (u64)inode->nid * SLOT_SIZE, size = erofs_header_size(inode) + (u64)area->size + inode->tail_size;
	u64 blocks_end = ((u64)inode->first_block + inode->block_count) * BLOCK_SIZE;
	u64 path_size = 2 * (u64)inode->payload_size + 1;

	if (offset > layout->image_size || size > layout->image_size - offset)
		return false;
	if (inode->block_count && blocks_end > layout->image_size)
		return false;
	if (area->offset > layout->area_data_size || area->size > layout->area_data_size - area->offset)
		return false;
	return !area->digest_offset || ((u64)area->digest_offset + inode->payload_size <= area->size &&
					area->path_offset + path_size <= area->size);
}

/* Put header and xattrs of an inode into the image.  Return: the place of its tail. */
static u8 *put_inode(u8 *image, const struct inode_record *inode, const struct area_record *area, const u8 *xattrs,
		     const u8 *payload)
{
	u8 *place = image + (u64)inode->nid * SLOT_SIZE;

	/* The first twelve bytes of the xattrs, their header, count as one unit. */
	put_header(place, inode, area->size ? (area->size - 12) / XATTR_UNIT + 1 : 0);
	place += erofs_header_size(inode);
	memcpy(place, xattrs, area->size);
	if (area->digest_offset) {
		memcpy(place + area->digest_offset, payload, inode->payload_size);
		put_path(place + area->path_offset, payload, inode->payload_size);
	}
	return place + area->size;
}

/* Put the data of all but directories.  Return: false if they have no place. */
static bool put_data(u8 *image, u8 *tail, const struct inode_record *inode, const u8 *payload)
{
	u8 *blocks = image + (u64)inode->first_block * BLOCK_SIZE;
	u64 in_blocks = inode->payload_size - (u64)inode->tail_size;

	if (inode->format & LAYOUT_CHUNKED) {	/* addresses of chunks that are elsewhere */
		memset(tail, 0xff, inode->tail_size);
		memset(blocks, 0xff, (u64)inode->block_count * BLOCK_SIZE);
		return true;
	}
	if (inode->tail_size > inode->payload_size || in_blocks > (u64)inode->block_count * BLOCK_SIZE)
		return false;
	memcpy(blocks, payload, in_blocks);
	memcpy(tail, payload + in_blocks, inode->tail_size);
	return true;
}

static u8 file_type(u16 mode)
{
	/* By the bits of the mode: those of fs/erofs/erofs_fs.h are those of the kernel's fs_types.h. */
	static const u8 types[] = { [1] = 5, [2] = 3, [4] = 2, [6] = 4, [8] = 1, [10] = 7, [12] = 6, [15] = 0 };

	return types[mode >> 12];
}

static void put_dirents(u8 *place, const struct inode_record *inodes, const struct dirents *block)
{
	size_t name_offset = block->count * sizeof(struct dirent);

	for (size_t i = 0; i < block->count; i++) {
		const struct inode_record *inode = &inodes[block->entries[i].inode];
		struct dirent dirent = {
			.nid = htole64(inode->nid),
			.nameoff = htole16(name_offset),
			.file_type = file_type(inode->mode),
		};

		memcpy(place + i * sizeof(dirent), &dirent, sizeof(dirent));
		memcpy(place + name_offset, block->entries[i].name, block->entries[i].name_size);
		name_offset += block->entries[i].name_size;
	}
}

/* Put the entries of a directory.  Return: false if they have no place. */
static bool put_directory(u8 *image, const struct cfs_erofs_tree *tree, const struct cfs_erofs_layout *layout,
			  const struct directory_record *directory)
{
	const struct inode_record *inodes = tree->inodes, *inode = &inodes[directory->inode];
	const struct area_record *areas = layout->areas;
	u8 *place = image + (u64)inode->first_block * BLOCK_SIZE;
	struct dirent_cursor cursor = erofs_first_dirent(tree, directory);
	struct dirents block;

	for (u32 number = 0; erofs_next_block(&cursor, &block); number++) {
		if (number < inode->block_count) {
			put_dirents(place + (u64)number * BLOCK_SIZE, inodes, &block);
		} else {
			if (number > inode->block_count || block.size != inode->tail_size)
				return false;
			put_dirents(image + (u64)inode->nid * SLOT_SIZE + erofs_header_size(inode) +
				    areas[inode->xattrs].size, inodes, &block);
		}
	}
	return true;
}

/*
 * Put all inodes of a tree, and their data, into an image of zeros.
 * Return: 0, or -EINVAL if anything would be outside of where it should be.
 */
int cfs_erofs_pack(const struct cfs_erofs_tree *tree, const struct cfs_erofs_layout *layout)
{
	const struct directory_record *directories = tree->directories;
	const struct inode_record *inodes = tree->inodes;
	const struct area_record *areas = layout->areas;
	const u8 *payload = tree->payloads;
	u8 *image = layout->image;

	if (!erofs_is_consistent(tree))
		return -EINVAL;
	for (size_t i = 0; i < tree->inode_count; i++) {
		const struct inode_record *inode = &inodes[i];
		const struct area_record *area;
		u8 *tail;

		if (inode->xattrs >= layout->area_count)
			return -EINVAL;
		area = &areas[inode->xattrs];
		if (!has_places(layout, inode, area))
			return -EINVAL;
		tail = put_inode(image, inode, area, (const u8 *)layout->area_data + area->offset, payload);
		if (!S_ISDIR(inode->mode) && !put_data(image, tail, inode, payload))
			return -EINVAL;
		payload += inode->payload_size;
	}
	for (size_t i = 0; i < tree->directory_count; i++) {
		if (!put_directory(image, tree, layout, &directories[i]))
			return -EINVAL;
	}
	return 0;
}
