"""Blobs of layers, gzip and zstd: taken whole or refused, the same however they come in and whoever inflates them."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Iterator
from unittest.mock import patch

import zstandard

from composefs.errors import FormatError
from composefs.oci import blobs, inflation
from composefs.oci.manifest import Compression
from tests.fuzz.mutations import havoc
from tests.fuzz.target import Target, chance_of

INFLATED_MAX = 2 << 20  # bytes: of what inflates to more, no more is looked at
_ZSTD_MAGIC = 0xFD2FB528
_CORRUPTED = "Data corruption detected"  # says libzstd


class Blob:
    """A blob in memory, read in pieces of *size* bytes at most, but for the first one."""

    source = "blob"

    def __init__(self, data: bytes, size: int) -> None:
        self._file, self._size, self.offset = io.BytesIO(data), size, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._size))
        self.offset += len(data)
        return data


def check_gzip(data: bytes) -> bool:
    """What is taken is what zlib makes of it, which takes no more; and ISA-L hardly more than zlib."""
    wanted, error = _inflated(data, Compression.GZIP, len(data) + 1)
    chance = chance_of(data)
    for size in (chance.randrange(1, 40), chance.randrange(1, len(data) + 2)):
        assert _inflated(data, Compression.GZIP, size) == (wanted, error), f"in pieces of {size} bytes"
    assert _inflated_in_runs(data, Compression.GZIP) == (wanted, error), "by several threads"
    with (
        patch.object(blobs, "new_member_decoder", blobs.ZlibDecoder),
        patch.object(blobs, "decoder_errors", (zlib.error,)),
    ):
        by_zlib, zlib_error = _inflated(data, Compression.GZIP, len(data) + 1)
    if wanted is None:
        assert by_zlib is None, f"taken by zlib; by ISA-L: {error}"
        return False
    if by_zlib is None:
        _check_members(data, zlib_error)
        return True
    assert by_zlib == wanted, "the same content"
    assert len(wanted) > INFLATED_MAX or gzip.decompress(data) == wanted
    return True


def _check_members(data: bytes, zlib_error: str) -> None:
    """Check what ISA-L takes and zlib does not, such as codes with gaps: it has the sum and size that it says."""
    size = 0
    while data and size <= INFLATED_MAX:
        member = blobs.new_member_decoder()
        content = bytearray(member.decompress(data, INFLATED_MAX))
        while not member.eof and (piece := member.decompress(b"", INFLATED_MAX)):
            content += piece
        size += len(content)
        if not member.eof:
            return
        end = len(data) - len(member.unused_data)
        said = struct.unpack("<II", data[end - 8 : end])
        assert said == (zlib.crc32(content), len(content) & 0xFFFF_FFFF), f"taken by ISA-L; by zlib: {zlib_error}"
        data = member.unused_data


def check_zstd(data: bytes) -> bool:
    """What is taken is what libzstd makes of it, and nothing is taken that ends inside a frame."""
    wanted, error = _inflated(data, Compression.ZSTD, len(data) + 1)
    chance = chance_of(data)
    for size in (chance.randrange(1, 40), chance.randrange(1, len(data) + 2)):
        got, other = _inflated(data, Compression.ZSTD, size)
        if (got is None) != (wanted is None):
            # libzstd looks more closely at a frame of which it has all.  The content is proved by its digest.
            assert _CORRUPTED in (error, other), f"in pieces of {size} bytes: {other}, at once: {error}"
            return False
        assert got == wanted, f"in pieces of {size} bytes"
    assert _inflated_in_runs(data, Compression.ZSTD) == (wanted, error), "by several threads"
    if wanted is None:
        return False
    if len(wanted) <= INFLATED_MAX:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        assert reader.read() == wanted
        assert _inflated(data + bytes(5), Compression.ZSTD, len(data))[0] is None, "bytes behind the last frame"
        assert _inflated(data + _empty_frame(), Compression.ZSTD, len(data))[0] == wanted, "one more frame"
    return True


def _inflated(data: bytes, compression: Compression, size: int) -> tuple[bytes | None, str]:
    """Return what comes out, or None and what is said."""
    return _outcome(blobs.decompress(Blob(data, size), compression), data)


def _inflated_in_runs(data: bytes, compression: Compression) -> tuple[bytes | None, str]:
    """Return the same of what is cut, and inflated by threads."""
    with patch.object(inflation, "RUN_SIZE", 30), patch.object(inflation, "available_cpus", lambda: 2):
        return _outcome(inflation.inflate(Blob(data, len(data) + 1), compression, lambda: True), data)


def _outcome(slots: Iterator[bytes], data: bytes) -> tuple[bytes | None, str]:
    found = bytearray()
    try:
        for slot in slots:
            found += slot
            if len(found) > INFLATED_MAX:
                break
    except FormatError as error:
        assert 0 <= error.offset <= len(data)
        return None, error.what
    return bytes(found), ""


def _empty_frame() -> bytes:
    return zstandard.compress(b"")


def _frames(data: bytes) -> Iterator[int]:
    """Yield where frames may begin."""
    magic, at = struct.pack("<I", _ZSTD_MAGIC), -1
    while (at := data.find(magic, at + 1)) >= 0:
        yield at


def _mutate_zstd(chance: random.Random, data: bytes) -> bytes:
    starts = list(_frames(data))
    if not starts or chance.randrange(3) == 0:
        return havoc(chance, data, _ZSTD_WORDS)
    at = chance.choice(starts)
    match chance.randrange(5):
        case 0:  # the descriptor: which fields the header has, the checksum, a dictionary
            return (
                data[: at + 4]
                + bytes([chance.choice((0, 0x20, 0x24, 0x60, 0xE0, 1, 3, 8, 0x10, 0xFF))])
                + data[at + 5 :]
            )
        case 1:  # the window, up to 3.75 TB
            return data[: at + 4] + bytes([0, chance.randrange(256)]) + data[at + 6 :]
        case 2:  # a frame of blocks of one byte each, repeated
            blocks = b"".join(
                struct.pack("<I", chance.choice((0, 1, 2, 1 << 17, (1 << 21) - 1)) << 3 | 2)[:3] + b"r"
                for _ in range(5)
            )
            return data[:at] + struct.pack("<IBB", _ZSTD_MAGIC, 0, 0x50) + blocks + b"\1\0\0" + data[at:]
        case 3:
            return data[:at] + chance.choice(_ZSTD_WORDS) + data[at:]
        case _:
            return data[:at] + havoc(chance, data[at : at + 20]) + data[at + 20 :]


def _mutate_gzip(chance: random.Random, data: bytes) -> bytes:
    kind = chance.randrange(8)
    if kind == 0 and len(data) > 4:  # the flags: which fields the header has
        return data[:3] + bytes([chance.choice((0, 1, 2, 4, 8, 16, 0x1F, 0x20, 0xFF))]) + data[4:]
    if kind == 1:
        return data + chance.choice(_GZIP_WORDS)
    if kind == 2:
        return chance.choice(_GZIP_WORDS) + data
    if kind == 3 and len(data) > 8:  # checksum and size
        return data[:-8] + havoc(chance, data[-8:])
    if kind == 4:
        return data[:10] + havoc(chance, data[10:40], _GZIP_WORDS) + data[40:]
    return havoc(chance, data, _GZIP_WORDS)


def _gzip(data: bytes, flags: int = 0, extra: bytes = b"", level: int = 6) -> bytes:
    """Return one member with such flags, and what belongs to them."""
    deflate = zlib.compressobj(level, wbits=-15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, flags, 0, 0, 255) + extra
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFF_FFFF)


_TEXT = b"".join(b"line %d of a text\n" % number for number in range(200))
_GZIP_WORDS = [
    _gzip(b""), _gzip(b"x"), b"\x1f\x8b", bytes(8), bytes(512), _gzip(_TEXT)[:20], b"\0\0\xff\xff", b"\xff\xff\xff\xff",
]  # fmt: skip
_ZSTD_WORDS = [
    zstandard.compress(b""), zstandard.compress(b"x"), struct.pack("<IB", _ZSTD_MAGIC, 0), bytes(4), bytes(512),
    struct.pack("<II", 0x184D2A50, 3) + b"abc", struct.pack("<II", 0x184D2A5F, 0xFFFF_FFFF), struct.pack("<II",
    0x184D2A51, 0),
    b"\x25\xb5\x2f\xfd\x07", b"\x1e\xb5\x2f\xfd",
]  # fmt: skip


def _gzip_seeds() -> dict[str, bytes]:
    return {
        "text": _gzip(_TEXT),
        "stored": _gzip(_TEXT[:600], level=0),
        "fixed": _gzip(b"short"),
        "members": _gzip(_TEXT) + _gzip(b"") + _gzip(b"more"),
        "name-and-comment": _gzip(_TEXT[:300], 8 | 16, b"name\0comment\0"),
        "extra-and-sum": _gzip(_TEXT[:300], 4 | 2, struct.pack("<H", 6) + b"AB\2\0xy"),
        "bomb": _gzip(bytes(1 << 20), level=9),
        "many-members": _gzip(b"x") * 200,
        "long-name": _gzip(b"x", 8, b"n" * 5000 + b"\0"),
        "zero-padding": _gzip(b"x") + bytes(512),
    }


def _zstd_seeds() -> dict[str, bytes]:
    with_sum = zstandard.ZstdCompressor(write_checksum=True)
    streaming = zstandard.ZstdCompressor(level=3).compressobj()
    large_window = zstandard.ZstdCompressionParameters(window_log=27)
    wide = zstandard.ZstdCompressor(compression_params=large_window).compressobj()
    return {
        "text": zstandard.compress(_TEXT),
        "streaming": streaming.compress(_TEXT) + streaming.flush(),
        "sum": with_sum.compress(_TEXT[:500]),
        "frames": zstandard.compress(b"a") + struct.pack("<II", 0x184D2A50, 3) + b"abc" + zstandard.compress(_TEXT),
        "skippable": struct.pack("<II", 0x184D2A5F, 5) + b"hello",
        "window-27": wide.compress(_TEXT) + wide.flush(),
        "bomb": zstandard.compress(bytes(1 << 20)),
        "window-31": struct.pack("<IBB", _ZSTD_MAGIC, 0, 21 << 3) + b"\1\0\0",  # 2 GiB, for an empty block
        "window-41": struct.pack("<IBB", _ZSTD_MAGIC, 0, 0xFF) + b"\1\0\0",  # 3.75 TiB, the most there is
        "content-of-2-to-the-64": struct.pack("<IBBQ", _ZSTD_MAGIC, 0xC0, 0x50, (1 << 64) - 1) + b"\1\0\0",
        "dictionary": struct.pack("<IBBI", _ZSTD_MAGIC, 3, 0x50, 0xDEADBEEF) + b"\1\0\0",
        "skippable-of-4-gib": struct.pack("<II", 0x184D2A50, 0xFFFF_FFFF) + b"abc",
        "many-frames": (zstandard.compress(b"x") + struct.pack("<II", 0x184D2A51, 0)) * 100,
    }


GZIP = Target("gzip", check_gzip, _mutate_gzip, _gzip_seeds, share=3, size_max=1 << 14)
ZSTD = Target("zstd", check_zstd, _mutate_zstd, _zstd_seeds, share=20, size_max=1 << 14)
