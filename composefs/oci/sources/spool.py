"""Archives as plain files: those that are compressed, or come from a pipe, are written to unnamed ones.

What is read must be where any worker finds any part of it.  An unnamed file goes when the process does, whatever ends
that; workers reach it through /proc.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from enum import Enum
from io import FileIO
from typing import Self

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError, UsageError
from composefs.oci.blobs import Compressed, MemberDecoder, decompress
from composefs.oci.manifest import Compression
from composefs.oci.sources.tar_index import BEGIN_SIZE, check_begin

_SLOT_SIZE = 1 << 19  # bytes written at a time
_READ_SIZE = 1 << 18  # bytes read at a time
_STANDARD_INPUT = "/dev/stdin"
_ITS_NAME = "standard input"  # in messages
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f


class Packing(Enum):
    """What an archive may be compressed by; the value is for messages."""

    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


MAGIC_SIZE = 6  # bytes
_MAGICS = {
    b"\x1f\x8b": Packing.GZIP,
    b"\x28\xb5\x2f\xfd": Packing.ZSTD,
    b"\xfd7zXZ\0": Packing.XZ,
    **{b"BZh%d" % level: Packing.BZIP2 for level in range(1, 10)},
}


def packing_of(data: bytes) -> Packing | None:
    """Return what a file that begins with *data*, `MAGIC_SIZE` bytes, is compressed by; None: it is not."""
    for magic, packing in _MAGICS.items():
        if data.startswith(magic):
            return packing
    is_skippable = data[1:4] == _ZSTD_SKIPPABLE and data[0] >> 4 == 0x5
    return Packing.ZSTD if is_skippable else None


class PlainFile:
    """A regular file that workers can open as *path* while this is open; messages call it *name*."""

    def __init__(self, file: FileIO, path: str, name: str) -> None:
        self._file, self.path, self.name = file, path, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Its descriptor here."""
        return self._file.fileno()

    def close(self) -> None:
        """Close it; an unnamed one is gone then."""
        self._file.close()


def open_plain(path: str, directory: str) -> PlainFile:
    """Open the archive *path*, which may be compressed, or no regular file but something that can be read once.

    Args:
        path: of the archive; /dev/stdin is standard input.
        directory: where an unnamed file is made, if it takes one.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is a directory, or a terminal.
        FormatError: it is compressed, and broken.
        LimitError: it inflates to too much.
        OSError: something could not be read or written.
    """
    fd = _open(path)
    name = _ITS_NAME if path == _STANDARD_INPUT else path
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{name} is a directory, where an archive is wanted")
        if os.isatty(fd):
            raise UsageError(f"{name} is a terminal, where an archive is wanted")
        if stat.S_ISREG(status.st_mode):
            if packing_of(os.pread(fd, MAGIC_SIZE, 0)) is None:
                kept = FileIO(os.dup(fd))
                return PlainFile(kept, _name_for_workers(path, kept.fileno()), name)
            os.lseek(fd, 0, os.SEEK_SET)
        return spool(lambda size: os.read(fd, size), directory, name)
    finally:
        os.close(fd)


def spool(read: Callable[[int], bytes], directory: str, name: str) -> PlainFile:
    """Write what *read* gives to an unnamed file, plain if it is compressed; memory is bounded.

    Args:
        read: returns up to so many bytes, none only at the end.
        directory: where the file is made.
        name: for messages.

    Raises:
        FormatError: it is compressed, and broken, or no archive.
        LimitError: it inflates to too much.
        OSError: something could not be read or written.
    """
    stream = _Stream(read, name)
    packing = packing_of(stream.peek(MAGIC_SIZE))
    return _write(_unpacked(stream, packing), stream, directory)


def spool_extent(file: PlainFile, offset: int, size: int, directory: str, name: str) -> PlainFile:
    """Do what `spool` does with *size* bytes from *offset* of *file*; messages call them *name*."""
    left, position = size, offset

    def read(most: int) -> bytes:
        nonlocal left, position
        data = os.pread(file.fd, min(most, left), position)
        left, position = left - len(data), position + len(data)
        return data

    return spool(read, directory, name)


def _open(path: str) -> int:
    """Open *path*, which may be a pipe that others write to."""
    if path == _STANDARD_INPUT:
        try:
            return os.dup(0)  # opened by its name, a socket could not be
        except OSError:
            raise UsageError(f"{_ITS_NAME} is closed: redirect it from a file or a pipe") from None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None


