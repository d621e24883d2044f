/* Merging layers, and writing EROFS images: what is said of the outcome, and what lies do. */
#include "test.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "../erofs.h"
#include "../index.h"
#include "../merge.h"

#define DIGEST	"0123456789abcdef0123456789abcdef"

/* An entry; the directory is a number, and the value a text. */
struct sample {
	u8 kind;
	u16 directory;
	const char *name, *value;
	u64 number;
};

static const char *const paths[] = { "", "d", "d/e", "no", "d/o", "..", "d/../x" };
static const struct sample samples[] = {
	{ ENTRY_ROOT, 0, "", "", 0 },
	{ ENTRY_DIRECTORY, 0, "d", "", 0 },
	{ ENTRY_OBJECT, 1, "o", DIGEST, 5000 },
	{ ENTRY_OBJECT, 1, "same", DIGEST, 5000 },
	{ ENTRY_INLINE, 1, "i", "data", 0 },
	{ ENTRY_HARD_LINK, 0, "h", "/./d//o/.", 0 },
	{ ENTRY_SYMLINK, 1, "link", "to", 0 },
	{ ENTRY_DIRECTORY, 1, "e", "", 0 },
	{ ENTRY_FIFO, 2, "!", "", 0 },
	{ ENTRY_BLOCK_DEVICE, 2, "device", "", 7 },
	{ ENTRY_INLINE, 2, "gone", "", 0 },
	{ ENTRY_WHITEOUT, 2, "gone", "", 0 },
	{ ENTRY_TARGET, 0, "t", "h", 0 },
};

static void *copy(const void *data, size_t size)
{
	return memcpy(malloc(size ? size : 1), data, size);
}

static struct cfs_batch new_batch(const struct sample *entries, size_t count)
{
	static const struct index_stat stats[2] = { { .mode = 0755, .mtime = 5 }, { .mode = 0644, .uid = 70000 } };
	struct index_row rows[32] = { 0 };
	u32 ends[ARRAY_SIZE(paths)], xattrs[2] = { 0, 1 };
	char names[1024], values[1024], directories[64];
	size_t names_size = 0, values_size = 0, directories_size = 0;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		memcpy(directories + directories_size, paths[i], strlen(paths[i]));
		ends[i] = directories_size += strlen(paths[i]);
	}
	for (size_t i = 0; i < count; i++) {
		names_size += sprintf(names + names_size, "%s/", entries[i].name);
		values_size += sprintf(values + values_size, "%s", entries[i].value);
		rows[i] = (struct index_row){
			.number = entries[i].number,
			.value_end = values_size,
			.directory = entries[i].directory,
			.stat = entries[i].kind == ENTRY_OBJECT,
			.kind = entries[i].kind,
		};
	}
	return (struct cfs_batch){
		.rows = copy(rows, count * sizeof(rows[0])), .row_count = count,
		.names = copy(names, names_size), .names_size = names_size,
		.directories = copy(directories, directories_size), .directories_size = directories_size,
		.directory_ends = copy(ends, sizeof(ends)), .directory_count = ARRAY_SIZE(paths),
		.stats = copy(stats, sizeof(stats)), .xattrs = copy(xattrs, sizeof(xattrs)), .stat_count = 2,
		.values = copy(values, values_size), .values_size = values_size,
	};
}

static void free_batch(struct cfs_batch *batch)
{
	free((void *)batch->rows);
	free((void *)batch->names);
	free((void *)batch->directories);
	free((void *)batch->directory_ends);
	free((void *)batch->stats);
	free((void *)batch->xattrs);
	free((void *)batch->values);
}

static int apply(struct cfs_merger *merger, const struct sample *entries, size_t count, size_t *refused)
{
	struct cfs_batch batch = new_batch(entries, count);
	int ret = cfs_merger_apply(merger, &batch, refused);

	free_batch(&batch);
	return ret;
}

static struct cfs_merger *new_merger(void)
{
	struct cfs_merger *merger;
	size_t refused;

