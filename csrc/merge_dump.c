/*
 * Write a list as a dump, line by line: depth first, as composefs/dumpfile/writer.py does with trees, which says of what
 * a line consists.
 */
#include "erofs.h"
#include "merge.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NUMBERS_MAX	256	/* bytes of all numbers of a line, and what is between them */
#define ESCAPE_MAX	4	/* bytes for one */

/* A directory whose entries are being written. */
struct dump_level {
	u32 next, end;		/* dirents */
	size_t path_size;	/* of its path, with a slash behind */
};

struct cfs_dumper {
	const struct cfs_merged *merged;
	const char *xattrs;	/* fields, by number of the set, back to back */
	const u32 *xattr_ends;
	u32 *values;		/* where those of the nodes begin; one more is the end */
	u32 *first_paths;	/* of leaves with several names: where their first paths begin in linked, and end */
	char *linked;
	size_t linked_size, linked_capacity;
	char *path;		/* with escapes */
	size_t path_capacity;
	struct dump_level *levels;
	size_t depth;
	u32 next_directory;
	bool has_begun;
};

/* Make room in a text that grows. */
static bool reserve(char **text, size_t *capacity, size_t size)
{
	char *larger;

	if (size <= *capacity)
		return true;
	size += size / 2 + 4096;
	larger = realloc(*text, size);
	if (!larger)
		return false;
	*text = larger;
	*capacity = size;
	return true;
}

static const char hex_digits[] = "0123456789abcdef";

/* Put bytes with escapes.  Return: the end. */
static char *put_escaped(char *out, const char *data, size_t size)
{
	static const char named[] = { ['\t'] = 't', ['\n'] = 'n', ['\r'] = 'r', ['\\'] = '\\' };

	for (size_t i = 0; i < size; i++) {
		u8 byte = data[i];

		if (byte > ' ' && byte < 0x7f && byte != '\\') {
			*out++ = byte;
		} else if (byte < sizeof(named) && named[byte]) {
			*out++ = '\\';
			*out++ = named[byte];
		} else {
			*out++ = '\\';
			*out++ = 'x';
			*out++ = hex_digits[byte >> 4];
			*out++ = hex_digits[byte & 15];
		}
	}
	return out;
}

/* Put a field: an empty one is -, so that a real - has an escape. */
static char *put_field(char *out, const char *data, size_t size)
{
	if (size == 0)
		return stpcpy(out, "-");
	if (size == 1 && data[0] == '-')
		return stpcpy(out, "\\x2d");
	return put_escaped(out, data, size);
}

static char *put_number(char *out, u64 number)
{
	char digits[20];
	size_t count = 0;

	do {
		digits[count++] = '0' + number % 10;
		number /= 10;
	} while (number);
	while (count)
		*out++ = digits[--count];
	return out;
}

static char *put_hex(char *out, const u8 *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		*out++ = hex_digits[data[i] >> 4];
		*out++ = hex_digits[data[i] & 15];
	}
	return out;
}

/* Put payload, content and digest. */
static char *put_content(char *out, const struct merged_node *node, const char *value)
{
	switch (node->kind) {
	case ENTRY_OBJECT:
		out = put_hex(out, (const u8 *)value, node->value_size > 0);
		*out++ = '/';
		out = put_hex(out, (const u8 *)value + 1, node->value_size - (node->value_size > 0));
		out = stpcpy(out, " - ");
		return put_hex(out, (const u8 *)value, node->value_size);
	case ENTRY_SYMLINK:
		out = put_field(out, value, node->value_size);
		return stpcpy(out, " - -");
	case ENTRY_INLINE:
		out = stpcpy(out, "- ");
		out = put_field(out, value, node->value_size);
		return stpcpy(out, " -");
	default:
		return stpcpy(out, "- - -");
	}
}

