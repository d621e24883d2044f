/*
 * Layers merged, listed, dumped, and made an image of: batches and tables are as they should be, or any bytes of them are
 * others.  An input says which entries there are, and then which bytes of what are changed.
 */
#include "fuzz.h"

#include <errno.h>
#include <sys/stat.h>

#include "erofs.h"
#include "index.h"
#include "merge.h"

#define ROWS_MAX	40
#define BATCHES_MAX	4
#define CHANGES_MAX	4
#define BLOCKS_MAX	64	/* of an image that is packed */
#define DUMP_MAX	(1 << 20)	/* bytes */
#define REFUSALS	9	/* results of cfs_merger_apply() above zero */

static const char *const directories[] = {
	"", "a", "a/b", "a/b/c", "usr", "no", "a/b/../c", "..", ".", "a//b", "usr/file", "a/", "/a", "long/long/long/long/long",
};
static const char *const names[] = { "a", "b", "c", "file", "usr", "x", "00", "!", "..a", "-", ".", "..", "", "~" };
static const char *const values[] = {
	"", "a", "a/b", "usr/file", "../a", "data", "0123456789abcdef0123456789abcdef", "\\ = \n", "a/b/c/file", "/./a//b/.", "usr",
};

/* A change of a byte, somewhere in a table. */
struct change {
	u8 part, value;
	u16 at;
};

struct columns {
	struct index_row rows[ROWS_MAX];
	char names[ROWS_MAX * 301], values[ROWS_MAX * 64], directories[512];
	u32 ends[ARRAY_SIZE(directories)];
	struct index_stat stats[4];
	u32 xattrs[4];
	size_t row_count, names_size, values_size, directories_size;
};

static void fill(struct input *input, struct columns *columns)
{
	*columns = (struct columns){ .xattrs = { 0, 1, 0, 1 } };
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		size_t size = strlen(directories[i]);

		memcpy(columns->directories + columns->directories_size, directories[i], size);
		columns->ends[i] = columns->directories_size += size;
	}
	for (size_t i = 0; i < 4; i++)
		columns->stats[i] = (struct index_stat){ .mode = 0755 + i, .uid = i ? 70000 : 0, .mtime = i * 1000000000000ull };
	columns->row_count = take(input, 1) % ROWS_MAX;
	for (size_t i = 0; i < columns->row_count; i++) {
		struct index_row *row = &columns->rows[i];
		const char *name = names[take(input, 1) % ARRAY_SIZE(names)], *value = values[take(input, 1) % ARRAY_SIZE(values)];
		u64 odd = take(input, 1);
		size_t size = strlen(name);

		row->kind = take(input, 1) % (ENTRY_REFUSED + 1);
		row->directory = take(input, 1) % ARRAY_SIZE(directories);
		row->stat = odd & 3;
		row->number = odd & 4 ? take(input, 2) : odd & 8 ? take(input, 8) : 0;
		if (odd & 64 && size) {	/* a long one, up to longer than any */
			size = 200 + take(input, 1) % 101;
			memset(columns->names + columns->names_size, name[0], size);
		} else {
			memcpy(columns->names + columns->names_size, name, size);
		}
		columns->names_size += size;
		columns->names[columns->names_size++] = '/';
		if (row->kind == ENTRY_OBJECT)
			value = values[6];
		memcpy(columns->values + columns->values_size, value, strlen(value));
		row->value_end = columns->values_size += strlen(value);
	}
}

/* A batch in memory of just its size, with changes. */
static struct cfs_batch new_batch(const struct columns *columns, const struct change *changes, size_t count)
{
	struct cfs_batch batch = {
		.rows = exact_copy(columns->rows, columns->row_count * sizeof(struct index_row)),
		.row_count = columns->row_count,
		.names = exact_copy(columns->names, columns->names_size), .names_size = columns->names_size,
		.directories = exact_copy(columns->directories, columns->directories_size),
		.directories_size = columns->directories_size,
		.directory_ends = exact_copy(columns->ends, sizeof(columns->ends)), .directory_count = ARRAY_SIZE(directories),
		.stats = exact_copy(columns->stats, sizeof(columns->stats)), .xattrs = exact_copy(columns->xattrs, 16),
		.stat_count = 4,
		.values = exact_copy(columns->values, columns->values_size), .values_size = columns->values_size,
	};
	const struct { const void *data; size_t size; } parts[] = {
		{ batch.rows, batch.row_count * sizeof(struct index_row) }, { batch.names, batch.names_size },
		{ batch.directory_ends, sizeof(columns->ends) }, { batch.directories, batch.directories_size },
		{ batch.values, batch.values_size },
	};

