"""Blobs: every gzip member and zstd frame comes out, damage anywhere is an error, and memory stays small."""

import gzip
import os
import random
import tracemalloc
import zlib

import pytest
import zstandard

from composefs.errors import CancelledError, FormatError, IntegrityError, NotFoundError
from composefs.oci import blobs
from composefs.oci.blobs import BlobReader, ZlibDecoder, decompress
from composefs.oci.manifest import Compression
from composefs.oci.sources.source import Blob, FileRange
from tests import layouts

SMALL_READ = 256  # bytes; half of it holds the headers below whole, as READ_SIZE does those of real blobs
TRAILER = 8  # bytes of a gzip member: CRC-32 and length
MEBI = 1 << 20

NAMED, COMMENTED, CHECKED, EXTRA = 8, 16, 2, 4  # RFC 1952: FNAME, FCOMMENT, FHCRC, FEXTRA


@pytest.fixture(params=["isal", "zlib"])
def decoder(request, monkeypatch):
    """Each decoder in turn."""
    if request.param == "zlib":
        monkeypatch.setattr(blobs, "new_member_decoder", ZlibDecoder)
    elif blobs.new_member_decoder is ZlibDecoder:
        pytest.skip("isal has no wheel for this CPU")
    return request.param


def member(data, *, flags=0, name=b"file.tar", comment=b"", extra=b"", level=6):
    """Return a gzip member with the parts of a header that *flags* say."""
    header = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 255])
    if flags & EXTRA:
        header += len(extra).to_bytes(2, "little") + extra
    if flags & NAMED:
        header += name + b"\0"
    if flags & COMMENTED:
        header += comment + b"\0"
    if flags & CHECKED:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    encoder = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = encoder.compress(data) + encoder.flush()
    return header + body + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


def opened(tmp_path, data, **forged):
    """Return a reader of a blob that is *data*."""
    path = tmp_path / "blob"
    path.write_bytes(data)
    return reader(path, data, **forged)


def reader(path, data=b"", *, advance=lambda _: None, is_hashed=True, **forged):
    """Return a reader of the file *path*, which is to hold *data*."""
    described = {"digest": layouts.sha256(data), "size": len(data)} | forged
    blob = Blob(FileRange(str(path)), compression=Compression.NONE, **described)
    return BlobReader(blob, "layer", advance, is_hashed=is_hashed)


def unpacked(tmp_path, data, compression=Compression.GZIP):
    with opened(tmp_path, data) as blob:
        joined = b"".join(bytes(slot) for slot in decompress(blob, compression))
        blob.verify()
    return joined