/* Put size, mode, links, owner, device and time. */
static char *put_numbers(char *out, const struct merged_node *node, const struct index_stat *stat, u32 link_count)
{
	bool has_data = node->kind == ENTRY_INLINE || node->kind == ENTRY_SYMLINK;
	bool is_device = node->kind == ENTRY_CHARACTER_DEVICE || node->kind == ENTRY_BLOCK_DEVICE;
	int64_t mtime = (int64_t)le64toh(stat->mtime);

	*out++ = ' ';
	out = put_number(out, node->kind == ENTRY_OBJECT ? node->number : has_data ? node->value_size : 0);
	out += sprintf(out, " %" PRIo32 " ", file_type(node->kind) | le32toh(stat->mode));
	out = put_number(out, link_count);
	*out++ = ' ';
	out = put_number(out, le32toh(stat->uid));
	*out++ = ' ';
	out = put_number(out, le32toh(stat->gid));
	*out++ = ' ';
	out = put_number(out, is_device ? node->number : 0);
	*out++ = ' ';
	if (mtime < 0)
		*out++ = '-';
	out = put_number(out, mtime < 0 ? -(u64)mtime : (u64)mtime);
	*out++ = '.';
	out = put_number(out, le32toh(stat->nanoseconds));
	*out++ = ' ';
	return out;
}

static u32 count_directories(const struct cfs_merged *merged, const struct directory_record *directory)
{
	const struct merged_node *nodes = merged->nodes;
	u32 count = 0;

	for (u32 i = directory->first; i < directory->first + directory->count; i++)
		count += nodes[merged->children[i]].kind == ENTRY_DIRECTORY;
	return count;
}

/* Put the line of a node at the path.  Return: the end; NULL if there is no room. */
static char *put_line(const struct cfs_dumper *dumper, char *out, const char *end, size_t path_size, u32 number)
{
	const struct cfs_merged *merged = dumper->merged;
	const struct merged_node *node = (const struct merged_node *)merged->nodes + number;
	const struct index_stat *stat = (const struct index_stat *)merged->stats + node->stat;
	u32 set = merged->xattrs[node->stat], links = node->link_count;
	u32 xattrs_start = set ? dumper->xattr_ends[set - 1] : 0, xattrs_size = dumper->xattr_ends[set] - xattrs_start;

	if ((u64)(end - out) < path_size + ESCAPE_MAX * (u64)node->value_size + 1 + NUMBERS_MAX + xattrs_size)
		return NULL;
	if (node->kind == ENTRY_DIRECTORY)
		links = 2 + count_directories(merged, (const struct directory_record *)merged->directories +
							      dumper->next_directory);
	out = mempcpy(out, dumper->path, path_size);
	out = put_numbers(out, node, stat, links);
	out = put_content(out, node, merged->values + dumper->values[number]);
	out = mempcpy(out, dumper->xattrs + xattrs_start, xattrs_size);
	*out++ = '\n';
	return out;
}

/* Put the line of another name of a leaf.  Return: the end; NULL if there is no room. */
static char *put_hard_link(const struct cfs_dumper *dumper, char *out, const char *end, size_t path_size, u32 number)
{
	u32 start = dumper->first_paths[2 * number], size = dumper->first_paths[2 * number + 1] - start;

	if ((u64)(end - out) < path_size + (u64)size + NUMBERS_MAX)
		return NULL;
	out = mempcpy(out, dumper->path, path_size);
	out = stpcpy(out, " 0 @120000 - - - - 0.0 ");
	out = mempcpy(out, dumper->linked + start, size);
	return stpcpy(out, " - -\n");
}

/* Begin with the entries of the directory whose path, of path_size bytes, was written. */
static bool enter(struct cfs_dumper *dumper, size_t path_size)
{
	const struct directory_record *directory =
		(const struct directory_record *)dumper->merged->directories + dumper->next_directory++;

	if (!reserve(&dumper->path, &dumper->path_capacity, path_size + 1))
		return false;
	if (path_size > 1)	/* that of the root is a slash */
		dumper->path[path_size++] = '/';
	dumper->levels[dumper->depth++] = (struct dump_level){
		.next = directory->first,
		.end = directory->first + directory->count,
		.path_size = path_size,
	};
	return true;
}

/* Remember the path, of path_size bytes, for other names of a leaf. */
static bool remember(struct cfs_dumper *dumper, size_t path_size, u32 number)
{
	if (dumper->linked_size + path_size > UINT32_MAX ||
	    !reserve(&dumper->linked, &dumper->linked_capacity, dumper->linked_size + path_size))
		return false;
	memcpy(dumper->linked + dumper->linked_size, dumper->path, path_size);
	dumper->first_paths[2 * number] = dumper->linked_size;
	dumper->linked_size += path_size;
	dumper->first_paths[2 * number + 1] = dumper->linked_size;
	return true;
}