	CHECK(cfs_merger_new(&merger) == 0);
	CHECK(apply(merger, samples, ARRAY_SIZE(samples), &refused) == 0);
	return merger;
}

static struct cfs_merged new_list(const struct cfs_merger *merger)
{
	struct cfs_merged_sizes sizes;
	struct cfs_merged list;

	cfs_merger_measure(merger, &sizes);
	list = (struct cfs_merged){
		.nodes = malloc((sizes.dirent_count + 1) * sizeof(struct merged_node)),
		.directories = malloc((sizes.dirent_count + 1) * sizeof(struct directory_record)),
		.children = malloc(sizes.dirent_count * sizeof(u32)),
		.name_ends = malloc(sizes.dirent_count * sizeof(u32)),
		.names = malloc(sizes.names_size),
		.values = malloc(sizes.values_size),
		.stats = malloc(sizes.stat_count * sizeof(struct index_stat)),
		.xattrs = malloc(sizes.stat_count * sizeof(u32)),
	};
	CHECK(cfs_merger_list(merger, &list) == 0);
	return list;
}

static void free_list(struct cfs_merged *list)
{
	free(list->nodes);
	free(list->directories);
	free(list->children);
	free(list->name_ends);
	free(list->names);
	free(list->values);
	free(list->stats);
	free(list->xattrs);
}

static void test_list(void)
{
	struct cfs_merger *merger = new_merger();
	struct cfs_merged list = new_list(merger);
	const struct directory_record *directories = list.directories;
	const struct merged_node *nodes = list.nodes;
	struct index_stat stat;
	u8 kind;
	u32 xattrs;

	/* /, d, d/e, d/e/!, d/e/device, d/i, d/link, d/o, d/same; and h, which is d/o. */
	CHECK(list.node_count == 9 && list.directory_count == 3 && list.dirent_count == 9);
	CHECK(list.names_size == 20 && memcmp(list.names, "dheilinkosame!device", 20) == 0);
	CHECK(list.values_size == 70 && memcmp(list.values, "datato" DIGEST DIGEST, 70) == 0);
	CHECK(directories[1].inode == 1 && directories[1].parent == 0 && directories[1].first == 2 &&
	      directories[1].count == 5);
	CHECK(nodes[7].kind == ENTRY_OBJECT && nodes[7].number == 5000 && nodes[7].link_count == 2 &&
	      nodes[7].home == 5 && list.children[1] == 7);
	CHECK(cfs_merger_find(merger, "d/o", 3, &kind, &stat, &xattrs) == 0);
	CHECK(kind == ENTRY_OBJECT && stat.uid == 70000 && xattrs == 1);
	CHECK(cfs_merger_find(merger, "d/no", 4, &kind, &stat, &xattrs) == -ENOENT);
	CHECK(cfs_merger_find(merger, "d/o/x", 5, &kind, &stat, &xattrs) == -ENOENT);
	free_list(&list);
	cfs_merger_free(merger);
}

/* What takes a directory away takes what is in it; and a directory that was found before is looked for again. */
static void test_replaced(void)
{
	static const struct sample entries[] = {
		{ ENTRY_INLINE, 2, "before", "", 0 },
		{ ENTRY_OPAQUE, 1, "", "", 0 },
		{ ENTRY_DIRECTORY, 1, "e", "", 0 },
		{ ENTRY_INLINE, 2, "after", "", 0 },
		{ ENTRY_WHITEOUT, 0, "h", "", 0 },
	};
	struct cfs_merger *merger = new_merger();
	struct cfs_merged list;
	size_t refused;

	CHECK(apply(merger, entries, ARRAY_SIZE(entries), &refused) == 0);
	list = new_list(merger);
	CHECK(list.dirent_count == 3 && memcmp(list.names, "deafter", 7) == 0);
	free_list(&list);
	cfs_merger_free(merger);
}

