"""What an image begins with: composefs header and EROFS superblock.

What no image of composefs has is refused: another block size, compression, several devices, packed inodes, more than
1 GiB.  Checksum and counts are not looked at: nothing depends on them.

Source: the kernel's fs/erofs/erofs_fs.h; what composefs-rs 0.9.4 reads and refuses.
"""

from __future__ import annotations

from mmap import mmap
from typing import BinaryIO, NamedTuple

from composefs import limits
from composefs.erofs import VERSIONS, ondisk
from composefs.errors import FormatError, LimitError

_CHECKSUM = 1  # a compatible feature, which no composefs image has
_COMPAT = _CHECKSUM | ondisk.FEATURE_COMPAT_MTIME | ondisk.FEATURE_COMPAT_XATTR_FILTER
_INCOMPAT = ondisk.FEATURE_INCOMPAT_CHUNKED_FILE


class Superblock(NamedTuple):
    """What reading an image depends on."""

    version: int  # of composefs: 0, 1 or 2
    root_nid: int
    mtime: int  # seconds, signed; that of all compact inodes
    nanoseconds: int  # of the mtime
    xattrs_offset: int  # bytes from the start of the image, from where references to shared xattrs count
    has_acls: bool  # whether there are access control lists; version 2 says never


def read_image(file: BinaryIO) -> bytes:
    """Return the image that *file* holds; of one that is too large only so much that `read_superblock` refuses it."""
    return file.read(limits.EROFS_SIZE + 1)


def read_superblock(data: bytes | mmap, source: str) -> Superblock:
    """Return what the image *data* begins with.

    Args:
        data: the image.
        source: what to call it in errors.

    Raises:
        FormatError: it is no composefs image.
        LimitError: it is too large.
    """
    if len(data) > limits.EROFS_SIZE:
        raise LimitError(source, 0, "bytes of image", limits.EROFS_SIZE, len(data))
    if len(data) < ondisk.INODES_OFFSET:
        what = f"the image ends before its inodes, which begin at {ondisk.INODES_OFFSET}"
        raise FormatError(source, len(data), what)
    magic, header_version, flags, version = ondisk.HEADER.unpack_from(data)
    if magic != ondisk.HEADER_MAGIC:
        raise FormatError(source, 0, f"magic {magic:#x} instead of {ondisk.HEADER_MAGIC:#x}: no composefs image")
    if header_version != ondisk.HEADER_VERSION:
        raise FormatError(source, 4, f"header version {header_version} instead of {ondisk.HEADER_VERSION}")
    if version not in VERSIONS:
        raise FormatError(source, 12, f"composefs version {version}, which is none of 0, 1, 2")
    fields = ondisk.SUPERBLOCK.unpack_from(data, ondisk.SUPERBLOCK_OFFSET)
    _check_features(fields, source)
    root_nid, _, mtime, nanoseconds, _, _, xattr_block = fields[5:12]
    xattrs_offset = xattr_block * ondisk.BLOCK
    if xattrs_offset > len(data):
        what = f"shared xattrs in block {xattr_block}, behind the end of the image"
        raise FormatError(source, ondisk.SUPERBLOCK_OFFSET + 44, what)
    signed = mtime - (1 << 64) if mtime >> 63 else mtime
    return Superblock(version, root_nid, signed, nanoseconds, xattrs_offset, bool(flags & ondisk.FLAG_HAS_ACL))


def _check_features(fields: tuple[int, ...], source: str) -> None:
    """Check that the superblock, unpacked, is one that composefs writes."""
    magic, _, compat, block_bits, slots = fields[:5]
    incompat, algorithms, devices = fields[14:17]
    long_prefixes, _, packed_nid = fields[19:22]
    for is_bad, offset, what in (
        (magic != ondisk.EROFS_MAGIC, 0, f"magic {magic:#x} instead of {ondisk.EROFS_MAGIC:#x}: no EROFS"),
        (1 << min(block_bits, 64) != ondisk.BLOCK, 12, f"blocks of 2^{block_bits} bytes instead of {ondisk.BLOCK}"),
        (compat & ~_COMPAT, 8, f"unknown compatible features {compat & ~_COMPAT:#x}"),
        (incompat & ~_INCOMPAT, 80, f"features {incompat & ~_INCOMPAT:#x}, which no composefs image has"),
        (slots, 13, f"superblock extensions ({slots}), which no composefs image has"),
        (fields[10], 40, f"a start of the inodes at block {fields[10]}, which no composefs image has"),
        (algorithms, 84, f"compression ({algorithms}), which no composefs image has"),
        (devices, 86, f"other devices ({devices}), which no composefs image has"),
        (long_prefixes, 91, f"long xattr prefixes ({long_prefixes}), which no composefs image has"),
        (packed_nid, 96, f"a packed inode ({packed_nid}), which no composefs image has"),
    ):
        if is_bad:
            raise FormatError(source, ondisk.SUPERBLOCK_OFFSET + offset, what)
