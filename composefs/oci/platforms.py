"""Which platform this machine is, and how well an image for another one suits."""

from __future__ import annotations

import os

from composefs.oci.manifest import Platform

# What `uname -m` says, in Go's words.
_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "i386": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", "v8"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", None),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1", "arm": "v7"}  # what no variant means
_UNSAID, _LATER = 100, 200  # ranks behind those of all older variants


def host_platform() -> Platform:
    """Return the platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _ARCHITECTURES.get(machine, (machine, None))
    return Platform("linux", architecture, variant)


def rank(found: Platform | None, wanted: Platform) -> int | None:
    """Return how well *found* suits *wanted*, 0 best, None not at all.

    The same variant goes before older ones, the last of which is the best, and these, for want of a better measure,
    before later ones.  An ARM CPU runs no code for a later variant; ARM code that does not say for which one it is goes
    after all that does.
    """
    if found is None or (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return None
    default = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    have, want = found.variant or default, wanted.variant or default
    is_arm = wanted.architecture == "arm"
    if is_arm and found.variant is None:
        return _UNSAID
    if have == want:
        return 0
    distance = _number(want) - _number(have)
    if have > want:
        return None if is_arm else _LATER - distance
    return max(1, distance)


def _number(variant: str) -> int:
    digits = variant[1:3]
    return int(digits) if digits.isdecimal() else 0
