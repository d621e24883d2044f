"""What computes here: kernels of hashes, and libraries that decompress."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from composefs import _native
from composefs.digest import Algorithm
from composefs.doctor.finding import Finding, Job, Status

_GENERIC = "generic"  # the kernel of every CPU
_ZSTD = (1, 5, 7)  # version of libzstd whose frames are those of composefs-rs 0.9.4


@dataclass(frozen=True, slots=True)
class Hashing:
    """What hashes blocks.

    Attributes:
        algorithm: the hash.
        chosen: name of the kernel in use.
        usable: those that this CPU can run, fastest first.
    """

    algorithm: Algorithm
    chosen: str
    usable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Libraries:
    """What decompresses layers.

    Attributes:
        zstd: version of libzstd; None: the package zstandard cannot be imported.
        isal: version of the package isal; None: it cannot be imported.
    """

    zstd: tuple[int, ...] | None
    isal: str | None


def find_hashing() -> list[Hashing]:
    """Return what hashes blocks, for each algorithm."""
    return [
        Hashing(
            algorithm,
            _native.hash_implementation(algorithm.kernel_id),
            tuple(_native.hash_implementations(algorithm.kernel_id)),
        )
        for algorithm in Algorithm
    ]


def find_libraries() -> Libraries:
    """Return what decompresses layers."""
    try:
        import zstandard  # noqa: PLC0415  # an installation that is broken is to be told, too

        zstd = tuple(zstandard.ZSTD_VERSION)
    except ImportError:
        zstd = None
    try:
        import isal  # noqa: PLC0415  # it need not be there

        version = str(isal.__version__)
    except ImportError:
        version = None
    return Libraries(zstd, version)


def judge_hashing(hashing: Hashing) -> Finding:
    """Return what *hashing* means."""
    fastest, remedy = hashing.usable[0], None
    if hashing.chosen != fastest:
        status, found = Status.DEGRADED, f"{hashing.chosen}, though this CPU can run {fastest}"
        remedy = "unset COMPOSEFS_HASH_IMPL"
    elif fastest == _GENERIC:
        status, found = Status.DEGRADED, f"{fastest}: no vector units that are known here; imports take longer"
        remedy = "a CPU with AVX2 or SHA extensions; in a virtual machine, pass the host's through (-cpu host)"
    else:
        status, found = Status.OK, f"{fastest}, accelerated"
    return Finding(f"machine.{hashing.algorithm.hash_name}", hashing.algorithm.hash_name, status, found, remedy)


def judge_libraries(libraries: Libraries) -> list[Finding]:
    """Return what *libraries* mean."""
    return [_judge_zstd(libraries.zstd), _judge_isal(libraries.isal)]


def _judge_zstd(version: tuple[int, ...] | None) -> Finding:
    wanted, remedy = ".".join(map(str, _ZSTD)), None
    if version is None:
        status, found, remedy = Status.MISSING, "the package zstandard cannot be imported", "pip install zstandard"
    elif version != _ZSTD:
        status = Status.DEGRADED
        found = f"{'.'.join(map(str, version))}: ids of streams differ from those that libzstd {wanted} makes"
        remedy = f"install a zstandard that bundles libzstd {wanted}, such as zstandard 0.25"
    else:
        status, found = Status.OK, f"{wanted}: ids of streams are those of cfsctl"
    return Finding("machine.zstd", "libzstd", status, found, remedy, (Job.IMPORT,))


def _judge_isal(version: str | None) -> Finding:
    if version is not None:
        return Finding("machine.isal", "gzip", Status.OK, f"ISA-L, isal {version}")
    found = f"zlib, half as fast, on {platform.machine()}"
    return Finding("machine.isal", "gzip", Status.DEGRADED, found, "pip install isal")
