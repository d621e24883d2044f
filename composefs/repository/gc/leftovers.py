"""What work that ended too early has left behind: files and links with temporary names.

Who holds the exclusive lock knows that nobody works with them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from composefs.repository.directories import open_directory
from composefs.repository.objects import DIRECTORY as OBJECTS

# Of this package and of composefs-rs: 12 hexadecimal digits, or letters and digits.
_TEMPORARY = {
    "": re.compile(r"\.(symlink|fsck-record|meta\.json)-[0-9A-Za-z]{12}"),
    OBJECTS: re.compile(r"\.tmp-object-[0-9A-Za-z]{12}"),
}


def find_leftovers(repository_fd: int, where: str) -> Iterator[str]:
    """Yield the paths of leftovers, relative to the repository's directory."""
    for directory, pattern in _TEMPORARY.items():
        try:
            fd = open_directory(repository_fd, directory, where, flags=os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            with os.scandir(fd) as entries:
                found = sorted(
                    entry.name
                    for entry in entries
                    if pattern.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False)
                )
        finally:
            os.close(fd)
        yield from (os.path.join(directory, name) for name in found)
