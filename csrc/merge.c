/*
 * Merge the layers of an image into one tree, entry by entry, from the lowest layer up.
 *
 * A directory over a directory keeps what is in it and takes the new metadata; anything else replaces what it meets,
 * with all below.  A whiteout acts where it stands in the archive, also on entries of its own layer.  Parents must
 * exist, and no link is followed.
 */
#include "merge.h"
#include "table_hash.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/* What keeps an entry from being had; the next three the same for the directory of a target. */
enum refusal {
	DIRECTORY_GOES_UP = 1,
	DIRECTORY_IS_MISSING = 2,
	DIRECTORY_IS_NONE = 3,
	IN_TARGET = 3,		/* added to those */
	TARGET_IS_MISSING = 7,
	TARGET_IS_DIRECTORY = 8,
	ENTRY_IS_REFUSED = 9,
};

/* Return: size more bytes at the end, for the caller to fill; NULL: there are none. */
static void *extend(struct buffer *buffer, size_t size)
{
	void *place;

	if (!buffer->data || size > buffer->capacity - buffer->size) {
		size_t capacity = buffer->capacity + buffer->capacity / 2 + size + 4096;
		void *data = realloc(buffer->data, capacity);

		if (!data)
			return NULL;
		buffer->data = data;
		buffer->capacity = capacity;
	}
	place = (u8 *)buffer->data + buffer->size;
	buffer->size += size;
	return place;
}

static u32 hash_name(const struct cfs_merger *merger, u32 table, const char *name, size_t size)
{
	return hash_bytes(merger->seed + table, name, size);
}

/* Return: the slot of an entry, which is empty if there has never been any. */
static u32 *find_slot(const struct cfs_merger *merger, u32 table, const char *name, size_t size, u32 hash)
{
	const struct entry *entries = merge_entries(merger);
	size_t slot = hash & merger->mask;

	for (; merger->slots[slot] != NOTHING; slot = (slot + 1) & merger->mask) {
		const struct entry *entry = &entries[merger->slots[slot]];

		if (entry->hash == hash && entry->table == table && entry->name_size == size &&
		    memcmp((const char *)merger->names.data + entry->name, name, size) == 0)
			break;
	}
	return &merger->slots[slot];
}

/* Return: the node under a name, or NOTHING. */
static u32 find_node(const struct cfs_merger *merger, u32 table, const char *name, size_t size)
{
	u32 slot = *find_slot(merger, table, name, size, hash_name(merger, table, name, size));

	return slot == NOTHING ? NOTHING : merge_entries(merger)[slot].node;
}

/* Make room for one more entry. */
static int grow_slots(struct cfs_merger *merger)
{
	size_t count = merge_entry_count(merger), mask = 2 * merger->mask + 1;
	u32 *slots;

	if (count >= NOTHING - 1)
		return -ENOMEM;
	if (2 * count < merger->mask)
		return 0;
	slots = malloc((mask + 1) * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, (mask + 1) * sizeof(*slots));	/* NOTHING */
	for (size_t i = 0; i < count; i++) {
		size_t slot = merge_entries(merger)[i].hash & mask;

		while (slots[slot] != NOTHING)
			slot = (slot + 1) & mask;
		slots[slot] = i;
	}
	free(merger->slots);
	merger->slots = slots;
	merger->mask = mask;
	return 0;
}

static bool is_directory(const struct cfs_merger *merger, u32 node)
{
	return node != NOTHING && merge_nodes(merger)[node].kind == ENTRY_DIRECTORY;
}

/* Find the directory at a path, in which neither empty parts nor . have a meaning.  Return: 0, or an enum refusal. */
static int find_directory(const struct cfs_merger *merger, const char *path, size_t size, u32 *node)
{
	const char *end = path + size, *slash;

	*node = ROOT_NODE;
	for (; path < end; path = slash + 1) {
		size_t part;

		slash = memchr(path, '/', end - path);
		if (!slash)
			slash = end;
		part = slash - path;
		if (part == 0 || (part == 1 && path[0] == '.'))
			continue;
		if (part == 2 && path[0] == '.' && path[1] == '.')
			return DIRECTORY_GOES_UP;
		*node = find_node(merger, merge_nodes(merger)[*node].table, path, part);
		if (!is_directory(merger, *node))
			return *node == NOTHING ? DIRECTORY_IS_MISSING : DIRECTORY_IS_NONE;
	}
	return 0;
}

/* Find what a hard link to a path is to.  Return: 0, or an enum refusal. */
static int find_target(const struct cfs_merger *merger, const char *path, size_t size, u32 *node)
{
	const char *end = path + size, *name;
	u32 directory;
	int ret;

	for (;;) {	/* leave out what has no effect at the end */
		while (end > path && end[-1] == '/')
			end--;
		name = memrchr(path, '/', end - path);
		name = name ? name + 1 : path;
		if (end - name != 1 || name[0] != '.')
			break;
		end = name;
	}
	if (end == name || (end - name == 2 && memcmp(name, "..", 2) == 0))
		return TARGET_IS_DIRECTORY;
	ret = find_directory(merger, path, name - path, &directory);
	if (ret)
		return ret + IN_TARGET;
	*node = find_node(merger, merge_nodes(merger)[directory].table, name, end - name);
	if (*node == NOTHING)
		return TARGET_IS_MISSING;
	return is_directory(merger, *node) ? TARGET_IS_DIRECTORY : 0;
}

