"""Splitstreams: what is read is written again and is the same; C and Python join chunks, and index layers, alike."""

from __future__ import annotations

import functools
import io
import os
import random
import struct
from typing import NamedTuple

import zstandard

from composefs import _native
from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError
from composefs.merged import MergedFile
from composefs.oci.index import read_index
from composefs.splitstream import ContentType, External, SplitstreamReader, SplitstreamWriter
from tests.fuzz.mutations import INTERESTING, havoc
from tests.fuzz.target import Target, chance_of
from tests.fuzz.workplace import fresh_directory
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import chunks_of, slow_index, stored

from generator.tar import Archive  # isort: skip

INFLATED_MAX = 4 << 20  # bytes: of what inflates to more, only so much is looked at
_HEADER, _INFO = struct.Struct("<11sBHBBQQ"), struct.Struct("<8Q8sQ")  # as the specification has them
_SLOT = 1000  # bytes that C puts out at a time
_OBJECTS = {bytes([number]) * 32: bytes([number]) * (300 * number) for number in range(4)}


def check(data: bytes) -> bool:
    """Read everything of a stream, and write it again."""
    taken = [_check(data, algorithm) for algorithm in Algorithm]
    assert sum(taken) <= 1, "a stream of two algorithms"
    return any(taken)


def _check(data: bytes, algorithm: Algorithm) -> bool:
    def reader() -> SplitstreamReader:
        return SplitstreamReader(io.BytesIO(data), algorithm, "stream")

    try:
        read = reader()
        pieces = _pieces(read)
    except FormatError as error:
        assert error.offset >= 0
        return False
    if pieces is None:
        return True
    again = _written(pieces, read, algorithm)
    assert _pieces(again) == pieces, "chunks"
    assert (again.named_refs, again.content_type) == (read.named_refs, read.content_type), "names"
    assert _outcome(read_index, reader()) == _outcome(slow_index, reader()), "index"
    if algorithm is Algorithm.SHA256:
        _check_merged(reader(), chance_of(data))
    return True


def _pieces(reader: SplitstreamReader) -> list[bytes | Digest] | None:
    """Return the chunks, inline ones joined; None if they are very many bytes."""
    found: list[bytes | Digest] = []
    run, size = bytearray(), 0
    for chunk in reader.chunks():
        if isinstance(chunk, External):
            if run:
                found.append(bytes(run))
                run.clear()
            found.append(chunk.digest)
            size += reader.object_refs.digest_size
        else:
            run += chunk.data
            size += len(chunk.data)
        if size > INFLATED_MAX:
            return None
    return [*found, bytes(run)] if run else found


def _written(pieces, read, algorithm) -> SplitstreamReader:
    writer = SplitstreamWriter(algorithm, read.content_type, io.BytesIO)
    for piece in pieces:
        if isinstance(piece, bytes):
            writer.inline(piece)
        else:
            writer.external(piece.raw, 100)
    for name, digest in read.named_refs.items():
        writer.name(name, digest.raw)
    return SplitstreamReader(io.BytesIO(b"".join(writer.finish())), algorithm, "stream again")


def _outcome(read, reader):
    try:
        return list(read(reader, "layer"))
    except FormatError as error:
        return str(error)


@functools.cache
def _objects() -> str:
    """Return a directory of objects, one of which is a directory; made once in a process."""
    path = fresh_directory()
    for raw, content in _OBJECTS.items():
        place = f"{path}/{Digest(Algorithm.SHA256, raw).object_path}"
        os.mkdir(os.path.dirname(place))
        if content:
            with open(place, "xb") as file:
                file.write(content)
        else:
            os.mkdir(place)
    return path


def _open(digest: Digest) -> io.BufferedReader:
    return open(f"{_objects()}/{digest.object_path}", "rb")


def _check_merged(reader: SplitstreamReader, chance: random.Random) -> None:
    """Join the chunks by C and by Python, and as a seekable file."""
    wanted, error = bytearray(), ""
    try:
        for piece in reader.merged(_open):
            wanted += piece
            if len(wanted) > INFLATED_MAX:
                return
    except OSError as failed:
        error = failed.strerror or ""
    except FormatError as failed:
        error = failed.what
    fd = os.open(_objects(), os.O_RDONLY | os.O_DIRECTORY)
    table = reader.object_refs
    merger = _native.ChunkMerger(table.data, table.digest_size, fd)
    try:
        got = _merged_by_c(reader, merger)
        assert bytes(got) == bytes(wanted), "merged by C"
        assert merger.is_at_end == (not error), "the end"
    except (OSError, FormatError) as failed:
        assert error, failed  # perhaps another one: what comes first depends on the pieces
    finally:
        merger.close()
        os.close(fd)
    if not error:
        file = MergedFile(reader, _open, open(os.memfd_create("spill"), "w+b"))  # noqa: SIM115  # closes it
        with file:
            for _ in range(3):
                start, size = chance.randrange(len(wanted) + 2), chance.choice((1, 100, 5000))
                file.seek(start)
                assert _read(file, size) == bytes(wanted[start : start + size]), "read at random"


def _merged_by_c(reader, merger) -> bytearray:
    """As in `composefs.oci.diff_ids`."""
    chunks, found, slot = reader.open_chunks(), bytearray(), bytearray(_SLOT)
    while True:
        ahead = chunks.ahead()
        used, size = merger.merge(ahead, slot)
        chunks.skip(used, 0)
        if not size and not ahead:
            return found
        found += slot[:size]
        reader.check_size(len(found))


