/* Trees as the EROFS writer has them: are they what they should be, in which order are inodes, what is in a directory. */
#include "erofs.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define DIRENT_SIZE	12	/* bytes, without the name */
#define NO_DIRECTORY	UINT32_MAX

/* Tell whether all numbers in a tree are those of something. */
bool erofs_is_consistent(const struct cfs_erofs_tree *tree)
{
	const struct directory_record *directories = tree->directories;
	const struct inode_record *inodes = tree->inodes;
	u64 first = 0, names_size = 0, payloads_size = 0;

	if (tree->inode_count == 0 || tree->inode_count >= UINT32_MAX || tree->dirent_count >= UINT32_MAX)
		return false;
	for (size_t i = 0; i < tree->directory_count; i++) {
		if (directories[i].inode >= tree->inode_count || directories[i].parent >= tree->inode_count ||
		    directories[i].first != first)
			return false;
		first += directories[i].count;
	}
	for (size_t i = 0; i < tree->dirent_count; i++) {
		if (tree->name_ends[i] <= names_size || tree->name_ends[i] - names_size > NAME_MAX ||
		    tree->children[i] >= tree->inode_count)
			return false;
		names_size = tree->name_ends[i];
	}
	for (size_t i = 0; i < tree->inode_count; i++)
		payloads_size += inodes[i].payload_size;
	return first == tree->dirent_count && names_size == tree->names_size && payloads_size == tree->payloads_size;
}

/* Return: where the name of a dirent begins. */
static u32 name_start(const struct cfs_erofs_tree *tree, u32 dirent)
{
	return dirent ? tree->name_ends[dirent - 1] : 0;
}

static u32 name_size(const struct cfs_erofs_tree *tree, u32 dirent)
{
	return tree->name_ends[dirent] - name_start(tree, dirent);
}

/* Return: the place before the first entry of a directory. */
struct dirent_cursor erofs_first_dirent(const struct cfs_erofs_tree *tree, const struct directory_record *directory)
{
	return (struct dirent_cursor){
		.tree = tree,
		.directory = directory,
		.next = directory->first,
		.end = directory->first + directory->count,
	};
}

/* Tell whether . or .., whichever is due, comes before the next name. */
static bool dots_are_next(const struct dirent_cursor *cursor)
{
	size_t dots = cursor->dots + 1, size, common;
	int order;

	if (cursor->dots == 2 || cursor->next == cursor->end)
		return cursor->dots < 2;
	size = name_size(cursor->tree, cursor->next);
	common = size < dots ? size : dots;
	order = memcmp("..", cursor->tree->names + name_start(cursor->tree, cursor->next), common);
	return order < 0 || (order == 0 && dots < size);
}

/* Take the next entries that fit into a block, by name.  Return: false at the end of the directory. */
bool erofs_next_block(struct dirent_cursor *cursor, struct dirents *block)
{
	block->count = block->size = 0;
	while (cursor->next < cursor->end || cursor->dots < 2) {
		bool are_dots = dots_are_next(cursor);
		u32 size = are_dots ? cursor->dots + 1 : name_size(cursor->tree, cursor->next);

		if (block->size + DIRENT_SIZE + size > BLOCK_SIZE || block->count == ARRAY_SIZE(block->entries))
			break;
		block->size += DIRENT_SIZE + size;
		block->entries[block->count].name_size = size;
		if (are_dots) {
			block->entries[block->count].name = "..";
			block->entries[block->count].inode =
				cursor->dots ? cursor->directory->parent : cursor->directory->inode;
			cursor->dots++;
		} else {
			block->entries[block->count].name =
				cursor->tree->names + name_start(cursor->tree, cursor->next);
			block->entries[block->count].inode = cursor->tree->children[cursor->next++];
		}
		block->count++;
	}
	return block->count > 0;
}

/*
 * Put the inodes of a tree in the order of epoch 1: breadth first, each where its home is.
 * Return: 0, -EINVAL if any is not in its home, or -ENOMEM.
 */
int cfs_erofs_order(const struct cfs_erofs_tree *tree, uint32_t *order)
{
	const struct directory_record *directories = tree->directories;
	const struct inode_record *inodes = tree->inodes;
	u32 *numbers;		/* of directories, by inode */
	size_t count = 0;
	int ret = -EINVAL;

	if (!erofs_is_consistent(tree))
		return -EINVAL;
	numbers = malloc(tree->inode_count * sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	memset(numbers, 0xff, tree->inode_count * sizeof(*numbers));	/* NO_DIRECTORY */
	for (size_t i = 0; i < tree->directory_count; i++)
		numbers[directories[i].inode] = i;
	order[count++] = 0;
	for (size_t i = 0; i < count; i++) {
		const struct directory_record *directory;

		if (numbers[order[i]] == NO_DIRECTORY)
			continue;
		directory = &directories[numbers[order[i]]];
		for (u32 dirent = directory->first; dirent < directory->first + directory->count; dirent++) {
			u32 child = tree->children[dirent];

			if (inodes[child].home != dirent)
				continue;
			if (count == tree->inode_count)	/* a root below itself */
				goto out;
			order[count++] = child;
		}
	}
	ret = count == tree->inode_count ? 0 : -EINVAL;
out:
	free(numbers);
	return ret;
}