def _name_for_workers(path: str, fd: int) -> str:
    """Return by which path another process finds the file behind *fd*, which was opened as *path*."""
    name = os.path.realpath(path)
    try:
        if os.path.samestat(os.stat(name), os.fstat(fd)):
            return name
    except OSError:
        pass  # it has no name, or not any more
    return _name_of_unnamed(fd)


def _name_of_unnamed(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"


def _write(slots: Iterator[bytes], stream: _Stream, directory: str) -> PlainFile:
    """Write *slots*, which come out of *stream*, to an unnamed file in *directory*."""
    try:
        file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # closed by who gets it
    except OSError as error:
        raise OSError(error.errno, error.strerror, directory) from None  # it has no name of its own
    try:
        size = 0
        for slot in _checked(slots, stream.source):
            size += len(slot)
            most = limits.archive_size(stream.offset)
            if size > most:
                raise LimitError(stream.source, stream.offset, f"bytes of archive in {stream.offset} bytes", most)
            _write_all(file, slot, directory)
    except BaseException:
        file.close()
        raise
    return PlainFile(file, _name_of_unnamed(file.fileno()), stream.source)


def _checked(slots: Iterator[bytes], source: str) -> Iterator[bytes]:
    """Yield *slots*, once they are known to begin as an archive does: something else may have no end."""
    begin = b""
    for slot in slots:
        begin += slot
        if len(begin) >= BEGIN_SIZE:
            break
    check_begin(begin[:BEGIN_SIZE], source)
    yield begin
    yield from slots


def _write_all(file: FileIO, data: bytes, directory: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, directory) from None  # the file has no name of its own


class _Stream:
    """What *read* gives, counted, with a look ahead; messages call it *source*."""

    def __init__(self, read: Callable[[int], bytes], source: str) -> None:
        self._read, self.source = read, source
        self.offset = 0  # bytes read so far
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        """Return the next *size* bytes, or all that are left; they are still to be read."""
        while len(self._ahead) < size and (more := self._read(_READ_SIZE)):
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._read(size)
        self.offset += len(data)
        return data


def _unpacked(stream: Compressed, packing: Packing | None) -> Iterator[bytes]:
    """Yield the contents of *stream*, in slots.

    Raises:
        FormatError: it is cut, or not compressed as *packing* says.
    """
    match packing:
        case None:
            yield from decompress(stream, Compression.NONE)
        case Packing.GZIP:
            yield from decompress(stream, Compression.GZIP)
        case Packing.ZSTD:
            yield from decompress(stream, Compression.ZSTD)
        case Packing.XZ | Packing.BZIP2:
            yield from _decode(stream, packing)


def _decode(stream: Compressed, packing: Packing) -> Iterator[bytes]:
    """Yield the contents of the xz or bzip2 data in *stream*, of all that stand one behind the other."""
    new_decoder, errors = _decoders(packing)
    data = stream.read(_READ_SIZE)
    while data:
        decoder, start = new_decoder(), stream.offset - len(data)
        while not decoder.eof:
            if not data and decoder.needs_input:
                data = stream.read(_READ_SIZE)
                if not data:
                    raise FormatError(stream.source, stream.offset, f"{packing.value} data ends too early")
            try:
                slot = decoder.decompress(data, _SLOT_SIZE)
            except errors as error:
                what = f"{packing.value} data that begins at {start} is broken: {error}"
                raise FormatError(stream.source, stream.offset, what) from None
            data = b""
            if slot:
                yield slot
        data = decoder.unused_data or stream.read(_READ_SIZE)
        if packing is Packing.XZ:
            data = _skip_padding(stream, data)


def _decoders(packing: Packing) -> tuple[Callable[[], MemberDecoder], tuple[type[Exception], ...]]:
    """Return how to make a decoder of xz or bzip2, and what it raises."""
    if packing is Packing.BZIP2:
        import bz2  # noqa: PLC0415  # not every Python has it

        return bz2.BZ2Decompressor, (OSError,)
    import lzma  # noqa: PLC0415  # likewise

    memory = limits.ZSTD_WINDOW_SIZE  # bytes; xz -9 takes half of it
    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), (lzma.LZMAError,)


def _skip_padding(stream: Compressed, data: bytes) -> bytes:
    """Return *data* and what is behind it in *stream*, without the zeros that may stand before the next xz data."""
    while data and not (rest := data.lstrip(b"\0")):
        data = stream.read(_READ_SIZE)
    return rest if data else b""
