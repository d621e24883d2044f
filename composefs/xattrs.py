"""Which extended attributes an image of a container keeps."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class XattrFilter(Enum):
    """Which extended attributes an image keeps."""

    ALLOWLIST_ONLY = "allowlist-only"
    KEEP_USER_XATTRS = "keep-user-xattrs"

    @property
    def keeps(self) -> Callable[[bytes], bool]:
        """What tells of the name of an attribute whether it is kept."""
        return _ALLOWLIST.__contains__ if self is XattrFilter.ALLOWLIST_ONLY else _is_listed_or_user


_ALLOWLIST = frozenset({b"security.capability"})


def _is_listed_or_user(name: bytes) -> bool:
    return name in _ALLOWLIST or name.startswith(b"user.")