HEADERS = {
    "plain": {},
    "named": {"flags": NAMED},
    "commented": {"flags": NAMED | COMMENTED, "comment": b"a comment"},
    "checked": {"flags": CHECKED},
    "extra": {"flags": EXTRA, "extra": b"RA\x03\0abc"},
    "all": {"flags": NAMED | COMMENTED | CHECKED | EXTRA, "comment": b"c", "extra": b"xx\0\0"},
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("data", [b"", b"a", b"tar" * 500], ids=["empty", "byte", "text"])
def test_headers(decoder, tmp_path, header, data):
    """Every part that a gzip header may have is passed over, in the first member and in later ones."""
    blob = member(data, **HEADERS[header]) + member(b"second", **HEADERS[header])

    assert unpacked(tmp_path, blob) == data + b"second"


@pytest.mark.parametrize("header", HEADERS)
def test_members_cut_at_every_offset(decoder, tmp_path, monkeypatch, header):
    """Wherever a read ends inside a member, its header or its trailer, the members come out whole."""
    monkeypatch.setattr(blobs, "READ_SIZE", SMALL_READ)
    second = member(b"second " * 9, **HEADERS[header])
    empty = member(b"", **HEADERS[header])
    for shift in range(SMALL_READ + 1):
        first = random.Random(shift).randbytes(300 + shift)  # does not compress, so it moves what follows
        blob = member(first) + second + empty + second

        assert unpacked(tmp_path, blob) == first + b"second " * 18, f"first member of {300 + shift} bytes"


@pytest.mark.parametrize("header", HEADERS)
def test_members_across_real_reads(decoder, tmp_path, header):
    """Members whose headers lie where one read of a real blob ends and the next begins come out whole."""
    second = member(b"second", **HEADERS[header])
    framing = len(member(bytes(blobs.READ_SIZE - 100), level=0)) - (blobs.READ_SIZE - 100)
    for before in range(len(second) + 2):
        first = bytes(blobs.READ_SIZE - framing - before)
        packed = member(first, level=0)
        assert len(packed) == blobs.READ_SIZE - before

        assert unpacked(tmp_path, packed + second + second) == first + b"second" * 2


def test_long_name(decoder, tmp_path):
    """A header longer than any read is a header still."""
    for size in (blobs.READ_SIZE // 2, blobs.READ_SIZE, 3 * blobs.READ_SIZE):
        blob = member(b"data", flags=NAMED, name=b"n" * size) + member(b"more")

        assert unpacked(tmp_path, blob) == b"datamore", f"name of {size} bytes"


def test_many_members(decoder, tmp_path):
    """Thousands of members, as bgzip and estargz write them, come out in order."""
    parts = [b"%d," % number for number in range(5000)]

    assert unpacked(tmp_path, b"".join(map(member, parts))) == b"".join(parts)


def test_slots_are_bounded(decoder, tmp_path):
    """No slot is larger than SLOT_SIZE, whatever a member inflates to."""
    blob = member(bytes(5 * MEBI))

    with opened(tmp_path, blob) as reader:
        sizes = [len(slot) for slot in decompress(reader, Compression.GZIP)]

    assert sum(sizes) == 5 * MEBI
    assert max(sizes) <= blobs.SLOT_SIZE


@pytest.mark.parametrize("header", ["plain", "all"])
def test_truncation_at_every_offset(decoder, tmp_path, header):
    """A gzip blob that ends anywhere but behind a member is refused, even if its digest is right."""
    first, second = member(b"first " * 40, **HEADERS[header]), member(b"second", **HEADERS[header])
    whole = first + second
    for size in range(len(whole)):
        if size == len(first):
            assert unpacked(tmp_path, whole[:size]) == b"first " * 40
            continue
        with pytest.raises(FormatError) as caught:
            unpacked(tmp_path, whole[:size])
        assert caught.value.source == "layer", f"cut to {size} bytes"
        assert 0 <= caught.value.offset <= size

        with pytest.raises(
            IntegrityError, match=f"^layer, blob sha256:.*: wanted {len(whole)} bytes, got {size} bytes$"
        ):
            opened(tmp_path, whole[:size], size=len(whole))


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_truncation_of_large_blobs(decoder, tmp_path, compression):
    """A blob of many reads that is cut is refused."""
    data = layouts.noise(3 * blobs.READ_SIZE)
    whole = gzip.compress(data) if compression is Compression.GZIP else zstandard.ZstdCompressor().compress(data)
    for size in (blobs.READ_SIZE - 1, blobs.READ_SIZE, blobs.READ_SIZE + 1, len(whole) - TRAILER, len(whole) - 1):
        with pytest.raises(FormatError) as caught:
            unpacked(tmp_path, whole[:size], compression)
        assert "ends inside a" in str(caught.value)


def test_zstd_truncation_at_every_offset(tmp_path):
    """A zstd blob that ends anywhere but behind a frame is refused."""
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(b"frame " * 40)
    whole = frame + frame
    for size in range(len(whole)):
        if size == len(frame):
            assert unpacked(tmp_path, whole[:size], Compression.ZSTD) == b"frame " * 40
            continue
        with pytest.raises(FormatError, match="^layer, offset "):
            unpacked(tmp_path, whole[:size], Compression.ZSTD)


@pytest.mark.parametrize(
    ("behind", "what"),
    [
        (bytes(1), "zero padding behind the last gzip member"),
        (bytes(10000), "zero padding behind the last gzip member"),
        (b"\x1f", "bytes behind the last gzip member"),
        (b"junk", "bytes behind the last gzip member"),
        (bytes(512) + b"junk", "bytes behind the last gzip member"),
    ],
)
def test_junk_behind(decoder, tmp_path, behind, what):
    """What follows the last member is named with its offset, as the reference refuses it too."""
    blob = member(b"data")

    with pytest.raises(FormatError) as caught:
        unpacked(tmp_path, blob + behind)

    assert str(caught.value) == f"layer, offset {len(blob)}: {what}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "layer, offset 0: no gzip data at all"),
        (b"\x1f", "layer, offset 0: not gzip data"),
        (b"PK\3\4", "layer, offset 0: not gzip data"),
        (bytes(512), "layer, offset 0: not gzip data"),
        (b"\x1f\x8b\x07" + bytes(20), "layer, offset 23: gzip member at 0 is broken: "),
    ],
)
def test_no_gzip(decoder, tmp_path, data, message):
    """What is no gzip data is said to be none."""
    with pytest.raises(FormatError) as caught:
        unpacked(tmp_path, data)

    assert str(caught.value).startswith(message)


