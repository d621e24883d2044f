"""Read the table of contents that some layers have: what is in them, before they are fetched.

Layers of zstd:chunked and eStargz say in annotations where it is, and its digest.  The digest of a file in it is that
of SHA-256, not one of fs-verity.  It is proved to be the table of that manifest, and not that the archive is what it
says: good for estimates.

    zstd:chunked    position and digest (of the compressed table) are in annotations; older writers have other keys
    eStargz         its digest is in an annotation; its position in the last bytes of the blob, a gzip member of its own

Source: the documents of containers/storage and of containerd's stargz-snapshotter; what their writers make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.json_text import parse_json
from composefs.oci.blobs import decompress
from composefs.oci.manifest import Compression
from composefs.oci_digest import oci_digest
from composefs.tar import Content, TarSplitter

ReadAt = Callable[[int, int], bytes]  # offset in the blob, and how many bytes; as many come back

_CHUNKED_PREFIXES = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")  # now; skopeo 1.9
_CHUNKED_POSITION = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19}):1")  # offset, size, size inflated, version
_STARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_STARGZ_NAME = b"stargz.index.json"
# An empty gzip member with an extra field: the offset of the table.
_STARGZ_FOOTER = re.compile(rb"\x1f\x8b\x08\x04.{6}\x1a\0SG\x16\0([0-9a-f]{16})STARGZ\x01\0\0\xff\xff.{8}", re.DOTALL)
_STARGZ_FOOTER_SIZE = 51
_TAIL_SIZE = 1 << 18  # bytes that are read at once with the footer: a small table is there too

# The members of an object come in the order that Go has them in, so the list is found without parsing all of it.
_HEAD = re.compile(rb'\s*+\{\s*+"version"\s*+:\s*+1\s*+,\s*+"entries"\s*+:\s*+\[')
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_XATTRS = rb'\{[^][{}"]*+(?:%b[^][{}"]*+)*+\}' % _TEXT
_ENTRY = rb'\{[^][{}"]*+(?:(?:%b|%b)[^][{}"]*+)*+\}' % (_TEXT, _XATTRS)
# What is parsed at once: so few that nobody need look how deep their brackets are.
_ENTRIES = re.compile(rb"\s*+(%b(?:\s*+,\s*+%b){0,29}+)\s*+([],])" % (_ENTRY, _ENTRY), re.DOTALL)
_TYPES = frozenset(["reg", "hardlink", "symlink", "dir", "char", "block", "fifo", "chunk"])
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER_MAX = 1 << 63


class TocEntry(NamedTuple):
    """An entry of the archive, or of type `chunk`: a further part of the file before it."""

    name: str
    type: str  # reg, hardlink, symlink, dir, char, block, fifo, chunk
    size: int  # bytes of a regular file
    offset: int | None  # in the blob, of the frames or members that hold its contents
    end_offset: int | None  # of these; eStargz does not say
    digest: str | None  # sha256:..., of the contents of a regular file


@dataclass(frozen=True)
class Toc:
    """A table of contents.  It is parsed while it is gone through, some entries at a time, so it may be large."""

    source: str  # for messages
    data: bytes = field(repr=False)  # JSON

    def entries(self) -> Iterator[TocEntry]:
        """Yield all entries, in order.

        Raises:
            FormatError: the table is broken; LimitError: an entry is absurd.
        """
        head = _HEAD.match(self.data)
        if head is None:
            raise FormatError(self.source, 0, "no table of contents of version 1")
        position, more = head.end(), b","
        while more == b",":
            found = _ENTRIES.match(self.data, position)
            if found is None:
                raise FormatError(self.source, position, "broken JSON, or an entry with a list")
            values = parse_json(b"[%b]" % found[1], f"{self.source}, entries at {position}", max_size=limits.JSON_SIZE)
            assert isinstance(values, list)
            for value in values:
                yield self._entry(value, position)
            position, more = found.end(), found[2]
        parse_json(
            b'{"version":1%b' % self.data[position:], f"{self.source}, behind entries", max_size=limits.JSON_SIZE
        )

    def files(self) -> Iterator[TocEntry]:
        """Yield the regular files; errors are those of `entries`."""
        return (entry for entry in self.entries() if entry.type == "reg")

    def _entry(self, value: Any, position: int) -> TocEntry:
        name, kind, digest = value.get("name"), value.get("type"), value.get("digest") or None
        size, offset, end_offset = value.get("size", 0), value.get("offset"), value.get("endOffset")
        if not isinstance(name, str) or not name or not isinstance(kind, str) or kind not in _TYPES:
            what = f"entry {name!r:.200} of type {kind!r:.200}"
        elif digest is not None and (not isinstance(digest, str) or not _DIGEST.fullmatch(digest)):
            what = f"entry {name!r:.200} has the digest {digest!r:.200}"
        elif not (_is_number(size) and all(number is None or _is_number(number) for number in (offset, end_offset))):
            what = f"entry {name!r:.200} has a size or offset that is none"
        else:
            return TocEntry(name, kind, size, offset, end_offset, digest)
        raise FormatError(self.source, position, what)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _NUMBER_MAX


def read_toc(annotations: Mapping[str, str], size: int, read_at: ReadAt, source: str = "layer") -> Toc | None:
    """Return the table of contents of a layer, or None if it has none.

    Args:
        annotations: of its descriptor.
        size: of its blob, bytes.
        read_at: returns bytes of its blob, from an offset, so many; of a registry's blob it takes one request, or two.
        source: what messages call it.

    Raises:
        IntegrityError: the table is not that of the annotations.
        FormatError: it is broken.
        LimitError: it is too large.
        Exception: what *read_at* raises.
    """
    source = f"{source}, table of contents"
    for prefix in _CHUNKED_PREFIXES:
        digest, position = (annotations.get(prefix + key) for key in ("manifest-checksum", "manifest-position"))
        if digest is not None and position is not None:
            return Toc(source, _read_chunked(digest, position, size, read_at, source))
    digest = annotations.get(_STARGZ_DIGEST)
    return Toc(source, _read_stargz(digest, size, read_at, source)) if digest is not None else None


def _read_chunked(digest: str, position: str, blob_size: int, read_at: ReadAt, source: str) -> bytes:
    found = _CHUNKED_POSITION.fullmatch(position)
    if found is None:
        raise FormatError(source, 0, f"position {position[:100]!r} is not OFFSET:SIZE:SIZE INFLATED:1")
    offset, size, size_inflated = map(int, found.groups())
    _check_size(max(size, size_inflated), source)
    data = _read(offset, size, blob_size, read_at, source)
    _check_digest(data, digest, source)
    inflated = _inflate(data, Compression.ZSTD, size_inflated, source)
    if len(inflated) != size_inflated:
        raise IntegrityError(source, f"{size_inflated} bytes", f"{len(inflated)} bytes")
    return inflated


def _read_stargz(digest: str, blob_size: int, read_at: ReadAt, source: str) -> bytes:
    tail_size = min(blob_size, _TAIL_SIZE)
    tail_offset = blob_size - tail_size
    tail = _read(tail_offset, tail_size, blob_size, read_at, source)
    footer = _STARGZ_FOOTER.fullmatch(tail[-_STARGZ_FOOTER_SIZE:])
    if footer is None:
        raise FormatError(source, blob_size, "the blob does not end with the footer of eStargz")
    offset, end = int(footer[1], 16), blob_size - _STARGZ_FOOTER_SIZE
    _check_size(end - offset, source)
    if offset < tail_offset:
        tail = _read(offset, tail_offset - offset, blob_size, read_at, source) + tail
        tail_offset = offset
    archive = _inflate(tail[offset - tail_offset : end - tail_offset], Compression.GZIP, limits.TOC_SIZE, source)
    data = bytearray()
    splitter = TarSplitter(source)
    for event in splitter.feed(archive):
        if isinstance(event, Content) and event.entry.path == _STARGZ_NAME:
            data += event.data
    splitter.close()
    _check_digest(data, digest, source)
    return bytes(data)


def _read(offset: int, size: int, blob_size: int, read_at: ReadAt, source: str) -> bytes:
    if offset + size > blob_size:
        raise FormatError(source, offset, f"{size} bytes there are beyond the end of the blob, at {blob_size}")
    data = read_at(offset, size)
    if len(data) != size:
        raise IntegrityError(source, f"{size} bytes at {offset}", f"{len(data)} bytes")
    return data


def _check_size(size: int, source: str) -> None:
    if size > limits.TOC_SIZE:
        raise LimitError(source, 0, "bytes of a table of contents", limits.TOC_SIZE, size)


def _check_digest(data: bytes | bytearray, wanted: str, source: str) -> None:
    got = oci_digest(data)
    if got != wanted:
        raise IntegrityError(source, wanted[:100], got)


def _inflate(data: bytes, compression: Compression, size_max: int, source: str) -> bytes:
    inflated = bytearray()
    for slot in decompress(_Bytes(data, source), compression):
        inflated += slot
        if len(inflated) > size_max:
            raise LimitError(source, 0, "bytes of a table of contents, inflated", size_max)
    return bytes(inflated)


class _Bytes:
    """*data*, to be read."""

    def __init__(self, data: bytes, source: str) -> None:
        self.source, self._data, self.offset = source, data, 0

    def read(self, size: int) -> bytes:
        data = self._data[self.offset : self.offset + size]
        self.offset += len(data)
        return data