static void test_refused(void)
{
	static const struct sample entries[] = {
		{ ENTRY_INLINE, 5, "x", "", 0 },
		{ ENTRY_INLINE, 3, "x", "", 0 },
		{ ENTRY_INLINE, 4, "x", "", 0 },
		{ ENTRY_HARD_LINK, 0, "x", "d/../d/o", 0 },
		{ ENTRY_HARD_LINK, 0, "x", "no/o", 0 },
		{ ENTRY_HARD_LINK, 0, "x", "d/o/x", 0 },
		{ ENTRY_TARGET, 0, "x", "d/no", 0 },
		{ ENTRY_TARGET, 0, "x", "/./", 0 },
		{ ENTRY_REFUSED, 0, "x", "why", 0 },
	};
	struct cfs_merger *merger = new_merger();
	size_t refused;

	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		struct sample two[] = { { ENTRY_FIFO, 0, "y", "", 0 }, entries[i] };

		CHECK(apply(merger, two, 2, &refused) == (int)i + 1 && refused == 1);
	}
	CHECK(apply(merger, &(struct sample){ ENTRY_INLINE, 6, "x", "", 0 }, 1, &refused) == 1);
	CHECK(apply(merger, &(struct sample){ ENTRY_TARGET, 0, "x", "..", 0 }, 1, &refused) == 8);
	cfs_merger_free(merger);
}

/* More entries than the first table has room for. */
static void test_many(void)
{
	struct cfs_merger *merger = new_merger();
	struct cfs_merged list;
	char name[8];
	size_t refused;

	for (unsigned int i = 0; i < 2000; i++) {
		sprintf(name, "%05u", 2000 - i);
		CHECK(apply(merger, &(struct sample){ ENTRY_INLINE, 1, name, "x", 0 }, 1, &refused) == 0);
	}
	list = new_list(merger);
	CHECK(list.dirent_count == 2009 && memcmp(list.names, "dh0000100002", 12) == 0);
	free_list(&list);
	cfs_merger_free(merger);
}

/* Batches in which any byte is another. */
static void test_hostile_batches(void)
{
	static const u8 bytes[] = { 0, 1, '/', 12, 13, 0x7f, 0xff };

	for (size_t part = 0; part < 3; part++) {
		struct cfs_batch batch = new_batch(samples, ARRAY_SIZE(samples));
		u8 *data[] = { (u8 *)batch.rows, (u8 *)batch.names, (u8 *)batch.directory_ends };
		size_t sizes[] = { batch.row_count * sizeof(struct index_row), batch.names_size,
				   batch.directory_count * sizeof(u32) };

		for (size_t i = 0; i < sizes[part]; i++) {
			for (size_t j = 0; j < ARRAY_SIZE(bytes); j++) {
				u8 kept = data[part][i];
				struct cfs_merger *merger;
				size_t refused;
				int ret;

				data[part][i] = bytes[j];
				CHECK(cfs_merger_new(&merger) == 0);
				ret = cfs_merger_apply(merger, &batch, &refused);
				CHECK((ret >= 0 && ret <= 9) || ret == -EINVAL);
				if (ret == 0) {
					struct cfs_merged list = new_list(merger);

					free_list(&list);
				}
				cfs_merger_free(merger);
				data[part][i] = kept;
			}
		}
		free_batch(&batch);
	}
}

static void test_no_memory(void)
{
	struct cfs_batch batch = new_batch(samples, ARRAY_SIZE(samples));
	struct cfs_merged_sizes sizes;
	struct cfs_merger *merger;
	size_t refused;

	failing_malloc = 1;
	CHECK(cfs_merger_new(&merger) == -ENOMEM);
	CHECK(cfs_merger_new(&merger) == 0);
	failing_malloc = 1;
	CHECK(cfs_merger_apply(merger, &batch, &refused) == -ENOMEM);
	CHECK(cfs_merger_apply(merger, &batch, &refused) == 0);
	cfs_merger_measure(merger, &sizes);
	for (int i = 1; i <= 3; i++) {
		failing_malloc = i;
		CHECK(cfs_merger_list(merger, &(struct cfs_merged){ 0 }) == -ENOMEM);
	}
	failing_malloc = 0;
	cfs_merger_free(merger);
	free_batch(&batch);
}

