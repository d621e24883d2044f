"""The EROFS images of merged layers that are not for booting, and their dumps.

Mostly no tree is made for them: the OCI transform is one more layer, and C makes the inodes of what is merged.  Where
that finds anything special, names that no file can have or whiteouts, the tree is made, and the image of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from composefs.dumpfile import format_dump
from composefs.erofs import ondisk
from composefs.erofs.lister import STUB_MODE
from composefs.erofs.writer import write_image
from composefs.oci.index import Batch, Kind, LayerIndex, Row
from composefs.oci.merge import Found, Merger
from composefs.transform import transform_for_oci
from composefs.xattrs import XattrFilter

_MODE_SIZE, _OWNER_SIZE = 4, 12  # bytes of a packed stat: its mode; mode, uid and gid, before the time


def plain_image(merger: Merger, version: int, xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY) -> bytearray:
    """Return the image of version *version* of the merged layers, after the OCI transform; *merger* has that then, too.

    Raises:
        NotFoundError, TreeError: the layers lack what an image must have, or an image cannot hold what they have.
    """
    image = _image(merger, version, xattrs)
    if image is None:
        tree = merger.list().tree()
        transform_for_oci(tree, xattrs)
        image = write_image(tree, version)
    return image


def plain_dump(merger: Merger, xattrs: XattrFilter) -> Iterator[bytes | memoryview]:
    """Return the dump of the merged layers, after the OCI transform, in pieces, each of which the next one overwrites.

    Raises:
        NotFoundError, TreeError: the layers lack what an image must have.
    """
    if _transform(merger) is not None:
        return merger.list().dump(xattrs.keeps)
    tree = merger.list().tree()
    transform_for_oci(tree, xattrs)
    return format_dump(tree)


def _image(merger: Merger, version: int, xattrs: XattrFilter) -> bytearray | None:
    """Return the image, if it can be made without a tree."""
    usr = _transform(merger)
    if usr is None:
        return None
    if version == 2:
        return merger.list().image(version, xattrs.keeps)
    # Whiteouts that hide the object directories.  They have no label, which any filter drops.
    names = [name for name in ondisk.STUB_NAMES if merger.find(name) is None]
    stat = STUB_MODE.to_bytes(_MODE_SIZE, "little") + usr.packed_stat[_MODE_SIZE:]
    _apply(merger, [Row(Kind.CHARACTER_DEVICE, 0, name, 0) for name in names], [b""], [stat])
    merged = merger.list()
    _apply(merger, [Row(Kind.WHITEOUT, 0, name, 0) for name in names], [b""], [stat])
    return merged.image(version, xattrs.keeps, whiteout_count=len(names))


def _transform(merger: Merger) -> Found | None:
    """Do what `transform_for_oci` does, but for xattrs: the root is as /usr, and /run empty, as of the time of /usr.

    Returns:
        What /usr is, or None if nothing was done, since that or /run is not as it should be.
    """
    usr, run = merger.find(b"usr"), merger.find(b"run")
    if usr is None or usr.kind != Kind.DIRECTORY or (run is not None and run.kind != Kind.DIRECTORY):
        return None
    rows, stats = [Row(Kind.ROOT, 0, b"", 0)], [usr]
    if run is not None:
        rows += [Row(Kind.OPAQUE, 1, b"", 0), Row(Kind.DIRECTORY, 0, b"run", 1)]
        stats.append(run._replace(packed_stat=run.packed_stat[:_OWNER_SIZE] + usr.packed_stat[_OWNER_SIZE:]))
    directories = [b"", b"run"][: len(stats)]
    xattrs = {number: dict(found.xattrs) for number, found in enumerate(stats) if found.xattrs}
    _apply(merger, rows, directories, [found.packed_stat for found in stats], xattrs)
    return usr


def _apply(
    merger: Merger,
    rows: Sequence[Row],
    directories: Sequence[bytes],
    stats: Sequence[bytes],
    xattrs: dict[int, dict[bytes, bytes]] | None = None,
) -> None:
    merger.apply(LayerIndex("transform", [Batch.of(rows, directories, stats, xattrs or {})]))
