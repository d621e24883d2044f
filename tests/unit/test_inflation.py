"""Blobs that many threads inflate: bytes and errors are those of one thread, and memory stays small."""

import itertools
import os
import threading
import tracemalloc
import zlib

import pytest
import zstandard

from composefs import limits, zstd
from composefs.errors import CancelledError, ComposefsError, FormatError, LimitError
from composefs.oci import blobs, frames, inflation
from composefs.oci.blobs import decompress
from composefs.oci.inflation import inflate
from composefs.oci.manifest import Compression
from tests import chunked
from tests.layouts import noise

GZIP, ZSTD = Compression.GZIP, Compression.ZSTD
MEBI = 1 << 20


@pytest.fixture(autouse=True)
def no_threads_are_left():
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


@pytest.fixture
def small(monkeypatch):
    """Pieces, runs and slots so small that little data have many."""
    for module, name, size in (
        (zstd, "READ_SIZE", 64),
        (blobs, "READ_SIZE", 128),
        (blobs, "SLOT_SIZE", 256),
        (inflation, "READ_SIZE", 128),
        (inflation, "RUN_SIZE", 100),
        (inflation, "AHEAD_MAX", 512),
        (frames, "READ_SIZE", 128),
        (frames, "SLOT_SIZE", 256),
        (frames, "PATIENCE", 1024),
    ):
        monkeypatch.setattr(module, name, size)


class Blob:
    """Bytes to inflate."""

    source = "layer"

    def __init__(self, data):
        self._data, self.offset, self.sizes = data, 0, []

    def read(self, size):
        piece = self._data[self.offset : self.offset + size]
        self.offset += len(piece)
        self.sizes.append(len(piece))
        return piece


def outcome(slots):
    """Return what comes out, or the error."""
    try:
        return b"".join(slots)
    except ComposefsError as error:
        return type(error), str(error)


def ways(data, compression):
    """Return what one thread makes of a blob, and what many do: always, never, and now and then."""
    turns = itertools.cycle([True, True, False, True, False, False])
    yield outcome(decompress(Blob(data), compression))
    for may_begin in (lambda: True, lambda: False, lambda: next(turns)):
        yield outcome(inflate(Blob(data), compression, may_begin))


def same(data, compression):
    """Return what all ways make of a blob."""
    first, *others = ways(data, compression)
    assert others == [first] * len(others)
    return first


def frame(data, **options):
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(data)


def stored(data):
    """Return a gzip member that holds *data* as they are."""
    encoder = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = encoder.compress(data) + encoder.flush()
    return chunked.member(b"")[:10] + body + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


PARTS = [noise(40, seed=1), b"", b"a" * 5000, b"b", noise(700, seed=2), *(b"%d," % number for number in range(60))]
WHOLE = b"".join(PARTS)
ZSTD_BLOB = b"".join(map(frame, PARTS))
GZIP_BLOB = b"".join(map(chunked.member, PARTS))
BLOBS = {ZSTD: ZSTD_BLOB, GZIP: GZIP_BLOB}
COMPRESSIONS = pytest.mark.parametrize("compression", [ZSTD, GZIP], ids=["zstd", "gzip"])


@pytest.fixture
def workers(monkeypatch):
    """Names of the threads that have inflated, and what."""
    seen = []
    for cutter in (frames.ZstdCutter, frames.GzipCutter):
        original = cutter.inflate

        def noted(self, run, original=original):
            seen.append((threading.current_thread().name.split("_")[0], run))
            return original(self, run)

        monkeypatch.setattr(cutter, "inflate", noted)
    return seen


@COMPRESSIONS
def test_many_parts(small, compression):
    """Frames and members of all sizes come out in order."""
    assert same(BLOBS[compression], compression) == WHOLE


def test_other_compressions():
    """What is not compressed is as it was."""
    assert same(WHOLE, Compression.NONE) == WHOLE


