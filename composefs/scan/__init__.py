"""A root file system on disk as a tree: read, hashed, and stored if that is wanted.

places.py     where a node stands; what is wrong when it changes while it is read
contents.py   digests of contents, on threads
walk.py       the walk, and what each node becomes
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from composefs.cpus import available_cpus
from composefs.digest import Algorithm
from composefs.repository.files import Sharing
from composefs.repository.objects import ObjectStore
from composefs.scan.contents import Contents, hasher, storer
from composefs.scan.walk import INLINE_MAX, Walk, Xattrs
from composefs.tree import Directory

__all__ = ["INLINE_MAX", "Sharing", "Xattrs", "scan_directory"]

_WORKERS_MAX = 32  # threads; one walks, and cannot find work for more


def scan_directory(
    path: str | bytes | os.PathLike[str],
    algorithm: Algorithm,
    *,
    store: ObjectStore | None = None,
    sharing: Sharing = Sharing.REFLINK,
    hard_links: bool = True,
    devices: bool = True,
    xattrs: Xattrs = Xattrs.ALL,
    workers: int | None = None,
    executor: ThreadPoolExecutor | None = None,
) -> Directory:
    """Read the directory *path* and all below it, mount points included.

    A regular file becomes `Inline` up to 64 bytes and an `Object` beyond.  mkcomposefs has `hard_links=False` and a
    choice of *devices* and *xattrs*; for the digests that it gives inline files, too, their contents are in the tree.

    Args:
        path: not a symbolic link.
        algorithm: of the digests; with a *store* it must be that of the store.
        store: where contents beyond 64 bytes are stored as objects; None: they are only hashed.
        sharing: what objects share with the files they come from.
        hard_links: make one leaf of what is one file; otherwise every name gets its own.
        devices: read block and character devices; otherwise they are passed over.
        xattrs: which extended attributes are read.
        workers: threads that hash or store; by default one for each CPU that this process may use, and more where
            what is stored is sealed.
        executor: threads to use instead of own ones; they stay open.  Processes will not do: files are handed over
            open.

    Raises:
        TreeError: something changed while it was read; names it, and what changed.
        OSError: something could not be read or stored; with its path.
    """
    digester = hasher(algorithm) if store is None else storer(store, sharing)
    count = workers if workers is not None else max(available_cpus(), digester.workers_min)
    with Contents(digester, workers=min(count, _WORKERS_MAX), executor=executor) as contents:
        return Walk(contents, xattrs=xattrs, hard_links=hard_links, devices=devices).run(os.fsencode(path))
