"""Plan what the layers of the seeded images contain: entries in tar order, contents still as seeds.

The full image has the counts of the one measured in perf-limits.md, section 9: 240,365 entries in 20 layers, of them
156,448 files over 64 bytes.  A smaller scale has as many layers, each with fewer entries.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import NamedTuple

from material import Texture, draw_texture, size_at, words

SEED = 20_261_124  # any number; another one makes another image
ENTRIES = 240_365
OBJECT_FILES = 156_448  # files over 64 bytes: each becomes an object
SCALES = {"small": 0.02, "medium": 0.1, "full": 1.0}

# Share of the image, lowest layer first: a base, a dominant layer, and a long tail of small ones.
LAYER_SHARES = (
    0.09, 0.005, 0.14, 0.045, 0.001, 0.25, 0.02, 0.11, 0.015, 0.06,
    0.002, 0.07, 0.0125, 0.05, 0.004, 0.04, 0.025, 0.0105, 0.018, 0.032,
)  # fmt: skip
assert abs(sum(LAYER_SHARES) - 1) < 1e-9

# Shares of the entries; symlinks are the rest.  Directories and hard links are guesses after /usr of a distribution.
_OBJECT_SHARE = OBJECT_FILES / ENTRIES
_INLINE_SHARE = 0.09
_DIRECTORY_SHARE = 0.10
_HARD_LINK_SHARE = 0.019

_DUPLICATE_SHARE = 0.06  # of the object files: licences, icons, libraries that several packages carry
_SHARED_SHARE = 0.02  # so that each shared content occurs three times on average
_CHANGED_EVERY = 10  # an update changes every tenth file
_CHANGED = 1 << 64  # added to the seed of a changed file

BIG_LAYER_SIZE = 4 << 30  # bytes; with its headers it passes the 32 bits of gzip's length
BIG_FILE_SIZE = (4 << 30) + (1 << 20)
_BIG_LAYER_FILE_MIN = 0.7  # the big layer has only files of 9 kB and more: import is about bytes there

_TOP = ("boot", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var")
_TOP_LINKS = ("bin", "lib", "sbin")
_COMMON = ("usr", "usr/bin", "usr/include", "usr/lib", "usr/lib/modules", "usr/share", "usr/share/doc", "usr/src")
_PACKAGE_ROOTS = _COMMON[2:]
_EXTENSIONS = {
    Texture.TEXT: (".h", ".py", ".txt", ".html", ".json", ".c"),
    Texture.BINARY: (".so", ".o", ".ko", ""),
    Texture.NOISE: (".png", ".gz", ".woff2"),
}
_EPOCH = 1_700_000_000  # seconds; files are up to three years older


class Entry(NamedTuple):
    """One member of a layer."""

    path: str
    kind: bytes  # tar type flag
    mode: int
    mtime: int
    size: int = 0
    seed: int = 0  # of the contents
    texture: Texture | None = None  # of the contents; None: quickly compressible ones
    target: str = ""


class _Content(NamedTuple):
    size: int
    seed: int
    texture: Texture


def layer(scale: str, index: int, *, updated: bool = False) -> list[Entry]:
    """Return the entries of layer *index*; *updated*: with the contents of every tenth file changed."""
    rng = Random(f"{SEED} layer {index}")
    count = max(12, round(ENTRIES * SCALES[scale] * LAYER_SHARES[index]))
    contents = _contents(rng, scale, max(2, round(count * _OBJECT_SHARE)))
    if updated:
        contents = [
            content._replace(seed=content.seed + _CHANGED) if place % _CHANGED_EVERY == 0 else content
            for place, content in enumerate(contents, index)  # sorted by size: also a tenth of the bytes
        ]
    rng.shuffle(contents)
    directories = _directories(rng, index, max(1, round(count * _DIRECTORY_SHARE) - len(_COMMON)))
    entries = [*_common(index)]
    entries += (Entry(path, b"5", 0o755, _EPOCH - rng.randrange(10**8)) for path in directories)
    entries += _leaves(rng, directories, contents, round(count * _INLINE_SHARE))
    links = round(count * _HARD_LINK_SHARE)
    files = [entry for entry in entries if entry.kind == b"0" and entry.size and len(entry.path) <= 100]
    entries += (file._replace(path=file.path + ".1", kind=b"1", size=0, target=file.path)
                for file in rng.sample(files, min(links, len(files))))  # fmt: skip
    entries += _symlinks(rng, directories, max(0, count - len(entries)))
    entries.sort(key=lambda entry: entry.path.encode())  # parents before children, files before their hard links
    return entries


def big_layer(scale: str) -> list[Entry]:
    """Return the entries of one layer of 4 GiB, times *scale*."""
    rng = Random(f"{SEED} big layer")
    entries = [Entry("usr", b"5", 0o755, _EPOCH), Entry("usr/lib", b"5", 0o755, _EPOCH)]
    left = round(BIG_LAYER_SIZE * SCALES[scale])
    while left > 0:
        size = size_at(_BIG_LAYER_FILE_MIN + (1 - _BIG_LAYER_FILE_MIN) * rng.random())
        texture = draw_texture(rng, size)
        path = f"usr/lib/big{len(entries)}{_EXTENSIONS[texture][0]}"
        entries.append(Entry(path, b"0", 0o644, _EPOCH, size, rng.getrandbits(64), texture))
        left -= size
    return entries


def big_file(scale: str) -> list[Entry]:
    """Return the entries of a layer with one file of 4 GiB, times *scale*."""
    size = round(BIG_FILE_SIZE * SCALES[scale])
    return [Entry("usr", b"5", 0o755, _EPOCH), Entry("usr/big", b"0", 0o644, _EPOCH, size, SEED)]


def _contents(rng: Random, scale: str, count: int) -> list[_Content]:
    """Return *count* contents, smallest first, one at each step of the distribution of sizes."""
    shared = _shared(scale)
    contents = []
    for step in range(count):
        size = size_at((step + rng.random()) / count)
        content = _Content(size, rng.getrandbits(64), draw_texture(rng, size))
        if rng.random() < _DUPLICATE_SHARE:  # take a shared one of about this size
            content = shared[min(bisect.bisect_left(shared, content), len(shared) - 1)]
        contents.append(content)
    return contents


@cache
def _shared(scale: str) -> list[_Content]:
    """Return the contents that more than one package has, smallest first."""
    rng = Random(f"{SEED} shared")
    count = round(OBJECT_FILES * SCALES[scale] * _SHARED_SHARE)
    sizes = [size_at((step + 0.5) / count) for step in range(count)]
    return sorted(_Content(size, rng.getrandbits(64), draw_texture(rng, size)) for size in sizes)


def _common(index: int) -> Iterator[Entry]:
    """Yield the directories that every layer repeats, as real ones do; the lowest layer has all at the top."""
    for path in sorted({*_COMMON, *(_TOP if index == 0 else ())}):
        yield Entry(path, b"5", 0o1777 if path == "tmp" else 0o755, _EPOCH)
    if index == 0:
        for name in _TOP_LINKS:
            yield Entry(name, b"2", 0o777, _EPOCH, target=f"usr/{name}")


def _directories(rng: Random, index: int, count: int) -> list[str]:
    """Return *count* directories, grouped into packages; names of different layers never meet."""
    names = words(rng, 400)
    directories: list[str] = []
    while len(directories) < count:
        package = f"{rng.choice(_PACKAGE_ROOTS)}/{rng.choice(names)}{index}-{len(directories)}"
        tree = [package]
        for number in range(min(rng.randrange(60), count - len(directories) - 1)):
            parent = rng.choice(tree)
            if parent.count("/") > 8:
                parent = package
            tree.append(f"{parent}/{rng.choice(names)}{number}")
        directories += tree
    return directories


def _leaves(rng: Random, directories: list[str], contents: list[_Content], inline: int) -> Iterator[Entry]:
    """Yield a file for each of the *contents*, and *inline* files of up to 64 bytes."""
    names = words(rng, 2_000)
    for number, content in enumerate(contents):
        extension = rng.choice(_EXTENSIONS[content.texture])
        path = f"{rng.choice(directories)}/{rng.choice(names)}-{rng.choice(names)}{number:x}{extension}"
        mode = 0o755 if extension in (".so", "") else 0o644
        yield Entry(path, b"0", mode, _EPOCH - rng.randrange(10**8), *content)
    for number in range(inline):
        path = f"{rng.choice(directories)}/{rng.choice(names)}{number:x}.conf"
        yield Entry(path, b"0", 0o644, _EPOCH - rng.randrange(10**8), rng.randrange(65), 0, Texture.TEXT)


def _symlinks(rng: Random, directories: list[str], count: int) -> Iterator[Entry]:
    names = words(rng, 500)
    for number in range(count):
        target = "../" * rng.randrange(3) + f"{rng.choice(names)}-{rng.choice(names)}.so.{rng.randrange(9)}"
        path = f"{rng.choice(directories)}/lib{rng.choice(names)}{number:x}.so"
        yield Entry(path, b"2", 0o777, _EPOCH - rng.randrange(10**8), target=target)
