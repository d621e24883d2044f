/* Make the inodes of an image of what layers came to, if there is nothing special about them. */
#include "erofs.h"
#include "merge.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define PERMISSIONS	07777
#define DATA_MAX	(BLOCK_SIZE - 1)	/* bytes of a file; what layers have inline is much less */

static bool is_whiteout(const struct merged_node *node)
{
	return node->kind == ENTRY_CHARACTER_DEVICE && node->number == 0;
}

/* Tell whether an image can hold a node. */
static bool is_plain(const struct merged_node *node)
{
	switch (node->kind) {
	case ENTRY_OBJECT:
		return true;
	case ENTRY_SYMLINK:
		return node->value_size < PATH_MAX;
	default:
		return node->value_size <= DATA_MAX && node->number <= UINT32_MAX;
	}
}

/* Tell whether files can have the names. */
static bool are_plain_names(const struct cfs_merged *merged)
{
	u32 start = 0;

	for (size_t i = 0; i < merged->dirent_count; i++) {
		u32 size = merged->name_ends[i] - start;

		if (size == 0 || size > NAME_MAX)
			return false;
		start = merged->name_ends[i];
	}
	return start == 0 || !memchr(merged->names, '\0', start);
}

static struct inode_record inode_of(const struct merged_node *node, const struct index_stat *stat, int epoch)
{
	bool is_object = node->kind == ENTRY_OBJECT;

	return (struct inode_record){
		.size = is_object ? node->number : node->value_size,
		.mtime = le64toh(stat->mtime),
		.nanoseconds = epoch == 2 ? 0 : le32toh(stat->nanoseconds),
		.uid = le32toh(stat->uid),
		.gid = le32toh(stat->gid),
		.link_count = node->link_count,
		.payload_size = node->value_size,
		.home = node->home,
		.pointer = is_object ? 0 : node->number,
		.mode = file_type(node->kind) | (le32toh(stat->mode) & PERMISSIONS),
		.storage = is_object ? STORED_OBJECT : STORED_HERE,
	};
}

/*
 * Make the records of inodes.  sets: the numbers of sets of xattrs in the image, by those of the list.  whiteout_count:
 * of character devices 0, 0 that are to stand there as they are.
 * Return: 0; 1 if there are more of those, or anything else that Python has to see to; -EINVAL for numbers of nothing.
 */
int cfs_erofs_inodes(const struct cfs_merged *merged, const uint32_t *sets, size_t set_count, int epoch,
		     size_t whiteout_count, void *inodes)
{
	const struct index_stat *stats = merged->stats;
	const struct merged_node *nodes = merged->nodes;
	struct inode_record *records = inodes;

	if (!are_plain_names(merged))
		return 1;
	for (size_t i = 0; i < merged->node_count; i++) {
		const struct merged_node *node = &nodes[i];
		u32 xattrs = merged->xattrs[node->stat];

		if (xattrs >= set_count)
			return -EINVAL;
		if (!is_plain(node) || (is_whiteout(node) && whiteout_count-- == 0))
			return 1;
		records[i] = inode_of(node, &stats[node->stat], epoch);
		records[i].xattrs = sets[xattrs];
	}
	return 0;
}
