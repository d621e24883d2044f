"""What the kernel measures is what is computed here, and what `fsverity` says, for every size and both hashes."""

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, _native, verity
from composefs.digest import Digest
from composefs.errors import RepositoryError
from composefs.repository import Repository
from tests.kernel.images import has_verity
from tests.layouts import noise
from tests.tools import require_tool

MEBI = 1 << 20
EDGES = (
    [0, 1, 4095, 4096, 4097, MEBI, 3 * MEBI + 17]
    + [4096 * 64 + more for more in (-1, 0, 1)]  # leaves whose hashes fill a block, by SHA-512
    + [4096 * 128 + more for more in (-1, 0, 1)]  # and by SHA-256
)
LEVELS = {Algorithm.SHA256: 4096 * 128**2, Algorithm.SHA512: 4096 * 64**2}  # bytes that fill two levels of the tree
ALGORITHMS = pytest.mark.parametrize("algorithm", Algorithm, ids=lambda algorithm: algorithm.hash_name)


def random_sizes(seed: int) -> list[int]:
    """Return some sizes, most of them small."""
    chance = random.Random(seed)
    return [int(2 ** chance.uniform(7, 19)) for _ in range(24)]


def measured_by_fsverity(paths: list[Path]) -> list[str]:
    """Return what `fsverity measure` prints of files, without their paths."""
    done = subprocess.run(["fsverity", "measure", *paths], check=True, capture_output=True, text=True)
    return [line.split()[0] for line in done.stdout.splitlines()]


@pytest.mark.every_kernel
@ALGORITHMS
def test_sizes(disk: Path, algorithm: Algorithm) -> None:
    """Files of all sizes: stored in bulk, or one at a time, each is sealed with the digest that was computed."""
    require_tool("fsverity")
    path = disk / "repository"
    if not has_verity(disk):
        with pytest.raises(RepositoryError, match="the file system has no fs-verity"):
            Repository.init(path, algorithm, require_verity=True)
        return
    Repository.init(path, algorithm)
    contents = [noise(size, number) for number, size in enumerate(EDGES + random_sizes(1))]
    digests = [verity.compute_digest(content, algorithm) for content in contents]
    data = b"".join(contents)
    offsets = [sum(map(len, contents[:number])) for number in range(len(contents))]
    spans = b"".join(struct.pack("=QQ", *span) for span in zip(offsets, map(len, contents), strict=True))

    with Repository.open(path, require_verity=True) as repository:
        store = repository.objects
        # C writes, seals and links; of those that it finds it measures, and Python is not asked.
        assert list(store.ensure_spans(data, spans, b"".join(digest.raw for digest in digests))) == [
            (digest.raw, True) for digest in digests
        ]
        assert [store.ensure(content) for content in contents] == [(digest.raw, False) for digest in digests]
        for digest, content in zip(digests, contents, strict=True):
            with store.open(digest) as file:
                assert verity.measure(file.fileno(), algorithm) == digest
                assert file.read() == content
        paths = [path / "objects" / digest.object_path for digest in digests]
        assert measured_by_fsverity(paths) == [f"{algorithm.hash_name}:{digest.hex}" for digest in digests]

        _forget(paths[:8])
        stored = [store.ensure(content) for content in contents[:4]]
        stored += [store.ensure_pieces([content[:100], content[100:]]) for content in contents[4:8]]
        assert stored == [(digest.raw, True) for digest in digests[:8]]
        assert measured_by_fsverity(paths[:8]) == [f"{algorithm.hash_name}:{digest.hex}" for digest in digests[:8]]


def _forget(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(("algorithm", "more"), [(Algorithm.SHA512, 0), (Algorithm.SHA512, 1), (Algorithm.SHA256, 1)])
def test_levels(scratch: Path, algorithm: Algorithm, more: int) -> None:
    """A file of zeros that fills two levels of the tree, or needs the third."""
    path = scratch / "file"
    with path.open("wb") as file:
        file.truncate(LEVELS[algorithm] + more)
    with path.open("rb") as file:
        assert verity.enable(file.fileno(), algorithm)
        assert verity.measure(file.fileno(), algorithm) == verity.compute_file_digest(file.fileno(), algorithm)


@contextmanager
def file_system(scratch: Path, block_size: int) -> Iterator[Path]:
    """Yield where an ext4 with blocks of that size is mounted."""
    image, point = scratch / "device", scratch / "point"
    point.mkdir()
    with image.open("wb") as device:
        device.truncate(16 * MEBI)
    subprocess.run(["mkfs.ext4", "-q", "-b", str(block_size), "-O", "verity", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        image.unlink()
        point.rmdir()


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
@pytest.mark.parametrize("salt", [b"", b"salt", b"s" * 32])
def test_other_trees(scratch: Path, block_size: int, salt: bytes) -> None:
    """Trees that no repository has are the kernel's, too: other blocks, and a salt."""
    for number, size in enumerate([0, 1, block_size, block_size + 1, 300_001]):
        for algorithm in Algorithm:
            path = scratch / f"{number}-{algorithm.hash_name}"
            path.write_bytes(data := noise(size, number))
            fd = os.open(path, os.O_RDONLY)
            try:
                _native.enable_verity(fd, algorithm.kernel_id, block_size, salt)
                measured = _native.measure_verity(fd)
            finally:
                os.close(fd)
            computed = _native.verity_digest(algorithm.kernel_id, data, algorithm.digest_size, block_size, salt)
            assert measured == (algorithm.kernel_id, computed), (size, algorithm)


def test_small_blocks(scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where blocks are smaller than those of the tree there is no fs-verity for us: said, or done without."""
    with file_system(scratch, 1024) as point:
        (point / "file").write_bytes(b"content")
        with (point / "file").open("rb") as file:
            assert verity.is_known(file.fileno())  # for other trees
            assert not verity.enable(file.fileno(), Algorithm.SHA512)

        assert Repository.init(point / "repository")
        with Repository.open(point / "repository") as repository:
            assert not repository.verity
            assert repository.objects.seals  # until one could not be
            digest, is_new = repository.objects.ensure(b"an object" * 1000)
            assert is_new
            assert not repository.objects.seals
            spans = struct.pack("=QQQQ", 0, 100, 0, 200)
            contents = [bytes(100), bytes(200)]
            digests = b"".join(verity.compute_digest(content, Algorithm.SHA512).raw for content in contents)
            assert [new for _, new in repository.objects.ensure_spans(bytes(200), spans, digests)] == [True, True]
            assert repository.objects.exists(Digest(Algorithm.SHA512, digest))
