"""Which files of an image have an object as their content."""

from __future__ import annotations

import stat

from composefs import limits
from composefs.erofs.check import objects_of
from composefs.erofs.reader import ErofsReader


def find_files(reader: ErofsReader, objects: set[bytes]) -> dict[bytes, list[bytes]]:
    """Return the paths of the files of a sound image whose contents are *objects*, by raw digest; all their names."""
    found: dict[bytes, list[bytes]] = {}
    contents: dict[int, set[bytes]] = {}  # by nid
    seen = {reader.root.nid}
    pending = [(b"", 0, reader.root)]
    while pending:
        path, depth, directory = pending.pop()
        for name, nid in reader.names(directory).items():
            if name in (b".", b".."):
                continue
            inode = reader.inode(nid)
            if inode.type == stat.S_IFDIR:
                if nid not in seen and depth < limits.DIRECTORY_DEPTH:  # a hostile image may have loops
                    seen.add(nid)
                    pending.append((path + b"/" + name, depth + 1, inode))
                continue
            if nid not in contents:
                contents[nid] = objects.intersection(objects_of(reader, inode))
            for raw in contents[nid]:
                found.setdefault(raw, []).append(path + b"/" + name)
    return found
