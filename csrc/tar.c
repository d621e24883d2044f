/* What a tar reader does for every header, and runs of plain entries, which are most. */
#include "index.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define BLOCK		512	/* bytes; headers are one block, contents are padded to whole ones */
#define INLINE_MAX	64	/* bytes; larger contents of regular files are objects */
#define TEXT_MAX	256	/* bytes of each text that cfs_api.h promises for a row */

/* POSIX.1-2017, pax, "ustar Interchange Format"; GNU's has its own magic, and no prefix there. */
struct tar_header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[8];
	char user[32], group[32], major[8], minor[8], prefix[155], unused[12];
};
_Static_assert(sizeof(struct tar_header) == BLOCK, "as POSIX has it");
_Static_assert(sizeof(((struct tar_header *)0)->prefix) + 1 + sizeof(((struct tar_header *)0)->name) <= TEXT_MAX,
	       "a path fits");

/* An entry; composefs/oci/rows.py unpacks it.  Little-endian. */
struct tar_row {
	u64 offset;		/* of its header in the archive */
	u64 number;		/* bytes of its object */
	u32 value_end;		/* of what it holds, in the values */
	u16 directory;		/* index */
	u8 kind;
	u8 unused;
	u8 stat[24];		/* mode, uid, gid: 4 bytes each; mtime: 8; nanoseconds: 4 */
};
_Static_assert(sizeof(struct tar_row) == 48, "as in rows.py");

struct entry {
	u64 mode, uid, gid, size, mtime;
	char path[TEXT_MAX];
	size_t path_size;
	size_t link_size;
};

uint64_t cfs_sum_bytes(const void *data, size_t size)
{
	const u8 *bytes = data;
	u64 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	return sum;
}