@COMPRESSIONS
def test_real_sizes(workers, compression):
    """Runs are as large as they are to be, and inflated by other threads if these may begin."""
    parts = [noise(3 * inflation.RUN_SIZE // 10, seed=number) for number in range(40)]
    pack = frame if compression is ZSTD else chunked.member
    blob = b"".join(map(pack, parts))

    assert outcome(inflate(Blob(blob), compression, lambda: True)) == b"".join(parts)

    names, runs = zip(*workers, strict=True)
    sizes = list(map(len, runs))
    assert set(names) == {"composefs-inflate"}
    assert min(sizes) >= inflation.RUN_SIZE
    assert len(blob) - 2 * inflation.RUN_SIZE <= sum(sizes) <= len(blob)


@COMPRESSIONS
def test_one_thread(small, workers, compression):
    """Where no CPU is idle, no other thread does anything."""
    inflated = inflate(Blob(BLOBS[compression]), compression, lambda: False)

    assert outcome(inflated) == WHOLE
    assert {name for name, _ in workers} == {threading.current_thread().name}
    assert len(workers) > 3


@COMPRESSIONS
def test_every_cut(small, compression):
    """A blob that ends anywhere is what it is for one thread: refused in the same words, unless a part ends there."""
    pack = frame if compression is ZSTD else chunked.member
    borders = set(itertools.accumulate(len(pack(part)) for part in PARTS[:-1]))
    around = {border + change for border in borders for change in (-5, -1, 0, 1, 3)}
    for size in sorted(around | set(range(0, len(BLOBS[compression]), 11))):
        assert isinstance(same(BLOBS[compression][:size], compression), bytes) == (size in borders), f"cut to {size}"


@COMPRESSIONS
def test_damage_everywhere(small, compression):
    """So is one with any byte changed."""
    refused = 0
    for offset in range(0, len(BLOBS[compression]), 7):
        damaged = bytearray(BLOBS[compression])
        damaged[offset] ^= 0x55
        first, *others = (
            found if isinstance(found, bytes) else (found[0], what(found[1], compression))
            for found in ways(bytes(damaged), compression)
        )
        assert others == [first] * len(others), f"byte {offset} changed"
        refused += not isinstance(first, bytes)
    assert refused > len(BLOBS[compression]) // 14


def what(message, compression):
    """Return an error without its offset where that is how far was read when it was found, which may differ."""
    return message.partition(": ")[2] if compression is GZIP else message


@pytest.mark.parametrize("rest", [b"junk", bytes(1), bytes(5000), b"\x28\xb5\x2f", b"\x1f\x8b\x08\x00"])
@COMPRESSIONS
def test_rest(small, compression, rest):
    """What follows the last part is refused."""
    _, message = same(BLOBS[compression] + rest, compression)

    assert "layer, offset " in message


@pytest.mark.parametrize("data", [b"", b"tar" * 100, bytes(1000)], ids=len)
@COMPRESSIONS
def test_other_data(small, compression, data):
    """What is no compressed data is refused."""
    assert same(data, compression)[0] is FormatError


def test_windows(small):
    """A frame that asks for too much memory is refused, after what comes before."""
    large = b"\x28\xb5\x2f\xfd\0" + bytes([17 << 3 | 1]) + b"\x01\0\0"

    kind, message = same(ZSTD_BLOB + large + ZSTD_BLOB, ZSTD)

    assert kind is LimitError
    assert str(limits.ZSTD_WINDOW_SIZE) in message


def test_skippable_frames(small):
    """Frames that hold nothing are passed over, also large ones, and a run of nothing else."""
    note = chunked.skippable(bytes(90))
    blob = note * 5 + ZSTD_BLOB + chunked.skippable(bytes(2000)) + ZSTD_BLOB + note * 50

    assert same(blob, ZSTD) == WHOLE * 2


@COMPRESSIONS
def test_a_large_part(small, compression):
    """A part longer than anybody waits for is inflated by one thread, with all behind it."""
    large = noise(5000)
    pack = frame if compression is ZSTD else chunked.member
    blob = BLOBS[compression] + pack(large) + BLOBS[compression]

    assert same(blob, compression) == WHOLE + large + WHOLE


def test_ordinary_gzip(workers):
    """Of a blob of one member no more is read than fills a slot, and another one, before that comes out."""
    blob = Blob(chunked.member(noise(8 * blobs.READ_SIZE)))

    slots = inflate(blob, GZIP, lambda: True)
    first = next(slots)

    assert blob.offset <= 2 * blobs.SLOT_SIZE + blobs.READ_SIZE
    assert first + b"".join(slots) == noise(8 * blobs.READ_SIZE)
    assert not workers


def test_borders_where_pieces_end(small, workers):
    """A header of a member is found wherever it lies in what is read at a time."""
    for size in range(100, 260):
        first, large = chunked.member(b"") + stored(noise(size)), stored(noise(300, seed=1))

        assert same(first + large + GZIP_BLOB, GZIP) == noise(size) + noise(300, seed=1) + WHOLE
        assert first in {run for _, run in workers}, f"the next header at {len(first)}"


@pytest.mark.parametrize("count", [1, 3, 40])
def test_false_borders(small, count):
    """What looks like the header of a member, in the middle of one, changes nothing: it is put together again."""
    false = stored(b"".join(noise(50, seed=number) + chunked.member(b"") for number in range(count)))
    blob = GZIP_BLOB + false + GZIP_BLOB

    found = same(blob, GZIP)

    assert found == decompressed(GZIP_BLOB) + decompressed(false) + decompressed(GZIP_BLOB)


def decompressed(blob):
    return b"".join(decompress(Blob(blob), GZIP))


@pytest.mark.parametrize("flags", [0x20, 0xE0, 4, 8])
def test_headers_of_members(small, flags):
    """Members that say more than usual, or what they may not, are what they are for one thread."""
    header = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 255])
    extra = {4: b"\4\0abcd", 8: b"name\0"}.get(flags, b"")
    blob = GZIP_BLOB + header + extra + chunked.member(b"x" * 300)[10:] + GZIP_BLOB

    assert isinstance(same(blob, GZIP), bytes) == (flags in (4, 8))


