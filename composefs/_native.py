"""The C extension with types, bytes and exceptions; nothing else imports `composefs._cfs`.

`alg` is the kernel's number of a hash (1 SHA-256, 2 SHA-512).  A buffer is never copied, and nobody may change it
during the call, since the GIL is released.  A negative errno of C becomes the exception that it means.

The environment variable `COMPOSEFS_HASH_IMPL` demands an implementation of the hashes, as `NAME` for every hash that
has it, or as `sha256=NAME,sha512=NAME`; one that does not exist here makes the import of this module fail.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from composefs._cfs import ffi, lib

if TYPE_CHECKING:
    from cffi import FFI

    from composefs._cfs import TarPlace, TarRows

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
    source, seed, target = ffi.from_buffer(data), ffi.from_buffer(salt), ffi.from_buffer(out)
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

    def update(self, data: Buffer) -> None:
        """Append *data*, of any length.

        Raises:
            ValueError: the digest was already taken.
        """
        if self._state is None:
            raise ValueError("the digest was already taken")
        source = ffi.from_buffer(data)
        _check(lib.cfs_verity_update(self._state, source, len(source)))

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
    source = ffi.from_buffer(data)
    return _check(lib.cfs_store_file(dir_fd, source, len(source)))


# Formats


def sum_bytes(data: Buffer) -> int:
    """Return the sum of all bytes of *data*, as in the checksum of a tar header."""
    source = ffi.from_buffer(data)
    return lib.cfs_sum_bytes(source, len(source))


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
        source, here, out = ffi.from_buffer(data), self._place, self._out
        here.position = 0
        here.inline_left, here.offset, here.padding = place
        out.capacity = min(limit, self.CAPACITY)
        _check(lib.cfs_tar_read(source, len(source), here, self._digests, out))
        texts = TarTexts(
            ffi.buffer(self._rows, out.count * self._ROW_SIZE)[:],
            ffi.buffer(self._names, out.names_size)[:],
            ffi.buffer(self._directories, out.directories_size)[:],
            ffi.buffer(self._values, out.values_size)[:],
        )
        return texts, here.position, (here.inline_left, here.offset, here.padding)


def pack_erofs_inodes(image: bytearray, inodes: Buffer, areas: Buffer, area_data: Buffer, payloads: Buffer) -> None:
    """Put inodes into an EROFS image: headers, xattrs and tails.

    Args:
        image: large enough.
        inodes: records, as `struct inode_record` of csrc/erofs.c.
        areas: records of what they have of xattrs, as `struct area_record`.
        area_data: what these say the offsets of.
        payloads: of the inodes, one after another.

    Raises:
        OSError: EINVAL, for records that leave image, areas or payloads.
    """
    buffers = (image, inodes, areas, area_data, payloads)
    target, records, kinds, xattrs, data = (ffi.from_buffer(buffer) for buffer in buffers)
    sizes = (len(target), len(records), len(kinds), len(xattrs), len(data))
    _check(
        lib.cfs_erofs_pack_inodes(
            target, sizes[0], records, sizes[1], kinds, sizes[2], xattrs, sizes[3], data, sizes[4]
        )
    )
