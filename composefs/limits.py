"""How much is taken from input that somebody else made, before it is refused with `LimitError`.

So memory and time are bounded by these numbers, whatever the input claims or inflates to.  Honest input stays far
below: next to each limit stands what is known of that.  What a format itself cannot hold is no limit of ours, and
stands where the format is: `composefs.erofs.limits`, `composefs.dumpfile`.

docs/limits.md has them for users; a test compares.  They are looked up here at every use, so that a test, or a program
that knows its input, can set them.
"""

# Layers

ARCHIVE_SIZE = 1 << 40  # bytes; the largest layers known, of AI models, have less than a tenth
# gzip makes programs 2 to 4 times smaller, a log 25 times, zeros 1032 times, zstd these 31,000 times.  A disk image of
# zeros may be honest: so the ratio counts only for more than a usual disk has room for.
ARCHIVE_RATIO = 256  # bytes of archive for each of the blob; a quarter of what gzip does at most
ARCHIVE_SIZE_AT_ANY_RATIO = 1 << 34  # bytes
# An EROFS image of 1 GiB has no room for so many files that are objects; desktop images have 240,000.
ENTRIES = 5 << 20  # in a layer, an image, or a dump
MERGED_SIZE = 1 << 30  # bytes of names, metadata and small files in all layers of an image; a large one has 1/30
TAR_METADATA_SIZE = 1 << 20  # bytes of extension headers for one entry, or in one global header; as composefs-rs
PATH_SIZE = 4096  # bytes; Linux' PATH_MAX, and as composefs-rs in dumps
XATTR_NAMES_SIZE = 1 << 16  # bytes of all names of an entry, with a zero each; Linux' XATTR_LIST_MAX
ZSTD_WINDOW_SIZE = 1 << 27  # bytes of memory that a frame may ask for; libzstd's own limit, and so composefs-rs's
TOC_SIZE = 150 << 20  # bytes of a table of contents; as podman takes; 240,000 files have about half

# JSON

JSON_SIZE = 1 << 25  # bytes of an index, manifest or config; registries take manifests of 4 MiB
JSON_DEPTH = 64  # lists and objects in one another; real ones have less than ten
JSON_VALUES = 1 << 21  # values, about; each takes up to some 100 bytes of memory
META_SIZE = 1 << 20  # bytes of meta.json; a real one has about 220
LAYERS = 4096  # of an image; Docker takes 127
REGISTRY_JSON_SIZE = 1 << 22  # bytes of an index, manifest, config or list from a registry; registries take these 4 MiB
REGISTRY_ERROR_SIZE = 1 << 20  # bytes of an answer that is an error, or a token; as in podman
REGISTRY_PAGES = 1000  # of a list of tags or referrers; usual pages have 100 to 1000
REGISTRY_LIST_SIZE = 1 << 25  # bytes of all pages of such a list; 100,000 referrers have some 30 MB
REGISTRY_DOCUMENTS = 64  # indexes, manifests and configs that are asked for, to find an image; usually three
INDEX_DEPTH = 8  # indexes in one another; the specification names no number

# Archives of images

ARCHIVE_HEADERS = 1 << 18  # of files, and extensions; an image has about 200, in the oldest form that is read

# Configuration of the host

HOST_FILE_SIZE = 4 << 20  # bytes of auth.json, policy.json or a registries.conf; those of clusters have some 10,000
HELPER_ANSWER_SIZE = 1 << 18  # bytes that a credential helper says; tokens have some 1000

# Repositories

NAMED_REFS_SIZE = 1 << 26  # bytes of named references of a stream, inflated; an image has one for each layer

# Images and dumps

EROFS_SIZE = 1 << 30  # bytes; as composefs-rs: an image holds metadata only
DIRECTORY_DEPTH = PATH_SIZE // 2 + 1  # levels of directories, with the root: names of one byte, and slashes
DUMP_LINE_SIZE = 4 << 20  # bytes; the longest line that an image can hold has about 1 MiB, of escaped xattrs
DUMP_SIZE = 1 << 32  # bytes; the dump of an image of EROFS_SIZE is smaller, unless it is all escapes

# What is read to make an image bootable

BOOT_ENTRY_SIZE = 1 << 20  # bytes of a Type 1 entry; real ones have some hundreds
BOOT_PAYLOAD_SIZE = 1 << 30  # bytes of an aboot payload; several times what kernel and initrd have
POLICY_FILE_SIZE = 16 << 20  # bytes of a file of an SELinux policy; thirty times the largest known


def archive_size(blob_size: int) -> int:
    """Return how many bytes of archive a blob of *blob_size* bytes may inflate to, if nobody says otherwise."""
    return min(ARCHIVE_SIZE, max(ARCHIVE_SIZE_AT_ANY_RATIO, ARCHIVE_RATIO * blob_size))