/* Put a node under a name. */
static int set_entry(struct cfs_merger *merger, u32 table, const char *name, size_t size, u32 node)
{
	u32 hash = hash_name(merger, table, name, size), *slot;
	struct entry *entry;
	void *place;
	int ret = grow_slots(merger);

	if (ret < 0)
		return ret;
	slot = find_slot(merger, table, name, size, hash);
	if (*slot != NOTHING) {
		merge_entries(merger)[*slot].node = node;
		return 0;
	}
	if (merger->names.size + size > UINT32_MAX)
		return -ENOMEM;
	place = extend(&merger->names, size);
	entry = extend(&merger->entries, sizeof(*entry));
	if (!place || !entry)
		return -ENOMEM;
	memcpy(place, name, size);
	*entry = (struct entry){
		.table = table,
		.node = node,
		.hash = hash,
		.name = merger->names.size - size,
		.name_size = size,
	};
	*slot = merge_entry_count(merger) - 1;
	return 0;
}

/* Make a node.  Return: its number, or NOTHING where there is no memory. */
static u32 add_node(struct cfs_merger *merger, u8 kind, u32 stat, u64 number, const void *value, size_t value_size)
{
	struct node *node = extend(&merger->nodes, sizeof(*node));
	void *place = extend(&merger->values, value_size);

	if (!node || !place || merger->nodes.size / sizeof(*node) >= NOTHING || merger->table_count == NOTHING)
		return NOTHING;
	if (value_size)
		memcpy(place, value, value_size);
	*node = (struct node){
		.number = number,
		.value = merger->values.size - value_size,
		.value_size = value_size,
		.stat = stat,
		.table = kind == ENTRY_DIRECTORY ? merger->table_count++ : NOTHING,
		.kind = kind,
	};
	return merger->nodes.size / sizeof(*node) - 1;
}

/* A row, its texts, and the directory that it is in. */
struct row {
	const struct index_row *row;
	const char *name, *value;
	size_t name_size, value_size;
	u32 stat;		/* number among those of the merger */
	u32 directory;		/* node */
};

/* Apply a row.  *is_stale: what was found in directories no longer holds.  Return: 0, an enum refusal, or -ENOMEM. */
static int apply_row(struct cfs_merger *merger, const struct row *row, bool *is_stale)
{
	u32 table = merge_nodes(merger)[row->directory].table, old, node = NOTHING;
	int ret;

	old = find_node(merger, table, row->name, row->name_size);
	switch (row->row->kind) {
	case ENTRY_REFUSED:
		return ENTRY_IS_REFUSED;
	case ENTRY_ROOT:
		merge_nodes(merger)[ROOT_NODE].stat = row->stat;
		return 0;
	case ENTRY_OPAQUE:
		if (merger->table_count == NOTHING)
			return -ENOMEM;
		merge_nodes(merger)[row->directory].table = merger->table_count++;
		*is_stale = true;
		return 0;
	case ENTRY_WHITEOUT:
		if (old == NOTHING)
			return 0;
		break;
	case ENTRY_TARGET:
	case ENTRY_HARD_LINK:
		ret = find_target(merger, row->value, row->value_size, &node);
		if (ret || row->row->kind == ENTRY_TARGET)
			return ret;
		break;
	case ENTRY_DIRECTORY:
		if (is_directory(merger, old)) {
			merge_nodes(merger)[old].stat = row->stat;
			return 0;
		}
		/* fall through */
	default:
		node = add_node(merger, row->row->kind, row->stat, row->row->number, row->value, row->value_size);
		if (node == NOTHING)
			return -ENOMEM;
	}
	*is_stale = is_directory(merger, old);
	return set_entry(merger, table, row->name, row->name_size, node);
}

/* Tell whether all numbers of a batch are those of something. */
static bool is_consistent(const struct cfs_batch *batch)
{
	const struct index_row *rows = batch->rows;
	u32 value_end = 0, directory_end = 0;

	for (size_t i = 0; i < batch->directory_count; i++) {
		if (batch->directory_ends[i] < directory_end)
			return false;
		directory_end = batch->directory_ends[i];
	}
	for (size_t i = 0; i < batch->row_count; i++) {
		if (rows[i].value_end < value_end || rows[i].directory >= batch->directory_count ||
		    rows[i].stat >= batch->stat_count || rows[i].kind > ENTRY_REFUSED)
			return false;
		value_end = rows[i].value_end;
	}
	return value_end == batch->values_size && directory_end == batch->directories_size;
}

/* Find the directory of a row, of which found has the node if it was needed before.  Return: 0, or an enum refusal. */
static int find_parent(const struct cfs_merger *merger, const struct cfs_batch *batch, u32 number, u32 *found, u32 *node)
{
	u32 start = number ? batch->directory_ends[number - 1] : 0;
	int ret;

	*node = found[number];
	if (*node != NOTHING)
		return 0;
	ret = find_directory(merger, batch->directories + start, batch->directory_ends[number] - start, node);
	if (ret == 0)
		found[number] = *node;
	return ret;
}