/* Parse digits with nothing but blanks and zero bytes behind them, at most 12; other forms are for Python. */
static bool parse_octal(const char *field, size_t size, u64 *value)
{
	size_t i;

	*value = 0;
	for (i = 0; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		*value = *value << 3 | (u64)(field[i] - '0');
	for (; i < size; i++) {
		if (field[i] != '\0' && field[i] != ' ')
			return false;
	}
	return true;
}

#define PARSE_OCTAL(field, value) parse_octal(field, sizeof(field), value)

static bool is_sum_right(const struct tar_header *header)
{
	u64 sum = cfs_sum_bytes(header, sizeof(*header)) + sizeof(header->checksum) * ' ';
	u64 wanted;

	sum -= cfs_sum_bytes(header->checksum, sizeof(header->checksum));
	return PARSE_OCTAL(header->checksum, &wanted) && sum == wanted;
}

static void parse_path(const struct tar_header *header, bool has_prefix, struct entry *entry)
{
	size_t size = strnlen(header->name, sizeof(header->name));
	size_t prefix_size = has_prefix ? strnlen(header->prefix, sizeof(header->prefix)) : 0;
	char *end = entry->path;

	end = mempcpy(end, header->prefix, prefix_size);
	if (prefix_size && size)
		*end++ = '/';
	end = mempcpy(end, header->name, size);
	entry->path_size = end - entry->path;
}

/* Parse a header that means what it says.  Return: whether it is one. */
static bool parse_header(const struct tar_header *header, struct entry *entry)
{
	bool is_ustar = memcmp(header->magic, "ustar\0" "00", sizeof(header->magic)) == 0;
	u64 unused;

	if (!is_ustar && memcmp(header->magic, "ustar  \0", sizeof(header->magic)) != 0)
		return false;
	if (!is_sum_right(header) || !PARSE_OCTAL(header->mode, &entry->mode) ||
	    !PARSE_OCTAL(header->uid, &entry->uid) || !PARSE_OCTAL(header->gid, &entry->gid) ||
	    !PARSE_OCTAL(header->size, &entry->size) || !PARSE_OCTAL(header->mtime, &entry->mtime) ||
	    !PARSE_OCTAL(header->major, &unused) || !PARSE_OCTAL(header->minor, &unused))
		return false;
	parse_path(header, is_ustar, entry);
	entry->link_size = strnlen(header->link, sizeof(header->link));
	return true;
}

/* Go over bytes that are in the data, and in an inline chunk. */
static void skip(struct cfs_tar_place *place, u64 size)
{
	place->position += size;
	place->inline_left -= size;
	place->offset += size;
}

/* Read the head of the next chunk, if there is a whole one. */
static bool read_chunk_head(const u8 *data, size_t size, struct cfs_tar_place *place, int64_t *number)
{
	u64 head;

	if (place->inline_left || size - place->position < sizeof(head))
		return false;
	memcpy(&head, data + place->position, sizeof(head));
	*number = (int64_t)le64toh(head);
	place->position += sizeof(head);
	return true;
}

static size_t inline_size(size_t size, const struct cfs_tar_place *place)
{
	u64 left = size - place->position;

	return left < place->inline_left ? left : place->inline_left;
}

/* Return: the next header, behind the padding; NULL if it and all before it are not in one chunk, and here. */
static const struct tar_header *next_header(const u8 *data, size_t size, struct cfs_tar_place *place)
{
	const u8 *header;
	int64_t number;

	if (!place->inline_left) {
		if (!read_chunk_head(data, size, place, &number) || number >= 0)
			return NULL;
		place->inline_left = -(u64)number;
	}
	if (inline_size(size, place) < BLOCK || inline_size(size, place) - BLOCK < place->padding)
		return NULL;
	skip(place, place->padding);
	place->padding = 0;
	header = data + place->position;
	skip(place, BLOCK);
	return (const struct tar_header *)header;
}

static void add_value(struct cfs_tar_rows *rows, const void *value, size_t size)
{
	memcpy(rows->values + rows->values_size, value, size);
	rows->values_size += size;
}

/* Read what a regular file holds: it is in this chunk, or the next one is the object.  Return: whether it is so. */
static bool read_contents(const u8 *data, size_t size, struct cfs_tar_place *place, const struct cfs_digests *digests,
			  u64 file_size, struct cfs_tar_rows *rows)
{
	int64_t number;

	if (file_size <= INLINE_MAX) {
		if (inline_size(size, place) < file_size)
			return false;
		add_value(rows, data + place->position, file_size);
		skip(place, file_size);
	} else {
		if (!read_chunk_head(data, size, place, &number) || number < 0 || (u64)number >= digests->count)
			return false;
		add_value(rows, digests->data + (u64)number * digests->size, digests->size);
		place->offset += file_size;
	}
	place->padding = -file_size % BLOCK;
	return true;
}

/* Add directory and name of an entry.  Return: false if it has no plain name, or that of a whiteout. */
static bool add_path(const struct entry *entry, struct cfs_tar_rows *rows)
{
	const char *start = entry->path, *end = start + entry->path_size, *slash, *name;
	size_t directory_size, name_size;

	while (start < end && *start == '/')
		start++;
	while (start < end && end[-1] == '/')
		end--;
	slash = memrchr(start, '/', end - start);
	name = slash ? slash + 1 : start;
	name_size = end - name;
	directory_size = slash ? slash - start : 0;
	if (name_size == 0 || (name_size == 1 && name[0] == '.') || (name_size == 2 && memcmp(name, "..", 2) == 0) ||
	    (name_size >= 4 && memcmp(name, ".wh.", 4) == 0))
		return false;

	/* The name of a directory is there once for all that follow each other in it. */
	if (rows->count == 0 || rows->last_directory_size != directory_size ||
	    memcmp(rows->directories + rows->directories_size - directory_size - 1, start, directory_size) != 0) {
		memcpy(rows->directories + rows->directories_size, start, directory_size);
		rows->directories_size += directory_size;
		rows->directories[rows->directories_size++] = '\0';
		rows->last_directory_size = directory_size;
		rows->directory_count++;
	}
	memcpy(rows->names + rows->names_size, name, name_size);
	rows->names_size += name_size;
	rows->names[rows->names_size++] = '/';
	return true;
}

static void add_row(struct cfs_tar_rows *rows, u64 offset, u8 kind, const struct entry *entry)
{
	struct tar_row row = {
		.offset = htole64(offset),
		.number = htole64(kind == ENTRY_OBJECT ? entry->size : 0),
		.value_end = htole32(rows->values_size),
		.directory = htole16(rows->directory_count - 1),
		.kind = kind,
	};
	u32 owner[] = { htole32(entry->mode), htole32(entry->uid), htole32(entry->gid) };
	u64 mtime = htole64(entry->mtime);

	memcpy(row.stat, owner, sizeof(owner));
	memcpy(row.stat + sizeof(owner), &mtime, sizeof(mtime));
	memcpy(rows->rows + rows->count * sizeof(row), &row, sizeof(row));
	rows->count++;
}

/* What a header is of that means what it says.  Return: a kind, or -1 for what is not plain. */
static int plain_kind(const struct tar_header *header, const struct entry *entry)
{
	switch (header->type) {
	case '0':
	case '\0':
	case '7':
		return entry->size > INLINE_MAX ? ENTRY_OBJECT : ENTRY_INLINE;
	case '1':
		return entry->size || !entry->link_size ? -1 : ENTRY_HARD_LINK;
	case '2':
		return entry->size ? -1 : ENTRY_SYMLINK;
	case '5':
		return entry->size ? -1 : ENTRY_DIRECTORY;
	default:
		return -1;
	}
}

/* Read one entry, if it is plain and all here; else place and rows are of no use. */
static bool read_entry(const u8 *data, size_t size, struct cfs_tar_place *place, const struct cfs_digests *digests,
		       struct cfs_tar_rows *rows)
{
	const struct tar_header *header = next_header(data, size, place);
	struct entry entry;
	u64 offset;
	int kind;

	if (!header || !parse_header(header, &entry) || (kind = plain_kind(header, &entry)) < 0 || !add_path(&entry, rows))
		return false;
	offset = place->offset - BLOCK;
	if (kind == ENTRY_SYMLINK || kind == ENTRY_HARD_LINK)
		add_value(rows, header->link, entry.link_size);
	else if (kind != ENTRY_DIRECTORY && !read_contents(data, size, place, digests, entry.size, rows))
		return false;
	add_row(rows, offset, kind, &entry);
	return true;
}

/*
 * Read entries from place on, while they are plain, whole, and of a layer that is
 * stored as it should be.  What is not, and the last entry that is, are left: Python
 * knows all rules, and how to say what is wrong and behind which entry.
 * Return: 0, or -EINVAL for sizes that cannot be.
 */
int cfs_tar_read(const void *data, size_t size, struct cfs_tar_place *place, const struct cfs_digests *digests,
		 struct cfs_tar_rows *rows)
{
	struct cfs_tar_place place_before = *place;
	struct cfs_tar_rows rows_before;

	if (place->position > size || digests->size > TEXT_MAX || rows->capacity > UINT16_MAX)
		return -EINVAL;
	rows->count = rows->directory_count = 0;
	rows->names_size = rows->directories_size = rows->values_size = rows->last_directory_size = 0;
	rows_before = *rows;
	while (rows->count < rows->capacity) {
		struct cfs_tar_place next_place = *place;
		struct cfs_tar_rows next_rows = *rows;

		if (!read_entry(data, size, &next_place, digests, &next_rows))
			break;
		place_before = *place;
		rows_before = *rows;
		*place = next_place;
		*rows = next_rows;
	}
	*place = place_before;
	*rows = rows_before;
	return 0;
}

/* Go over bytes of an archive. */
static void pass(struct cfs_tar_place *place, u64 size)
{
	place->position += size;
	place->offset += size;
}

/* Split off one entry of an archive, if it is plain and its contents are all here; else nothing is of use. */
static bool split_entry(const u8 *data, size_t size, struct cfs_tar_place *place, struct cfs_tar_rows *rows,
			struct cfs_tar_objects *objects)
{
	const struct tar_header *header;
	struct entry entry;
	u64 offset;
	int kind;

	if (size - place->position < BLOCK || size - place->position - BLOCK < place->padding)
		return false;
	pass(place, place->padding);
	place->padding = 0;
	offset = place->offset;
	header = (const struct tar_header *)(data + place->position);
	if (!parse_header(header, &entry) || (kind = plain_kind(header, &entry)) < 0 || !add_path(&entry, rows))
		return false;
	pass(place, BLOCK);
	if (kind == ENTRY_SYMLINK || kind == ENTRY_HARD_LINK) {
		add_value(rows, header->link, entry.link_size);
	} else if (kind != ENTRY_DIRECTORY) {
		if (size - place->position < entry.size)
			return false;
		if (kind == ENTRY_INLINE) {
			add_value(rows, data + place->position, entry.size);
		} else {
			objects->spans[objects->count++] = (struct cfs_span){ place->position, entry.size };
			rows->values_size += objects->digest_size;	/* for cfs_tar_split() to fill */
		}
		pass(place, entry.size);
		place->padding = -entry.size % BLOCK;
	}
	add_row(rows, offset, kind, &entry);
	return true;
}

/* The digests of objects are what their rows hold. */
static void fill_values(struct cfs_tar_rows *rows, const struct cfs_tar_objects *objects)
{
	const u8 *digest = objects->digests;

	for (size_t i = 0; i < rows->count; i++) {
		struct tar_row row;

		memcpy(&row, rows->rows + i * sizeof(row), sizeof(row));
		if (row.kind != ENTRY_OBJECT)
			continue;
		memcpy(rows->values + le32toh(row.value_end) - objects->digest_size, digest, objects->digest_size);
		digest += objects->digest_size;
	}
}

/*
 * Split off entries of an archive from place on, while they are plain and whole, and
 * compute the digests of the contents that become objects, beside that of stream, which
 * may be NULL.  What is not is left, for Python knows all rules.
 * Return: 0, -EINVAL for sizes that cannot be, or what cfs_verity_digest_spans() returns.
 */
int cfs_tar_split(int alg, const void *data, size_t size, struct cfs_tar_place *place, struct cfs_tar_rows *rows,
		  struct cfs_tar_objects *objects, struct cfs_stream *stream)
{
	int ret;

	if (place->position > size || objects->digest_size > TEXT_MAX || rows->capacity > UINT16_MAX)
		return -EINVAL;
	rows->count = rows->directory_count = objects->count = 0;
	rows->names_size = rows->directories_size = rows->values_size = rows->last_directory_size = 0;
	while (rows->count < rows->capacity) {
		struct cfs_tar_place next_place = *place;
		struct cfs_tar_rows next_rows = *rows;

		if (!split_entry(data, size, &next_place, &next_rows, objects))
			break;
		*place = next_place;
		*rows = next_rows;
	}
	ret = cfs_verity_digest_spans_fused(alg, 4096, NULL, 0, data, size, objects->spans, objects->count,
					    objects->digests, objects->digest_size, stream);
	if (ret == 0)
		fill_values(rows, objects);
	return ret;
}