	for (size_t i = 0; i < count; i++) {
		size_t part = changes[i].part % ARRAY_SIZE(parts);

		if (parts[part].size)
			((u8 *)parts[part].data)[changes[i].at % parts[part].size] = changes[i].value;
	}
	return batch;
}

static void free_batch(struct cfs_batch *batch)
{
	free((void *)batch->rows), free((void *)batch->names), free((void *)batch->directories);
	free((void *)batch->directory_ends), free((void *)batch->stats), free((void *)batch->xattrs);
	free((void *)batch->values);
}

static struct cfs_merged new_list(const struct cfs_merger *merger)
{
	struct cfs_merged_sizes sizes;
	struct cfs_merged list;

	cfs_merger_measure(merger, &sizes);
	list = (struct cfs_merged){
		.nodes = exact((sizes.dirent_count + 1) * sizeof(struct merged_node)),
		.directories = exact((sizes.dirent_count + 1) * sizeof(struct directory_record)),
		.children = exact(sizes.dirent_count * sizeof(u32)), .name_ends = exact(sizes.dirent_count * sizeof(u32)),
		.names = exact(sizes.names_size), .values = exact(sizes.values_size),
		.stats = exact(sizes.stat_count * sizeof(struct index_stat)), .xattrs = exact(sizes.stat_count * sizeof(u32)),
	};
	REQUIRE(cfs_merger_list(merger, &list) == 0);
	REQUIRE(list.dirent_count <= sizes.dirent_count && list.names_size <= sizes.names_size);
	REQUIRE(list.values_size <= sizes.values_size && list.node_count <= sizes.dirent_count + 1);
	return list;
}

static void free_list(struct cfs_merged *list)
{
	free(list->nodes), free(list->directories), free(list->children), free(list->name_ends), free(list->names);
	free(list->values), free(list->stats), free(list->xattrs);
}

/* Put the dump into all, in pieces of at most room bytes, each of its own memory.  Return: its size. */
static size_t dump(const struct cfs_merged *list, size_t room, char *all)
{
	static const u32 ends[] = { 0, 6 };
	struct cfs_dumper *dumper;
	size_t size = 0;
	int64_t got;

	REQUIRE(cfs_dumper_new(list, " x=\\x3d", ends, 2, &dumper) == 0);
	do {
		char *piece = exact(room);

		got = cfs_dumper_write(dumper, piece, room);
		if (got == -ENOSPC) {	/* a line that is longer */
			room *= 2;
		} else {
			REQUIRE(got >= 0 && size + got <= DUMP_MAX);
			memcpy(all + size, piece, got);
			size += got;
		}
		free(piece);
	} while (got);
	cfs_dumper_free(dumper);
	return size;
}

static void check_dump(const struct cfs_merged *list)
{
	static char whole[DUMP_MAX], parts[DUMP_MAX];
	size_t size = dump(list, 1 << 13, whole);

	REQUIRE(dump(list, 16, parts) == size);
	REQUIRE(memcmp(whole, parts, size) == 0);
}

/* What a tree takes on its way into an image, each in memory of its own. */
struct image {
	struct cfs_erofs_tree tree;
	u32 *order;
	struct cfs_erofs_group *groups;
};

static struct image new_image(const struct cfs_merged *list, void *inodes)
{
	return (struct image){
		.tree = {
			.inodes = inodes, .inode_count = list->node_count,
			.directories = exact_copy(list->directories, list->directory_count * sizeof(struct directory_record)),
			.directory_count = list->directory_count,
			.children = exact_copy(list->children, list->dirent_count * sizeof(u32)),
			.name_ends = exact_copy(list->name_ends, list->dirent_count * sizeof(u32)),
			.dirent_count = list->dirent_count,
			.names = exact_copy(list->names, list->names_size), .names_size = list->names_size,
			.payloads = exact_copy(list->values, list->values_size), .payloads_size = list->values_size,
		},
		.order = exact(list->node_count * sizeof(u32)),
		.groups = exact(list->node_count * sizeof(struct cfs_erofs_group)),
	};
}

static void free_image(struct image *image)
{
	free(image->tree.inodes), free((void *)image->tree.directories), free((void *)image->tree.children);
	free((void *)image->tree.name_ends), free((void *)image->tree.names), free((void *)image->tree.payloads);
	free(image->order), free(image->groups);
}

static void change_tree(struct image *image, const struct change *changes, size_t count)
{
	const struct { const void *data; size_t size; } parts[] = {
		{ image->tree.inodes, image->tree.inode_count * sizeof(struct inode_record) },
		{ image->tree.directories, image->tree.directory_count * sizeof(struct directory_record) },
		{ image->tree.children, image->tree.dirent_count * sizeof(u32) },
		{ image->tree.name_ends, image->tree.dirent_count * sizeof(u32) },
		{ image->tree.names, image->tree.names_size },
		{ image->order, image->tree.inode_count * sizeof(u32) },
	};

	for (size_t i = 0; i < count; i++) {
		size_t part = changes[i].part % ARRAY_SIZE(parts);

		if (parts[part].size)
			((u8 *)parts[part].data)[changes[i].at % parts[part].size] = changes[i].value;
	}
}

