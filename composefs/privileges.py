"""What this process may do: have the kernel mount EROFS, have FUSE mounted, use the reserve of a file system.

Source: capabilities(7), proc_pid_status(5), namespaces(7).
"""

from __future__ import annotations

import os

_USER_NAMESPACE = "/proc/self/ns/user"
_INITIAL = 0xEFFFFFFD  # number of the user namespace that has been there from the start, PROC_USER_INIT_INO
_STATUS = "/proc/self/status"
_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 1 << 21, 1 << 24  # <linux/capability.h>


def may_mount() -> bool:
    """Tell whether the kernel mounts EROFS for us, which it does in no user namespace; without /proc it does not."""
    return _is_outside() and _has(_CAP_SYS_ADMIN, "CapEff")


def may_use_reserve() -> bool:
    """Tell whether the blocks that a file system keeps for root are ours to use."""
    return _is_outside() and _has(_CAP_SYS_RESOURCE, "CapEff")


def may_serve() -> bool:
    """Tell whether FUSE can be mounted by us, or by a set-uid helper, which gets no more than our bounding set."""
    if _has(_CAP_SYS_ADMIN, "CapEff"):
        return True
    return _has(_CAP_SYS_ADMIN, "CapBnd") and _status().get("NoNewPrivs", "0") == "0"


def _is_outside() -> bool:
    """Tell whether this is the initial user namespace."""
    try:
        return os.stat(_USER_NAMESPACE).st_ino == _INITIAL
    except OSError:
        return False


def _has(capability: int, kind: str) -> bool:
    return bool(int(_status().get(kind, "0"), 16) & capability)


def _status() -> dict[str, str]:
    """Return what the kernel says of this process; nothing without /proc."""
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            pairs = (line.partition(":") for line in file)
            return {key: value.strip() for key, _, value in pairs}
    except OSError:
        return {}
