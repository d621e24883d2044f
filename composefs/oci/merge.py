"""Merge the layers of an image into one file system, entry by entry, from the lowest layer up.

A directory over a directory keeps what is in it and takes the new metadata; anything else replaces what it meets, with
all below.  A whiteout acts where it stands in the archive, also on entries of its own layer.  Parents must exist.

Source: OCI image specification 1.1, layer.md; where that leaves a choice, composefs-rs 0.9.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from composefs.collector import paused_collector
from composefs.errors import FormatError
from composefs.oci.index import Batch, Kind, LayerIndex, content_of, split_path
from composefs.tree import Directory, Inline, Leaf, Node, Object, Stat

_WEIGHT_MAX = 1 << 30  # bytes of names, metadata and small files; a guess: 30 times what a large image has
_NEW_ROOT = Stat(0, 0, 0, 0, 0)  # of an image that says nothing of its root
# Comparing numbers takes a third of the time of looking up the members of an enumeration.
_OBJECT, _INLINE, _DIRECTORY, _OPAQUE = int(Kind.OBJECT), int(Kind.INLINE), int(Kind.DIRECTORY), int(Kind.OPAQUE)

_Entries = dict[bytes, Node]


class _RefusedError(Exception):
    """Why an entry cannot be had; the caller knows which one it is."""


def merge_layers(layers: Iterable[LayerIndex]) -> Directory:
    """Return the file system that *layers*, the lowest first, make together.

    Raises:
        FormatError: an entry has no parent or no target, or is something that no tree can hold.
    """
    merger = Merger()
    with paused_collector():
        for layer in layers:
            merger.apply(layer)
    return merger.root


class Merger:
    """Merges layers one by one into the tree *root*."""

    def __init__(self) -> None:
        self.root = Directory(_NEW_ROOT)
        self._weight = 0  # of all that was merged

    def apply(self, layer: LayerIndex) -> None:
        """Put *layer* over what there is; errors are those of `merge_layers`, and leave the tree half changed."""
        with paused_collector():
            for batch in layer.batches:
                self._weight = _heavier(self._weight, batch, layer.label)
                _apply(self.root, batch, layer.label)


class OrderedMerger:
    """Merges layers that come in in any order.

    Args:
        diff_ids: of the layers, the lowest first; one may stand there several times.
        keep: keep the layers, so that they can be merged more than once.
    """

    def __init__(self, diff_ids: Sequence[str], *, keep: bool = False) -> None:
        self._diff_ids, self._keep = diff_ids, keep
        self._last = {diff_id: number for number, diff_id in enumerate(diff_ids)}  # where it stands for the last time
        self._layers: dict[str, LayerIndex] = {}  # those that are still needed
        self._came: set[str] = set()
        self._merger: Merger | None = Merger()
        self._merged = 0  # of the diff_ids, from the lowest up
        self._weight = 0  # of the layers that came in, and did not have to be read

    def __contains__(self, diff_id: str) -> bool:
        return diff_id in self._came

    def add(self, diff_id: str, layer: LayerIndex) -> None:
        """Take in a layer, and merge all below which none is missing; errors are those of `merge_layers`."""
        assert self._merger is not None
        if isinstance(layer.batches, Sequence):  # which is in memory, perhaps for long
            for batch in layer.batches:
                self._weight = _heavier(self._weight, batch, layer.label)
        self._layers[diff_id] = layer
        self._came.add(diff_id)
        while self._merged < len(self._diff_ids) and self._diff_ids[self._merged] in self._came:
            done = self._diff_ids[self._merged]
            self._merger.apply(self._layers[done])
            if not self._keep and self._last[done] == self._merged:
                del self._layers[done]
            self._merged += 1

    def tree(self) -> Directory:
        """Return the merged layers, a tree of its own each time, which takes *keep*; all must have come in."""
        merger, self._merger = self._merger, None
        if merger is not None:
            assert self._merged == len(self._diff_ids)
            return merger.root
        return merge_layers(self._layers[diff_id] for diff_id in self._diff_ids)


def find_origins(layers: Sequence[LayerIndex]) -> dict[bytes, int]:
    """Return the number of the layer that brought what is at a path, for every path that a layer names.

    It is the last one: what a layer removes is no longer in the tree, or some layer has brought it again.
    """
    origins: dict[bytes, int] = {}
    removals = (Kind.WHITEOUT, Kind.OPAQUE, Kind.TARGET)
    for number, layer in enumerate(layers):
        for batch in layer.batches:
            names = batch.names.split(b"/")
            for kind, place, name in zip(batch.kinds, batch.directory_numbers, names, strict=True):
                if kind not in removals:
                    directory = batch.directories[place]
                    origins[b"/" + directory + b"/" + name if directory else b"/" + name] = number
    return origins


def _heavier(weight: int, batch: Batch, label: str) -> int:
    """Return *weight* and that of *batch*, which is in the layer *label*."""
    weight += batch.weight
    if weight > _WEIGHT_MAX:
        what = f"more than {_WEIGHT_MAX} bytes of names and metadata in the layers up to here"
        raise FormatError(label, batch.offsets[0], what)
    return weight


def _apply(root: Directory, batch: Batch, label: str) -> None:
    stats, places = batch.stats(), batch.directories
    found: list[_Entries | None] = [None] * len(places)  # what is in the directories, as it is needed
    names = batch.names.split(b"/")
    columns = (batch.kinds, batch.directory_numbers, names, batch.stat_numbers, batch.values, batch.numbers)
    row = 0
    try:
        for row, entry in enumerate(zip(*columns, strict=True)):  # noqa: B007  # used where an error is told
            kind, place, name, number_of_stat, value, number = entry
            entries = found[place]
            if entries is None:
                entries = found[place] = _directory(root, places[place]).entries
            old, new_stat = entries.get(name), stats[number_of_stat]
            if kind == _OBJECT:
                entries[name] = Leaf(new_stat, Object(number, value))
            elif kind == _INLINE:
                entries[name] = Leaf(new_stat, Inline(value))
            elif kind != _DIRECTORY:
                _apply_rare(root, entries, name, new_stat, (kind, value, number))
            elif type(old) is Directory:
                old.stat = new_stat
                continue
            else:
                entries[name] = Directory(new_stat)
            if kind == _OPAQUE or type(old) is Directory:
                found = [None] * len(places)
    except _RefusedError as error:
        path = batch.path(row).decode("utf-8", "backslashreplace")
        raise FormatError(label, batch.offsets[row], str(error), path) from None


def _apply_rare(
    root: Directory, entries: _Entries, name: bytes, new_stat: Stat, meaning: tuple[int, bytes, int]
) -> None:
    """Apply an entry of any kind but the three common ones."""
    kind, value, number = meaning
    match kind:
        case Kind.HARD_LINK:
            entries[name] = _leaf(root, value)
        case Kind.WHITEOUT:
            entries.pop(name, None)
        case Kind.OPAQUE:
            entries.clear()
        case Kind.ROOT:
            root.stat = new_stat
        case Kind.TARGET:
            _leaf(root, value)
        case Kind.REFUSED:
            raise _RefusedError(value.decode("utf-8", "backslashreplace"))
        case _:
            entries[name] = Leaf(new_stat, content_of(Kind(kind), value, number))


def _directory(root: Directory, path: bytes) -> Directory:
    """Return the directory at *path*, where no link is followed."""
    directory = root
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        if name == b"..":
            raise _RefusedError(f"{_text(path)} goes up")
        node = directory.entries.get(name)
        if type(node) is not Directory:
            what = "does not exist" if node is None else "is no directory"
            raise _RefusedError(f"{_text(path)} {what}")
        directory = node
    return directory


def _leaf(root: Directory, path: bytes) -> Leaf:
    """Return what a hard link to *path* is to."""
    directory, name = split_path(path)
    node = _directory(root, directory).entries.get(name)
    if not isinstance(node, Leaf):
        what = "is a directory" if isinstance(node, Directory) or not name else "does not exist"
        raise _RefusedError(f"target {_text(path)} {what}")
    return node


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