def test_damage_at_every_offset(decoder, tmp_path):
    """A gzip member with any byte changed is refused, or gives the same data: by its checksum, or by the digest."""
    data = b"some data that compresses, that compresses " * 5
    whole = bytearray(member(data))
    for offset in range(len(whole)):
        broken = whole.copy()
        broken[offset] ^= 0x55
        try:
            assert unpacked(tmp_path, bytes(broken)) == data, f"byte {offset} changed"
        except FormatError as error:
            assert error.source == "layer"  # noqa: PT017  # either way is right


def test_gzip_bomb(decoder, tmp_path):
    """A gzip member that inflates to a gibibyte takes no more memory than any other."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = encoder.compress(bytes(MEBI)) + encoder.flush(zlib.Z_FULL_FLUSH)  # can be repeated
    checksum = 0
    for _ in range(1024):
        checksum = zlib.crc32(bytes(MEBI), checksum)
    trailer = checksum.to_bytes(4, "little") + (1024 * MEBI).to_bytes(4, "little")
    blob = member(b"")[:10] + zeros * 1024 + encoder.flush() + trailer

    size, peak = measured(tmp_path, blob, Compression.GZIP)

    assert size == 1024 * MEBI
    assert peak < 8 * MEBI


def test_zstd_bomb(tmp_path):
    """zstd frames that inflate to a gibibyte take no more memory than any other."""
    blob = zstandard.ZstdCompressor().compress(bytes(MEBI)) * 1024

    size, peak = measured(tmp_path, blob, Compression.ZSTD)

    assert size == 1024 * MEBI
    assert peak < 8 * MEBI


def measured(tmp_path, blob, compression):
    """Return what a blob inflates to, in bytes, and the memory that it takes."""
    with opened(tmp_path, blob) as reader:
        tracemalloc.start()
        try:
            size = sum(map(len, decompress(reader, compression)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        reader.verify()
    return size, peak


def test_uncompressed(tmp_path):
    """A plain blob comes out as it is."""
    data = layouts.noise(3 * MEBI + 1)

    assert unpacked(tmp_path, data, Compression.NONE) == data


def test_zstd_frames(tmp_path):
    """All frames come out, skippable ones are passed over; junk behind them is refused with its offset."""
    frame = zstandard.ZstdCompressor().compress(b"data")
    skippable = (0x184D2A57).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"

    assert unpacked(tmp_path, skippable + frame + skippable + frame + skippable, Compression.ZSTD) == b"datadata"
    with pytest.raises(FormatError) as junk:
        unpacked(tmp_path, frame + b"junkjunk", Compression.ZSTD)
    with pytest.raises(FormatError) as zeros:
        unpacked(tmp_path, frame + bytes(100), Compression.ZSTD)
    with pytest.raises(FormatError) as nothing:
        unpacked(tmp_path, b"", Compression.ZSTD)
    with pytest.raises(FormatError) as no_zstd:
        unpacked(tmp_path, gzip.compress(b"data"), Compression.ZSTD)

    assert str(junk.value) == f"layer, offset {len(frame)}: bytes behind the last zstd frame are no frame"
    assert str(zeros.value) == f"layer, offset {len(frame)}: bytes behind the last zstd frame are no frame"
    assert str(nothing.value) == "layer, offset 0: no zstd frame at all"
    assert str(no_zstd.value) == "layer, offset 0: not zstd data"


def test_digest(tmp_path):
    """A blob read whole is compared with its digest, also what the decoder did not ask for."""
    wanted = layouts.sha256(b"other")
    data = b"a" * 100

    with opened(tmp_path, data, digest=wanted) as blob:
        assert blob.read(7) == b"a" * 7
        with pytest.raises(IntegrityError) as caught:
            blob.verify()

    assert str(caught.value) == f"layer, blob: wanted {wanted}, got {layouts.sha256(data)}"
    assert blob.offset == len(data)


def test_size(tmp_path):
    """A blob of another size is refused before it is read."""
    with pytest.raises(IntegrityError) as caught:
        opened(tmp_path, b"12345", size=6)

    assert str(caught.value) == f"layer, blob {layouts.sha256(b'12345')}: wanted 6 bytes, got 5 bytes"


def test_growing_blob(tmp_path):
    """A blob that grows while it is read is given up, not followed."""
    with opened(tmp_path, b"12345") as blob:
        with (tmp_path / "blob").open("ab") as file:
            file.write(b"6")
        with pytest.raises(IntegrityError) as caught:
            blob.verify()

    assert str(caught.value) == f"layer, blob {layouts.sha256(b'12345')}: wanted 5 bytes, got more: it grows"


def test_missing(tmp_path):
    """A blob that is not there is named with its file."""
    with pytest.raises(NotFoundError) as caught:
        reader(f"{tmp_path}/none")

    assert str(caught.value) == f"layer is missing: no file {tmp_path}/none"


def test_fifo(tmp_path):
    """A fifo in place of a blob is refused, and not waited for."""
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(FormatError) as caught:
        reader(f"{tmp_path}/fifo")

    assert str(caught.value) == f"layer, offset 0: {tmp_path}/fifo is no regular file"


def test_advance(tmp_path):
    """Each piece that is read is reported, and the report may stop the reading."""
    path = tmp_path / "blob"
    path.write_bytes(b"x" * 1000)
    reported = []

    def advance(size):
        reported.append(size)
        if len(reported) == 3:
            raise CancelledError("stop")

    with reader(path, b"x" * 1000, advance=advance) as blob:
        blob.read(400)
        blob.read(400)
        with pytest.raises(CancelledError):
            blob.read(400)

    assert reported == [400, 400, 200]


def test_digest_of_who_has_read_it(tmp_path):
    """A blob that is not hashed here is what its reader says that it is."""
    data = os.urandom(MEBI)
    right, wrong = layouts.sha256(data), layouts.sha256(b"wrong")
    with opened(tmp_path, data, is_hashed=False) as blob:
        while blob.read(blobs.READ_SIZE):
            pass
        blob.verify(right)
        with pytest.raises(IntegrityError) as caught:
            blob.verify(wrong)

    assert str(caught.value) == f"layer, blob: wanted {right}, got {wrong}"


@pytest.mark.parametrize("size", [0, 1000, MEBI])
def test_blob_that_nobody_has_hashed(tmp_path, size):
    """It is read again as a whole, however much of it was read, and another one is named by what it is."""
    data = os.urandom(MEBI)
    damaged = data[:500] + bytes([data[500] ^ 1]) + data[501:]
    for found in (data, damaged):
        with opened(tmp_path, found, digest=layouts.sha256(data), is_hashed=False) as blob:
            blob.read(size)
            if found == data:
                blob.verify()
                continue
            with pytest.raises(IntegrityError) as caught:
                blob.verify()

    assert str(caught.value) == f"layer, blob: wanted {layouts.sha256(data)}, got {layouts.sha256(damaged)}"


def test_progress_of_what_is_read_again(tmp_path):
    """Bytes that are read a second time are not counted again."""
    data, counts = os.urandom(3 * blobs.READ_SIZE // 2), []
    path = tmp_path / "blob"
    path.write_bytes(data)
    with reader(path, data, advance=counts.append, is_hashed=False) as blob:
        blob.read(1000)
        blob.verify()

    assert sum(counts) == len(data)
    assert counts[1] == blobs.READ_SIZE - 1000
