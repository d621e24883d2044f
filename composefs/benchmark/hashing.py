"""How fast the hashes of an import run, on one core: each kernel for Merkle leaves, and OpenSSL's streams."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from composefs import _native
from composefs.benchmark.timing import time_runs
from composefs.digest import BLOCK_SIZE, Algorithm

DATA_SIZE = 1 << 20  # bytes of a large file; also of what a stream is fed at once
_SMALL_FILES = 256  # of one leaf each, hashed by one call, as those of a slot of a layer are


@dataclass(frozen=True)
class KernelSpeed:
    """How fast one kernel computes fs-verity digests; rates are bytes a second."""

    algorithm: Algorithm
    name: str
    chosen: bool  # is the one that is used
    large: float  # files of 1 MiB
    small: float  # files of one block


def time_kernels(algorithm: Algorithm, seconds: float, data_size: int = DATA_SIZE) -> list[KernelSpeed]:
    """Time all kernels that this CPU can run, the fastest first as far as is known beforehand.

    Args:
        algorithm: of the digests.
        seconds: for all of them together.
        data_size: bytes of a large file.
    """
    names = _native.hash_implementations(algorithm.kernel_id)
    chosen = _native.hash_implementation(algorithm.kernel_id)
    share = seconds / len(names) / 2
    return [_time_kernel(algorithm, name, share, data_size, chosen=name == chosen) for name in names]


def time_stream(hash_name: str, seconds: float, data_size: int = DATA_SIZE) -> float:
    """Return the bytes a second that hashlib's *hash_name* takes as one stream, as for blob digests and diff_ids."""
    data = bytes(data_size)
    stream = hashlib.new(hash_name, usedforsecurity=False)
    return data_size / time_runs(lambda: stream.update(data), seconds)


def stream_library() -> str:
    """Return what hashlib hashes with: OpenSSL, with its version, or Python's own code."""
    if type(hashlib.sha256()).__module__ != "_hashlib":
        return "Python, without OpenSSL"
    import ssl  # noqa: PLC0415  # takes 10 ms, and only the version of it is wanted

    return " ".join(ssl.OPENSSL_VERSION.split()[:2])


def _time_kernel(algorithm: Algorithm, name: str, seconds: float, data_size: int, *, chosen: bool) -> KernelSpeed:
    kernel_id, digest_size = algorithm.kernel_id, algorithm.digest_size
    large, small = bytes(data_size), bytes(_SMALL_FILES * BLOCK_SIZE)
    spans = array("Q", [part for number in range(_SMALL_FILES) for part in (number * BLOCK_SIZE, BLOCK_SIZE)]).tobytes()
    with _selected(kernel_id, name):
        large_seconds = time_runs(lambda: _native.verity_digest(kernel_id, large, digest_size), seconds)
        small_seconds = time_runs(lambda: _native.verity_digests(kernel_id, small, spans, digest_size), seconds)
    return KernelSpeed(
        algorithm, name, chosen, large=data_size / large_seconds, small=_SMALL_FILES * BLOCK_SIZE / small_seconds
    )


@contextmanager
def _selected(kernel_id: int, name: str) -> Iterator[None]:
    """Use the kernel *name* meanwhile."""
    before = _native.hash_implementation(kernel_id)
    _native.select_hash_implementation(kernel_id, name)
    try:
        yield
    finally:
        _native.select_hash_implementation(kernel_id, before)
