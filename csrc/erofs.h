/* What the steps of writing an EROFS image share. */
#ifndef EROFS_H
#define EROFS_H

#include "cfs.h"

#include <sys/types.h>

#define BLOCK_SIZE	4096	/* bytes */
#define SLOT_SIZE	32	/* bytes; nids count them */
#define TAIL_MAX	(BLOCK_SIZE / 2)	/* bytes of data that follow the inode, in epoch 1 and in directories */

/* i_format; source of these: the kernel's fs/erofs/erofs_fs.h. */
#define FORMAT_EXTENDED	1
#define LAYOUT_PLAIN	0
#define LAYOUT_INLINE	4
#define LAYOUT_CHUNKED	8

/* Where the content of a regular file is. */
enum storage {
	STORED_HERE = 0,	/* in the payload; so are targets of links */
	STORED_OBJECT = 1,	/* in the object whose digest is the payload */
	STORED_DIGESTED = 2,	/* elsewhere, and xattrs of its own tell the digest */
	STORED_ELSEWHERE = 3,
};

/* What an inode is; composefs/erofs/inodes.py packs it.  And where: the layout says that. */
struct inode_record {
	u64 size;
	u64 mtime;
	u32 nanoseconds, uid, gid, link_count;
	u32 payload_size;
	u32 xattrs;		/* number of the set; of the area, once that is known */
	u32 home;		/* number of the dirent where epoch 1 counts it */
	u32 pointer;		/* i_u: of a device its number; of others for the layout to set */
	u16 mode;
	u8 storage;
	u8 unused[3];
	u16 format;		/* from here on zero, before the layout is made */
	u32 nid, number;
	u32 tail_size;		/* of what stands behind the xattrs */
	u32 block_count, first_block;
};
_Static_assert(sizeof(struct inode_record) == 80, "as in inodes.py");

/* A directory; its dirents follow each other, those of all directories likewise, and . and .. are not among them. */
struct directory_record {
	u32 inode, parent;
	u32 first, count;	/* dirents */
};
_Static_assert(sizeof(struct directory_record) == 16, "as in inodes.py");

/* The xattrs of all inodes that have the same ones; composefs/erofs/areas.py packs it. */
struct area_record {
	u64 offset;		/* in the data of all areas */
	u32 size;
	u32 digest_offset;	/* from its start, where each inode has the digest of its object; 0: nowhere */
	u32 path_offset;	/* and the path of that object */
	u32 unused;
};
_Static_assert(sizeof(struct area_record) == 24, "as in areas.py");

/* Of the entries of a directory, . and .. included, those that share a block. */
struct dirents {
	size_t count;
	size_t size;		/* bytes of the block that they take */
	struct {
		u32 inode;
		u32 name_size;
		const char *name;
	} entries[BLOCK_SIZE / 13 + 1];	/* an entry takes 12 bytes and a name */
};

/* A place in a directory. */
struct dirent_cursor {
	const struct cfs_erofs_tree *tree;
	const struct directory_record *directory;
	u32 next, end;		/* dirents */
	u32 dots;		/* how many of . and .. are behind the cursor */
};

/* erofs_tree.c */
bool erofs_is_consistent(const struct cfs_erofs_tree *tree);
struct dirent_cursor erofs_first_dirent(const struct cfs_erofs_tree *tree, const struct directory_record *directory);
bool erofs_next_block(struct dirent_cursor *cursor, struct dirents *block);

static inline size_t erofs_header_size(const struct inode_record *inode)
{
	return inode->format & FORMAT_EXTENDED ? 64 : 32;	/* bytes */
}

#endif
