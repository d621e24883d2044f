"""Files of the host that become objects: how they are read, and what an object may share with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeAlias

from composefs import _native

Checkpoint: TypeAlias = Callable[[], None]  # called between two pieces of a file; what it raises ends the work
Look: TypeAlias = Callable[[bytes], object]  # called with each piece of a file, in order

WHOLE_MAX = 1 << 20  # bytes; larger files come in pieces
_PIECE = 1 << 18  # bytes
_ZEROS = bytes(_PIECE)


class Sharing(Enum):
    """What an object shares with the file that it comes from; where that cannot be had, it is a copy."""

    COPY = "copy"  # nothing
    REFLINK = "reflink"  # blocks, each until it is changed
    # The file itself gets the object's name, and keeps owner, mode and times.  Where the file system has fs-verity, it
    # is sealed: nobody can write to it any more.  Elsewhere who writes to it breaks the object, and all images that
    # have it; so this is for trees whose files are replaced and never changed.
    HARD_LINK = "hardlink"


def no_checkpoint() -> None:
    """Let the work go on."""


def no_look(_piece: bytes) -> None:
    """Take no interest in the contents."""


def read_file(fd: int, size: int) -> bytes:
    """Return the content of the regular file *fd*, which *size*, in bytes, is about."""
    data = os.pread(fd, size + 1, 0)
    return data if len(data) == size else b"".join(read_pieces(fd, no_checkpoint))


def read_pieces(fd: int, checkpoint: Checkpoint) -> Iterator[bytes]:
    """Yield the content of the regular file *fd* piece by piece."""
    offset = 0
    while data := os.pread(fd, _PIECE, offset):
        checkpoint()
        yield data
        offset += len(data)


def is_zeros(piece: bytes) -> bool:
    """Tell whether *piece*, as `read_pieces` yields it, consists of zeros."""
    return _ZEROS.startswith(piece)


def hash_file(  # noqa: PLR0917  # four numbers of one thing
    fd: int, size: int, kernel_id: int, digest_size: int, checkpoint: Checkpoint, look: Look = no_look
) -> bytes:
    """Return the fs-verity digest of the regular file *fd*.

    Args:
        fd: its position is neither used nor moved.
        size: of the file, about, in bytes.
        kernel_id: the hash.
        digest_size: of the hash, in bytes.
        checkpoint: called now and then.
        look: sees what is hashed.
    """
    if size <= WHOLE_MAX:
        data = read_file(fd, size)
        look(data)
        return _native.verity_digest(kernel_id, data, digest_size)
    state = _native.VerityState(kernel_id, digest_size)
    for piece in read_pieces(fd, checkpoint):
        look(piece)
        state.update(piece)
    return state.digest()
