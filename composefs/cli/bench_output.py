"""What `composefs bench` prints: tables of at most 80 columns, or JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap

from composefs.benchmark.estimate import Bound, Estimate
from composefs.benchmark.storing import FileSpeed
from composefs.benchmark.suite import Results
from composefs.benchmark.workload import Workload
from composefs.cli.output import print_table, printable
from composefs.digest import Algorithm
from composefs.oci.manifest import Compression

_WIDTH = 80  # columns


def print_tables(results: Results) -> None:
    """Print what was measured."""
    _print_machine(results)
    print("\nHashing, one core; a kernel with a star is in use")
    rows = []
    for algorithm in Algorithm:
        name, stream = algorithm.hash_name, results.streams[algorithm.hash_name]
        rows += [
            (
                f"{name} {kernel.name}{' *' if kernel.chosen else ''}",
                _gigabytes(kernel.large),
                f"{kernel.large / stream:.2f}",
                _gigabytes(kernel.small),
            )
            for kernel in results.kernels
            if kernel.algorithm is algorithm
        ]
        rows.append((f"{name} {results.stream_library}, stream", _gigabytes(stream), "1.00", "-"))
    print_table(("KERNEL", "1 MIB FILES", "OF STREAM", "4 KIB FILES"), rows)
    print("\nDecompression, one core")
    decoders = [(each.compression.value, each.library, f"{each.rate / 1e6:.0f} MB/s") for each in results.decoders]
    print_table(("LAYERS", "DECODER", "OUTPUT"), decoders)
    if results.files is not None:
        _print_files(results.files)


def print_estimate(results: Results, workload: Workload, estimate: Estimate, algorithm: Algorithm) -> None:
    """Print what an import takes."""
    kinds = {layer.compression for layer in workload.layers}
    blobs = kinds.pop().value if len(kinds) == 1 else "blobs"
    _print_text(
        f"\nEstimate of an import, {algorithm.hash_name}: {_count(len(workload.layers), 'layer')}, "
        f"{workload.blob_size / 1e9:.2f} GB of {blobs}, {workload.archive_size / 1e9:.2f} GB of archives, "
        f"{workload.entries:,} entries, {workload.objects:,} files to store"
    )
    total = sum(estimate.stages.values())
    rows = [
        (name, f"{seconds:.1f} s", f"{100 * seconds / total:.0f} %" if total else "-")
        for name, seconds in estimate.stages.items()
    ]
    print_table(("STAGE", "CPU TIME", "SHARE"), rows)
    flush = estimate.by_bound[Bound.FLUSH]
    print(f"\n{_count(estimate.workers, 'worker')}: at least {estimate.seconds:.1f} s, up to half as much again")
    print(f"of which layers {estimate.layers:.1f} s, image {estimate.image:.1f} s, flush {flush:.1f} s")
    if results.files is None:
        print("without files and entries, which could not be tried")
    _print_text(f"bound by {describe_bound(workload, estimate)}")
    print(f"recommended: --workers {estimate.workers}")


def describe_bound(workload: Workload, estimate: Estimate) -> str:
    """Return in words what an import waits for most."""
    match estimate.bound:
        case Bound.CPU:
            stage, total = estimate.largest_stage, sum(estimate.stages.values())
            share = 100 * estimate.stages[stage] / total if total else 0
            return f"the CPU, most of it {stage} ({share:.0f} %)"
        case Bound.STREAM:
            compression = max(workload.layers, key=lambda layer: layer.archive).compression
            if compression is Compression.NONE:
                return "SHA-256: the stream of the largest layer is hashed by one core"
            return f"{compression.value}: the stream of the largest layer is inflated by one core"
        case Bound.FILES:
            return "the file system: creating files"
        case Bound.FLUSH:
            return "the disk: flushing what was written"


def print_json(results: Results, workload: Workload, estimate: Estimate) -> None:
    """Print everything as one JSON object."""
    files, entries, system = results.files, results.entries, results.file_system
    value = {
        "cpu": dataclasses.asdict(results.cpus) | {"usable": float(results.cpus.usable)},
        "load": results.load,
        "directory": results.directory,
        "file_system": dataclasses.asdict(system) if system is not None else None,
        "obstacle": results.obstacle,
        "kernels": [
            {
                "hash": kernel.algorithm.hash_name,
                "name": kernel.name,
                "chosen": kernel.chosen,
                "large": kernel.large,
                "small": kernel.small,
                "ratio": kernel.large / results.streams[kernel.algorithm.hash_name],
            }
            for kernel in results.kernels
        ],
        "streams": [
            {"hash": name, "library": results.stream_library, "rate": rate} for name, rate in results.streams.items()
        ],
        "decoders": [
            {
                "compression": each.compression.name.lower(),
                "library": each.library,
                "rate": each.rate,
                "ratio": each.ratio,
            }
            for each in results.decoders
        ],
        "files": dataclasses.asdict(files) if files is not None else None,
        "entries": dataclasses.asdict(entries) if entries is not None else None,
        "workload": {
            "layers": len(workload.layers),
            "blob_size": workload.blob_size,
            "archive_size": workload.archive_size,
            "entries": workload.entries,
            "objects": workload.objects,
        },
        "estimate": {
            "workers": estimate.workers,
            "seconds": estimate.seconds,
            "layers": estimate.layers,
            "image": estimate.image,
            "flush": estimate.by_bound[Bound.FLUSH],
            "complete": files is not None,
            "bound": estimate.bound.value,
            "because": describe_bound(workload, estimate),
            "stages": [{"name": name, "cpu_seconds": seconds} for name, seconds in estimate.stages.items()],
            "bounds": [{"name": bound.value, "seconds": seconds} for bound, seconds in estimate.by_bound.items()],
        },
    }
    print(json.dumps(value, indent=2))


def _print_machine(results: Results) -> None:
    cpus, system = results.cpus, results.file_system
    limits = [f"{cpus.online} online", f"{cpus.affinity} by affinity"]
    limits.append(f"{cpus.quota:.2f} by quota" if cpus.quota is not None else "no quota")
    _print_text(f"{cpus.model}: {cpus.usable:g} CPUs for this process ({', '.join(limits)})")
    if results.load > cpus.usable / 2:
        _print_text(f"load average {results.load:.1f}: other work makes these figures worse")
    if system is None:
        _print_text(f"{results.obstacle}: no files are created")
        return
    abilities = {"O_TMPFILE": system.unnamed_files, "reflinks": system.reflinks, "fs-verity": system.verity}
    texts = [f"{name} {'yes' if able else 'no'}" for name, able in abilities.items()]
    _print_text(f"{results.directory}: {system.kind}, {', '.join(texts)}")


def _print_files(files: FileSpeed) -> None:
    print(f"\nFiles, {files.mean_size / 1e3:.0f} kB in the mean")
    rows = [("created by 1 writer", _microseconds(files.one))]
    if files.writers > 1:
        rows.append((f"created by {files.writers} writers", _microseconds(files.several)))
    if files.seal is not None:
        rows.append(("fs-verity enabled", _microseconds(files.seal)))
    flush = files.flush + files.mean_size / files.flush_rate
    rows += [
        ("flushed", _microseconds(flush)),
        ("large file, written", _gigabytes(files.write_rate)),
        ("large file, flushed", _gigabytes(files.flush_rate)),
    ]
    print_table(("WHAT", "SPEED"), rows)


def _print_text(text: str) -> None:
    """Print *text*, which may begin with a new line, in lines that fit."""
    body = text.lstrip("\n")
    if body != text:
        print()
    print("\n".join(textwrap.wrap(printable(body), _WIDTH, break_long_words=False, break_on_hyphens=False)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _gigabytes(rate: float) -> str:
    """Return a rate; what no disk could do is that of memory only."""
    return f"{rate / 1e9:.2f} GB/s" if rate < 1e12 else "at once"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us a file"
