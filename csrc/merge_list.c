/* List a merged tree: depth first and by name. */
#include "erofs.h"
#include "merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An entry, to be sorted. */
struct child {
	const char *name;
	u32 name_size;
	u32 node;
};

/* A directory whose entries are being listed. */
struct level {
	u32 next, end;		/* children */
	u32 dirent;		/* the number of the next one */
	u32 inode;
};

struct lister {
	const struct cfs_merger *merger;
	struct cfs_merged *merged;
	struct child *children;	/* those of a table follow each other, by name */
	u32 *starts;		/* of the tables, in the children */
	u32 *numbers;		/* of the nodes in the list; NOTHING: it is not there yet */
	struct level *levels;	/* from the root down */
	size_t depth;
};

static int compare_children(const void *a, const void *b)
{
	const struct child *first = a, *second = b;
	size_t common = first->name_size < second->name_size ? first->name_size : second->name_size;
	int order = memcmp(first->name, second->name, common);

	return order ? order : (first->name_size > second->name_size) - (first->name_size < second->name_size);
}

/* Put the entries of each table by name. */
static void sort_entries(struct lister *lister)
{
	const struct cfs_merger *merger = lister->merger;
	const struct entry *entries = merge_entries(merger);
	u32 *starts = lister->starts, *ends = starts + 1;
	size_t count = merge_entry_count(merger);

	/* ends[table] counts, then is where the table begins, and then where it ends. */
	for (size_t i = 0; i < count; i++)
		ends[entries[i].table + 1] += entries[i].node != NOTHING;
	for (u32 table = 0; table < merger->table_count; table++)
		ends[table + 1] += ends[table];
	for (size_t i = 0; i < count; i++) {
		if (entries[i].node != NOTHING)
			lister->children[ends[entries[i].table]++] = (struct child){
				.name = (const char *)merger->names.data + entries[i].name,
				.name_size = entries[i].name_size,
				.node = entries[i].node,
			};
	}
	for (u32 table = 0; table < merger->table_count; table++)
		qsort(lister->children + starts[table], starts[table + 1] - starts[table], sizeof(struct child),
		      compare_children);
}

/* Add a node to the list, where it comes first. */
static u32 add_node(struct lister *lister, u32 number, u32 dirent)
{
	const struct node *node = &merge_nodes(lister->merger)[number];
	struct cfs_merged *merged = lister->merged;
	struct merged_node *listed = (struct merged_node *)merged->nodes + merged->node_count;

	*listed = (struct merged_node){
		.number = node->number,
		.value_size = node->value_size,
		.stat = node->stat,
		.home = dirent,
		.kind = node->kind,
	};
	if (node->value_size)
		memcpy(merged->values + merged->values_size, (const char *)lister->merger->values.data + node->value,
		       node->value_size);
	merged->values_size += node->value_size;
	lister->numbers[number] = merged->node_count;
	return merged->node_count++;
}

/* Begin with a directory. */
static void enter(struct lister *lister, u32 node, u32 number, u32 parent)
{
	u32 table = merge_nodes(lister->merger)[node].table;
	u32 start = lister->starts[table], end = lister->starts[table + 1];
	struct cfs_merged *merged = lister->merged;
	struct directory_record *directories = merged->directories;

	directories[merged->directory_count++] = (struct directory_record){
		.inode = number,
		.parent = parent,
		.first = merged->dirent_count,
		.count = end - start,
	};
	lister->levels[lister->depth++] = (struct level){
		.next = start,
		.end = end,
		.dirent = merged->dirent_count,
		.inode = number,
	};
	for (u32 i = start; i < end; i++) {
		const struct child *child = &lister->children[i];

		memcpy(merged->names + merged->names_size, child->name, child->name_size);
		merged->names_size += child->name_size;
		merged->name_ends[merged->dirent_count++] = merged->names_size;
	}
}

static void list(struct lister *lister)
{
	struct merged_node *nodes = lister->merged->nodes;

	nodes[add_node(lister, ROOT_NODE, 0)].link_count = 1;
	enter(lister, ROOT_NODE, 0, 0);
	while (lister->depth) {
		struct level *level = &lister->levels[lister->depth - 1];
		u32 node, number, parent = level->inode;

		if (level->next == level->end) {
			lister->depth--;
			continue;
		}
		node = lister->children[level->next++].node;
		number = lister->numbers[node];
		if (number == NOTHING)
			number = add_node(lister, node, level->dirent);
		nodes[number].link_count++;
		lister->merged->children[level->dirent++] = number;
		if (nodes[number].kind == ENTRY_DIRECTORY)	/* which has one name */
			enter(lister, node, number, parent);
	}
}

/*
 * List the tree, into memory of which there is enough.
 * Return: 0, or -ENOMEM.
 */
int cfs_merger_list(const struct cfs_merger *merger, struct cfs_merged *merged)
{
	size_t node_count = merger->nodes.size / sizeof(struct node);
	struct lister lister = { .merger = merger, .merged = merged };
	int ret = -ENOMEM;

	lister.children = malloc((merge_entry_count(merger) + 1) * sizeof(*lister.children));
	lister.starts = calloc((size_t)merger->table_count + 2, sizeof(*lister.starts));
	lister.numbers = malloc(node_count * sizeof(*lister.numbers));
	lister.levels = malloc((size_t)merger->table_count * sizeof(*lister.levels));
	if (lister.children && lister.starts && lister.numbers && lister.levels) {
		memset(lister.numbers, 0xff, node_count * sizeof(*lister.numbers));	/* NOTHING */
		merged->node_count = merged->directory_count = merged->dirent_count = 0;
		merged->names_size = merged->values_size = 0;
		memcpy(merged->stats, merger->stats.data, merger->stats.size);
		memcpy(merged->xattrs, merger->xattrs.data, merger->xattrs.size);
		sort_entries(&lister);
		list(&lister);
		ret = 0;
	}
	free(lister.children);
	free(lister.starts);
	free(lister.numbers);
	free(lister.levels);
	return ret;
}

void cfs_merger_measure(const struct cfs_merger *merger, struct cfs_merged_sizes *sizes)
{
	sizes->dirent_count = merge_entry_count(merger);
	sizes->names_size = merger->names.size;
	sizes->values_size = merger->values.size;
	sizes->stat_count = merger->stats.size / sizeof(struct index_stat);
}