/* What a tree takes on its way into an image, each in memory of its own. */
struct image {
	struct cfs_erofs_tree tree;
	struct cfs_erofs_layout layout;
	struct cfs_erofs_group *groups;
	u32 *order;
	int64_t group_count;
};

static const u8 area_data[] = "header......" "digest56789012345678901234567890" "2/path6789012345678901234567890123"
			      "56789012345678901234567890123456";

static struct image new_image(void)
{
	struct cfs_merger *merger = new_merger();
	struct cfs_merged list = new_list(merger);
	static const struct area_record areas[] = {
		{ 0 },
		{ .size = 110, .digest_offset = 12, .path_offset = 45 },
		{ .offset = 4, .size = 20 },
	};
	const u32 sets[] = { 0, 1 };
	struct image image = { .layout = { .epoch = 1, .area_data_size = 110, .area_count = 3 } };
	void *inodes = malloc(list.node_count * sizeof(struct inode_record));

	CHECK(cfs_erofs_inodes(&list, sets, 1, 1, 0, inodes) == -EINVAL);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 1, 0, inodes) == 0);
	image.tree = (struct cfs_erofs_tree){
		.inodes = inodes, .inode_count = list.node_count,
		.directories = copy(list.directories, list.directory_count * sizeof(struct directory_record)),
		.directory_count = list.directory_count,
		.children = copy(list.children, list.dirent_count * sizeof(u32)),
		.name_ends = copy(list.name_ends, list.dirent_count * sizeof(u32)), .dirent_count = list.dirent_count,
		.names = copy(list.names, list.names_size), .names_size = list.names_size,
		.payloads = copy(list.values, list.values_size), .payloads_size = list.values_size,
	};
	free_list(&list);
	cfs_merger_free(merger);
	image.groups = malloc(image.tree.inode_count * sizeof(*image.groups));
	image.order = malloc(image.tree.inode_count * sizeof(*image.order));
	image.layout.areas = copy(areas, sizeof(areas));
	image.layout.area_data = copy(area_data, 110);
	return image;
}

static void free_image(struct image *image)
{
	free(image->tree.inodes);
	free((void *)image->tree.directories);
	free((void *)image->tree.children);
	free((void *)image->tree.name_ends);
	free((void *)image->tree.names);
	free((void *)image->tree.payloads);
	free((void *)image->layout.areas);
	free((void *)image->layout.area_data);
	free(image->groups);
	free(image->order);
}

/* Return: 0, or what a step of it says. */
static int place(struct image *image)
{
	int ret = cfs_erofs_order(&image->tree, image->order);

	if (ret < 0)
		return ret;
	image->layout.order = image->order;
	return cfs_erofs_place(&image->tree, &image->layout);
}

static int pack(struct image *image)
{
	int ret;

	image->layout.image_size = image->layout.block_count * BLOCK_SIZE;
	image->layout.image = calloc(1, image->layout.image_size);
	ret = cfs_erofs_pack(&image->tree, &image->layout);
	free(image->layout.image);
	return ret;
}

static void test_image(void)
{
	struct image image = new_image();
	const struct inode_record *inodes = image.tree.inodes;

	failing_malloc = 1;
	CHECK(cfs_erofs_order(&image.tree, image.order) == -ENOMEM);
	for (int i = 1; i <= 2; i++) {
		failing_malloc = i;
		CHECK(cfs_erofs_group(&image.tree, image.groups) == -ENOMEM);
	}
	failing_malloc = 0;
	image.group_count = cfs_erofs_group(&image.tree, image.groups);
	CHECK(image.group_count == 2);	/* two files that are the same object, and all others */
	CHECK(image.groups[0].count == 7 && image.groups[1].count == 2 && image.groups[1].first == 7 &&
	      image.groups[1].is_repeated && image.groups[1].xattrs == 1 && image.groups[1].payload_offset == 6);
	CHECK(inodes[7].xattrs == 1 && inodes[8].xattrs == 1);
	CHECK(place(&image) == 0);
	CHECK(image.layout.block_count == 1);
	CHECK(image.order[0] == 0 && image.order[1] == 1 && image.order[2] == 2 && inodes[7].number == 5);
	CHECK(pack(&image) == 0);
	image.layout.epoch = 2;
	image.layout.order = NULL;
	CHECK(cfs_erofs_place(&image.tree, &image.layout) == 0 && pack(&image) == 0);
	free_image(&image);
}