/* Write the next dirent of the innermost directory.  Return: the end; NULL if there is no room; *ret: -ENOMEM. */
static char *write_dirent(struct cfs_dumper *dumper, char *out, const char *end, int *ret)
{
	const struct cfs_merged *merged = dumper->merged;
	struct dump_level *level = &dumper->levels[dumper->depth - 1];
	u32 dirent = level->next, number = merged->children[dirent];
	const struct merged_node *node = (const struct merged_node *)merged->nodes + number;
	u32 start = dirent ? merged->name_ends[dirent - 1] : 0, size = merged->name_ends[dirent] - start;
	bool is_first = node->kind == ENTRY_DIRECTORY || node->home == dirent;
	size_t path_size;

	*ret = -ENOMEM;
	if (!reserve(&dumper->path, &dumper->path_capacity, level->path_size + ESCAPE_MAX * (size_t)size))
		return NULL;
	path_size = put_escaped(dumper->path + level->path_size, merged->names + start, size) - dumper->path;
	*ret = 0;
	if (is_first)
		out = put_line(dumper, out, end, path_size, number);
	else
		out = put_hard_link(dumper, out, end, path_size, number);
	if (!out)
		return NULL;
	level->next++;
	if (node->kind == ENTRY_DIRECTORY ? !enter(dumper, path_size)
					  : is_first && node->link_count > 1 && !remember(dumper, path_size, number)) {
		*ret = -ENOMEM;
		return NULL;
	}
	return out;
}

/*
 * Write the next lines, as many as there is room for.
 * Return: the bytes that they have, 0 at the end; -ENOSPC if there is no room for one; -ENOMEM.
 */
int64_t cfs_dumper_write(struct cfs_dumper *dumper, void *data, size_t size)
{
	char *out = data, *end = out + size, *next;
	int ret = 0;

	if (!dumper->has_begun) {
		dumper->path[0] = '/';
		next = put_line(dumper, out, end, 1, 0);
		if (!next)
			return -ENOSPC;
		out = next;
		if (!enter(dumper, 1))
			return -ENOMEM;
		dumper->has_begun = true;
	}
	while (dumper->depth) {
		const struct dump_level *level = &dumper->levels[dumper->depth - 1];

		if (level->next == level->end) {
			dumper->depth--;
			continue;
		}
		next = write_dirent(dumper, out, end, &ret);
		if (ret < 0)
			return ret;
		if (!next)
			return out == data ? -ENOSPC : out - (char *)data;
		out = next;
	}
	return out - (char *)data;
}

/*
 * Begin to write a list, of which nothing may go before the dumper does.  xattrs: fields by number of the set, each
 * behind a blank, and where they end.
 * Return: 0; -EINVAL if a set has no number there; -ENOMEM.
 */
int cfs_dumper_new(const struct cfs_merged *merged, const char *xattrs, const uint32_t *xattr_ends, size_t set_count,
		   struct cfs_dumper **dumper)
{
	const struct merged_node *nodes = merged->nodes;
	struct cfs_dumper *new = calloc(1, sizeof(*new));

	if (!new)
		return -ENOMEM;
	new->merged = merged;
	new->xattrs = xattrs;
	new->xattr_ends = xattr_ends;
	new->values = malloc((merged->node_count + 1) * sizeof(*new->values));
	new->first_paths = malloc(2 * merged->node_count * sizeof(*new->first_paths));
	new->levels = malloc(merged->directory_count * sizeof(*new->levels));
	if (!new->values || !new->first_paths || !new->levels || !reserve(&new->path, &new->path_capacity, 1)) {
		cfs_dumper_free(new);
		return -ENOMEM;
	}
	new->values[0] = 0;
	for (size_t i = 0; i < merged->node_count; i++) {
		new->values[i + 1] = new->values[i] + nodes[i].value_size;
		if (merged->xattrs[nodes[i].stat] >= set_count) {
			cfs_dumper_free(new);
			return -EINVAL;
		}
	}
	*dumper = new;
	return 0;
}

void cfs_dumper_free(struct cfs_dumper *dumper)
{
	free(dumper->values);
	free(dumper->first_paths);
	free(dumper->linked);
	free(dumper->path);
	free(dumper->levels);
	free(dumper);
}
