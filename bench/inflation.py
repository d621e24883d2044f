"""Compare one thread that inflates a large layer with several, for all ways to compress it.

    python bench/inflation.py [--scale small|medium|full] [--runs 5] [--out FILE]

Everything is run in turn, round after round, so a ratio compares what ran in the same round.  Where fewer than three
CPUs are idle an import does not begin such threads: the column of threads shows what they would do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import zstandard
from images import KINDS, tar_parts
from trees import SCALES

from composefs import Repository
from composefs.oci import inflation
from composefs.oci import layer as layer_module
from composefs.oci.layer import LayerJob, import_layer
from composefs.oci.manifest import Compression
from composefs.oci.progress import Board
from composefs.oci.sources.source import Blob, FileRange
from composefs.tar import TarSplitter

_CHUNK_SIZE = 1 << 16  # bytes: about what zstd:chunked cuts files into
_FRAME_SIZE = 8 << 20  # bytes of archive, as pzstd has them
_GO_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

Pack = Callable[[bytes], bytes]


class Form(NamedTuple):
    """A way to compress a layer."""

    name: str
    compression: Compression
    part_size: int | None  # bytes of archive of a frame or member; None: the parts are headers, and chunks of files


FORMS = (
    Form("zstd, one frame", Compression.ZSTD, 1 << 40),
    Form("zstd, frames of 8 MiB", Compression.ZSTD, _FRAME_SIZE),
    Form("zstd:chunked", Compression.ZSTD, None),
    Form("gzip, one member", Compression.GZIP, 1 << 40),
    Form("eStargz", Compression.GZIP, None),
)


class Times(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


class Bytes:
    """A blob in memory."""

    source = "layer"

    def __init__(self, data: bytes) -> None:
        self._data, self.offset = data, 0

    def read(self, size: int) -> bytes:
        piece = self._data[self.offset : self.offset + size]
        self.offset += len(piece)
        return piece


def pack(archive: bytes, form: Form) -> bytes:
    """Return the blob of *archive*; tables of contents, which nobody needs here, are left out."""
    compress = _frame if form.compression is Compression.ZSTD else _member
    if form.part_size is None:
        return b"".join(map(compress, _parts(archive)))
    return b"".join(
        compress(archive[start : start + form.part_size]) for start in range(0, len(archive), form.part_size)
    )


def _parts(archive: bytes) -> Iterator[bytes]:
    """Yield headers with the padding before them, and chunks of files."""
    splitter = TarSplitter()
    for start in range(0, len(archive), _CHUNK_SIZE):
        for event in splitter.feed(archive[start : start + _CHUNK_SIZE]):
            yield bytes(event.data)


def _frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def _member(data: bytes) -> bytes:
    encoder = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = encoder.compress(data) + encoder.flush()
    return _GO_HEADER + body + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


def inflate(blob: bytes, form: Form, *, has_threads: bool) -> Times:
    """Inflate *blob* for nobody."""
    return timed(lambda: sum(map(len, inflation.inflate(Bytes(blob), form.compression, lambda: has_threads))))


def import_blob(file: Path, blob: Blob, diff_id: str, *, has_threads: bool | None) -> Times:
    """Import the layer in *file* into an empty repository beside it; None: threads as an import has them."""
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        Repository.init(f"{place}/repository")
        board = Board(1)
        try:
            job = LayerJob(f"{place}/repository", blob, diff_id, "layer", board.path, 0, wants_index=True)
            with patch.object(layer_module, "inflate", _inflate_with(has_threads=has_threads)):
                return timed(lambda: import_layer(job))
        finally:
            board.close()


def _inflate_with(*, has_threads: bool | None) -> Callable[..., Iterable[bytes]]:
    if has_threads is None:
        return inflation.inflate
    return lambda blob, compression, _: inflation.inflate(blob, compression, lambda: has_threads)


def timed(work: Callable[[], object]) -> Times:
    """Return the seconds that *work* takes, of the clock and of all CPUs."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def measure(archive: bytes, form: Form, runs: int, place: Path) -> dict[str, object]:
    """Measure one form of the layer."""
    data, diff_id = pack(archive, form), "sha256:" + sha256(archive).hexdigest()
    file = place / "blob"
    file.write_bytes(data)
    blob = Blob(FileRange(str(file)), "sha256:" + sha256(data).hexdigest(), len(data), form.compression)
    works: dict[str, Callable[[], Times]] = {
        "inflate, one thread": lambda: inflate(data, form, has_threads=False),
        "inflate, threads": lambda: inflate(data, form, has_threads=True),
        "import, one thread": lambda: import_blob(file, blob, diff_id, has_threads=False),
        "import, threads": lambda: import_blob(file, blob, diff_id, has_threads=True),
        "import, as it is": lambda: import_blob(file, blob, diff_id, has_threads=None),
    }
    rounds = [{name: work() for name, work in works.items()} for _ in range(runs + 1)][1:]  # the first one warms up
    row: dict[str, object] = {"form": form.name, "size": len(data)}
    for name in works:
        first = name.partition(",")[0] + ", one thread"
        row[name] = {
            "wall": median(times[name].wall for times in rounds),
            "cpu": median(times[name].cpu for times in rounds),
            "wall_ratio": median(times[name].wall / times[first].wall for times in rounds),
            "cpu_ratio": median(times[name].cpu / times[first].cpu for times in rounds),
        }
    return row


def show(row: dict[str, object]) -> str:
    """Return a line about *row*."""
    cells = [f"{row['form']:22} {row['size'] / 1e6:6.1f} MB"]  # type: ignore[operator]
    for name, figures in row.items():
        if isinstance(figures, dict):
            ratios = f"{figures['wall']:.2f} s x{figures['wall_ratio']:.2f}, CPU x{figures['cpu_ratio']:.2f}"
            cells.append(f"{name}: {ratios}")
    return "\n    ".join(cells)


def main() -> int:
    """Print the figures; with a file, write them into it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="medium")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--form", choices=[form.name for form in FORMS], action="append", help="default: all")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    entries = [entry for plan in KINDS["one-gzip"].layers(args.scale)[0] for entry in plan()]
    archive = b"".join(tar_parts(entries))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for form in FORMS:
            if not args.form or form.name in args.form:
                rows.append(measure(archive, form, args.runs, Path(place)))
                print(show(rows[-1]), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"archive": len(archive), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
