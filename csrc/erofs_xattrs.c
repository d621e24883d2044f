/* Which inodes have the same xattrs in an EROFS image. */
#include "erofs.h"
#include "table_hash.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define NOTHING	UINT32_MAX

/* What inodes of a group have in common, and tables in which their first ones are found. */
struct grouping {
	const struct cfs_erofs_tree *tree;
	const u64 *payloads;	/* their offsets, by inode */
	u64 seed;
	size_t mask;		/* of a table */
	u32 *table;
	u8 *is_repeated;	/* by inode: an object, whose digest another one has, too */
};

static const u8 *payload_of(const struct grouping *grouping, u32 inode)
{
	return (const u8 *)grouping->tree->payloads + grouping->payloads[inode];
}

static bool have_same_object(const struct grouping *grouping, u32 a, u32 b)
{
	const struct inode_record *inodes = grouping->tree->inodes;

	return inodes[a].payload_size == inodes[b].payload_size &&
	       memcmp(payload_of(grouping, a), payload_of(grouping, b), inodes[a].payload_size) == 0;
}

static bool is_object(const struct inode_record *inode)
{
	return inode->storage == STORED_OBJECT;
}

/* Find out which objects occur more than once. */
static void find_repeated(struct grouping *grouping)
{
	const struct inode_record *inodes = grouping->tree->inodes;

	for (u32 i = 0; i < grouping->tree->inode_count; i++) {
		size_t slot;

		if (!is_object(&inodes[i]))
			continue;
		slot = hash_bytes(grouping->seed, payload_of(grouping, i), inodes[i].payload_size) & grouping->mask;
		while (grouping->table[slot] != NOTHING && !have_same_object(grouping, grouping->table[slot], i))
			slot = (slot + 1) & grouping->mask;
		if (grouping->table[slot] == NOTHING)
			grouping->table[slot] = i;
		else
			grouping->is_repeated[i] = grouping->is_repeated[grouping->table[slot]] = true;
	}
}

/* Tell whether an inode belongs to a group. */
static bool is_in_group(const struct grouping *grouping, u32 i, const struct cfs_erofs_group *group)
{
	const struct inode_record *inodes = grouping->tree->inodes;
	u32 first = group->first;

	if (inodes[i].xattrs != group->xattrs || is_object(&inodes[i]) != is_object(&inodes[first]) ||
	    grouping->is_repeated[i] != grouping->is_repeated[first])
		return false;
	if (grouping->is_repeated[i])
		return have_same_object(grouping, i, first);
	return !is_object(&inodes[i]) || inodes[i].payload_size == inodes[first].payload_size;
}

static u64 hash_inode(const struct grouping *grouping, u32 i)
{
	const struct inode_record *inode = (const struct inode_record *)grouping->tree->inodes + i;
	u32 key[] = { inode->xattrs, is_object(inode), is_object(inode) ? inode->payload_size : 0 };
	u64 hash = hash_bytes(grouping->seed, key, sizeof(key));

	return grouping->is_repeated[i] ? hash_bytes(hash, payload_of(grouping, i), inode->payload_size) : hash;
}

/* Give each inode the number of its group.  Return: how many groups there are. */
static size_t find_groups(struct grouping *grouping, struct cfs_erofs_group *groups)
{
	struct inode_record *inodes = grouping->tree->inodes;
	size_t count = 0;

	for (u32 i = 0; i < grouping->tree->inode_count; i++) {
		size_t slot = hash_inode(grouping, i) & grouping->mask;

		while (grouping->table[slot] != NOTHING && !is_in_group(grouping, i, &groups[grouping->table[slot]]))
			slot = (slot + 1) & grouping->mask;
		if (grouping->table[slot] == NOTHING) {
			grouping->table[slot] = count;
			groups[count++] = (struct cfs_erofs_group){
				.first = i,
				.xattrs = inodes[i].xattrs,
				.is_repeated = grouping->is_repeated[i],
				.payload_offset = grouping->payloads[i],
			};
		}
		inodes[i].xattrs = grouping->table[slot];
		groups[inodes[i].xattrs].count++;
	}
	return count;
}

/*
 * Group the inodes of a tree: those of a group have the same set of xattrs, and are all no objects, or objects that have
 * digests of one size, each its own, or the same object, which occurs more than once.  The number of the group takes the
 * place of that of the set.
 * Return: the number of groups, of which there is room for as many as there are inodes; or -EINVAL, -ENOMEM.
 */
int64_t cfs_erofs_group(const struct cfs_erofs_tree *tree, struct cfs_erofs_group *groups)
{
	const struct inode_record *inodes = tree->inodes;
	struct grouping grouping = { .tree = tree, .mask = 1 };
	u64 *payloads, offset = 0;
	int64_t ret = -ENOMEM;

	if (!erofs_is_consistent(tree))
		return -EINVAL;
	if (getrandom(&grouping.seed, sizeof(grouping.seed), GRND_NONBLOCK) < 0)
		grouping.seed = (uintptr_t)&grouping;	/* so early after boot, nobody has chosen any digests */
	while (grouping.mask < 2 * tree->inode_count)
		grouping.mask = 2 * grouping.mask + 1;
	payloads = malloc(tree->inode_count * sizeof(*payloads));
	grouping.payloads = payloads;
	grouping.table = malloc((grouping.mask + 1) * sizeof(*grouping.table));
	grouping.is_repeated = calloc(tree->inode_count, 1);
	if (!payloads || !grouping.table || !grouping.is_repeated)
		goto out;
	for (size_t i = 0; i < tree->inode_count; i++) {
		payloads[i] = offset;
		offset += inodes[i].payload_size;
	}
	memset(grouping.table, 0xff, (grouping.mask + 1) * sizeof(*grouping.table));	/* NOTHING */
	find_repeated(&grouping);
	memset(grouping.table, 0xff, (grouping.mask + 1) * sizeof(*grouping.table));
	ret = find_groups(&grouping, groups);
out:
	free(payloads);
	free(grouping.table);
	free(grouping.is_repeated);
	return ret;
}