static int apply_rows(struct cfs_merger *merger, const struct cfs_batch *batch, u32 first_stat, u32 *found,
		      size_t *refused)
{
	const char *name = batch->names, *end = name + batch->names_size;
	const struct index_row *rows = batch->rows;
	u32 value_end = 0;

	for (size_t i = 0; i < batch->row_count; i++) {
		struct row row = {
			.row = &rows[i],
			.name = name,
			.value = batch->values + value_end,
			.value_size = rows[i].value_end - value_end,
			.stat = first_stat + rows[i].stat,
		};
		bool is_stale = false;
		int ret;

		name = memchr(name, '/', end - name);
		if (!name)
			return -EINVAL;
		row.name_size = name++ - row.name;
		*refused = i;
		ret = find_parent(merger, batch, rows[i].directory, found, &row.directory);
		if (ret == 0)
			ret = apply_row(merger, &row, &is_stale);
		if (ret)
			return ret;
		if (is_stale)
			memset(found, 0xff, batch->directory_count * sizeof(*found));
		value_end = rows[i].value_end;
	}
	return 0;
}

/* Put the entries of a batch over what there is.  Return: 0; an enum refusal, of the row *refused; -EINVAL, -ENOMEM. */
int cfs_merger_apply(struct cfs_merger *merger, const struct cfs_batch *batch, size_t *refused)
{
	u32 first_stat = merger->stats.size / sizeof(struct index_stat), *found;
	size_t stats_size = batch->stat_count * sizeof(struct index_stat);
	void *stats, *xattrs;
	int ret;

	if (!is_consistent(batch))
		return -EINVAL;
	if (first_stat + batch->stat_count >= NOTHING)
		return -ENOMEM;
	found = malloc(batch->directory_count * sizeof(*found) + 1);
	stats = extend(&merger->stats, stats_size);
	xattrs = extend(&merger->xattrs, batch->stat_count * sizeof(u32));
	if (!found || !stats || !xattrs) {
		free(found);
		return -ENOMEM;
	}
	memset(found, 0xff, batch->directory_count * sizeof(*found));	/* NOTHING */
	memcpy(stats, batch->stats, stats_size);
	memcpy(xattrs, batch->xattrs, batch->stat_count * sizeof(u32));
	ret = apply_rows(merger, batch, first_stat, found, refused);
	free(found);
	return ret;
}

/* Find what is at a path, and copy its stat.  Return: 0; -ENOENT if nothing is, or no directory is on the way. */
int cfs_merger_find(const struct cfs_merger *merger, const char *path, size_t size, uint8_t *kind, void *stat,
		    uint32_t *xattrs)
{
	const char *name = memrchr(path, '/', size);
	u32 node, directory;

	name = name ? name + 1 : path;
	if (find_directory(merger, path, name - path, &directory) != 0)
		return -ENOENT;
	node = find_node(merger, merge_nodes(merger)[directory].table, name, path + size - name);
	if (node == NOTHING)
		return -ENOENT;
	*kind = merge_nodes(merger)[node].kind;
	node = merge_nodes(merger)[node].stat;
	memcpy(stat, (const struct index_stat *)merger->stats.data + node, sizeof(struct index_stat));
	*xattrs = ((const u32 *)merger->xattrs.data)[node];
	return 0;
}

/* Make a merger of no layers: its root has no name, and a stat of zeros.  Return: 0, -ENOMEM. */
int cfs_merger_new(struct cfs_merger **merger)
{
	struct cfs_merger *new = calloc(1, sizeof(*new));
	void *stat, *xattrs;

	if (!new)
		return -ENOMEM;
	if (getrandom(&new->seed, sizeof(new->seed), GRND_NONBLOCK) < 0)
		new->seed = (uintptr_t)new;	/* so early after boot, nobody has chosen any names */
	new->mask = 1023;
	new->slots = malloc((new->mask + 1) * sizeof(*new->slots));
	stat = extend(&new->stats, sizeof(struct index_stat));
	xattrs = extend(&new->xattrs, sizeof(u32));
	if (!new->slots || !stat || !xattrs || add_node(new, ENTRY_DIRECTORY, 0, 0, NULL, 0) != ROOT_NODE) {
		cfs_merger_free(new);
		return -ENOMEM;
	}
	memset(new->slots, 0xff, (new->mask + 1) * sizeof(*new->slots));
	memset(stat, 0, sizeof(struct index_stat));
	memset(xattrs, 0, sizeof(u32));
	*merger = new;
	return 0;
}

void cfs_merger_free(struct cfs_merger *merger)
{
	struct buffer *buffers[] = { &merger->nodes, &merger->entries, &merger->names,
				     &merger->values, &merger->stats, &merger->xattrs };

	for (size_t i = 0; i < ARRAY_SIZE(buffers); i++)
		free(buffers[i]->data);
	free(merger->slots);
	free(merger);
}
