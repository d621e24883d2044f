"""Make two views of one container image the same tree: that of its layers and that of a mounted root.

What a container run leaves behind goes: metadata of the root, which no layer needs to have; what lies in /run; and
extended attributes of the host.  This is the OCI transform of composefs-rs 0.9.4.
"""

from __future__ import annotations

from collections.abc import Callable

from composefs.errors import NotFoundError
from composefs.tree import NO_XATTRS, Directory, Stat
from composefs.xattrs import XattrFilter


def transform_for_oci(root: Directory, xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY) -> None:
    """Make the tree that of a container image, in place; an error leaves it as it was.

    The root takes all metadata of /usr, /run is emptied and takes its mtime, and extended attributes are filtered.

    Args:
        root: the merged layers, or a directory as it was read.
        xattrs: which extended attributes stay.

    Raises:
        NotFoundError: there is no /usr.
        TreeError: /usr or /run is no directory.
    """
    usr = required_directory(root, b"/usr")
    run = root.directory(b"/run") if b"run" in root.entries else None
    root.stat = usr.stat
    if run is not None:
        empty(run, usr.stat)
    _filter_xattrs(root, xattrs.keeps)


def required_directory(root: Directory, path: bytes) -> Directory:
    """Return the directory at *path*, which an image must have.

    Raises:
        NotFoundError: there is nothing.
        TreeError: it is no directory.
    """
    try:
        return root.directory(path)
    except NotFoundError:
        raise NotFoundError(f"{path.decode()} does not exist, but such an image must have it") from None


def empty(directory: Directory, like: Stat) -> None:
    """Empty *directory*, as if that had happened at the mtime of *like*."""
    directory.entries.clear()
    directory.stat = directory.stat._replace(mtime=like.mtime, nanoseconds=like.nanoseconds)


def _filter_xattrs(root: Directory, keeps: Callable[[bytes], bool]) -> None:
    """Drop what *keeps* refuses, everywhere; a leaf with several names is left alone after the first."""
    root.stat = _filtered(root.stat, keeps)
    stack = [root]
    while stack:
        for node in stack.pop().entries.values():
            if type(node) is Directory:
                stack.append(node)
            if node.stat.xattrs:
                node.stat = _filtered(node.stat, keeps)


def _filtered(before: Stat, keeps: Callable[[bytes], bool]) -> Stat:
    xattrs = before.xattrs
    kept = {name: value for name, value in xattrs.items() if keeps(name)}
    if len(kept) == len(xattrs):
        return before
    mode, uid, gid, mtime, nanoseconds, _ = before
    return Stat(mode, uid, gid, mtime, nanoseconds, kept or NO_XATTRS)  # a third of the time of _replace
