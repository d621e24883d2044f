"""How an image is to be mounted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntFlag

from composefs.errors import UsageError

_TEXT_MAX = 255  # bytes of a value, as fsconfig(2) takes it


class Verity(Enum):
    """What the kernel demands of an object that is opened: that fs-verity give it the digest that the image says."""

    DISABLED = "disabled"
    REQUIRED = "required"
    TRY = "try"  # as required, where the kernel knows how


class Attribute(IntFlag):
    """What does not hold for the files of a mount, or for their times: `MOUNT_ATTR_*` of <linux/mount.h>."""

    NONE = 0
    NO_SUID = 0x2
    NO_DEV = 0x4
    NO_EXEC = 0x8
    NO_ATIME = 0x10
    STRICT_ATIME = 0x20  # the other way round: every access counts
    NO_DIR_ATIME = 0x80


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How an image is to be mounted.

    Attributes:
        source: what is shown as the device in /proc/mounts, such as "composefs:NAME".
        verity: what the kernel demands of the objects.
        read_only: whether nothing can be written, even with an upper layer.
        upper_fd: directory that takes changes; with one there must be the other.
        work_fd: empty directory for the kernel's own use, in the file system of the upper layer.
        idmap_fd: user namespace whose mapping of ids the image appears with; the objects do not.
        attributes: of the mount, beside that.

    Raises:
        UsageError: options that make no sense.
    """

    source: str
    verity: Verity = Verity.DISABLED
    read_only: bool = True
    upper_fd: int | None = None
    work_fd: int | None = None
    idmap_fd: int | None = None
    attributes: Attribute = Attribute.NONE

    def __post_init__(self) -> None:
        if (self.upper_fd is None) != (self.work_fd is None):
            raise UsageError("an upper layer needs a work directory, and a work directory an upper layer")
        if self.upper_fd is None and not self.read_only:
            raise UsageError("a mount without an upper layer is read-only")
        if len(self.source.encode(errors="surrogateescape")) > _TEXT_MAX:
            raise UsageError(f"the source of a mount has at most {_TEXT_MAX} bytes: {self.source}")