/* Columns in which any byte is another, before or after the layout is made; nothing may be read or written elsewhere. */
static void test_hostile_images(void)
{
	static const u8 bytes[] = { 0, 1, 0x40, 0x80, 0xff };

	for (size_t part = 0; part < 8; part++) {
		for (size_t i = 0, size = 1; i < size; i++) {
			for (size_t j = 0; j < ARRAY_SIZE(bytes); j++) {
				struct image image = new_image();
				struct { void *data; size_t size; } parts[] = {
					{ image.tree.inodes, image.tree.inode_count * sizeof(struct inode_record) },
					{ (void *)image.tree.directories,
					  image.tree.directory_count * sizeof(struct directory_record) },
					{ (void *)image.tree.children, image.tree.dirent_count * sizeof(u32) },
					{ (void *)image.tree.name_ends, image.tree.dirent_count * sizeof(u32) },
				};
				bool is_late = part >= ARRAY_SIZE(parts);
				u8 *changed;
				int ret;

				CHECK(cfs_erofs_group(&image.tree, image.groups) == 2);
				size = parts[part % ARRAY_SIZE(parts)].size;
				changed = (u8 *)parts[part % ARRAY_SIZE(parts)].data + i;
				if (!is_late)
					*changed = bytes[j];
				ret = place(&image);
				CHECK(ret == 0 || ((ret == -EINVAL || ret == -EOVERFLOW) && !is_late));
				if (is_late)
					*changed = bytes[j];
				if (ret == 0 && image.layout.block_count < 100) {
					ret = pack(&image);
					CHECK(ret == 0 || ret == -EINVAL);
				}
				cfs_erofs_group(&image.tree, image.groups);
				free_image(&image);
			}
		}
	}
}

/* What Python has to see to. */
static void test_special(void)
{
	static const struct sample entries[] = {
		{ ENTRY_CHARACTER_DEVICE, 0, "whiteout", "", 0 },
		{ ENTRY_CHARACTER_DEVICE, 0, "large", "", (u64)1 << 32 },
	};
	struct cfs_merger *merger = new_merger();
	struct inode_record inodes[16];
	const u32 sets[] = { 0, 1 };
	struct cfs_merged list;
	size_t refused;
	char name[300];

	CHECK(apply(merger, entries, 1, &refused) == 0);
	list = new_list(merger);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 1, 0, inodes) == 1);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 1, 1, inodes) == 0);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 2, 1, inodes) == 0);
	free_list(&list);
	CHECK(apply(merger, &entries[1], 1, &refused) == 0);
	list = new_list(merger);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 1, 1, inodes) == 1);
	free_list(&list);
	cfs_merger_free(merger);

	merger = new_merger();
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	CHECK(apply(merger, &(struct sample){ ENTRY_FIFO, 0, name, "", 0 }, 1, &refused) == 0);
	list = new_list(merger);
	CHECK(cfs_erofs_inodes(&list, sets, 2, 1, 0, inodes) == 1);
	free_list(&list);
	cfs_merger_free(merger);
}