def _read(file: MergedFile, size: int) -> bytes:
    found = b""
    while len(found) < size and (piece := file.read(size - len(found))):
        found += piece
    return found


class Parts(NamedTuple):
    """What a file is made of."""

    algorithm: int
    stream_refs: bytes
    object_refs: bytes
    names: bytes
    chunks: bytes
    content_type: bytes
    size: int


def parts_of(data: bytes) -> Parts | None:
    """Return the parts of a file, None if it is too broken to have any."""
    try:
        algorithm = _HEADER.unpack_from(data)[3]
        info = _INFO.unpack_from(data, _HEADER.size)
        names, chunks = (_inflated(data[info[at] : info[at + 1]]) for at in (6, 4))
        return Parts(algorithm, data[info[0] : info[1]], data[info[2] : info[3]], names, chunks, info[8], info[9])
    except (struct.error, zstandard.ZstdError):
        return None


def _inflated(section: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(section, read_across_frames=True).read(1 << 20)


def joined(parts: Parts) -> bytes:
    """Return the file."""
    sections = [parts.stream_refs, parts.object_refs]
    sections += [zstandard.compress(parts.names), zstandard.compress(parts.chunks)]
    ends, offset = [], _HEADER.size + _INFO.size
    for section in sections:
        ends += [offset, offset := offset + len(section)]
    info = _INFO.pack(*ends[:4], *ends[6:], *ends[4:6], parts.content_type, parts.size)
    header = _HEADER.pack(b"SplitStream", 0, 0, parts.algorithm, 12, _HEADER.size, _HEADER.size + len(info))
    return header + info + b"".join(sections)


_HEADS = [struct.pack("<q", number) for number in (-(1 << 63), -1, -8, -511, -512, -513, -1024, 0, 1, 2, (1 << 63) - 1)]
_RECORDS = [b"0:a\0", b"+1:b\0", b"9:c\0", b":d\0", b"0:\0", b"x:e\0", b"0:\xff\0", b"-1:f\0", b"9" * 30 + b":g\0"]


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Break the places of sections, their bytes, or what is in them before it is compressed."""
    kind = chance.randrange(10)
    if kind < 2:
        return havoc(chance, data, [b"SplitStream", *_HEADS])
    if kind < 5 and len(data) >= _HEADER.size + _INFO.size:
        at = chance.choice((16, 24, *range(_HEADER.size, _HEADER.size + 64, 8), _HEADER.size + 72))
        old = int.from_bytes(data[at : at + 8], "little")
        value = chance.choice((chance.choice(INTERESTING), len(data), old + chance.choice((-64, -32, -1, 1, 32, 64))))
        return data[:at] + (value & (1 << 64) - 1).to_bytes(8, "little") + data[at + 8 :]
    parts = parts_of(data)
    if parts is None:
        return havoc(chance, data)
    match chance.randrange(8):
        case 0:
            parts = parts._replace(stream_refs=havoc(chance, parts.stream_refs, list(_OBJECTS)))
        case 1:
            parts = parts._replace(object_refs=havoc(chance, parts.object_refs, list(_OBJECTS)))
        case 2:
            parts = parts._replace(names=havoc(chance, parts.names, _RECORDS))
        case 3:
            names = parts.names + b"".join(chance.choice(_RECORDS) for _ in range(chance.choice((1, 2, 500))))
            parts = parts._replace(names=names)
        case 4:
            parts = parts._replace(algorithm=3 - parts.algorithm & 3)
        case _:
            parts = parts._replace(chunks=havoc(chance, parts.chunks, _HEADS))
    return joined(parts)


def _seeds() -> dict[str, bytes]:
    found = {}
    for algorithm in Algorithm:
        archive = Archive().directory("usr").file("usr/a", b"x" * 65).file("usr/b", b"b").file("usr/c", b"y" * 900)
        layer = stored(chunks_of(archive.end(), algorithm), algorithm)
        found[f"layer-{algorithm.hash_name}"] = layer._file.getvalue()
        writer = SplitstreamWriter(algorithm, ContentType.CONFIG, io.BytesIO)
        writer.inline(b'{"rootfs": {}}')
        for number in range(3):
            writer.name(f"sha256:{number:064x}", bytes([number]) * algorithm.digest_size)
        found[f"config-{algorithm.hash_name}"] = b"".join(writer.finish())
    objects = SplitstreamWriter(Algorithm.SHA256, ContentType.BLOB, io.BytesIO)
    for number in (1, 2, 1, 3):
        objects.external(bytes([number]) * 32, 300 * number)
        objects.inline(b"between " * number)
    found["objects"] = b"".join(objects.finish())
    found["empty"] = b"".join(SplitstreamWriter(Algorithm.SHA256, bytes(8), io.BytesIO).finish())
    new = found["config-sha256"]
    magic, version, flags, algorithm, block, start, end = _HEADER.unpack_from(new)
    old_header = struct.pack("<QQH11sBBB", start, end, flags, magic, version, algorithm, block)
    found["old-header"] = old_header + new[_HEADER.size :]
    return found


SPLITSTREAM = Target("splitstream", check, mutate, _seeds, share=20)
