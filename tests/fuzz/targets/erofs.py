"""EROFS images: whatever the bytes, only `FormatError` may come out, soon, and without much memory."""

from __future__ import annotations

import stat

from composefs.dialect import Dialect
from composefs.dumpfile import format_dump
from composefs.erofs import ondisk
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, TreeError
from composefs.tree import Directory, Inline, Leaf, Object, Symlink, nodes, walk
from tests.fuzz import erofs_mutations
from tests.fuzz.target import Target, chance_of


def check(image: bytes) -> bool:
    """Read all that can be read of *image*, and write again what that is; raise whatever must not happen."""
    chance = chance_of(image)
    trees = {dialect: _attempt(lambda data: load_tree(data, dialect=dialect), image) for dialect in Dialect}  # noqa: B023
    _attempt(lambda data: check_structure(ErofsReader(data)), image)
    objects = _attempt(lambda data: collect_objects(ErofsReader(data)), image)
    if (reader := _attempt(ErofsReader, image)) is not None:
        _check_inodes(reader, chance)
    for dialect, tree in trees.items():
        if tree is not None:
            _check_tree(tree, image)
            if chance.randrange(3) == 0:  # which takes twice as long as all else
                _check_written(tree, dialect, chance)
    if trees[Dialect.RUST] is not None and objects is not None:
        found = {node.content.digest for node in nodes(trees[Dialect.RUST]) if _is_object(node)}
        assert found <= set(objects), "objects that are not collected"
    return any(tree is not None for tree in trees.values())


def _attempt(read, image):
    """Return what *read* returns; None if it refuses the image."""
    try:
        return read(image)
    except FormatError as error:
        if error.offset < 0 or not str(error):
            raise AssertionError(f"this error names no place: {error!r}") from error
        return None


def _check_inodes(reader, chance):
    """Ask for everything of inodes one by one, as commands do; what is refused here is passed over."""
    pending, seen, room = [reader.root], {reader.root.nid}, 4 * reader.size
    while pending and room > 0:
        inode = pending.pop(chance.randrange(len(pending)))
        # The reader bounds single calls, and who makes many has to stop by himself.
        room -= _attempt(reader.occupied, inode) or reader.size
        for read in (reader.node_stat, reader.xattrs, reader.content):
            _attempt(read, inode)
        if inode.type == stat.S_IFDIR:
            for entry in _check_directory(reader, inode, chance):
                if entry.nid not in seen:
                    seen.add(entry.nid)
                    pending += filter(None, [_attempt(reader.inode, entry.nid)])


def _check_directory(reader, inode, chance):
    """Return the entries of a directory; names in it are found, and others are not."""
    entries = _attempt(reader.entries, inode) or []
    names = {}
    for entry in entries:
        names.setdefault(entry.name, entry.nid)
    for name in chance.sample(sorted(names), min(8, len(names))):
        found = reader.lookup(inode, name)
        assert found in {entry.nid for entry in entries if entry.name == name}
        other = name + bytes([chance.randrange(1, 256)])
        if other not in names:
            assert _attempt(lambda other: reader.lookup(inode, other), other) is None
    return entries


def _check_tree(tree, image):
    """Check that *tree* is one, is no larger than *image*, and can be written down."""
    count = 0
    sizes = {}
    for _, node in walk(tree):
        count += 1
        if isinstance(node, Directory):
            assert not any(not name or name in (b".", b"..") or b"/" in name or b"\0" in name for name in node.entries)
        elif isinstance(node.content, Inline):
            sizes[id(node.content)] = len(node.content.data)
        elif isinstance(node.content, Symlink):
            sizes[id(node.content)] = len(node.content.target)
    assert count <= len(image) // ondisk.DIRENT.size
    assert sum(sizes.values()) <= len(image)
    for line in format_dump(tree):
        assert line.endswith(b"\n")


def _is_object(node) -> bool:
    return isinstance(node, Leaf) and isinstance(node.content, Object)


def _check_written(tree, dialect, chance):
    """What is read can be written, unless it is too much, and what is read of that is the same."""
    version = chance.choice((0, 1, 2) if dialect is Dialect.RUST else (0, 1))
    try:
        image = write_image(tree, version, dialect=dialect)
    except TreeError:
        return
    try:
        again = load_tree(image, dialect=dialect)
    except FormatError as error:
        assert version == 2 or dialect is Dialect.C, error  # whose limits are stricter in reading
        return
    second = load_tree(write_image(again, version, dialect=dialect), dialect=dialect)
    assert b"".join(format_dump(second)) == b"".join(format_dump(again)), "read, written and read again"


EROFS = Target(
    "erofs",
    check,
    erofs_mutations.mutate,
    erofs_mutations.handmade,
    erofs_mutations.golden,
    share=3,
    size_max=erofs_mutations.SIZE_MAX,
)
