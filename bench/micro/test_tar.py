"""How fast an archive is split into headers and contents, against `tarfile`, which only reads the headers."""

from __future__ import annotations

import io
import tarfile
from random import Random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from composefs.tar import Content, TarSplitter

ENTRIES = 2_000
PIECES = (64 << 10, 1 << 20)  # bytes fed at once


@pytest.fixture(scope="module")
def archive() -> bytes:
    """Return an archive of directories, symlinks and files of up to 100 kB, most of them small."""
    rng = Random(1)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(ENTRIES):
            info = tarfile.TarInfo(f"usr/share/package-{number // 40}/name-of-entry-{number}")
            info.type = rng.choices((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE), (75, 15, 10))[0]
            info.mtime = rng.randrange(1_600_000_000, 1_700_000_000)
            if info.isreg():
                info.size = round(100_000 * rng.random() ** 6)
            elif info.issym():
                info.linkname = f"../target-{number}"
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


@pytest.mark.parametrize("piece", PIECES)
def test_split(benchmark: BenchmarkFixture, archive: bytes, piece: int) -> None:
    """Time the splitter over a whole archive, fed in pieces of one size."""
    view = memoryview(archive)

    def split() -> int:
        splitter = TarSplitter("benchmark")
        contents = 0
        for start in range(0, len(view), piece):
            for event in splitter.feed(view[start : start + piece]):
                contents += isinstance(event, Content)
        splitter.close()
        return contents

    contents = benchmark(split)

    assert contents > ENTRIES // 2
    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["us/entry"] = round(benchmark.stats.stats.median / ENTRIES * 1e6, 2)


def test_tarfile(benchmark: BenchmarkFixture, archive: bytes) -> None:
    """Time the standard library over the same archive, passing over the contents."""

    def read() -> int:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            return sum(1 for _ in tar)

    count = benchmark(read)

    assert count == ENTRIES
    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["us/entry"] = round(benchmark.stats.stats.median / ENTRIES * 1e6, 2)
