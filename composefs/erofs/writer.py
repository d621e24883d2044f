"""Write the composefs image of a tree: the same bits as composefs-rs and, in its dialect, as libcomposefs.

Four steps: inodes in order (lister.py, epoch1.py), their xattrs (areas.py), their places (directories.py, layout.py),
and then bytes.  All that an image cannot hold is found in the first two.

Source: the kernel's fs/erofs/erofs_fs.h; doc/erofs.md of composefs-rs.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

from composefs import _native
from composefs.collector import paused_collector
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.areas import XattrTable
from composefs.erofs.directories import measure_directories, pack_directories
from composefs.erofs.epoch1 import Homes, adapt_to_overlayfs, breadth_first
from composefs.erofs.inodes import Inodes, Listing, Time
from composefs.erofs.layout import find_oldest, place_blocks, place_inodes
from composefs.erofs.limits import UnfitError
from composefs.erofs.lister import Lister
from composefs.errors import TreeError, UsageError
from composefs.tree import Directory, Leaf, is_whiteout, nodes, walk

VERSIONS = (0, 1, 2)

_BLOCK = ondisk.BLOCK
_DIRECTORY = ondisk.FILE_TYPES[stat.S_IFDIR]
_NULL_CHUNKS = ondisk.NULL_CHUNK * (_BLOCK // len(ondisk.NULL_CHUNK))
_U64 = 0xFFFF_FFFF_FFFF_FFFF
_NO_HOMES: Homes = {}


def write_image(
    root: Directory, version: int = 1, *, dialect: Dialect = Dialect.RUST, homes: Homes = _NO_HOMES
) -> bytearray:
    """Return the image of the tree *root*.

    Args:
        root: the tree.
        version: the composefs version: 0, 1 or 2.
        dialect: whose rules hold where programs differ; C knows versions 0 and 1 only.
        homes: directory and name where leaves with several names are numbered in versions 0 and 1, of those for which
            that is not where they come first, depth first.

    Raises:
        TreeError: an image cannot hold the tree; the path is that of the node.
        UsageError: there is no such version.
    """
    if version not in VERSIONS or (version == 2 and dialect is Dialect.C):
        raise UsageError(f"no image has version {version} in the dialect {dialect.value}")
    with paused_collector():
        return _write(root, version, dialect, homes)


def _write(root: Directory, version: int, dialect: Dialect, homes: Homes) -> bytearray:
    epoch = 2 if version == 2 else 1
    try:
        inodes, listings, order = _list_inodes(root, version, dialect, homes)
        table = XattrTable(inodes, epoch, dialect)
    except UnfitError as error:
        raise TreeError(_path_of(root, error), error.what) from None
    oldest = find_oldest(inodes, is_signed=dialect is Dialect.C) if epoch == 1 else (0, 0)
    measure_directories(inodes, listings)
    end = place_inodes(inodes, order, [len(area.data) for area in table.areas], epoch, oldest)
    blocks, blocks_end = place_blocks(inodes, order, -(-(end + len(table.shared)) // _BLOCK))
    table.refer(end % _BLOCK if epoch == 1 else end)

    image = bytearray(blocks_end * _BLOCK)
    flags = ondisk.FLAG_HAS_ACL if epoch == 1 and table.has_acl else 0
    ondisk.HEADER.pack_into(image, 0, ondisk.HEADER_MAGIC, ondisk.HEADER_VERSION, flags, version)
    _pack_superblock(image, inodes, oldest, end // _BLOCK if epoch == 1 else 0)
    pack_directories(image, inodes, listings, blocks)
    _pack_blocks(image, inodes, blocks)
    _native.pack_erofs_inodes(image, inodes.records, *table.pack(), b"".join(inodes.payloads))
    image[end : end + len(table.shared)] = table.shared
    return image


def _list_inodes(
    root: Directory, version: int, dialect: Dialect, homes: Homes
) -> tuple[Inodes, list[Listing], Sequence[int]]:
    """Return the inodes, the directories, and the order of the inodes in the image."""
    lister = Lister(root, 2 if version == 2 else 1, dialect)
    if version == 2:
        return lister.inodes, lister.listings, range(len(lister.inodes))
    order = breadth_first(lister, homes)
    adapt_to_overlayfs(lister, version, dialect, homes)
    return lister.inodes, lister.listings, order


def has_whiteout(root: Directory) -> bool:
    """Tell whether there is a whiteout in the tree, for which mkcomposefs makes an image of version 1 if it may."""
    return any(isinstance(node, Leaf) and is_whiteout(node.content) for node in nodes(root))


def _path_of(root: Directory, error: UnfitError) -> bytes:
    path = next((path for path, node in walk(root) if node is error.node), b"/")
    return path if error.name is None else path.removesuffix(b"/") + b"/" + error.name


def _pack_superblock(image: bytearray, inodes: Inodes, oldest: Time, xattr_block: int) -> None:
    features = ondisk.FEATURE_COMPAT_MTIME | ondisk.FEATURE_COMPAT_XATTR_FILTER
    seconds, nanoseconds = oldest
    ondisk.SUPERBLOCK.pack_into(
        image,
        ondisk.SUPERBLOCK_OFFSET,
        ondisk.EROFS_MAGIC,
        0,
        features,
        _BLOCK.bit_length() - 1,
        0,
        inodes.nids[0],
        len(inodes),
        seconds & _U64,
        nanoseconds,
        len(image) // _BLOCK,
        0,
        xattr_block,
        bytes(16),
        bytes(16),
        *[0] * 9,
    )


def _pack_blocks(image: bytearray, inodes: Inodes, blocks: Mapping[int, int]) -> None:
    """Pack the data that stand in blocks, but for those of directories."""
    for index, block in blocks.items():
        shape = inodes.shapes[index]
        if shape.file_type != _DIRECTORY:
            data = _NULL_CHUNKS if shape.layout == ondisk.LAYOUT_CHUNKED else inodes.payloads[index]
            size = len(data) - shape.tail_size
            image[block * _BLOCK : block * _BLOCK + size] = data[:size]
