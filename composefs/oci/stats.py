"""What storing objects came to, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from composefs.repository.objects import Stored


@dataclass
class Stats:
    """What storing objects came to; sizes in bytes."""

    objects_new: int = 0
    objects_present: int = 0
    bytes_new: int = 0
    bytes_inline: int = 0

    def count(self, stored: Stored, size: int) -> bytes:
        """Count an object of *size* bytes and return its digest."""
        digest, is_new = stored
        if is_new:
            self.objects_new += 1
            self.bytes_new += size
        else:
            self.objects_present += 1
        return digest

    def __iadd__(self, other: Stats) -> Self:
        self.objects_new += other.objects_new
        self.objects_present += other.objects_present
        self.bytes_new += other.bytes_new
        self.bytes_inline += other.bytes_inline
        return self
