"""Small copies of two large trees: some of each way in which they differ, and some of what is equal."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from composefs.diff.compare import HARD_LINK, Change, Comparison
from composefs.diff.grouping import signature
from composefs.tree import Directory

LARGE = 10_000  # names in both trees; a guess: smaller ones are compared in no time
_OF_A_GROUP = 100  # changes
_GROUPS = 50
_EQUAL = 2000  # names
# Directories with longer paths are not looked into: real ones have none, and those of hostile images fill the memory.
_PATH_MAX = 4096  # bytes
_ALWAYS = (b"/usr", b"/run", b"/boot", b"/sysroot")  # what transforms go by


def sample(a: Directory, b: Directory, comparison: Comparison) -> tuple[Directory, Directory]:
    """Return small trees out of *a* and *b*, or these themselves if they are small."""
    if comparison.entries_a + comparison.entries_b <= LARGE:
        return a, b
    members: dict[tuple[bool, tuple[str, ...]], list[Change]] = {}
    for change in comparison.changes:
        # Of links, those that tell what they are linked to are needed.
        is_link = bool(change.fields) and change.fields[-1].name == HARD_LINK
        members.setdefault((is_link, signature(change)), []).append(change)
    paths = set(_ALWAYS)
    for changes in sorted(members.values(), key=len, reverse=True)[:_GROUPS]:
        for change in changes[:: -(-len(changes) // _OF_A_GROUP)]:
            paths.add(change.path)
            if change.fields and change.fields[-1].name == HARD_LINK:
                paths.update(path for path in change.fields[-1][1:] if isinstance(path, bytes))
    step = -(-comparison.entries_a // _EQUAL)
    paths.update(_spread(a, step))
    return _only(a, paths), _only(b, paths)


def _spread(root: Directory, step: int) -> Iterator[bytes]:
    """Yield the path of one in *step* of the nodes below *root*."""
    pending = [(b"/", root)]
    count = 0
    while pending:
        prefix, directory = pending.pop()
        for name, node in sorted(directory.entries.items(), key=itemgetter(0)):
            path = prefix + name
            if count % step == 0:
                yield path
            count += 1
            if isinstance(node, Directory) and len(path) <= _PATH_MAX:
                pending.append((path + b"/", node))


def _only(root: Directory, paths: set[bytes]) -> Directory:
    """Return a copy of *root* with just *paths* and what leads there; directories are empty otherwise."""
    top = Directory(root.stat)
    for path in paths:
        source, target = root, top
        for name in filter(None, path.split(b"/")):
            node = source.entries.get(name)
            if not isinstance(node, Directory):
                if node is not None:
                    target.entries[name] = node
                break
            copy = target.entries.get(name)
            if not isinstance(copy, Directory):
                copy = target.entries[name] = Directory(node.stat)
            source, target = node, copy
    return top
