"""The C extension with types, bytes and exceptions; nothing else imports `composefs._cfs`.

`alg` is the kernel's number of a hash (1 SHA-256, 2 SHA-512).  A buffer is never copied, and nobody may change it
during the call, since the GIL is released.  A negative errno of C becomes the exception that it means.  What may be a
memoryview is let go of before: an exception keeps its frames, and CPython 3.11 crashes when it collects a memoryview
that is still exported.

The environment variable `COMPOSEFS_HASH_IMPL` demands an implementation of the hashes, as `NAME` for every hash that
has it, or as `sha256=NAME,sha512=NAME`; one that does not exist here makes the import of this module fail.
"""

from __future__ import annotations

import errno
import hashlib
import os
from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from composefs._cfs import ffi, lib

if TYPE_CHECKING:
    from cffi import FFI

    from composefs._cfs import Merge, Stream, TarObjects, TarPlace, TarRows

Buffer: TypeAlias = bytes | bytearray | memoryview

SHA256 = 1  # FS_VERITY_HASH_ALG_SHA256
SHA512 = 2
RENAME_NOREPLACE = 1  # <linux/fs.h>: the new name must not exist
RENAME_EXCHANGE = 2  # both names exist and change places
DIGEST_MAX = 64  # bytes; FS_VERITY_MAX_DIGEST_SIZE

_ALGS = {"sha256": SHA256, "sha512": SHA512}


def _check(ret: int, path: str | None = None) -> int:
    """Return *ret*, or raise the exception that a negative errno names."""
    if ret == -errno.ENOMEM:
        raise MemoryError
    if ret < 0:
        raise OSError(-ret, os.strerror(-ret), path)
    return ret