/* A directory of several blocks, names before . and .. among them, and files of several blocks. */
static void test_large(void)
{
	struct inode_record inodes[] = {
		{ .mode = S_IFDIR | 0755 },
		{ .mode = S_IFREG | 0644, .size = 9000, .payload_size = 9000, .link_count = 1 },
		{ .mode = S_IFLNK | 0777, .size = 4090, .payload_size = 4090, .link_count = 1 },
	};
	struct directory_record directory = { .count = 500 };
	struct area_record area = { 0 };
	u32 children[500], ends[500], order[3];
	char names[500 * 20];
	size_t size = 0;
	struct cfs_erofs_layout layout = { .epoch = 1, .is_signed = true, .areas = &area, .area_count = 1, .order = order,
					   .area_data = "" };
	struct cfs_erofs_tree tree = {
		.inodes = inodes, .inode_count = 3, .directories = &directory, .directory_count = 1,
		.children = children, .name_ends = ends, .dirent_count = 500, .names = names,
	};
	struct image image;

	for (unsigned int i = 0; i < 500; i++) {
		children[i] = 1 + i % 2;
		size += sprintf(names + size, i < 3 ? "!%04u" : "a-long-name-%04u", i);
		ends[i] = size;
	}
	inodes[2].home = 1;
	tree.names_size = size;
	tree.payloads = calloc(1, 13090);
	tree.payloads_size = 13090;
	CHECK(cfs_erofs_order(&tree, order) == 0);
	CHECK(cfs_erofs_place(&tree, &layout) == 0);
	CHECK(inodes[0].block_count == 3 && inodes[0].tail_size > 0 && inodes[0].link_count == 2);
	CHECK(inodes[0].size == 3 * BLOCK_SIZE + inodes[0].tail_size);
	CHECK(inodes[1].block_count == 2 && inodes[1].tail_size == 808);
	CHECK(inodes[2].block_count == 1 && inodes[2].tail_size == 0 && layout.block_count == 8);
	image = (struct image){ .tree = tree, .layout = layout };
	CHECK(pack(&image) == 0);
	CHECK(cfs_erofs_order(&(struct cfs_erofs_tree){ 0 }, order) == -EINVAL);
	free((void *)tree.payloads);
}

/* A dump, whose pieces are as large as they can be or hold one line each; and sets of xattrs that are nowhere. */
static void test_dump(void)
{
	static const char expected[] =
		"/ 0 40755 3 0 0 0 5.0 - - -\n/d 0 40755 3 0 0 0 5.0 - - -\n/d/e 0 40755 2 0 0 0 5.0 - - -\n"
		"/d/e/! 0 10755 1 0 0 0 5.0 - - -\n/d/e/device 0 60755 1 0 0 7 5.0 - - -\n"
		"/d/i 4 100755 1 0 0 0 5.0 - data -\n/d/link 2 120755 1 0 0 0 5.0 to - -\n"
		"/d/o 5000 100644 2 70000 0 0 0.0 ";
	struct cfs_merger *merger = new_merger();
	struct cfs_merged list = new_list(merger);
	const u32 ends[] = { 0, 4 };
	struct cfs_dumper *dumper;
	char dump[4096], *piece;
	size_t whole = 0;
	int64_t size;

	CHECK(cfs_dumper_new(&list, " x=y", ends, 1, &dumper) == -EINVAL);
	for (int i = 1; i <= 3; i++) {
		failing_malloc = i;
		CHECK(cfs_dumper_new(&list, " x=y", ends, 2, &dumper) == -ENOMEM);
	}
	failing_malloc = 0;
	CHECK(cfs_dumper_new(&list, " x=y", ends, 2, &dumper) == 0);
	CHECK(cfs_dumper_write(dumper, dump, 10) == -ENOSPC);
	for (size_t room = 1; (size = cfs_dumper_write(dumper, piece = malloc(room), room)) != 0; free(piece)) {
		if (size == -ENOSPC) {
			room++;
			continue;
		}
		memcpy(dump + whole, piece, size);
		whole += size;
	}
	free(piece);
	CHECK(memcmp(dump, expected, sizeof(expected) - 1) == 0);
	CHECK(memcmp(dump + whole - 34, "/h 0 @120000 - - - - 0.0 /d/o - -\n", 34) == 0);
	cfs_dumper_free(dumper);
	free_list(&list);
	cfs_merger_free(merger);
}

void test_trees(void)
{
	test_dump();
	test_list();
	test_replaced();
	test_refused();
	test_many();
	test_hostile_batches();
	test_no_memory();
	test_image();
	test_hostile_images();
	test_special();
	test_large();
	puts("layers merged, images made: passed");
}
