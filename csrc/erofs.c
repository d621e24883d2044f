/* What the EROFS writer does for every inode, once Python has decided what stands where. */
#include "cfs.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define SLOT_SIZE	32	/* bytes; nids count them */
#define FORMAT_EXTENDED	1	/* of i_format */
#define FORMAT_CHUNKED	8
#define XATTR_UNIT	4	/* bytes */

/* What an inode is, and where; composefs/erofs/inodes.py packs it. */
struct inode_record {
	u64 size;
	u64 mtime;
	u32 nanoseconds, uid, gid, link_count;
	u32 payload_size;	/* of the digest of its object, or else of data that end in its tail */
	u16 mode;
	u16 format;
	u32 nid, number, pointer;
	u32 area;		/* index */
	u32 tail_size;		/* of what stands behind the xattrs */
	u32 unused;
};
_Static_assert(sizeof(struct inode_record) == 64, "as in inodes.py");

/* The xattrs of all inodes that have the same ones; composefs/erofs/areas.py packs it. */
struct area_record {
	u64 offset;		/* in the data of all areas */
	u32 size;
	u32 digest_offset;	/* from its start, where each inode has the digest of its object; 0: nowhere */
	u32 path_offset;	/* and the path of that object */
	u32 unused;
};
_Static_assert(sizeof(struct area_record) == 24, "as in areas.py");

/* Source of the two: the kernel's fs/erofs/erofs_fs.h. */
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

static size_t header_size(const struct inode_record *inode)
{
	return inode->format & FORMAT_EXTENDED ? sizeof(struct extended_inode) : sizeof(struct compact_inode);
}

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

/* Tell whether all that inode consists of has its place in what it is made of. */
static bool is_consistent(const struct inode_record *inode, const struct area_record *area, size_t area_data_size)
{
	u64 path_size = 2 * (u64)inode->payload_size + 1;

	if (area->offset > area_data_size || area->size > area_data_size - area->offset)
		return false;
	if (area->digest_offset && ((u64)area->digest_offset + inode->payload_size > area->size ||
				    area->path_offset + path_size > area->size))
		return false;
	return inode->format & FORMAT_CHUNKED || inode->tail_size <= inode->payload_size;
}

static void put_inode(u8 *place, const struct inode_record *inode, const struct area_record *area, const u8 *xattrs,
		      const u8 *payload)
{
	/* The first twelve bytes of the xattrs, their header, count as one unit. */
	put_header(place, inode, area->size ? (area->size - 12) / XATTR_UNIT + 1 : 0);
	place += header_size(inode);
	memcpy(place, xattrs, area->size);
	if (area->digest_offset) {
		memcpy(place + area->digest_offset, payload, inode->payload_size);
		put_path(place + area->path_offset, payload, inode->payload_size);
	}
	place += area->size;
	if (inode->format & FORMAT_CHUNKED)
		memset(place, 0xff, inode->tail_size);	/* addresses of chunks that are elsewhere */
	else
		memcpy(place, payload + inode->payload_size - inode->tail_size, inode->tail_size);
}

/*
 * Put inodes, of which these are the records, into an image: headers, xattrs and
 * tails.  The payloads follow each other in the order of the records.
 * Return: 0, or -EINVAL if anything would be outside of where it should be.
 */
int cfs_erofs_pack_inodes(void *image, size_t image_size, const void *inodes, size_t inodes_size,
			  const void *areas, size_t areas_size, const void *area_data, size_t area_data_size,
			  const void *payloads, size_t payloads_size)
{
	const u8 *payload = payloads, *end = payload + payloads_size;

	for (size_t i = 0; i < inodes_size / sizeof(struct inode_record); i++) {
		struct inode_record inode;
		struct area_record area;
		u64 offset, size;

		memcpy(&inode, (const u8 *)inodes + i * sizeof(inode), sizeof(inode));
		if (inode.area >= areas_size / sizeof(area) || inode.payload_size > (size_t)(end - payload))
			return -EINVAL;
		memcpy(&area, (const u8 *)areas + inode.area * sizeof(area), sizeof(area));
		offset = (u64)inode.nid * SLOT_SIZE;
		size = header_size(&inode) + (u64)area.size + inode.tail_size;
		if (offset > image_size || size > image_size - offset || !is_consistent(&inode, &area, area_data_size))
			return -EINVAL;
		put_inode((u8 *)image + offset, &inode, &area, (const u8 *)area_data + area.offset, payload);
		payload += inode.payload_size;
	}
	return 0;
}
