"""What the import of an image costs, told before anything of its layers is fetched.

The numbers that say what an object, an entry and an image take are measured: of the usual image of
`composefs.oci.sizes`, and of one with 48,647 files, on ext4.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from composefs.digest import BLOCK_SIZE, Algorithm, Digest
from composefs.oci.erofs import ErofsMaker, ErofsRequest
from composefs.oci.glance import glance
from composefs.oci.manifest import Image
from composefs.oci.names import layer_name
from composefs.oci.plan import plan_layers
from composefs.oci.room import Room, room_for, stored_sizes
from composefs.oci.sizes import Contents, Range
from composefs.oci.sources.source import Source
from composefs.repository import Repository

_SLACK = 2400  # bytes that the last block of a file is not filled; many files are small: half a block would be 2048
_NAME_SIZE = 200  # bytes of a directory for each object
_DIRECTORIES = 256  # of objects
_NAMES = 12  # files and links beside objects: config, manifest, tag, and directories of names
_LAYER_INODES = 2  # a stream and its name
# Bytes that the stream of a layer takes for each entry, beside the digests; 18 if they are alike, 40 as usual.
_STREAM_ENTRY = (18, 40, 160)
# Bytes of an EROFS image for each entry, and more for each object.
_IMAGE_ENTRY = (64, 185, 512)
_IMAGE_OBJECT = {Algorithm.SHA256: 29, Algorithm.SHA512: 125}
_DISTINCTIVE = 4096  # bytes; two files of the same size are likely the same, if they are larger: a guess


class Verdict(Enum):
    """Whether it fits; the value is for people."""

    FITS = "fits"
    LIKELY = "fits, if the image is as usual"
    DOUBTFUL = "does not fit, if the image is as usual"
    IMPOSSIBLE = "does not fit"


@dataclass(frozen=True)
class LayerCost:
    """One layer of the image."""

    index: int  # in the manifest
    digest: str  # of the blob
    diff_id: str
    size: int  # of the blob, bytes
    is_present: bool
    contents: Contents


@dataclass(frozen=True)
class Target:
    """Where the image is to be stored.

    Attributes:
        algorithm: of the names of objects.
        seals: whether the kernel enforces them, which takes room; None: that is not known.
        room: that there is.
        stored: how many objects of each size there are.
    """

    algorithm: Algorithm
    seals: bool | None
    room: Room
    stored: Counter[int]

    @classmethod
    def of(cls, repository: Repository) -> Self:
        """Return what is there of *repository*.

        Raises:
            OSError: it cannot be read.
        """
        seals = repository.objects.seals
        return cls(repository.algorithm, seals, room_for(repository), stored_sizes(repository))

    @classmethod
    def new(cls, path: str, algorithm: Algorithm) -> Self:
        """Return what there is where a repository will be made at *path*.

        Raises:
            OSError: that cannot be found out.
        """
        directory = os.path.abspath(path)
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        return cls(algorithm, None, Room.of(directory), Counter())


@dataclass(frozen=True)
class Cost:
    """What an import costs.

    Attributes:
        layers: of the image, each once.
        fetched: bytes of blobs to read.
        objects: new ones, of files.
        object_size: bytes of these.
        streams: bytes of the streams of layers.
        images: bytes of EROFS images.
        disk: bytes of all, in whole blocks, with directories.
        inodes: of all.
        room: that there is.
    """

    layers: tuple[LayerCost, ...]
    fetched: int
    objects: Range
    object_size: Range
    streams: Range
    images: Range
    disk: Range
    inodes: Range
    room: Room

    @property
    def verdict(self) -> Verdict:
        """Whether it fits."""
        if self._fits(self.disk.most, self.inodes.most):
            return Verdict.FITS
        if self._fits(self.disk.likely, self.inodes.likely):
            return Verdict.LIKELY
        return Verdict.DOUBTFUL if self._fits(self.disk.least, self.inodes.least) else Verdict.IMPOSSIBLE

    def _fits(self, disk: int, inodes: int) -> bool:
        free, free_inodes = self.room.free, self.room.inodes
        return (free is None or disk <= free) and (free_inodes is None or inodes <= free_inodes)


def import_cost(
    source: Source,
    image: Image,
    repository: Repository | None,
    target: Target,
    *,
    erofs_version: int | None = None,
    bootable: bool = False,
) -> Cost:
    """Return what an import costs; nothing of a layer is read but a table of contents, or a few bytes.

    Args:
        source: has the image.
        image: from *source*.
        repository: open; None: it will be made.
        target: what is there of it.
        erofs_version: as of `composefs.oci.importer.import_image`.
        bootable: likewise.

    Raises:
        FormatError: a layer is of an unknown kind.
        UsageError: there is no such format.
        OSError: the repository could not be read.
    """
    plans = plan_layers(repository, image)
    indexes = [plan.index for plan in plans if plan.present is None]
    contents = dict(zip(indexes, glance(source, image, indexes), strict=True))
    for plan in plans:
        if repository is not None and plan.present is not None:
            contents[plan.index] = _stored(repository, plan.diff_id, plan.present)
    layers = [
        LayerCost(plan.index, plan.digest, plan.diff_id, plan.size, plan.present is not None, contents[plan.index])
        for plan in plans
    ]
    return add_up(layers, target, _missing_images(image, repository, erofs_version, bootable=bootable))


def add_up(layers: Sequence[LayerCost], target: Target, images: int) -> Cost:
    """Return what it costs to import those of *layers* that are missing, and to make *images* EROFS images of all."""
    missing = [layer for layer in layers if not layer.is_present]
    objects, object_size, blocks = _new_objects([layer.contents for layer in missing], target)
    digest_size = target.algorithm.digest_size
    streams = _sum(_stream_size(layer.contents, digest_size) for layer in missing)
    image = _image_size([layer.contents for layer in layers], target.algorithm) if images else _NOTHING
    whole = image.times(images, images, images)
    inodes, disk = _NOTHING, _NOTHING
    if missing or images:
        fresh = 0 if target.stored else _DIRECTORIES
        more = _NAMES + _LAYER_INODES * len(missing) + 2 * images
        inodes = objects + Range(len(missing) + images, more + fresh, more + fresh)
        block = target.room.block_size
        names = Range(0, _NAME_SIZE * objects.likely, 2 * _NAME_SIZE * objects.most)
        directories = Range(0, fresh * block, fresh * block)
        disk = blocks + streams + whole + names + directories + Range(0, more * block, more * block)
    return Cost(
        tuple(layers),
        sum(layer.size for layer in missing),
        objects,
        object_size,
        streams,
        whole,
        disk,
        inodes,
        target.room,
    )


_NOTHING = Range.exactly(0)


def _missing_images(image: Image, repository: Repository | None, erofs_version: int | None, *, bootable: bool) -> int:
    """Return how many EROFS images are to be made."""
    if not image.manifest.is_container:
        return 0
    kinds = 2 if bootable else 1
    if repository is None:
        return kinds
    request = ErofsRequest.of(repository, erofs_version, bootable=bootable)
    return len(request.versions) * kinds - len(ErofsMaker(repository, image, request).images)


def _stored(repository: Repository, diff_id: str, stream: Digest) -> Contents:
    """Return what the stream of a layer that is there tells."""
    with repository.streams.open_object(stream, layer_name(diff_id)) as opened:
        return Contents.of_stream(len(opened.reader.object_refs), opened.reader.size)


def _new_objects(layers: Sequence[Contents], target: Target) -> tuple[Range, Range, Range]:
    """Return how many objects are new, their bytes, and what they take on disk.

    An object is known by its fs-verity digest, which nothing tells beforehand.  So a file is taken to be there already
    if there is an object of its size; of contents that are not known, all that is there may be.
    """
    files = {name: size for layer in layers for name, size in (layer.files or {}).items()}
    sizes = Counter(files.values())
    objects = size = disk = _NOTHING
    for each, count in sizes.items():
        new = count - min(count, target.stored[each])
        parts = Range(new, new if each >= _DISTINCTIVE else count, count)
        objects += parts
        size += parts.times(each, each, each)
        disk += parts.times(*_file_blocks(each, target))
    others = [layer for layer in layers if layer.files is None]
    if others:
        there = sum(each * max(0, count - sizes[each]) for each, count in target.stored.items())
        count_of_others, size_of_others = _sum(each.objects for each in others), _sum(each.size for each in others)
        size_of_others = replace(size_of_others, least=max(0, size_of_others.least - there))
        objects, size = objects + count_of_others, size + size_of_others
        disk += _usual_blocks(count_of_others, size_of_others, target)
    return objects, size, disk


def _file_blocks(size: int, target: Target) -> tuple[int, int, int]:
    """Return what a file of *size* bytes takes on disk: at least, likely, at most."""
    block = target.room.block_size
    plain = -(-size // block) * block
    sealed = plain + _seal_size(size, target)
    likely = sealed if target.seals else plain
    return likely, likely, plain if target.seals is False else sealed


def _usual_blocks(count: Range, size: Range, target: Target) -> Range:
    """Return what files take on disk of which *count* and *size* are not known."""
    block, digest_size = target.room.block_size, target.algorithm.digest_size

    def seals(files: int, whole: int) -> int:
        return files * block + whole * digest_size // BLOCK_SIZE

    likely = size.likely + count.likely * _SLACK
    most = size.most + count.most * _SLACK
    if target.seals:
        likely += seals(count.likely, size.likely)
    if target.seals is not False:
        most += seals(count.most, size.most)
    return Range(size.least, likely, most)


def _seal_size(size: int, target: Target) -> int:
    """Return what fs-verity adds to a file on ext4: the Merkle tree, and a descriptor in a block of its own."""
    per_block = BLOCK_SIZE // target.algorithm.digest_size
    blocks, level = 1, -(-size // BLOCK_SIZE)
    while level > 1:
        level = -(-level // per_block)
        blocks += level
    return blocks * BLOCK_SIZE


def _stream_size(layer: Contents, digest_size: int) -> Range:
    return layer.entries.times(*_STREAM_ENTRY) + layer.objects.times(digest_size, digest_size, digest_size)


def _image_size(layers: Sequence[Contents], algorithm: Algorithm) -> Range:
    """Return about what an EROFS image of all *layers* has; a layer may replace all of another one."""
    if not layers:
        return Range.exactly(BLOCK_SIZE)
    of_object = _IMAGE_OBJECT[algorithm]
    entries = replace(_sum(layer.entries for layer in layers), least=max(layer.entries.least for layer in layers))
    objects = _sum(layer.objects for layer in layers).times(0, of_object, of_object)
    return Range.exactly(BLOCK_SIZE) + entries.times(*_IMAGE_ENTRY) + objects


def _sum(ranges: Iterable[Range]) -> Range:
    return sum(ranges, start=_NOTHING)
