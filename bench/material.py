"""Seeded raw material: sizes and contents of files that compress about as those of a distribution do.

Drawing every byte would take hours at full scale.  So some megabytes of each kind are made once, and a file is a line
of its own, which makes it unique, followed by slices of them.  The slices start anywhere in pools far larger than
the window of deflate (32 KiB), so a compressor gains nothing from the reuse.
"""

from __future__ import annotations

import bisect
import enum
import functools
import itertools
import math
from collections.abc import Iterator
from random import Random
from struct import Struct

POOL_SIZE = 8 << 20  # bytes of each kind; more only costs time: about a second for all three
_SLICE_MAX = 96 << 10  # bytes; a guess at how long one texture lasts inside a large file

# Share of files, and the size in bytes that as many do not exceed; log-linear in between.  53 % have one leaf (4 KiB),
# the mean is 28 kB: perf-limits.md, sections 1 and 9.
_SIZES = (
    (0.0, 65),
    (0.10, 300),
    (0.25, 1_000),
    (0.40, 2_200),
    (0.53, 4_096),
    (0.70, 9_000),
    (0.80, 17_000),
    (0.90, 42_000),
    (0.95, 85_000),
    (0.98, 220_000),
    (0.99, 350_000),
    (0.995, 540_000),
    (0.999, 1_800_000),
    (0.9997, 4_700_000),
    (0.99997, 15_000_000),
    (1.0, 70_000_000),
)
_SHARES = [share for share, _ in _SIZES]
_RELOCATION = Struct("<QQIIQ")


class Texture(enum.IntEnum):
    """What a file looks like to a compressor."""

    TEXT = 0  # sources, documentation: gzip -6 makes a fifth of it
    BINARY = 1  # programs: a bit more than a third
    NOISE = 2  # pictures, fonts, archives: all of it


def size_at(share: float) -> int:
    """Return the size in bytes that *share* (0 to 1) of all files do not exceed."""
    upper = min(bisect.bisect_right(_SHARES, share), len(_SIZES) - 1)
    (low, small), (high, large) = _SIZES[upper - 1 : upper + 1]
    return round(small * math.exp((share - low) / (high - low) * math.log(large / small)))


def draw_texture(rng: Random, size: int) -> Texture:
    """Draw what a file of *size* bytes is: most small files are text, most large ones are programs."""
    text, binary = (0.87, 0.10) if size <= 4_096 else (0.715, 0.25) if size <= 65_536 else (0.42, 0.532)
    place = rng.random()
    return Texture.TEXT if place < text else Texture.BINARY if place < text + binary else Texture.NOISE


class Material:
    """The pools made from one *seed*, and the contents cut from them."""

    def __init__(self, seed: int) -> None:
        rng = Random(seed)
        vocabulary = _vocabulary(rng)
        self._pools = [
            memoryview(pool) for pool in (_text(rng, vocabulary), _binary(rng, vocabulary), rng.randbytes(POOL_SIZE))
        ]

    def contents(self, seed: int, size: int, texture: Texture) -> Iterator[bytes | memoryview]:
        """Yield the pieces of the file that *seed*, *size* (over 64 bytes) and *texture* make: the same every time."""
        rng = Random(seed)
        label = b"#%032x\n" % rng.getrandbits(128)
        yield label
        left = size - len(label)
        while left:
            # A program contains some text and some noise, and a picture its headers: one slice in eight.
            pool = self._pools[texture if rng.random() < 0.875 else Texture.TEXT]
            take = min(left, rng.randrange(_SLICE_MAX // 16, _SLICE_MAX))
            start = rng.randrange(POOL_SIZE - take)
            yield pool[start : start + take]
            left -= take

    def compressible(self, seed: int, size: int) -> Iterator[bytes | memoryview]:
        """Yield a file of *size* bytes that compresses quickly: of each MiB a sixteenth is new, the rest repeats it."""
        rng = Random(seed)
        part = 64 << 10
        for left in range(size, 0, -(1 << 20)):
            start = rng.randrange(POOL_SIZE - part)
            block = bytes(self._pools[Texture.TEXT][start : start + part // 2])
            piece = b"#%032x\n" % rng.getrandbits(128) + block + block[:64] * ((1 << 20) // 64)
            yield memoryview(piece)[: min(left, 1 << 20)]


@functools.cache
def material(seed: int) -> Material:
    """Return the material of *seed*, made once in each process."""
    return Material(seed)


def words(rng: Random, count: int) -> list[str]:
    """Return *count* words of one to three syllables, some more than once."""
    onsets = ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "st", "tr", "")
    rhymes = ("a", "e", "i", "o", "u", "er", "in", "on", "al")
    syllables = [onset + rhyme for onset in onsets for rhyme in rhymes]
    return ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3)))) for _ in range(count)]


def _vocabulary(rng: Random) -> list[str]:
    return words(rng, 6_000)


def _zipf(count: int) -> list[float]:
    """Return cumulative weights of *count* things, the n-th about 1/n as frequent as the first."""
    return list(itertools.accumulate(1 / (rank + 3) for rank in range(count)))


def _text(rng: Random, vocabulary: list[str]) -> bytes:
    """Return lines like those of sources: drawn words, and short passages seen some lines before."""
    weights = _zipf(len(vocabulary))
    between = [" "] * 10 + ["(", ") ", "_", ", ", ".", " = ", "->", ";"]
    lines: list[bytes] = []
    size = 0
    while size < POOL_SIZE:
        if len(lines) > 300 and rng.random() < 0.30:
            start = len(lines) - rng.randrange(6, 300)
            new = lines[start : start + rng.randrange(1, 6)]
        else:
            count = rng.randrange(2, 12)
            drawn = zip(
                rng.choices(vocabulary, cum_weights=weights, k=count), rng.choices(between, k=count), strict=True
            )
            new = [(" " * (4 * rng.randrange(4)) + "".join(itertools.chain.from_iterable(drawn)) + "\n").encode()]
        lines += new
        size += sum(map(len, new))
    return b"".join(lines)[:POOL_SIZE]


def _binary(rng: Random, vocabulary: list[str]) -> bytes:
    """Return bytes like those of programs: code with operands, relocations, strings, zeros, and passages again."""
    codes = [rng.randbytes(rng.choice((1, 2, 2, 3, 3, 3, 4, 5, 7))) for _ in range(600)]
    weights = _zipf(len(codes))
    out = bytearray()
    while len(out) < POOL_SIZE:
        section = rng.random()
        if section < 0.50:
            count = rng.randrange(40, 400)
            start = len(out)
            out += b"".join(rng.choices(codes, cum_weights=weights, k=count))
            for _ in range(count // 24):
                out[rng.randrange(start, len(out))] = rng.getrandbits(8)
        elif section < 0.82 and len(out) > 16_384:
            start = len(out) - rng.randrange(2_048, 16_384)
            out += out[start : start + rng.randrange(64, 1_024)]
        elif section < 0.88:
            address = rng.getrandbits(24)
            for _ in range(rng.randrange(10, 60)):
                address += rng.randrange(8, 400, 8)
                out += _RELOCATION.pack(address, 8, rng.getrandbits(12), 7, address & 0xFFF)
        elif section < 0.96:
            out += "\0".join(rng.choices(vocabulary, k=40)).encode()
        else:
            out += bytes(rng.randrange(64, 1_500))
    return bytes(out[:POOL_SIZE])
