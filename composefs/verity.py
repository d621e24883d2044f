"""fs-verity digests: computed here, or measured and enforced by the kernel.

Source: Documentation/filesystems/fsverity.rst.
"""

from __future__ import annotations

import errno

from composefs import _native
from composefs._native import Buffer
from composefs.digest import Algorithm, Digest
from composefs.errors import IntegrityError

MISSING = "the file system has no fs-verity with blocks of 4096 bytes"  # for messages
_UNSUPPORTED = frozenset({errno.ENOTTY, errno.EOPNOTSUPP})  # what a file system without fs-verity says
# And what one says whose blocks are smaller than those of the tree, and a kernel without the hash.
_CANNOT_ENABLE = _UNSUPPORTED | {errno.EINVAL, errno.ENOPKG}


def compute_digest(data: Buffer, algorithm: Algorithm) -> Digest:
    """Return the fs-verity digest of *data* as the kernel would measure it.

    Args:
        data: the whole content of one file, contiguous, any length, also empty.
        algorithm: the hash of the Merkle tree; blocks are 4096 bytes, unsalted.

    Raises:
        MemoryError: the unfinished blocks of the tree (40 KiB) do not fit in memory.

    Source: Documentation/filesystems/fsverity.rst, "Merkle tree".
    """
    return Digest(algorithm, _native.verity_digest(algorithm.kernel_id, data, algorithm.digest_size))


def compute_file_digest(fd: int, algorithm: Algorithm) -> Digest:
    """Return the fs-verity digest of the file behind *fd*, from its first byte to its end.

    Args:
        fd: a regular file open for reading; its position is neither used nor moved.
        algorithm: the hash of the Merkle tree; blocks are 4096 bytes, unsalted.

    Raises:
        OSError: the file cannot be read.
        MemoryError: the unfinished blocks of the tree and 64 KiB of data do not fit in memory.
    """
    return Digest(algorithm, _native.verity_digest_fd(algorithm.kernel_id, fd, algorithm.digest_size))


class DigestBuilder:
    """The fs-verity digest of content that comes in pieces, cut anywhere; for one thread at a time.

    Pieces of 64 KiB and more are hashed the fastest.

    Args:
        algorithm: the hash of the Merkle tree; blocks are 4096 bytes, unsalted.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._state = _native.VerityState(algorithm.kernel_id, algorithm.digest_size)

    def update(self, data: Buffer, beside: _native.StreamHash | None = None) -> None:
        """Append *data*, contiguous and of any length.

        Args:
            data: what comes next.
            beside: is hashed meanwhile, as far as there is room.

        Raises:
            ValueError: `finish` was called before.
        """
        self._state.update(data, beside)

    def finish(self) -> Digest:
        """Return the digest of all that was appended.

        Raises:
            ValueError: `finish` was called before.
        """
        return Digest(self._algorithm, self._state.digest())


def is_known(fd: int) -> bool:
    """Tell whether the file system of *fd*, open for reading, has fs-verity, as far as that can be asked."""
    try:
        _native.measure_verity(fd)
    except OSError as error:
        return error.errno not in _UNSUPPORTED
    return True


def measure(fd: int, algorithm: Algorithm) -> Digest | None:
    """Return the digest that the kernel enforces for the file behind *fd*.

    Args:
        fd: a file open for reading.
        algorithm: what the file is expected to be enabled with.

    Returns:
        The digest, or None if fs-verity is not enabled for the file or its file system does not have it.

    Raises:
        IntegrityError: the file is enabled with another algorithm, or its digest has another size.
        OSError: anything else the kernel says.

    Source: Documentation/filesystems/fsverity.rst, "FS_IOC_MEASURE_VERITY".
    """
    try:
        kernel_id, raw = _native.measure_verity(fd)
    except OSError as error:
        if error.errno == errno.ENODATA or error.errno in _UNSUPPORTED:
            return None
        raise
    if kernel_id != algorithm.kernel_id or len(raw) != algorithm.digest_size:
        names = {known.kernel_id: known.hash_name for known in Algorithm}
        raise IntegrityError(
            f"fs-verity of file descriptor {fd}",
            f"{algorithm.hash_name}, {algorithm.digest_size} bytes",
            f"{names.get(kernel_id, f'hash {kernel_id}')}, {len(raw)} bytes",
        )
    return Digest(algorithm, raw)


def enable(fd: int, algorithm: Algorithm) -> bool:
    """Let the kernel check every read of the file behind *fd* from now on, and forbid all writes.

    A file that is already enabled is left as it is, whatever its algorithm: `measure` tells.

    Args:
        fd: a regular file, open for reading only; nobody may have it open for writing.
        algorithm: the hash of the Merkle tree; blocks are 4096 bytes, unsalted.

    Returns:
        True if fs-verity is enabled now, False if the file system does not have it, or not with such blocks.

    Raises:
        OSError: ETXTBSY if the file stays open for writing somewhere, or anything else the kernel says.

    Source: Documentation/filesystems/fsverity.rst, "FS_IOC_ENABLE_VERITY".
    """
    try:
        _native.enable_verity(fd, algorithm.kernel_id)
    except OSError as error:
        if error.errno in _CANNOT_ENABLE:
            return False
        if error.errno != errno.EEXIST:
            raise
    return True


def seal(fd: int, digest: Digest, where: str, copy_to: int | None = None) -> bool:
    """Have the kernel enforce *digest* for the file behind *fd*, and prove that it does.

    Args:
        fd: a regular file; if it is open for writing, too, it is open for reading only afterwards.
        digest: what is expected.
        where: the file, for messages.
        copy_to: a directory; *fd* stands for a copy of the file, unnamed in the file system of that directory,
            afterwards, if somebody keeps the file open for writing.  None: that is an error.

    Returns:
        True, or False if the file system does not have fs-verity, or not with blocks of 4096 bytes.

    Raises:
        IntegrityError: the kernel enforces another digest, of other contents or by another hash.
        OSError: ETXTBSY if the file stays open for writing somewhere, or anything else the kernel says.
    """
    try:
        _native.seal(fd, copy_to, digest.algorithm.kernel_id, digest.raw)
    except OSError as error:
        if error.errno in _CANNOT_ENABLE:
            return False
        if error.errno != errno.EBADMSG:
            raise OSError(error.errno, error.strerror, where) from None
        measured = measure(fd, digest.algorithm)
        raise IntegrityError(where, digest.hex, measured.hex if measured else "no fs-verity") from None
    return True
