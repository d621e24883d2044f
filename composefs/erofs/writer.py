"""Write the composefs image of a tree: the same bits as composefs-rs and, in its dialect, as libcomposefs.

Four steps: inodes in order (lister.py, epoch1.py), their xattrs (areas.py), their places (csrc/erofs_layout.c), and
then bytes (csrc/erofs.c).  All that an image cannot hold is found in the first two.

Source: the kernel's fs/erofs/erofs_fs.h; doc/erofs.md of composefs-rs.
"""

from __future__ import annotations

from composefs._native import columns as _columns
from composefs.collector import paused_collector
from composefs.dialect import Dialect
from composefs.erofs import VERSIONS, ondisk
from composefs.erofs.areas import XattrTable
from composefs.erofs.epoch1 import Homes, adapt_to_overlayfs, set_homes
from composefs.erofs.inodes import NID, Inodes
from composefs.erofs.limits import UnfitError
from composefs.erofs.lister import Lister
from composefs.errors import TreeError, UsageError
from composefs.tree import Directory, Leaf, is_whiteout, nodes, walk

_BLOCK = ondisk.BLOCK
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
    try:
        lister = Lister(root, epoch_of(version), dialect)
        if version != 2:
            set_homes(lister, homes)
            adapt_to_overlayfs(lister, version, dialect, homes)
        return write_columns(lister.inodes, lister.columns(), version, dialect)
    except UnfitError as error:
        raise TreeError(_path_of(root, error), error.what) from None


def write_columns(inodes: Inodes, columns: _columns.ErofsColumns, version: int, dialect: Dialect) -> bytearray:
    """Return the image of version *version* of a tree in columns.

    Raises:
        UnfitError: it cannot hold the tree.
    """
    epoch = epoch_of(version)
    tree = _columns.ErofsTree(inodes.records, columns)
    order = tree.order() if epoch == 1 else None
    table = XattrTable(inodes, tree, columns.payloads, epoch, dialect)
    areas, count = table.records(), len(table.areas)
    places = tree.place(epoch, order, areas, count, len(table.shared), is_signed=dialect is Dialect.C)
    end = places.inodes_end
    table.refer(end % _BLOCK if epoch == 1 else end)

    image = bytearray(places.block_count * _BLOCK)
    flags = ondisk.FLAG_HAS_ACL if epoch == 1 and table.has_acl else 0
    ondisk.HEADER.pack_into(image, 0, ondisk.HEADER_MAGIC, ondisk.HEADER_VERSION, flags, version)
    _pack_superblock(image, inodes, places, end // _BLOCK if epoch == 1 else 0)
    tree.pack(image, areas, count, table.data())
    image[end : end + len(table.shared)] = table.shared
    return image


def epoch_of(version: int) -> int:
    """Return the epoch of a version: how inodes are ordered and made."""
    return 2 if version == 2 else 1


def has_whiteout(root: Directory) -> bool:
    """Tell whether there is a whiteout in the tree, for which mkcomposefs makes an image of version 1 if it may."""
    return any(isinstance(node, Leaf) and is_whiteout(node.content) for node in nodes(root))


def _path_of(root: Directory, error: UnfitError) -> bytes:
    path = next((path for path, node in walk(root) if node is error.node), b"/")
    return path if error.name is None else path.removesuffix(b"/") + b"/" + error.name


def _pack_superblock(image: bytearray, inodes: Inodes, places: _columns.ErofsPlaces, xattr_block: int) -> None:
    features = ondisk.FEATURE_COMPAT_MTIME | ondisk.FEATURE_COMPAT_XATTR_FILTER
    seconds, nanoseconds = places.oldest
    ondisk.SUPERBLOCK.pack_into(
        image,
        ondisk.SUPERBLOCK_OFFSET,
        ondisk.EROFS_MAGIC,
        0,
        features,
        _BLOCK.bit_length() - 1,
        0,
        inodes.get(NID, 0),
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
