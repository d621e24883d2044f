"""Merge the layers of an image into one file system, entry by entry, from the lowest layer up.

A directory over a directory keeps what is in it and takes the new metadata; anything else replaces what it meets, with
all below.  A whiteout acts where it stands in the archive, also on entries of its own layer.  Parents must exist.
C does that; here is what it is fed, and how it is said what is wrong.

Source: OCI image specification 1.1, layer.md; where that leaves a choice, composefs-rs 0.9.4.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from composefs import limits
from composefs._native import columns as _columns
from composefs._native.columns import Refusal
from composefs.errors import FormatError, LimitError
from composefs.oci.index import Batch, Kind, LayerIndex, split_path
from composefs.oci.merged import MergedTree
from composefs.tree import NO_XATTRS, Directory

_DIRECTORIES = {
    Refusal.DIRECTORY_GOES_UP: "goes up",
    Refusal.DIRECTORY_IS_MISSING: "does not exist",
    Refusal.DIRECTORY_IS_NONE: "is no directory",
}
_IN_TARGET = Refusal.TARGETS_DIRECTORY_GOES_UP - Refusal.DIRECTORY_GOES_UP
_TARGETS = {Refusal.TARGET_IS_MISSING: "does not exist", Refusal.TARGET_IS_DIRECTORY: "is a directory"}


def merge_layers(layers: Iterable[LayerIndex]) -> Directory:
    """Return the file system that *layers*, the lowest first, make together.

    Raises:
        FormatError: an entry has no parent or no target, or is something that no tree can hold.
    """
    merger = Merger()
    for layer in layers:
        merger.apply(layer)
    return merger.list().tree()


class Found(NamedTuple):
    """What stands at a path."""

    kind: Kind
    packed_stat: bytes  # without its xattrs
    xattrs: Mapping[bytes, bytes]


class Merger:
    """Merges layers one by one; the root of none has no metadata."""

    def __init__(self) -> None:
        self._merger = _columns.Merger()
        self._sets: list[Mapping[bytes, bytes]] = [NO_XATTRS]  # of xattrs, by number
        self._numbers: dict[frozenset[tuple[bytes, bytes]], int] = {frozenset(): 0}
        self._weight = 0  # of all that was merged

    def apply(self, layer: LayerIndex) -> None:
        """Put *layer* over what there is; errors are those of `merge_layers`, and leave the tree half changed."""
        for batch in layer.batches:
            self._weight = _heavier(self._weight, batch, layer.label)
            self._apply(batch, layer.label)

    def find(self, path: bytes) -> Found | None:
        """Return what stands at *path*, where no link is followed, if anything does."""
        found = self._merger.find(path)
        return None if found is None else Found(Kind(found[0]), found[1], self._sets[found[2]])

    def list(self) -> MergedTree:
        """Return the file system as it is now.

        Raises:
            LimitError: it has too many entries.
        """
        columns = self._merger.list()
        count = len(columns.children.cast("I"))
        if count > limits.ENTRIES:
            raise LimitError("merged layers", 0, "entries", limits.ENTRIES, count)
        return MergedTree(columns, self._sets)

    def _apply(self, batch: Batch, label: str) -> None:
        sets = array("I", bytes(array("I").itemsize * batch.stat_count))
        for stat, xattrs in batch.xattrs.items():
            sets[stat] = self._number_of(xattrs)
        rows, names, directories, ends, stats, _, values, _ = batch
        refused = self._merger.apply(_columns.BatchColumns(rows, names, directories, ends, stats, sets, values))
        if refused is not None:
            number, why = refused
            row = batch.row(number)
            directory = batch.paths_of_directories()[row.directory]
            what = _refusal(why, directory, row.value)
            raise FormatError(label, row.offset, what, _text(batch.path(row)))

    def _number_of(self, xattrs: Mapping[bytes, bytes]) -> int:
        key = frozenset(xattrs.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._sets)
            self._sets.append(xattrs)
        return number


class OrderedMerger:
    """Merges layers that come in in any order.

    Args:
        diff_ids: of the layers, the lowest first; one may stand there several times.
    """

    def __init__(self, diff_ids: Sequence[str]) -> None:
        self._diff_ids = diff_ids
        self._last = {diff_id: number for number, diff_id in enumerate(diff_ids)}  # where it stands for the last time
        self._layers: dict[str, LayerIndex] = {}  # those that are still needed
        self._came: set[str] = set()
        self._merger = Merger()
        self._merged = 0  # of the diff_ids, from the lowest up
        self._weight = 0  # of the layers that came in, and did not have to be read

    def __contains__(self, diff_id: str) -> bool:
        return diff_id in self._came

    def add(self, diff_id: str, layer: LayerIndex) -> None:
        """Take in a layer, and merge all below which none is missing; errors are those of `merge_layers`."""
        if isinstance(layer.batches, Sequence):  # which is in memory, perhaps for long
            for batch in layer.batches:
                self._weight = _heavier(self._weight, batch, layer.label)
        self._layers[diff_id] = layer
        self._came.add(diff_id)
        while self._merged < len(self._diff_ids) and self._diff_ids[self._merged] in self._came:
            done = self._diff_ids[self._merged]
            self._merger.apply(self._layers[done])
            if self._last[done] == self._merged:
                del self._layers[done]
            self._merged += 1

    def merged(self) -> Merger:
        """Return the merged layers; all must have come in."""
        assert self._merged == len(self._diff_ids)
        return self._merger


def find_origins(layers: Sequence[LayerIndex]) -> dict[bytes, int]:
    """Return the number of the layer that brought what is at a path, for every path that a layer names.

    It is the last one: what a layer removes is no longer in the tree, or some layer has brought it again.
    """
    origins: dict[bytes, int] = {}
    removals = (Kind.WHITEOUT, Kind.OPAQUE, Kind.TARGET)
    for number, layer in enumerate(layers):
        for batch in layer.batches:
            directories = batch.paths_of_directories()
            for row in batch.each():
                if row.kind not in removals:
                    directory = directories[row.directory]
                    origins[b"/" + directory + b"/" + row.name if directory else b"/" + row.name] = number
    return origins


def _heavier(weight: int, batch: Batch, label: str) -> int:
    """Return *weight* and that of *batch*, which is in the layer *label*."""
    weight += batch.weight
    if weight > limits.MERGED_SIZE:
        what = "bytes of names and metadata in the layers up to here"
        raise LimitError(label, batch.first_offset, what, limits.MERGED_SIZE)
    return weight


def _refusal(why: Refusal, directory: bytes, value: bytes) -> str:
    """Return what is wrong with an entry in *directory*, whose target is *value* if it is a link."""
    if why is Refusal.ENTRY_IS_REFUSED:
        return _text(value)
    if why in _TARGETS:
        return f"target {_text(value)} {_TARGETS[why]}"
    if why not in _DIRECTORIES:
        directory, _ = split_path(value)
        why = Refusal(why - _IN_TARGET)
    return f"{_text(directory)} {_DIRECTORIES[why]}"


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
