/* The index of a layer: what composefs/oci/index.py says of it, as C reads and writes it. */
#ifndef INDEX_H
#define INDEX_H

#include "cfs.h"

/* What becomes of the name of an entry: enum Kind of index.py. */
enum entry_kind {
	ENTRY_OBJECT = 0,
	ENTRY_INLINE = 1,
	ENTRY_DIRECTORY = 2,
	ENTRY_SYMLINK = 3,
	ENTRY_CHARACTER_DEVICE = 4,
	ENTRY_BLOCK_DEVICE = 5,
	ENTRY_FIFO = 6,
	ENTRY_HARD_LINK = 7,
	ENTRY_ROOT = 8,
	ENTRY_WHITEOUT = 9,
	ENTRY_OPAQUE = 10,
	ENTRY_TARGET = 11,
	ENTRY_REFUSED = 12,
};

/* An entry of a batch; numbers are as the CPU has them. */
struct index_row {
	u64 number;		/* bytes of an object, or number of a device */
	u64 offset;		/* of the entry, in the archive */
	u32 value_end;		/* in the values of the batch; it begins where that of the row before ends */
	u16 directory;		/* number of the one that it is in */
	u16 stat;		/* number */
	u8 kind;
	u8 unused[7];		/* zero */
};
_Static_assert(sizeof(struct index_row) == 32, "as in index.py");

/* What an entry has of metadata; little-endian, packed. */
struct index_stat {
	u32 mode, uid, gid;
	u64 mtime;
	u32 nanoseconds;
} __attribute__((packed));
_Static_assert(sizeof(struct index_stat) == 24, "as in index.py");

#endif
