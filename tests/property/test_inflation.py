"""Blobs of random frames and members, whole and damaged: many threads give the bytes, or the error, of one."""

import contextlib
import itertools
from unittest import mock

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from composefs import zstd
from composefs.errors import ComposefsError
from composefs.oci import blobs, frames, inflation
from composefs.oci.blobs import decompress
from composefs.oci.inflation import inflate
from composefs.oci.manifest import Compression
from tests import chunked
from tests.layouts import noise

# So small that some hundred bytes have many.
SIZES = {
    (zstd, "READ_SIZE"): 32,
    (blobs, "READ_SIZE"): 64,
    (blobs, "SLOT_SIZE"): 100,
    (inflation, "READ_SIZE"): 64,
    (inflation, "RUN_SIZE"): 50,
    (inflation, "AHEAD_MAX"): 150,
    (frames, "READ_SIZE"): 64,
    (frames, "SLOT_SIZE"): 100,
    (frames, "PATIENCE"): 400,
}
contents = st.one_of(
    st.binary(max_size=40),
    st.builds(noise, st.integers(0, 700), st.integers(0, 3)),
    st.builds(lambda size: b"a" * size, st.integers(0, 3000)),
    st.just(chunked.member(b"")),  # which looks like a border
)


@st.composite
def zstd_frames(draw):
    """Return a frame, in any of the ways to write one."""
    data = draw(contents)
    if draw(st.integers(0, 5)) == 0:
        return chunked.skippable(data)
    options = {"write_checksum": draw(st.booleans()), "write_content_size": draw(st.booleans())}
    if draw(st.booleans()):
        return zstandard.ZstdCompressor(level=draw(st.sampled_from([-5, 1, 19])), **options).compress(data)
    encoder = zstandard.ZstdCompressor(**options).compressobj()
    middle = draw(st.integers(0, len(data)))
    flush = encoder.compress(data[:middle]) + encoder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return flush + encoder.compress(data[middle:]) + encoder.flush()


@st.composite
def gzip_members(draw):
    """Return a member; not all have the header that tells where one begins."""
    member = bytearray(chunked.member(draw(contents)))
    member[draw(st.sampled_from([4, 8, 9]))] = draw(st.sampled_from([0, 0, 2, 255]))
    return bytes(member)


@st.composite
def damaged(draw, blob):
    """Return *blob*, most of the time, or what is left of it."""
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(blob)))
        blob = draw(
            st.sampled_from(
                [
                    blob[:at],
                    blob[at:],
                    blob[:at] + b"\x55" + blob[at + 1 :],
                    blob[:at] + bytes([blob[at] ^ 1 if at < len(blob) else 0]) + blob[at + 1 :],
                    blob[:at] + bytes(9) + blob[at:],
                    blob + blob[at:],
                ]
            )
        )
    return blob


class Blob:
    """Bytes to inflate."""

    source = "layer"

    def __init__(self, data):
        self._data, self.offset = data, 0

    def read(self, size):
        piece = self._data[self.offset : self.offset + size]
        self.offset += len(piece)
        return piece


def outcome(slots, *, with_offset):
    try:
        return b"".join(slots)
    except ComposefsError as error:
        return type(error), str(error) if with_offset else error.what


def compare(blob, compression, turns, *, with_offset):
    """Inflate *blob* in all ways; *turns* say when there is another thread for it."""
    cycle = itertools.cycle(turns)
    with contextlib.ExitStack() as patches:
        for (module, name), size in SIZES.items():
            patches.enter_context(mock.patch.object(module, name, size))
        wanted = outcome(decompress(Blob(blob), compression), with_offset=with_offset)
        got = outcome(inflate(Blob(blob), compression, lambda: next(cycle)), with_offset=with_offset)
    assert got == wanted


turns = st.lists(st.booleans(), min_size=1, max_size=6)


@given(st.lists(zstd_frames(), max_size=12).map(b"".join).flatmap(damaged), turns)
def test_zstd(blob, turns):
    """zstd: bytes, errors and their offsets are the same."""
    compare(blob, Compression.ZSTD, turns, with_offset=True)


@given(st.lists(gzip_members(), max_size=12).map(b"".join).flatmap(damaged), turns)
def test_gzip(blob, turns):
    """gzip: bytes and errors are; the offset, unless it is in the words, is how far was read, and may differ."""
    compare(blob, Compression.GZIP, turns, with_offset=False)
