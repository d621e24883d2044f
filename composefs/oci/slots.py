"""Where the config of an OCI image records the EROFS images that were made of it: among its references, by key.

    composefs.image                                 format V2
    composefs.image.v1                              formats V0 and V1
    composefs.image.boot, composefs.image.boot.v1   for booting: another tree
    ...boot.xattrs=MODE, ...boot.v1.xattrs=MODE     for booting, with other extended attributes than the usual ones

Source: composefs-rs, doc/oci.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

from composefs.digest import Digest
from composefs.xattrs import XattrFilter

_PREFIX = "composefs.image"
_BOOT, _V1, _XATTRS = ".boot", ".v1", ".xattrs="
_MODES = {mode.value: mode for mode in XattrFilter if mode is not XattrFilter.ALLOWLIST_ONLY}


class Slot(NamedTuple):
    """The place of one image."""

    epoch: int  # of EROFS formats: 1 for V0 and V1, 2 for V2
    bootable: bool = False
    xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """Return the slot with *key*, or None if that is the key of something else."""
        rest = key.removeprefix(_PREFIX)
        if rest == key:
            return None
        bootable, rest = rest.startswith(_BOOT), rest.removeprefix(_BOOT)
        epoch, rest = 1 if rest.startswith(_V1) else 2, rest.removeprefix(_V1)
        if not rest:
            return cls(epoch, bootable)
        mode = rest.removeprefix(_XATTRS)
        if not bootable or mode == rest or mode not in _MODES:
            return None
        return cls(epoch, bootable, _MODES[mode])

    @property
    def key(self) -> str:
        """The name of the reference."""
        epoch = _V1 if self.epoch == 1 else ""
        mode = _XATTRS + self.xattrs.value if self.xattrs.value in _MODES else ""
        return _PREFIX + (_BOOT if self.bootable else "") + epoch + mode


@dataclass(frozen=True)
class ErofsImage:
    """An EROFS image of an OCI image."""

    digest: Digest
    version: int  # of the EROFS format
    bootable: bool
    xattrs: XattrFilter

    @property
    def slot(self) -> Slot:
        """Where it is recorded."""
        return Slot(2 if self.version == 2 else 1, self.bootable, self.xattrs)


def recorded(images: Iterable[ErofsImage]) -> dict[str, Digest]:
    """Return what a config refers to by key that has *images*; of V0 and V1, which share a slot, it is V1."""
    return {image.slot.key: image.digest for image in sorted(images, key=lambda image: image.version)}


def key_order(key: str) -> tuple[bool, str]:
    """Return what to sort keys by, to have them as composefs-rs does: those of images for booting last."""
    return key.startswith(_PREFIX + _BOOT), key
