"""How fast fs-verity digests are computed: by hash, implementation and size of the file, against hashlib."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from random import Random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from composefs import _native
from composefs.digest import BLOCK_SIZE, Algorithm
from composefs.verity import compute_digest

# A file of one leaf, as half of all files are; the mean; one that fills every lane many times.
SIZES = (4_096, 28_000, 16 << 20)
BASELINES = ("hashlib-stream", "hashlib-leaves")  # one hash over everything; one for each leaf, without the tree
VARIANTS = [
    pytest.param((algorithm, name), id=f"{algorithm.hash_name}-{name}")
    for algorithm in Algorithm
    for name in (*_native.hash_implementations(algorithm.kernel_id), *BASELINES)
]


@pytest.fixture
def digest(request: pytest.FixtureRequest) -> Iterator[Callable[[bytes], object]]:
    """Return what hashes a file, with the variant's implementation in use."""
    algorithm, name = request.param
    if name == "hashlib-stream":
        yield lambda data: hashlib.new(algorithm.hash_name, data, usedforsecurity=False).digest()
    elif name == "hashlib-leaves":
        yield lambda data: _leaves(algorithm, data)
    else:
        before = _native.hash_implementation(algorithm.kernel_id)
        _native.select_hash_implementation(algorithm.kernel_id, name)
        yield lambda data: compute_digest(data, algorithm)
        _native.select_hash_implementation(algorithm.kernel_id, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("digest", VARIANTS, indirect=True)
def test_verity_digest(benchmark: BenchmarkFixture, digest: Callable[[bytes], object], size: int) -> None:
    """Time the digest of one file; the group compares everything of one size."""
    data = Random(size).randbytes(size)
    benchmark.group = f"{size} bytes"

    benchmark(digest, data)

    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["MB/s"] = round(size / benchmark.stats.stats.median / 1e6)


def _leaves(algorithm: Algorithm, data: bytes) -> None:
    view, new = memoryview(data), getattr(hashlib, algorithm.hash_name)
    for start in range(0, len(data), BLOCK_SIZE):
        new(view[start : start + BLOCK_SIZE], usedforsecurity=False).digest()