def test_estargz_and_zstd_chunked(small):
    """So are layers with tables of contents."""
    files = {"usr/": b"", "usr/empty": b"", **{f"usr/{number}": noise(number * 7, seed=number) for number in range(80)}}
    for layer, compression in ((chunked.estargz(files), GZIP), (chunked.zstd_chunked(files), ZSTD)):
        assert same(layer.blob, compression) == layer.archive


def test_slots_of_small_members():
    """The contents of small members come in few slots, each as full as it can be."""
    parts = [noise(2000, seed=number) for number in range(2000)]
    blob = b"".join(map(chunked.member, parts))
    for slots in (decompress(Blob(blob), GZIP), inflate(Blob(blob), GZIP, lambda: False)):
        sizes = list(map(len, slots))
        assert sum(sizes) == 4_000_000
        assert max(sizes) <= blobs.SLOT_SIZE
        assert len(sizes) < 30


@COMPRESSIONS
def test_bombs(monkeypatch, compression):
    """Parts that inflate to far more than their size take no more memory before their turn comes."""
    monkeypatch.setattr(inflation, "available_cpus", lambda: 8)
    bomb = (frame if compression is ZSTD else chunked.member)(bytes(64 * MEBI))
    filler = (frame if compression is ZSTD else chunked.member)(noise(inflation.RUN_SIZE))
    tracemalloc.start()
    try:
        size = sum(map(len, inflate(Blob((bomb + filler) * 12), compression, lambda: True)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size == 12 * (64 * MEBI + inflation.RUN_SIZE)
    assert peak < 80 * MEBI


@COMPRESSIONS
def test_memory_of_borders_that_do_not_come(compression):
    """A blob is not read on and on in search of a border."""
    small, large = noise(100), noise(12 * MEBI)
    pack = frame if compression is ZSTD else chunked.member
    blob = Blob(pack(small) + pack(large))

    next(slots := inflate(blob, compression, lambda: True))
    slots.close()

    assert blob.offset <= frames.PATIENCE + 2 * blobs.READ_SIZE


@COMPRESSIONS
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_left(small, compression, taken):
    """Who stops early ends the threads."""
    slots = inflate(Blob(BLOBS[compression] * 4), compression, lambda: True)

    assert len(list(itertools.islice(slots, taken))) == taken
    slots.close()


@COMPRESSIONS
def test_cancelled(small, compression):
    """What reading raises is raised, and ends the threads."""

    class Cancelled(Blob):
        def read(self, size):
            if self.offset > 1000:
                raise CancelledError("stop")
            return super().read(size)

    with pytest.raises(CancelledError):
        list(inflate(Cancelled(BLOBS[compression] * 4), compression, lambda: True))


@COMPRESSIONS
def test_no_thread_to_be_had(small, monkeypatch, compression):
    """Where the system has no thread for it, that is said."""

    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(inflate(Blob(BLOBS[compression]), compression, lambda: True))
    monkeypatch.undo()


def test_pieces_of_a_pipe(small):
    """However few bytes come at a time, the bytes are the same."""

    class Trickle(Blob):
        def read(self, size):
            return super().read(min(size, 1 + self.offset % 7))

    for compression, blob in BLOBS.items():
        assert outcome(inflate(Trickle(blob), compression, lambda: os.urandom(1) < b"\x80")) == WHOLE
