"""What each implementation of the hashes makes of one core, against OpenSSL: `hashes.py [--out FILE]`.

Everything is run in turn, round after round, on the CPU's clock of this thread: the figures are medians of rounds, and
a ratio compares what ran in the same round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

from composefs import _native
from composefs.digest import BLOCK_SIZE, Algorithm

ROUNDS = 31
ROUND_MIN = 2e-3  # seconds that a thing is repeated for in a round
FILE_SIZE = 1 << 20
SLOT_SIZE = 256 << 10  # bytes that an import hashes at once
OPENSSL = "OpenSSL"

Span = tuple[int, int]
Work = Callable[[], object]


class Candidate(NamedTuple):
    """Something to time."""

    algorithm: Algorithm
    implementation: str
    what: str
    size: int  # bytes of data
    work: Work


class Row(NamedTuple):
    """What came out."""

    hash: str
    implementation: str
    what: str
    gb_per_second: float  # of data, whatever is done with it
    ratio: float  # the time of OpenSSL, one stream of the same bytes for each digest, over this one's


def files_of_an_image(size: int) -> list[Span]:
    """Lay files as in a tar archive, half of them of one block, into *size* bytes."""
    rng, spans, offset = Random(1), list[Span](), 512
    while offset < size:
        length = min(round(100 * 1000 ** rng.random() ** 2), size - offset)
        spans.append((offset, length))
        offset += 512 + (length + 511) // 512 * 512
    return spans


def candidates(algorithm: Algorithm) -> Iterator[Candidate]:
    """Yield all there is to time of one hash; OpenSSL's first."""
    data = Random(2).randbytes(FILE_SIZE)
    slot = memoryview(data)[:SLOT_SIZE]
    single = pack((start, BLOCK_SIZE) for start in range(0, SLOT_SIZE, BLOCK_SIZE))
    spans = files_of_an_image(SLOT_SIZE)
    mixed = pack(spans)
    yield Candidate(algorithm, OPENSSL, "one stream", FILE_SIZE, lambda: stream(algorithm, data))
    yield Candidate(algorithm, OPENSSL, "its blocks", FILE_SIZE, lambda: leaves(algorithm, data, [(0, FILE_SIZE)]))
    yield Candidate(algorithm, OPENSSL, "files of an image", SLOT_SIZE, lambda: leaves(algorithm, data, spans))
    for name in _native.hash_implementations(algorithm.kernel_id):
        yield Candidate(algorithm, name, "a file of 1 MiB", FILE_SIZE, lambda: file(algorithm, data))
        yield Candidate(algorithm, name, "files of 4 KiB", SLOT_SIZE, lambda: files(algorithm, slot, single))
        yield Candidate(algorithm, name, "files of an image", SLOT_SIZE, lambda: files(algorithm, slot, mixed))
    fastest = _native.hash_implementations(algorithm.kernel_id)[0]
    yield Candidate(
        algorithm, fastest, "files of an image, then a stream", SLOT_SIZE, lambda: one_by_one(algorithm, slot, mixed)
    )
    yield Candidate(
        algorithm, fastest, "files of an image beside a stream", SLOT_SIZE, lambda: fused(algorithm, slot, mixed)
    )


def pack(spans: Iterable[Span]) -> bytes:
    """Return the spans as C wants them."""
    return b"".join(struct.pack("=QQ", *span) for span in spans)


def stream(algorithm: Algorithm, data: _native.Buffer) -> bytes:
    """Hash *data* by OpenSSL."""
    return hashlib.new(algorithm.hash_name, data, usedforsecurity=False).digest()


def leaves(algorithm: Algorithm, data: bytes, spans: list[Span]) -> None:
    """Hash each block of the files by OpenSSL, padded: the leaves of their trees without the trees."""
    view, new = memoryview(data), getattr(hashlib, algorithm.hash_name)
    for offset, size in spans:
        for start in range(offset, offset + size, BLOCK_SIZE):
            block = view[start : min(start + BLOCK_SIZE, offset + size)]
            if len(block) < BLOCK_SIZE:
                block = memoryview(bytes(block).ljust(BLOCK_SIZE, b"\0"))
            new(block, usedforsecurity=False).digest()


def file(algorithm: Algorithm, data: bytes) -> bytes:
    """Digest one file."""
    return _native.verity_digest(algorithm.kernel_id, data, algorithm.digest_size)


def files(algorithm: Algorithm, data: _native.Buffer, spans: bytes, beside: _native.StreamHash | None = None) -> bytes:
    """Digest the files that lie in *data*."""
    return _native.verity_digests(algorithm.kernel_id, data, spans, algorithm.digest_size, beside)


def one_by_one(algorithm: Algorithm, data: _native.Buffer, spans: bytes) -> str:
    """Digest the files, then all of *data* by OpenSSL's SHA-256, as a diff_id is."""
    files(algorithm, data, spans)
    return hashlib.sha256(data).hexdigest()


def fused(algorithm: Algorithm, data: _native.Buffer, spans: bytes) -> str:
    """Do what `one_by_one` does, both at once."""
    beside = _native.StreamHash(algorithm.kernel_id)
    beside.begin(data)
    files(algorithm, data, spans, beside)
    beside.finish()
    return beside.hexdigest()


def timed(candidate: Candidate, repeats: int) -> float:
    """Return the seconds of one run, of the mean of *repeats*."""
    if candidate.implementation != OPENSSL:
        _native.select_hash_implementation(candidate.algorithm.kernel_id, candidate.implementation)
    begin = time.thread_time()
    for _ in range(repeats):
        candidate.work()
    return (time.thread_time() - begin) / repeats


def measure(algorithm: Algorithm) -> list[Row]:
    """Time everything of one hash."""
    known = list(candidates(algorithm))
    sha256 = Candidate(Algorithm.SHA256, OPENSSL, "one stream", FILE_SIZE, known[0].work)
    if algorithm is not Algorithm.SHA256:
        sha256 = next(candidates(Algorithm.SHA256))
    runs = [*known, sha256]
    repeats = [max(1, round(ROUND_MIN / timed(run, 2))) for run in runs]
    rounds = [[timed(run, count) for run, count in zip(runs, repeats, strict=True)] for _ in range(ROUNDS)]
    _native.select_hash_implementation(algorithm.kernel_id, _native.hash_implementations(algorithm.kernel_id)[0])

    rows = []
    for index, run in enumerate(known):
        with_stream = run.what.endswith("stream") and run.implementation != OPENSSL
        ratios = [
            (times[0] + (times[-1] if with_stream else 0)) / FILE_SIZE * run.size / times[index] for times in rounds
        ]
        speed = run.size / median(times[index] for times in rounds) / 1e9
        rows.append(Row(algorithm.hash_name, run.implementation, run.what, speed, median(ratios)))
    return rows


def main() -> None:
    """Print the table; with a file, write the rows into it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE")
    out = parser.parse_args().out
    rows = [row for algorithm in Algorithm for row in measure(algorithm)]
    print("| hash | implementation | what | GB/s | over OpenSSL |\n| --- | --- | --- | ---: | ---: |")
    for row in rows:
        print(f"| {row.hash} | {row.implementation} | {row.what} | {row.gb_per_second:.2f} | {row.ratio:.2f} |")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"rows": [row._asdict() for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
