"""Layers that say what is in them, as containers/storage (zstd:chunked) and stargz-snapshotter (eStargz) make them."""

import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from tests.layouts import sha256

ZSTD_CHUNKED = "io.github.containers.zstd-chunked."
ZSTD_CHUNKED_OLD = "io.containers.zstd-chunked."
STARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
END = bytes(1024)

Json = dict[str, Any]


@dataclass(frozen=True)
class Chunked:
    """The blob of a layer, what its descriptor says of it, and the archive in it."""

    blob: bytes
    annotations: dict[str, str]
    archive: bytes


def zstd_chunked(files: Mapping[str, bytes], *, prefix: str = ZSTD_CHUNKED, chunk_size: int = 1 << 16) -> Chunked:
    """Return a layer of *files* whose headers and contents are frames of their own; the tar-split is left out."""
    blob, archive, entries = bytearray(), bytearray(), list[Json]()
    for name, data in files.items():
        header, padding = _header(name, data), bytes(-len(data) % 512)
        blob += _frame(header)
        archive += header + data + padding
        chunks = [data[at : at + chunk_size] for at in range(0, len(data), chunk_size)]
        for index, chunk in enumerate(chunks):
            start = len(blob)
            blob += _frame(chunk)
            entry = _entry(name, data) if index == 0 else {"type": "chunk", "name": name}
            if len(chunks) > 1:
                entry |= {"chunkSize": len(chunk), "chunkOffset": index * chunk_size, "chunkDigest": sha256(chunk)}
            entries.append(entry | {"offset": start, "endOffset": len(blob)})
        if not chunks:
            entries.append(_entry(name, data))
        blob += _frame(padding) if padding else b""
    blob += _frame(END)
    archive += END
    table, annotations = toc_of_zstd(entries, len(blob), prefix=prefix)
    return Chunked(bytes(blob + table), annotations, bytes(archive))


def toc_of_zstd(
    entries: Sequence[Json] | bytes, offset: int, *, prefix: str = ZSTD_CHUNKED
) -> tuple[bytes, dict[str, str]]:
    """Return what follows the frames of a layer, at *offset*, and its annotations."""
    data = _json(entries)
    table = zstandard.ZstdCompressor().compress(data)
    place = (offset + 8, len(table), len(data), 1)
    footer = b"".join(number.to_bytes(8, "little") for number in (*place, 0, 0, 0)) + b"GNUlInUx"
    annotations = {"manifest-checksum": sha256(table), "manifest-position": ":".join(map(str, place))}
    return skippable(table) + skippable(footer), {prefix + key: value for key, value in annotations.items()}


def estargz(files: Mapping[str, bytes], *, chunk_size: int = 1 << 22) -> Chunked:
    """Return a layer of *files* whose contents are gzip members of their own, each with all headers before it."""
    blob, archive, entries, headers = bytearray(), bytearray(), list[Json](), b""
    for name, data in {".no.prefetch.landmark": b"\x0f", **files}.items():
        headers += _header(name, data)
        archive += _header(name, data) + data + bytes(-len(data) % 512)
        entries.append(_entry(name, data))
        for at in range(0, len(data), chunk_size):
            chunk = data[at : at + chunk_size]
            blob += member(headers) if headers else b""
            headers = b""
            if at:
                entries.append({"type": "chunk", "name": name, "chunkOffset": at})
            entries[-1] |= {"offset": len(blob), "chunkDigest": sha256(chunk)}
            blob += member(chunk)
        headers += bytes(-len(data) % 512)
    blob += member(headers)
    tail, annotations, table = toc_of_estargz(entries, len(blob))
    return Chunked(bytes(blob + tail), annotations, bytes(archive + table))


def toc_of_estargz(entries: Sequence[Json] | bytes, offset: int) -> tuple[bytes, dict[str, str], bytes]:
    """Return what follows the members of a layer, at *offset*, its annotations, and the end of its archive."""
    data = _json(entries)
    archive = _header("stargz.index.json", data) + data + bytes(-len(data) % 512) + END
    extra = b"SG" + (22).to_bytes(2, "little") + b"%016xSTARGZ" % offset
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0" + extra + b"\x01\0\0\xff\xff" + bytes(8)
    return member(archive) + footer, {STARGZ_DIGEST: sha256(data)}, archive


def member(data: bytes) -> bytes:
    """Return a gzip member with the header that Go writes."""
    encoder = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = encoder.compress(data) + encoder.flush()
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + trailer


def skippable(data: bytes) -> bytes:
    """Return a frame that decoders pass over."""
    return b"\x58\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def _frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _header(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT)


def _entry(name: str, data: bytes) -> Json:
    if name.endswith("/"):
        return {"type": "dir", "name": name, "mode": 0o755}
    entry: Json = {"type": "reg", "name": name, "mode": 0o644}
    return entry | {"size": len(data), "digest": sha256(data)} if data else entry


def _json(entries: Sequence[Json] | bytes) -> bytes:
    return entries if isinstance(entries, bytes) else json.dumps({"version": 1, "entries": entries}, indent=1).encode()
