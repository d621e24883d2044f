/* What merging layers and listing the outcome share. */
#ifndef MERGE_H
#define MERGE_H

#include "index.h"

#include <sys/stat.h>

#define NOTHING		UINT32_MAX	/* instead of a number */
#define ROOT_NODE	0

/* An array that grows. */
struct buffer {
	void *data;
	size_t size, capacity;	/* bytes */
};

/* A directory or leaf.  A leaf with several names is one node. */
struct node {
	u64 number;		/* as in an index_row */
	u64 value;		/* offset in the values */
	u32 value_size;
	u32 stat;		/* number */
	u32 table;		/* of a directory: that of its entries */
	u8 kind;		/* enum entry_kind, but only what is in a tree */
};

/* What stands under a name.  A directory that is emptied gets a new table, so that the old entries are nowhere. */
struct entry {
	u32 table;
	u32 node;		/* NOTHING: it was removed */
	u32 hash;
	u32 name, name_size;	/* offset in the names */
};

/* A node in a list, in the order in which they come first; composefs/oci/merge.py unpacks it. */
struct merged_node {
	u64 number;
	u32 value_size;
	u32 stat;
	u32 link_count;		/* names */
	u32 home;		/* the number of the dirent where it comes first */
	u8 kind;
	u8 unused[7];
};
_Static_assert(sizeof(struct merged_node) == 32, "as in merge.py");

struct cfs_merger {
	u64 seed;
	struct buffer nodes, entries, names, values;
	struct buffer stats;	/* struct index_stat */
	struct buffer xattrs;	/* numbers of sets, by number of the stat */
	u32 *slots;		/* entries, by hash */
	size_t mask;
	u32 table_count;
};

static inline struct node *merge_nodes(const struct cfs_merger *merger)
{
	return merger->nodes.data;
}

static inline struct entry *merge_entries(const struct cfs_merger *merger)
{
	return merger->entries.data;
}

static inline size_t merge_entry_count(const struct cfs_merger *merger)
{
	return merger->entries.size / sizeof(struct entry);
}

/* Return: the S_IF* of a node, 0 for what is in no tree. */
static inline u16 file_type(u8 kind)
{
	static const u16 types[] = {
		[ENTRY_OBJECT] = S_IFREG,
		[ENTRY_INLINE] = S_IFREG,
		[ENTRY_DIRECTORY] = S_IFDIR,
		[ENTRY_SYMLINK] = S_IFLNK,
		[ENTRY_CHARACTER_DEVICE] = S_IFCHR,
		[ENTRY_BLOCK_DEVICE] = S_IFBLK,
		[ENTRY_FIFO] = S_IFIFO,
	};

	return kind < ARRAY_SIZE(types) ? types[kind] : 0;
}

#endif
