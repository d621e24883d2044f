"""What an import takes here, and what bounds it: the parts, put together.

Layers are imported in parallel, and nothing makes that faster than the slowest of three things: the CPU seconds of all
stages, on the CPUs that there are; the one stream of the largest layer, which a single core decompresses; and the file
system, which creates only so many files in a second.  Behind that come the image, made by one core, and the flush of
what the kernel has not written meanwhile.

It is an estimate: the start of processes, threads that wait for each other, other work and the luck of a disk are not
in it.  Where it was tried, an image of 4.6 GB on two CPUs, imports took a fifth to a half more CPU time than it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from composefs.benchmark.entries import EntrySpeed
from composefs.benchmark.storing import FileSpeed
from composefs.benchmark.workload import LayerSize, Workload
from composefs.digest import BLOCK_SIZE
from composefs.oci.manifest import Compression

_HEADER_SIZE = 768  # bytes of an archive for each entry that are no contents: a header, and half a block of padding
_LAYER_CORES = 2  # that the threads of one layer keep busy: one decompresses, the others hash and store
_OVERLAP = 0.85  # of them, since the two sides do not have the same work
_DOUBT = 1.1  # fewer workers must be faster by more than that to be recommended; a guess at the error


class Bound(Enum):
    """What an import waits for most."""

    CPU = "cpu"
    STREAM = "stream"  # of the largest layer
    FILES = "files"  # their creation
    FLUSH = "flush"


@dataclass(frozen=True)
class Speeds:
    """How fast the parts are, on one core; rates are bytes a second."""

    decoders: Mapping[Compression, float]
    digest: float  # SHA-256 as one stream
    leaves: float  # fs-verity digests of large files
    small_file: float  # seconds for the digest of a file of one block
    entries: EntrySpeed | None  # None, as also the next: nothing could be written
    files: FileSpeed | None
    dirty_max: int  # bytes that the kernel keeps before it begins to write


@dataclass(frozen=True)
class Estimate:
    """What an import takes with *workers*, in seconds."""

    workers: int
    stages: Mapping[str, float]  # CPU seconds by stage, while layers are imported
    by_bound: Mapping[Bound, float]  # what each would take if nothing else did
    image: float

    @property
    def layers(self) -> float:
        """Seconds until all layers are stored, not flushed."""
        return max(seconds for bound, seconds in self.by_bound.items() if bound is not Bound.FLUSH)

    @property
    def seconds(self) -> float:
        """The whole."""
        return self.layers + self.image + self.by_bound[Bound.FLUSH]

    @property
    def bound(self) -> Bound:
        """What it waits for most."""
        return max(self.by_bound, key=lambda bound: self.by_bound[bound])

    @property
    def largest_stage(self) -> str:
        """The stage that takes the most CPU."""
        return max(self.stages, key=lambda name: self.stages[name])


def estimate(workload: Workload, speeds: Speeds, *, workers: int, cpus: float) -> Estimate:
    """Return what the import of *workload* takes.

    Args:
        workload: the image.
        speeds: of the parts; without those of files, their creation and the flush take no time in the result.
        workers: layers at the same time.
        cpus: that can be used, also parts of one.
    """
    stages = _stages(workload, speeds)
    work = sum(stages.values())
    stream = max((_stream_seconds(layer, speeds) for layer in workload.layers), default=0.0)
    largest = max((layer.archive for layer in workload.layers), default=0)
    its_work = work * largest / workload.archive_size if largest else 0.0
    by_bound = {
        Bound.CPU: work / _cores(workers, cpus),
        Bound.STREAM: max(stream / min(1, cpus), its_work / _cores(1, cpus)),
        Bound.FILES: _creation_seconds(workload, speeds.files, workers),
        Bound.FLUSH: 0.0,
    }
    by_bound[Bound.FLUSH] = _flush_seconds(workload, speeds, max(by_bound.values()))
    image = workload.entries * speeds.entries.image if speeds.entries is not None else 0.0
    return Estimate(workers, stages, by_bound, image)


def recommend(workload: Workload, speeds: Speeds, cpus: float) -> Estimate:
    """Return the estimate for the number of workers that is recommended; arguments are those of `estimate`.

    That is one for each CPU, but not more than layers; or fewer, where that many are in each other's way on the disk.
    """
    most = max(1, min(math.ceil(cpus), len(workload.layers)))
    estimates = [estimate(workload, speeds, workers=workers, cpus=cpus) for workers in range(1, most + 1)]
    best = min(each.seconds for each in estimates)
    return next(each for each in reversed(estimates) if each.seconds <= _DOUBT * best)


def _cores(workers: int, cpus: float) -> float:
    """Return how many CPUs so many workers keep busy: one each, or with the threads of a layer up to two."""
    return max(min(workers, cpus), _OVERLAP * min(_LAYER_CORES * workers, cpus))


def _stages(workload: Workload, speeds: Speeds) -> dict[str, float]:
    """Return the CPU seconds of each stage."""
    stages: dict[str, float] = {}
    for compression, rate in speeds.decoders.items():
        size = sum(layer.archive for layer in workload.layers if layer.compression is compression)
        if size:
            stages[compression.value] = size / rate
    compressed = [layer for layer in workload.layers if layer.compression is not Compression.NONE]
    if compressed:
        stages["blob digest"] = sum(layer.blob for layer in compressed) / speeds.digest
    stages["diff_id"] = workload.archive_size / speeds.digest
    contents = _content_size(workload)
    beyond = max(0, contents - workload.objects * BLOCK_SIZE)
    stages["leaves"] = workload.objects * speeds.small_file + beyond / speeds.leaves
    if speeds.entries is not None:
        stages["entries"] = workload.entries * speeds.entries.layer
    if speeds.files is not None:
        stages["files"] = workload.objects * speeds.files.cpu + _beyond_files(workload, speeds.files)
    return stages


def _stream_seconds(layer: LayerSize, speeds: Speeds) -> float:
    """Return what one core takes for what can be done by one core only: decompress a blob, or hash an archive."""
    hashing = layer.archive / speeds.digest
    if layer.compression is Compression.NONE:
        return hashing
    return max(layer.archive / speeds.decoders[layer.compression] + layer.blob / speeds.digest, hashing)


def _creation_seconds(workload: Workload, files: FileSpeed | None, workers: int) -> float:
    """Return what the file system takes to create all files."""
    if files is None:
        return 0.0
    more = max(files.writers - 1, 1)
    share = min(workers - 1, more) / more  # of the way from one writer to all that were tried
    each = files.one + (files.several - files.one) * share + (files.seal or 0) / workers
    return workload.objects * each + _beyond_files(workload, files) / workers


def _beyond_files(workload: Workload, files: FileSpeed) -> float:
    """Return the seconds to write what the files of the image have more than those that were tried."""
    return max(0, _content_size(workload) - workload.objects * files.mean_size) / files.write_rate


def _flush_seconds(workload: Workload, speeds: Speeds, before: float) -> float:
    """Return what is left for the flush, if the kernel has had *before* seconds to write."""
    if speeds.files is None:
        return 0.0
    size = _content_size(workload)
    left = max(float(min(size, speeds.dirty_max)), size - speeds.files.flush_rate * before)
    return left / speeds.files.flush_rate + workload.objects * speeds.files.flush


def _content_size(workload: Workload) -> int:
    return max(0, workload.archive_size - workload.entries * _HEADER_SIZE)
