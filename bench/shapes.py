"""Plan the images of the sweeps: one thing grows in each, all else stays.  Layers are plain archives: cheap to make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from random import Random

from images import VERSION, Shape
from material import Texture
from trees import SEED, Entry

_EPOCH = 1_700_000_000  # seconds
_PER_DIRECTORY = 40  # entries
_OBJECTS, _INLINE = (
    0.65,
    0.09,
)  # shares of the entries, as in the images of trees.py; directories and links are the rest

Sizes = tuple[int, int]  # bytes of the smallest file and of the largest; as many in each octave between


def entries_image(count: int) -> tuple[str, Shape]:
    """Return name and shape of an image of *count* entries in 8 layers, its files from 65 to 1500 bytes."""
    return _image(f"entries-{count}", _split(count, 8), (65, 1500))


def layers_image(count: int, entries: int) -> tuple[str, Shape]:
    """Return name and shape of an image of *entries* entries in *count* layers, its files from 65 to 100,000 bytes."""
    return _image(f"layers-{count}-{entries}", _split(entries, count), (65, 100_000))


def sizes_image(size: int, total: int) -> tuple[str, Shape]:
    """Return name and shape of an image of *total* bytes in files of *size*, in one layer."""
    plan = partial(_equal_files, total // size, size)
    return f"v{VERSION}-sweep-sizes-{size}-{total}", Shape("", [[plan]], [total], {"kind": "sizes"})


def _split(count: int, parts: int) -> list[int]:
    """Return *parts* numbers which are about the same and together *count*."""
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]


def _image(name: str, counts: Sequence[int], sizes: Sizes) -> tuple[str, Shape]:
    layers = [[partial(_layer, index, count, sizes)] for index, count in enumerate(counts)]
    return f"v{VERSION}-sweep-{name}", Shape("", layers, list(map(float, counts)), {"kind": name.partition("-")[0]})


def _layer(index: int, count: int, sizes: Sizes) -> list[Entry]:
    """Return *count* entries of a layer whose names no other layer has."""
    rng = Random(f"{SEED} sweep {index}")
    low, high = (math.log(size) for size in sizes)
    entries = [Entry(path, b"5", 0o755, _EPOCH) for path in ("usr", f"usr/layer{index}")]
    directory = ""
    for number in range(count - len(entries)):
        if number % _PER_DIRECTORY == 0:
            directory = f"usr/layer{index}/{number // _PER_DIRECTORY}-{rng.getrandbits(20):05x}"
            entries.append(Entry(directory, b"5", 0o755, _EPOCH))
            continue
        path, kind = f"{directory}/entry-{number}", rng.random()
        if kind < _OBJECTS:
            size = max(65, round(math.exp(rng.uniform(low, high))))
            entries.append(Entry(path, b"0", 0o644, _EPOCH + number, size, rng.getrandbits(64), Texture.TEXT))
        elif kind < _OBJECTS + _INLINE:
            entries.append(Entry(path, b"0", 0o644, _EPOCH + number, rng.randrange(65), 0, Texture.TEXT))
        else:
            entries.append(Entry(path, b"2", 0o777, _EPOCH + number, target=f"../target-{number}"))
    return entries


def _equal_files(count: int, size: int) -> list[Entry]:
    """Return *count* files of *size* bytes, each another, and their directories."""
    rng = Random(f"{SEED} sizes {size}")
    entries = [Entry("usr", b"5", 0o755, _EPOCH)]
    for number in range(count):
        directory = f"usr/files{number // _PER_DIRECTORY}"
        if number % _PER_DIRECTORY == 0:
            entries.append(Entry(directory, b"5", 0o755, _EPOCH))
        texture = Texture.TEXT
        entries.append(Entry(f"{directory}/{number}", b"0", 0o644, _EPOCH, size, rng.getrandbits(64), texture))
    return entries