/* The image of a list, whose tables are changed before or after all has its place. */
static void check_image(const struct cfs_merged *list, int epoch, const struct change *changes, size_t count, bool is_late)
{
	static const u8 area_data[256] = "areas";
	static const u32 sets[] = { 0, 1 };
	void *inodes = exact(list->node_count * sizeof(struct inode_record));
	struct cfs_erofs_layout layout = { .epoch = epoch, .area_data_size = sizeof(area_data), .area_count = 0 };
	struct area_record *areas;
	struct image image;
	int ret = cfs_erofs_inodes(list, sets, 2, epoch, 0, inodes);
	int64_t groups;

	REQUIRE(ret == 0 || ret == 1);
	if (ret) {
		free(inodes);
		return;
	}
	image = new_image(list, inodes);
	groups = cfs_erofs_group(&image.tree, image.groups);
	REQUIRE(groups > 0 && (size_t)groups <= image.tree.inode_count);
	areas = exact(groups * sizeof(*areas));
	for (int64_t i = 0; i < groups; i++) {	/* one has the digest of each object, and its path */
		bool has_digest = image.groups[i].payload_offset || i % 2;

		areas[i] = (struct area_record){ .size = i % 3 * 52 };
		if (areas[i].size && has_digest)
			areas[i].digest_offset = 12;
	}
	layout.areas = areas, layout.area_count = groups;
	layout.area_data = exact_copy(area_data, sizeof(area_data));
	if (!is_late)
		change_tree(&image, changes, count);
	ret = epoch == 1 ? cfs_erofs_order(&image.tree, image.order) : 0;
	REQUIRE(ret == 0 || ret == -EINVAL);
	if (ret == 0) {
		layout.order = epoch == 1 ? image.order : NULL;
		ret = cfs_erofs_place(&image.tree, &layout);
		REQUIRE(ret == 0 || ret == -EINVAL || ret == -EOVERFLOW);
		REQUIRE(ret == 0 || (count && !is_late));
	}
	if (ret == 0 && layout.block_count <= BLOCKS_MAX) {
		if (is_late)
			change_tree(&image, changes, count);
		layout.image_size = layout.block_count * BLOCK_SIZE;
		layout.image = memset(exact(layout.image_size), 0, layout.image_size);
		ret = cfs_erofs_pack(&image.tree, &layout);
		REQUIRE(ret == 0 || ret == -EINVAL);
		free(layout.image);
	}
	free(areas), free((void *)layout.area_data);
	free_image(&image);
}

static void check_paths(const struct cfs_merger *merger)
{
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		char *path = exact_copy(values[i], strlen(values[i]));
		struct index_stat stat;
		u32 xattrs;
		u8 kind;
		int ret = cfs_merger_find(merger, path, strlen(values[i]), &kind, &stat, &xattrs);

		REQUIRE(ret == 0 || ret == -ENOENT);
		free(path);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input input = { data, size };
	u64 odd = take(&input, 1), batches = 1 + take(&input, 1) % BATCHES_MAX;
	size_t count = odd & 4 ? take(&input, 1) % (CHANGES_MAX + 1) : 0;
	struct change changes[CHANGES_MAX];
	struct cfs_merger *merger;
	int ret = 0;

	for (size_t i = 0; i < count; i++)
		changes[i] = (struct change){ take(&input, 1), take(&input, 1), take(&input, 2) };
	REQUIRE(cfs_merger_new(&merger) == 0);
	for (u64 i = 0; i < batches && ret == 0; i++) {
		struct columns columns;
		struct cfs_batch batch;
		size_t refused = SIZE_MAX;

		fill(&input, &columns);
		batch = new_batch(&columns, changes, odd & 8 && i + 1 == batches ? count : 0);
		ret = cfs_merger_apply(merger, &batch, &refused);
		REQUIRE((ret >= 0 && ret <= REFUSALS) || (ret == -EINVAL && odd & 8));
		REQUIRE(ret <= 0 || refused < batch.row_count);
		free_batch(&batch);
	}
	check_paths(merger);
	if (ret >= 0) {	/* also half a batch leaves a tree */
		struct cfs_merged list = new_list(merger);

		check_dump(&list);
		check_image(&list, 1 + (odd & 1), changes, odd & 8 ? 0 : count, odd & 2);
		free_list(&list);
	}
	cfs_merger_free(merger);
	return 0;
}
