"""zstd data: whole frames of every form, in bounded memory, and nothing else."""

import contextlib
import io
import resource

import pytest
import zstandard

from composefs import zstd
from composefs.errors import FormatError

DATA = bytes(range(256)) * 40 + bytes(5000)


def frame(data=DATA, *, size=True, checksum=False, level=3):
    options = {"write_content_size": size, "write_checksum": checksum, "level": level}
    return zstandard.ZstdCompressor(**options).compress(data)


def skippable(data, number=0):
    return (0x184D2A50 + number).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


def decompressed(data):
    return b"".join(map(bytes, zstd.decompress(io.BytesIO(data), "layer x")))


@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("data", [b"", b"x", DATA, DATA * 100], ids=len)
def test_frame(data, size, checksum):
    """Frames with and without content size and checksum are read."""
    assert decompressed(frame(data, size=size, checksum=checksum)) == data


def test_streamed_frame():
    """So is one whose size the encoder did not know."""
    compressor = zstd.compressor()

    assert decompressed(compressor.compress(DATA) + compressor.flush()) == DATA


def test_many_frames():
    """All frames count, skippable ones are passed over."""
    parts = [
        skippable(b""),
        frame(b"a"),
        skippable(b"note", 15),
        frame(b"", checksum=True),
        frame(b"b"),
        skippable(b"x"),
    ]

    assert decompressed(b"".join(parts)) == b"ab"


def test_every_cut():
    """Data cut anywhere but between frames are refused."""
    parts = [frame(b"first" * 50, checksum=True), skippable(b"note"), frame(DATA, size=False)]
    whole = b"".join(parts)
    borders = {len(parts[0]), len(parts[0]) + len(parts[1])}

    for size in range(len(whole)):
        if size in borders:
            decompressed(whole[:size])
        else:
            with pytest.raises(FormatError) as caught:
                decompressed(whole[:size])
            assert caught.value.source == "layer x"
            assert caught.value.offset <= size


@pytest.mark.parametrize("rest", [b"junk", bytes(100), b"\x28\xb5\x2f", b"\x1f\x8b\x08\x00"])
def test_rest(rest):
    """What follows the last frame must be one."""
    with pytest.raises(FormatError, match="frame"):
        decompressed(frame() + rest)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08\x00" + bytes(20), b"tar archive" * 50])
def test_no_zstd(data):
    """Other data are refused."""
    with pytest.raises(FormatError, match="zstd"):
        decompressed(data)


def test_flipped_bits():
    """No flipped bit in a frame with a checksum goes unnoticed, and none gives another error."""
    whole = frame(b"some text " * 30, checksum=True)

    for offset in range(len(whole)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[offset] ^= 1 << bit
            with contextlib.suppress(FormatError):
                assert decompressed(bytes(broken)) == b"some text " * 30


def test_bomb():
    """A gigabyte of zeros in some kilobytes takes a few megabytes at a time."""
    compressor = zstd.compressor()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(1024)) + compressor.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    size = sum(map(len, zstd.decompress(io.BytesIO(bomb), "layer x")))

    assert size == 1 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
