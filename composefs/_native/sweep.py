"""Which objects there are, which of them are wanted, and an end to the others."""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, cast

from composefs._cfs import ffi, lib
from composefs._native.core import Buffer, check

if TYPE_CHECKING:
    from composefs._cfs import Listing, Sweep


class SweepAction(IntEnum):
    """What is done with objects that are not marked, as `enum sweep_action` of csrc/cfs.h."""

    WEIGH = 0  # nothing but a look
    REMOVE = 1
    MOVE = 2  # to another directory; where one is there already, that stays instead


class Swept(NamedTuple):
    """What came of it."""

    done: int  # objects that it was done with; those that had gone are none
    size: int  # bytes, if they were weighed
    newest: int  # when an inode of theirs was changed last, seconds since the epoch, if they were weighed


class SweepError(OSError):
    """It could not be done with the object *digest*; None: with the directory as a whole."""

    digest: bytes | None = None


def list_objects(dir_fd: int, byte: int, digest_size: int) -> tuple[bytes, list[str]]:
    """Return the objects whose digests begin with *byte*, and what else stands in their directory.

    Args:
        dir_fd: the directory of the files xx/rest.
        byte: the first of the digests.
        digest_size: bytes.

    Returns:
        Their digests, sorted and back to back; names that are none of objects, in the order of the directory.

    Raises:
        OSError: the directory cannot be read; ENOTDIR if it is a symbolic link.
    """
    listing = cast("Listing", ffi.new("struct cfs_listing *"))
    try:
        check(lib.cfs_list_objects(dir_fd, byte, digest_size, listing))
        digests = bytes(ffi.buffer(listing.digests, listing.count * digest_size)) if listing.count else b""
        strays = bytes(ffi.buffer(listing.strays, listing.strays_size)) if listing.strays_size else b""
    finally:
        lib.cfs_free_listing(listing)
    return digests, [os.fsdecode(name) for name in strays.split(b"\0")[:-1]]


def mark_objects(digests: Buffer, digest_size: int, wanted: Buffer, marks: bytearray) -> None:
    """Set the mark of each of *digests* that is among the *wanted* ones; several threads may do so at once.

    Args:
        digests: sorted and back to back.
        digest_size: bytes.
        wanted: back to back, in any order.
        marks: a byte for each of *digests*.
    """
    names, source, target = ffi.from_buffer(digests), ffi.from_buffer(wanted), ffi.from_buffer(marks)
    ret = lib.cfs_mark_objects(
        names, len(names) // digest_size, digest_size, source, len(source) // digest_size, target
    )
    del names, source, target
    check(ret)


class Sweeper:
    """Do *action* with objects in the directory *dir_fd*, each at `xx/rest`, from several threads at once.

    Args:
        dir_fd: stays open meanwhile.
        digest_size: bytes.
        action: what to do.
        target_fd: where they move to; has the directories that are needed.
    """

    def __init__(self, dir_fd: int, digest_size: int, action: SweepAction, target_fd: int = -1) -> None:
        self._dir_fd, self._digest_size, self._action, self._target_fd = dir_fd, digest_size, action, target_fd
        self._stop = ffi.new("int *")

    def sweep(self, digests: Buffer, marks: Buffer) -> Swept:
        """Do it with those of *digests* that have no mark.

        Args:
            digests: back to back; all begin with the same byte.
            marks: a byte for each.

        Raises:
            SweepError: it could not be done with one of them; ECANCELED after `stop`.
        """
        names, kept = ffi.from_buffer(digests), ffi.from_buffer(marks)
        fields = (names, kept, len(kept), self._action.value, self._stop)
        sweep = cast("Sweep", ffi.new("struct cfs_sweep *", fields))
        ret = lib.cfs_sweep_objects(self._dir_fd, self._target_fd, self._digest_size, sweep)
        swept, failed, count = Swept(sweep.done, sweep.bytes, sweep.newest), sweep.failed, len(kept)
        del names, kept, fields, sweep
        if ret < 0:
            error = SweepError(-ret, os.strerror(-ret))
            if failed < count:
                error.digest = bytes(digests[failed * self._digest_size : (failed + 1) * self._digest_size])
            raise error
        return swept

    def stop(self) -> None:
        """Let every `sweep` fail, also those that go on."""
        self._stop[0] = 1
