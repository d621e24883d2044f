"""A seeded layer, made on the spot, that compresses about as the layers of a distribution do.

It is a tar archive of files of the sizes that distributions have.  Text is words, programs are short codes; both are
drawn by Zipf's law, the n-th about 1/n as often as the first, and mixed with passages seen shortly before, as sources
and programs repeat themselves.  Pictures, fonts and archives are noise.  gzip makes about a third of it.  No content
is used twice, so a compressor finds what it finds in a layer, however far it looks back.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import zlib
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import zstandard

from composefs.oci.manifest import Compression

SIZE = 4 << 20  # bytes of the archive: beyond what a decoder looks back, and made in a third of a second
_SEED = 1
_GZIP_LEVEL = 6  # what images are compressed with
_ZSTD_LEVEL = 3

# Sizes in bytes of files above 64 bytes, each as frequent as the others: the middles of 20 equal shares of the files of
# 58 Debian packages.  53 % have one block.  The largest 2 % are left out: they take half of the room.
_FILE_SIZES = (
    *(95, 205, 367, 548, 818, 1_140, 1_483, 1_929, 2_479, 3_149),
    *(3_999, 5_045, 6_359, 8_016, 10_551, 14_501, 21_313, 33_500, 59_749, 187_754),
)
_NOISE_SHARE = 0.1  # of contents that do not compress
_TEXT_SHARE = 0.35
_STRETCH = 16 << 10  # bytes of one texture
_REPEATED_SHARE = 0.5  # of the passages; with lengths of 8 to 100 bytes, decoders run as on the files of a Debian /usr


class Sample(NamedTuple):
    """An archive, and blobs of it."""

    archive: bytes
    blobs: dict[Compression, bytes]


def make_sample(size: int = SIZE) -> Sample:
    """Return a layer of about *size* bytes, the same every time."""
    archive = _archive(size)
    gzip = zlib.compressobj(_GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    blobs = {
        Compression.GZIP: gzip.compress(archive) + gzip.flush(),
        Compression.ZSTD: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(archive),
    }
    return Sample(archive, blobs)


def file_sizes(count: int) -> list[int]:
    """Return the sizes in bytes of *count* files, mixed as in a layer; the same every time."""
    sizes = list(itertools.islice(itertools.cycle(_FILE_SIZES), count))
    Random(_SEED).shuffle(sizes)  # noqa: S311  # no secret, and to be the same every time
    return sizes


def _archive(size: int) -> bytes:
    rng = Random(_SEED)  # noqa: S311  # no secret, and to be the same every time
    contents = _contents(rng)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, file_size in enumerate(itertools.cycle(file_sizes(len(_FILE_SIZES)))):
            info = tarfile.TarInfo(f"usr/share/package-{number // 40}/{rng.getrandbits(48):x}")
            info.size, info.mtime = file_size, rng.randrange(1_600_000_000, 1_700_000_000)
            archive.addfile(info, io.BytesIO(_take(contents, file_size)))
            if archive.offset >= size:
                break
    return out.getvalue()


def _take(contents: Iterator[bytes], size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = next(contents)[:size]
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _contents(rng: Random) -> Iterator[bytes]:
    """Yield stretches of text, program and noise, for ever."""
    letters = (b"a", b"e", b"i", b"o", b"r", b"s", b"t", b"n", b"l", b"st", b"tr", b"er", b"in", b"on")
    ends = (b" ", b" ", b" ", b", ", b"(", b"\n")
    words = [b"".join(rng.choices(letters, k=rng.randrange(2, 6))) + rng.choice(ends) for _ in range(6_000)]
    codes = [rng.randbytes(rng.choice((1, 2, 2, 3, 3, 3, 4, 5, 7))) for _ in range(600)]
    text, program = _texture(rng, words), _texture(rng, codes)
    while True:
        kind = rng.random()
        if kind < _NOISE_SHARE:
            yield rng.randbytes(_STRETCH)
        else:
            yield next(text if kind < _NOISE_SHARE + _TEXT_SHARE else program)


def _texture(rng: Random, tokens: list[bytes]) -> Iterator[bytes]:
    """Yield stretches of *tokens*, drawn by Zipf's law, and of passages of the same stretch again."""
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(tokens))))
    while True:
        stretch = bytearray(b"".join(rng.choices(tokens, cum_weights=weights, k=200)))
        while len(stretch) < _STRETCH:
            if rng.random() < _REPEATED_SHARE:
                start = rng.randrange(len(stretch))
                stretch += stretch[start : start + rng.randrange(8, 100)]
            else:
                stretch += b"".join(rng.choices(tokens, cum_weights=weights, k=10))
        yield bytes(stretch)
