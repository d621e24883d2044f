"""Merkle trees, and the SHA-256 of streams beside them.

The environment variable `COMPOSEFS_HASH_IMPL` demands an implementation of the hashes, as `NAME` for every hash that
has it, or as `sha256=NAME,sha512=NAME`; one that does not exist here makes the import of this module fail.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from composefs._native.core import SHA256, SHA512, Buffer, check, ffi, lib

if TYPE_CHECKING:
    from cffi import FFI

    from composefs._cfs import Stream

_ALGS = {"sha256": SHA256, "sha512": SHA512}


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
        check(lib.cfs_verity_digest(alg, block_size, seed, len(seed), source, len(source), target, digest_size))
    return bytes(out)


def verity_digest_fd(alg: int, fd: int, digest_size: int, block_size: int = 4096, salt: bytes = b"") -> bytes:
    """Return the fs-verity digest of the file behind *fd*, from its first byte to its end.

    The file's position is neither used nor moved.  Arguments and errors are those of `verity_digest`.

    Raises:
        OSError: the file cannot be read, or EINVAL.
    """
    out = bytearray(digest_size)
    seed, target = ffi.from_buffer(salt), ffi.from_buffer(out)
    check(lib.cfs_verity_digest_fd(alg, block_size, seed, len(seed), fd, target, len(target)))
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
    check(lib.cfs_verity_digest_fds(alg, 4096, ffi.NULL, 0, numbers, count, target, digest_size, sizes, ctimes))
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
        check(
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
        check(lib.cfs_verity_new(alg, block_size, seed, len(seed), out))
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
            check(lib.cfs_verity_update_fused(self._state, source, len(source), stream))

    def digest(self) -> bytes:
        """Return the digest of all that was appended; this ends the state.

        Raises:
            ValueError: the digest was already taken.
        """
        if self._state is None:
            raise ValueError("the digest was already taken")
        out = bytearray(self._digest_size)
        target = ffi.from_buffer(out)
        check(lib.cfs_verity_finish(self._state, target, len(target)))
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
