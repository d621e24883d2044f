"""What a blob holds of an archive: the archive itself, or gzip or zstd data that are the same every time.

Rule 1: equal encodings of equal archives give equal bytes, whatever the number of threads and processes, and however
        the archive is cut: as long as the library is the same.  libzstd is the one that the package `zstandard` brings
        along.  zlib is the host's; it seldom changes what it writes, and promises nothing; zlib-ng, which some
        distributions have in its place, writes something else (see `describe_library`).  ISA-L, which reads gzip here,
        is not used: it has code of its own for each kind of CPU.
Rule 2: nothing of the clock, the host or the user is in them.

Source: RFC 1952 and RFC 8878.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from struct import Struct

import zstandard

from composefs._native import Buffer
from composefs.errors import UsageError
from composefs.oci.manifest import Compression

LEVELS = {Compression.GZIP: range(1, 10), Compression.ZSTD: range(1, 20)}
# zlib's 4 makes blobs as small as podman's are, in half the time of 6; 3 is that of zstd(1).
_DEFAULT_LEVELS = {Compression.GZIP: 4, Compression.ZSTD: 3}

_BLOCK_SIZE = 1 << 20  # bytes of archive that a thread deflates at a time; part of the encoding
_WINDOW_SIZE = 1 << 15  # bytes that deflate looks back
_GZIP_START = b"\x1f\x8b\x08\0\0\0\0\0"  # deflate, no flags, no time
_GZIP_FINAL_BLOCK = b"\x03\0"  # of deflate: the last one, and empty
_GZIP_TRAILER = Struct("<II")  # CRC-32 and size of the archive, modulo 2**32
_HINT = re.compile(r"(gzip|zstd)-([1-9][0-9]?)")


@dataclass(frozen=True)
class Stored:
    """The archive itself."""

    compression = Compression.NONE
    hint = None

    def encode(self, pieces: Iterable[Buffer], size: int, threads: int) -> Generator[Buffer]:  # noqa: ARG002  # as others have it
        """Yield the blob; see `Encoding`."""
        yield from pieces


@dataclass(frozen=True)
class Gzip:
    """One gzip member by zlib.

    Attributes:
        level: of zlib.
        in_blocks: deflated in blocks of 1 MiB, each with what is before it as dictionary, so that threads can share
            the work; otherwise in one go.
        extra: what the header says of the level, and of the system.
    """

    level: int
    in_blocks: bool = True
    extra: bytes = b"\0\xff"  # nothing, and an unknown one

    compression = Compression.GZIP

    @property
    def hint(self) -> str | None:
        """What `parse_hint` makes this encoding of."""
        return f"gzip-{self.level}" if self == Gzip(self.level) else None

    def encode(self, pieces: Iterable[Buffer], size: int, threads: int) -> Generator[Buffer]:  # noqa: ARG002  # likewise
        """Yield the blob, its header first; see `Encoding`."""
        sums = _Sums()
        yield _GZIP_START + self.extra
        if self.in_blocks:
            yield from self._deflate_blocks(sums.watch(pieces), threads)
            yield _GZIP_FINAL_BLOCK
        else:
            deflate = zlib.compressobj(self.level, wbits=-zlib.MAX_WBITS)
            yield from map(deflate.compress, sums.watch(pieces))
            yield deflate.flush()
        yield _GZIP_TRAILER.pack(sums.crc, sums.size & 0xFFFFFFFF)

    def _deflate_blocks(self, pieces: Iterable[Buffer], threads: int) -> Iterator[bytes]:
        before = b""
        if threads == 1:
            for block in _blocks(pieces):
                yield self._deflate(block, before)
                before = block[-_WINDOW_SIZE:]
            return
        waiting: deque[Future[bytes]] = deque()
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads, "composefs-deflate"))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for block in _blocks(pieces):
                waiting.append(pool.submit(self._deflate, block, before))
                before = block[-_WINDOW_SIZE:]
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _deflate(self, block: bytes, before: bytes) -> bytes:
        deflate = zlib.compressobj(self.level, wbits=-zlib.MAX_WBITS, zdict=before)
        return deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)


@dataclass(frozen=True)
class Zstd:
    """One zstd frame by libzstd.

    Attributes:
        level: of libzstd.
        in_jobs: by its workers, whose number makes no difference, but that there are some does.
        has_size: the frame says how long the archive is.
        has_checksum: the frame ends in a checksum.
    """

    level: int
    in_jobs: bool = True
    has_size: bool = True
    has_checksum: bool = False

    compression = Compression.ZSTD

    @property
    def hint(self) -> str | None:
        """What `parse_hint` makes this encoding of."""
        return f"zstd-{self.level}" if self == Zstd(self.level) else None

    def encode(self, pieces: Iterable[Buffer], size: int, threads: int) -> Generator[Buffer]:
        """Yield the blob; see `Encoding`."""
        compressor = zstandard.ZstdCompressor(
            self.level, threads=threads if self.in_jobs else 0, write_checksum=self.has_checksum
        )
        frame = compressor.compressobj(size=size) if self.has_size else compressor.compressobj()
        for piece in pieces:
            yield frame.compress(piece)
        yield frame.flush()


Encoding = Stored | Gzip | Zstd
"""How a blob is made of an archive.  Each has

    compression              what readers make of it
    hint                     text that a manifest has, so that the same blob can be made again; None: for want of one
    encode(pieces, size, threads)
                             yields the blob of the archive whose *pieces* have *size* bytes, by that many *threads*;
                             closing it ends them
"""


def make_encoding(compression: Compression, level: int | None = None) -> Encoding:
    """Return how we make blobs of that *compression*, at a *level* or the usual one.

    Raises:
        UsageError: it has no such level.
    """
    if compression is Compression.NONE:
        if level is not None:
            raise UsageError("a compression level needs gzip or zstd")
        return Stored()
    if level is None:
        level = _DEFAULT_LEVELS[compression]
    levels = LEVELS[compression]
    if level not in levels:
        raise UsageError(f"{compression.value} has the levels {levels.start} to {levels.stop - 1}, not {level}")
    return Gzip(level) if compression is Compression.GZIP else Zstd(level)


def parse_hint(text: str | None, compression: Compression) -> Encoding | None:
    """Return the encoding that the *hint* of one is, if that is of *compression*."""
    match = _HINT.fullmatch(text or "")
    if match is None or match[1] != compression.value or int(match[2]) not in LEVELS[compression]:
        return None
    return make_encoding(compression, int(match[2]))


def describe_library(compression: Compression) -> str | None:
    """Return which library makes blobs of *compression*: another one may make others."""
    match compression:
        case Compression.GZIP:
            return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
        case Compression.ZSTD:
            return "libzstd " + ".".join(map(str, zstandard.ZSTD_VERSION))
        case Compression.NONE:
            return None


class _Sums:
    """CRC-32 and size of what went by."""

    def __init__(self) -> None:
        self.crc = self.size = 0

    def watch(self, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
        for piece in pieces:
            self.crc = zlib.crc32(piece, self.crc)
            self.size += len(piece)
            yield piece


def _blocks(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield the same bytes in blocks of one size, but for the last."""
    block = bytearray()
    for piece in pieces:
        block += piece
        while len(block) >= _BLOCK_SIZE:
            yield bytes(block[:_BLOCK_SIZE])
            del block[:_BLOCK_SIZE]
    if block:
        yield bytes(block)