def _path(path: str) -> bytes:
    """Return *path* for C, which would take a zero byte for its end."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw


# Merkle trees


def verity_digest(alg: int, data: Buffer, digest_size: int, block_size: int = 4096, salt: bytes = b"") -> bytes:
    """Return the fs-verity digest of *data*.

    Args:
        alg: the hash.
        data: the whole content of one file, contiguous, any length.
        digest_size: bytes; must be that of the hash.
        block_size: bytes; a power of two from 1024 to 65536.
        salt: at most 32 bytes.

    Raises:
        OSError: EINVAL, for parameters that fs-verity does not have.
        MemoryError: no memory for one block of each level of the tree.
    """
    out = bytearray(digest_size)
    seed, target = ffi.from_buffer(salt), ffi.from_buffer(out)
    with ffi.from_buffer(data) as source:
        _check(lib.cfs_verity_digest(alg, block_size, seed, len(seed), source, len(source), target, digest_size))
    return bytes(out)


def verity_digest_fd(alg: int, fd: int, digest_size: int, block_size: int = 4096, salt: bytes = b"") -> bytes:
    """Return the fs-verity digest of the file behind *fd*, from its first byte to its end.

    The file's position is neither used nor moved.  Arguments and errors are those of `verity_digest`.

    Raises:
        OSError: the file cannot be read, or EINVAL.
    """
    out = bytearray(digest_size)
    seed, target = ffi.from_buffer(salt), ffi.from_buffer(out)
    _check(lib.cfs_verity_digest_fd(alg, block_size, seed, len(seed), fd, target, len(target)))
    return bytes(out)


def verity_digest_fds(alg: int, fds: Sequence[int], digest_size: int) -> list[tuple[bytes, int, int]]:
    """Return of each of the files behind *fds*, in one call, its fs-verity digest and what it was of.

    Args:
        alg: the hash.
        fds: open for reading; their positions are neither used nor moved.
        digest_size: bytes; must be that of the hash.

    Returns:
        For each file its digest, the number of bytes hashed, and when its inode was changed last, in nanoseconds,
        asked for afterwards.  If it could not be read, the number is the negative errno.

    Raises:
        MemoryError: there is none.
    """
    count = len(fds)
    numbers, digests = ffi.new("int[]", fds), bytearray(count * digest_size)
    sizes, ctimes = ffi.new("int64_t[]", count), ffi.new("int64_t[]", count)
    target = ffi.from_buffer(digests)
    _check(lib.cfs_verity_digest_fds(alg, 4096, ffi.NULL, 0, numbers, count, target, digest_size, sizes, ctimes))
    each = [bytes(digests[start : start + digest_size]) for start in range(0, len(digests), digest_size)]
    return list(zip(each, ffi.unpack(sizes, count), ffi.unpack(ctimes, count), strict=True))


def verity_digests(alg: int, data: Buffer, spans: Buffer, digest_size: int, beside: StreamHash | None = None) -> bytes:
    """Return the fs-verity digests of many files that lie in *data*, back to back.

    Small files share the lanes of vector instructions: this is faster than one after the other.

    Args:
        alg: the hash.
        data: contiguous.
        spans: offset and size of each file, in bytes, as two unsigned integers of 64 bits in the CPU's byte order;
            they may lie in any order, and on top of each other.
        digest_size: bytes; must be that of the hash.
        beside: is hashed meanwhile, as far as there is room.

    Raises:
        OSError: EINVAL, for a span that leaves *data* or parameters that fs-verity does not have.
        MemoryError: no memory for 200 KiB.
    """
    places = ffi.from_buffer("struct cfs_span[]", spans)
    stream = beside.stream if beside is not None else ffi.NULL
    out = bytearray(len(places) * digest_size)
    target = ffi.from_buffer(out)
    with ffi.from_buffer(data) as source:
        _check(
            lib.cfs_verity_digest_spans_fused(
                alg, 4096, ffi.NULL, 0, source, len(source), places, len(places), target, digest_size, stream
            )
        )
    return bytes(out)


class VerityState:
    """The fs-verity digest of content that comes in pieces, in memory for one block of each level of the tree.

    Pieces of 64 KiB and more are hashed the fastest: blocks next to each other share the lanes of vector instructions.
    For one thread at a time: a second one gets OSError (EBUSY).  Arguments and errors are those of `verity_digest`.
    """

    def __init__(self, alg: int, digest_size: int, block_size: int = 4096, salt: bytes = b"") -> None:
        self._digest_size = digest_size
        out, seed = ffi.new("struct cfs_verity **"), ffi.from_buffer(salt)
        _check(lib.cfs_verity_new(alg, block_size, seed, len(seed), out))
        self._state: FFI.CData | None = ffi.gc(out[0], lib.cfs_verity_free)

    def update(self, data: Buffer, beside: StreamHash | None = None) -> None:
        """Append *data*, of any length.

        Args:
            data: what comes next.
            beside: is hashed meanwhile, as far as there is room.

        Raises:
            ValueError: the digest was already taken.
        """
        if self._state is None:
            raise ValueError("the digest was already taken")
        stream = beside.stream if beside is not None else ffi.NULL
        with ffi.from_buffer(data) as source:
            _check(lib.cfs_verity_update_fused(self._state, source, len(source), stream))

    def digest(self) -> bytes:
        """Return the digest of all that was appended; this ends the state.

        Raises:
            ValueError: the digest was already taken.
        """
        if self._state is None:
            raise ValueError("the digest was already taken")
        out = bytearray(self._digest_size)
        target = ffi.from_buffer(out)
        _check(lib.cfs_verity_finish(self._state, target, len(target)))
        self._state = None
        return bytes(out)


class StreamHash:
    """SHA-256 of what comes in pieces, hashed beside other things, on units of the CPU that idle meanwhile.

    Where there are no such units, OpenSSL's, which is as fast alone, takes its place.

    Args:
        alg: the hash of those other things.
    """

    def __init__(self, alg: int) -> None:
        self._hash = ffi.new("struct cfs_sha256 *")
        lib.cfs_sha256_init(self._hash)
        self.stream = cast("Stream", ffi.new("struct cfs_stream *"))  # what is left of the piece
        self.stream.hash = self._hash
        self._source: FFI.CData | None = None  # keeps the piece
        self._beside = bool(lib.cfs_hash_fuses(alg))
        self._alone = hashlib.sha256()

    def begin(self, data: Buffer) -> None:
        """Take *data* for the next piece, which nobody may change before `finish`."""
        if not self._beside:
            self._alone.update(data)
            return
        self._source = ffi.from_buffer(data)
        self.stream.data, self.stream.size = ffi.cast("uint8_t *", self._source), len(self._source)

    def finish(self) -> None:
        """Hash what is left of the piece."""
        if self._source is not None:
            lib.cfs_sha256_update(self._hash, self.stream.data, self.stream.size)
            self.stream.size, self._source = 0, None

    def hexdigest(self) -> str:
        """Return the digest of all pieces that were finished."""
        if not self._beside:
            return self._alone.hexdigest()
        out = bytearray(32)
        lib.cfs_sha256_final(self._hash, ffi.from_buffer(out))
        return out.hex()


def hash_implementations(alg: int) -> list[str]:
    """Return the names of the implementations that this CPU can run, fastest first; none for an unknown hash."""
    names: list[str] = []
    while name := lib.cfs_hash_name(alg, len(names)):
        names.append(_text(name))
    return names


def hash_implementation(alg: int) -> str:
    """Return the name of the implementation in use.

    Raises:
        ValueError: there is no such hash.
    """
    name = lib.cfs_hash_chosen(alg)
    if not name:
        raise ValueError(f"unknown hash {alg}")
    return _text(name)


def select_hash_implementation(alg: int, name: str) -> None:
    """Use the implementation *name* from now on; trees already begun keep theirs.

    Raises:
        ValueError: there is none of that name, or this CPU cannot run it; the message names those it can.
    """
    if lib.cfs_hash_choose(alg, name.encode()) < 0:
        raise ValueError(f"no implementation {name!r}; usable here: {', '.join(hash_implementations(alg))}")


def _text(name: FFI.CData) -> str:
    raw = ffi.string(name)
    assert isinstance(raw, bytes)
    return raw.decode()


def _obey(demand: str) -> None:
    """Select what the environment variable demands."""
    for part in demand.split(","):
        hash_name, equals, name = part.rpartition("=")
        if equals:
            if hash_name not in _ALGS:
                raise ValueError(f"unknown hash {hash_name!r}; known: {', '.join(_ALGS)}")
            algs = [_ALGS[hash_name]]
        else:
            algs = [alg for alg in _ALGS.values() if name in hash_implementations(alg)] or list(_ALGS.values())
        for alg in algs:
            select_hash_implementation(alg, name)


if _demand := os.environ.get("COMPOSEFS_HASH_IMPL"):
    _obey(_demand)


# Files


def link_fd(fd: int, dir_fd: int, path: str) -> None:
    """Name the unnamed (`O_TMPFILE`) file behind *fd*: *path*, relative to *dir_fd*.

    Raises:
        FileExistsError: the name is taken.
        OSError: as link(2).

    Source: open(2), `O_TMPFILE`; needs /proc.
    """
    _check(lib.cfs_link_fd(fd, dir_fd, _path(path)), path)


def rename(old_dir_fd: int, old: str, new_dir_fd: int, new: str, flags: int = 0) -> None:
    """Rename *old*, relative to *old_dir_fd*, to *new*, relative to *new_dir_fd*.

    Args:
        old_dir_fd: directory that *old* is relative to.
        old: a name that exists.
        new_dir_fd: directory that *new* is relative to.
        new: is replaced if it exists, unless the flags say otherwise.
        flags: 0, `RENAME_NOREPLACE` or `RENAME_EXCHANGE`; with flags the file system must support them.

    Raises:
        OSError: as renameat2(2); the path is *new*.
    """
    _check(lib.cfs_rename(old_dir_fd, _path(old), new_dir_fd, _path(new), flags), new)


def reflink(source_fd: int, target_fd: int) -> None:
    """Let the file behind *target_fd* share all blocks of the one behind *source_fd*.

    Raises:
        OSError: as ioctl_ficlone(2); EOPNOTSUPP, EINVAL or EXDEV where that cannot be.
    """
    _check(lib.cfs_reflink(source_fd, target_fd))


def enable_verity(fd: int, alg: int, block_size: int = 4096, salt: bytes = b"") -> None:
    """Ask the kernel to build the tree of the file behind *fd* and to check every read from now on.

    Args:
        fd: open for reading only; nobody may have the file open for writing.
        alg: the hash.
        block_size: bytes.
        salt: at most 32 bytes.

    Raises:
        OSError: as FS_IOC_ENABLE_VERITY: ETXTBSY, EEXIST, EOPNOTSUPP, ENOTTY and others.
    """
    seed = ffi.from_buffer(salt)
    _check(lib.cfs_enable_verity(fd, alg, block_size, seed, len(seed)))


def measure_verity(fd: int, capacity: int = DIGEST_MAX) -> tuple[int, bytes]:
    """Return the hash and the digest of the file behind *fd*, as the kernel knows them.

    Args:
        fd: open for reading.
        capacity: the longest digest wanted, in bytes.

    Raises:
        OSError: as FS_IOC_MEASURE_VERITY: ENODATA without verity, EOVERFLOW for a longer digest and others.
    """
    alg, out = ffi.new("int *"), bytearray(capacity)
    target = ffi.from_buffer(out)
    size = _check(lib.cfs_measure_verity(fd, alg, target, len(target)))
    return alg[0], bytes(out[:size])


def syncfs(fd: int) -> None:
    """Make everything written to the file system of *fd* durable.

    Raises:
        OSError: as syncfs(2).
    """
    _check(lib.cfs_syncfs(fd))


def store_file(dir_fd: int, data: Buffer) -> int:
    """Write *data* to a new unnamed file in the directory *dir_fd*.

    Returns:
        Its descriptor, open for reading and writing, closed on exec; the caller closes it.

    Raises:
        OSError: the file cannot be made or written; EOPNOTSUPP where the file system has no `O_TMPFILE`.
    """
    with ffi.from_buffer(data) as source:
        return _check(lib.cfs_store_file(dir_fd, source, len(source)))


def missing_objects(dir_fd: int, digests: Buffer, digest_size: int) -> list[int]:
    """Return which of *digests* no file is named by.

    Args:
        dir_fd: the directory of the files xx/rest.
        digests: back to back, in any order, also several times the same.
        digest_size: bytes of one.

    Returns:
        Their indexes, in order.

    Raises:
        OSError: a directory cannot be read.
    """
    source, count = ffi.from_buffer(digests), len(digests) // digest_size
    marks = bytearray(count)
    _check(lib.cfs_missing_objects(dir_fd, source, count, digest_size, ffi.from_buffer(marks)))
    return [index for index, mark in enumerate(marks) if mark] if 1 in marks else []


class ObjectState(IntEnum):
    """What an object turned out to be, as `enum object_state` of csrc/cfs.h."""

    HASHED = 0  # its digest was computed
    MEASURED = 1  # the kernel enforces its digest
    NOT_OPENED = 2  # as the error says
    NO_FILE = 3  # but something else
    NOT_READ = 4  # as the error says
    NOT_SEALED = 5  # the kernel enforces no digest of that hash, though it is required to


class FoundObjects(NamedTuple):
    """What objects turned out to be, each at the place of its name."""

    digests: bytearray  # back to back; of what has none anything
    states: bytearray  # as `ObjectState`
    errors: list[int]  # errno, or 0


class ObjectChecker:
    """Look at the objects in the directory *dir_fd*, each at `xx/rest`, from several threads at once.

    Args:
        alg: the hash of the names.
        dir_fd: stays open meanwhile.
        digest_size: bytes; must be that of the hash.
        require_verity: whether the kernel must enforce every digest; then nothing is hashed.
    """

    def __init__(self, alg: int, dir_fd: int, digest_size: int, *, require_verity: bool) -> None:
        self._alg, self._dir_fd, self._digest_size, self._require_verity = alg, dir_fd, digest_size, require_verity
        self._stop = ffi.new("int *")

    def check(self, digests: Buffer) -> FoundObjects:
        """Return what the objects called *digests*, raw and back to back, are.

        Raises:
            OSError: ECANCELED after `stop`; EINVAL for a wrong hash.
            MemoryError: no memory for a buffer of 1 MiB.
        """
        count = len(digests) // self._digest_size
        found, states, errors = bytearray(count * self._digest_size), bytearray(count), ffi.new("int[]", count)
        names, target, kinds = (ffi.from_buffer(buffer) for buffer in (digests, found, states))
        fields = (names, count, self._require_verity, self._stop, target, kinds, errors)
        objects = ffi.new("struct cfs_objects *", fields)
        ret = lib.cfs_check_objects(self._alg, self._dir_fd, self._digest_size, objects)
        # An error keeps its frames, and CPython 3.11 crashes where it collects a memoryview that is still exported.
        del names, target, kinds, fields, objects
        _check(ret)
        return FoundObjects(found, states, list(errors))

    def stop(self) -> None:
        """Let every `check` fail, also those that go on."""
        self._stop[0] = 1


# Formats


def sum_bytes(data: Buffer) -> int:
    """Return the sum of all bytes of *data*, as in the checksum of a tar header."""
    source = ffi.from_buffer(data)
    return lib.cfs_sum_bytes(source, len(source))


OBJECT_NEW, OBJECT_FOUND = 1, 0  # of `store_objects`
SPAN_SIZE = 16  # bytes of struct cfs_span: offset and size


class TarTexts(NamedTuple):
    """Entries of an archive, as `struct cfs_tar_rows` of csrc/cfs_api.h."""

    rows: bytes  # records, as `struct tar_row` of csrc/tar.c
    names: bytes
    directories: bytes
    values: bytes


class TarReader:
    """Read the plain entries of a layer from the chunks of its splitstream, many at a time.

    Args:
        digests: of its objects, back to back.
        digest_size: bytes of one.
    """

    CAPACITY = 2048  # entries at a time: 1 MiB of headers
    _ROW_SIZE, _TEXT_SIZE = 48, 256  # bytes for each

    def __init__(self, digests: bytes, digest_size: int) -> None:
        self._source = ffi.from_buffer(digests)
        self._digests = ffi.new("struct cfs_digests *", (self._source, digest_size, len(digests) // digest_size))
        self._rows = ffi.new("uint8_t[]", self.CAPACITY * self._ROW_SIZE)
        self._names, self._directories = (ffi.new("char[]", self.CAPACITY * self._TEXT_SIZE) for _ in range(2))
        self._values = ffi.new("uint8_t[]", self.CAPACITY * self._TEXT_SIZE)
        texts = (self._rows, self._names, self._directories, self._values)
        self._out = cast("TarRows", ffi.new("struct cfs_tar_rows *", texts))
        self._place = cast("TarPlace", ffi.new("struct cfs_tar_place *"))

    def read(self, data: Buffer, place: tuple[int, int, int], limit: int) -> tuple[TarTexts, int, tuple[int, int, int]]:
        """Read at most *limit* entries from *data*.

        Args:
            data: decompressed chunks.
            place: the bytes to come of the inline chunk that *data* begins in; the offset in the archive; the bytes
                before the next header.
            limit: at most `CAPACITY`.

        Returns:
            The entries; the bytes of *data* that they take; and the place behind them.
        """
        here, out = self._place, self._out
        here.position = 0
        here.inline_left, here.offset, here.padding = place
        out.capacity = min(limit, self.CAPACITY)
        with ffi.from_buffer(data) as source:
            _check(lib.cfs_tar_read(source, len(source), here, self._digests, out))
        texts = TarTexts(
            ffi.buffer(self._rows, out.count * self._ROW_SIZE)[:],
            ffi.buffer(self._names, out.names_size)[:],
            ffi.buffer(self._directories, out.directories_size)[:],
            ffi.buffer(self._values, out.values_size)[:],
        )
        return texts, here.position, (here.inline_left, here.offset, here.padding)


class TarPart(NamedTuple):
    """Plain entries of an archive, split off."""

    texts: TarTexts
    spans: bytes  # where the contents of its objects are, as `struct cfs_span` each
    digests: bytes  # of these, back to back
    end: int  # where what follows begins
    offset: int  # of that in the archive
    padding: int  # bytes there before the next header


class TarCutter:
    """Split plain entries off an archive, many at a time, and compute the digests of their contents.

    Args:
        alg: the hash.
        digest_size: bytes; must be that of the hash.
    """

    CAPACITY = 1024  # entries at a time
    _ROW_SIZE, _TEXT_SIZE = 48, 256  # bytes for each

    def __init__(self, alg: int, digest_size: int) -> None:
        self._alg = alg
        self._rows = ffi.new("uint8_t[]", self.CAPACITY * self._ROW_SIZE)
        self._names, self._directories = (ffi.new("char[]", self.CAPACITY * self._TEXT_SIZE) for _ in range(2))
        self._values = ffi.new("uint8_t[]", self.CAPACITY * self._TEXT_SIZE)
        texts = (self._rows, self._names, self._directories, self._values, self.CAPACITY)
        self._out = cast("TarRows", ffi.new("struct cfs_tar_rows *", texts))
        self._spans = ffi.new("struct cfs_span[]", self.CAPACITY)
        self._digests = ffi.new("uint8_t[]", self.CAPACITY * digest_size)
        self._objects = cast(
            "TarObjects", ffi.new("struct cfs_tar_objects *", (self._spans, self._digests, digest_size))
        )
        self._place = cast("TarPlace", ffi.new("struct cfs_tar_place *"))

    def cut(
        self, data: Buffer, place: tuple[int, int, int], limit: int, beside: StreamHash | None = None
    ) -> TarPart | None:
        """Split off at most *limit* entries; None: there is no plain one.

        Args:
            data: a piece of the archive.
            place: where to begin in it; the offset of that in the archive; the bytes before the next header.
            limit: at most `CAPACITY`.
            beside: is hashed meanwhile, as far as there is room.
        """
        here, out, objects = self._place, self._out, self._objects
        here.position, here.offset, here.padding = place
        out.capacity = min(limit, self.CAPACITY)
        stream = beside.stream if beside is not None else ffi.NULL
        with ffi.from_buffer(data) as source:
            _check(lib.cfs_tar_split(self._alg, source, len(source), here, out, objects, stream))
        count = out.count
        if not count:
            return None
        found = objects.count
        texts = TarTexts(
            ffi.buffer(self._rows, count * self._ROW_SIZE)[:],
            ffi.buffer(self._names, out.names_size)[:],
            ffi.buffer(self._directories, out.directories_size)[:],
            ffi.buffer(self._values, out.values_size)[:],
        )
        spans = ffi.buffer(self._spans, found * SPAN_SIZE)[:]
        digests = ffi.buffer(self._digests, found * objects.digest_size)[:]
        return TarPart(texts, spans, digests, here.position, here.offset, here.padding)


def pack_chunks(data: Buffer, spans: bytes, indexes: array[int], capacity: int) -> bytearray:
    """Return the chunks of a splitstream for *data* from its first object to its last.

    Args:
        data: a piece of an archive.
        spans: where the objects are in it, in order, as `struct cfs_span` each.
        indexes: theirs among the references, of type "q".
        capacity: bytes, at least as many as there will be.

    Raises:
        OSError: EINVAL, for spans out of order or outside.
    """
    out = bytearray(capacity)
    where, numbers = ffi.from_buffer("struct cfs_span[]", spans), ffi.from_buffer("int64_t[]", indexes)
    with ffi.from_buffer(data) as source, ffi.from_buffer(out) as target:
        size = _check(lib.cfs_pack_chunks(source, len(source), where, numbers, len(numbers), target, capacity))
    del out[size:]
    return out


def store_objects(dir_fd: int, alg: int, data: Buffer, spans: Buffer, digests: Buffer) -> list[int]:
    """Store objects that are not there.

    Args:
        dir_fd: the directory of objects.
        alg: seal them by this hash; 0: do not.
        data: holds their contents.
        spans: where, as `struct cfs_span` each.
        digests: of them, back to back.

    Returns:
        For each 1 if it is stored now, 0 if a file of that name and size is there, else the negative errno of what
        failed, and nothing is left behind.
    """
    where, names = ffi.from_buffer("struct cfs_span[]", spans), ffi.from_buffer(digests)
    count = len(where)
    if not count:
        return []
    results, digest_size = ffi.new("int[]", count), len(names) // count
    with ffi.from_buffer(data) as source:
        _check(lib.cfs_store_objects(dir_fd, alg, source, len(source), where, count, names, digest_size, results))
    return cast("list[int]", ffi.unpack(results, count))


class ChunkMerger:
    """Join what the chunks of a splitstream are: inline bytes and objects, which are not proved.

    Args:
        digests: of its objects, back to back.
        digest_size: bytes of one.
        dir_fd: the directory of all objects, each at `xx/rest`.
    """

    def __init__(self, digests: bytes, digest_size: int, dir_fd: int) -> None:
        self._source = ffi.from_buffer(digests)
        self._digests = ffi.new("struct cfs_digests *", (self._source, digest_size, len(digests) // digest_size))
        self._dir_fd = dir_fd
        self._merge = cast("Merge", ffi.new("struct cfs_merge *"))
        self._merge.fd = -1

    def merge(self, chunks: Buffer, out: bytearray) -> tuple[int, int]:
        """Fill *out* from decompressed *chunks*.

        Returns:
            The bytes of *chunks* that are done with, and the bytes put out.  Less than all of *out*: there must be more
            chunks.

        Raises:
            OSError: the object number `object` cannot be read; ERANGE: there is none of that number.
        """
        source, target = ffi.from_buffer(chunks), ffi.from_buffer(out)
        size = lib.cfs_merge_chunks(source, len(source), self._merge, self._digests, self._dir_fd, target, len(target))
        del source, target  # as in `ObjectChecker.check`
        return self._merge.position, _check(size)

    @property
    def object(self) -> int:
        """The number of the last object."""
        return self._merge.object

    @property
    def is_at_end(self) -> bool:
        """Whether the chunks may end here."""
        return not self._merge.inline_left and not self._merge.head_size and self._merge.fd < 0

    def close(self) -> None:
        """Close the object that was being read."""
        if self._merge.fd >= 0:
            os.close(self._merge.fd)
            self._merge.fd = -1
