"""Make seeded OCI layouts to measure with: always the same, as large and as compressible as real images.

    python bench/images.py [OUT] --scale full|medium|small [--kind KIND]...

Each image is a directory of OUT (default: .cache/bench, which git ignores):

    v<version>-<scale>-<kind>/layout/      the OCI layout
    v<version>-<scale>-<kind>/stats.json   counts and sizes

It is made beside its place and renamed, so what is there is whole and is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from struct import Struct

import trees
import zstandard
from material import Texture, material

VERSION = 1  # increase with every change of what is generated
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"

_BLOCK = 512  # bytes; everything in a tar is padded to whole ones
_PIECE = 1 << 20  # bytes given to the compressor at once
# name, mode, uid, gid, size, mtime, checksum, type, link name, magic and version,
# user name, group name, device major, minor, prefix
_HEADER = Struct("<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
assert _HEADER.size == _BLOCK
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Go's names, which OCI uses
_CREATED = "2026-01-01T00:00:00Z"

Plan = Callable[[], list[trees.Entry]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A shape of image."""

    compression: str  # suffix of the media type: gzip, zstd, or empty
    cost: float  # to generate a byte, relative to gzip
    layers: Callable[[str], list[list[Plan]]]  # for a scale: of each layer, the plans it consists of


def _many(scale: str, *, updated: bool = False) -> list[list[Plan]]:
    return [[partial(trees.layer, scale, index, updated=updated)] for index in range(len(trees.LAYER_SHARES))]


def _one(scale: str) -> list[list[Plan]]:
    return [[plan for plans in _many(scale) for plan in plans]]


KINDS = {
    "many-gzip": Kind("gzip", 1, _many),
    "one-gzip": Kind("gzip", 1, _one),
    "many-zstd": Kind("zstd", 0.2, _many),
    "many-plain": Kind("", 0.05, _many),
    "update-gzip": Kind("gzip", 1, partial(_many, updated=True)),
    "big-layer": Kind("gzip", 1, lambda scale: [[partial(trees.big_layer, scale)]]),
    "big-file": Kind("gzip", 0.3, lambda scale: [[partial(trees.big_file, scale)]]),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """An image to make."""

    compression: str  # as in `Kind`
    layers: list[list[Plan]]  # of each layer, the plans it consists of
    costs: list[float]  # of the layers, compared with those of other images made at the same time
    labels: dict[str, object]  # for its stats.json


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer as written, and what is in it."""

    digest: str
    diff_id: str
    size: int  # bytes, compressed
    tar_size: int  # bytes
    entries: int
    objects: int  # files over 64 bytes
    one_leaf: int  # of them, up to 4096 bytes
    object_bytes: int


def directory(scale: str, kind: str, cache: Path = CACHE) -> Path:
    """Return where an image is kept."""
    return cache / f"v{VERSION}-{scale}-{kind}"


def ensure(scale: str, kinds: Sequence[str], cache: Path = CACHE) -> dict[str, Path]:
    """Make what is missing of the images of *kinds*, on all cores; return the directory of each."""
    places = {kind: directory(scale, kind, cache) for kind in kinds}
    shapes = {}
    for kind, place in places.items():
        layers = KINDS[kind].layers(scale)
        shares = trees.LAYER_SHARES if len(layers) > 1 else (1.0,)
        costs = [share * KINDS[kind].cost for share in shares]
        shapes[place.name] = Shape(KINDS[kind].compression, layers, costs, {"scale": scale, "kind": kind})
    ensure_shapes(shapes, cache)
    return places


def ensure_shapes(shapes: Mapping[str, Shape], cache: Path = CACHE) -> None:
    """Make what is missing of the images *shapes*, by name of their directories in *cache*, on all cores."""
    cache.mkdir(parents=True, exist_ok=True)
    missing = {name: shape for name, shape in shapes.items() if not (cache / name).exists()}
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as staging:
        _make({Path(staging, name): shape for name, shape in missing.items()})
        for name in missing:
            if not (cache / name).exists():  # another process may have been faster: it made the same
                Path(staging, name).rename(cache / name)


def _make(shapes: Mapping[Path, Shape]) -> None:
    """Write the images *shapes*: all their layers over one pool, the most expensive first."""
    jobs = []
    for place, shape in shapes.items():
        (place / "layout" / "blobs" / "sha256").mkdir(parents=True)
        for index, (plans, cost) in enumerate(zip(shape.layers, shape.costs, strict=True)):
            jobs.append((cost, place, index, plans))
    jobs.sort(key=lambda job: -job[0])
    blobs: dict[Path, dict[int, Blob]] = {place: {} for place in shapes}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("forkserver")) as pool:
        futures = {
            pool.submit(_write_layer, place / "layout", index, shapes[place].compression, plans): (place, index)
            for _, place, index, plans in jobs
        }
        for future in as_completed(futures):
            place, index = futures[future]
            blobs[place][index] = future.result()
    for place, shape in shapes.items():
        layers = [blobs[place][index] for index in range(len(blobs[place]))]
        _write_layout(place / "layout", shape.compression, layers)
        (place / "stats.json").write_text(json.dumps(_stats(shape.labels, layers), indent=2) + "\n")
        shutil.rmtree(place / "layout" / "parts")


def _compressor(compression: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Return what compresses the next piece, and what ends the stream."""
    if compression == "gzip":
        gzip = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        return gzip.compress, gzip.flush
    if compression == "zstd":
        zstd = zstandard.ZstdCompressor(level=3).compressobj()
        return zstd.compress, zstd.flush
    return bytes, bytes


def _write_layer(layout: Path, index: int, compression: str, plans: list[Plan]) -> Blob:
    """Write one layer as a blob of *layout*."""
    compress, finish = _compressor(compression)
    entries = [entry for plan in plans for entry in plan()]
    parts = layout / "parts"
    parts.mkdir(exist_ok=True)
    tar_hash, blob_hash = hashlib.sha256(), hashlib.sha256()
    tar_size = 0
    with open(parts / str(index), "xb") as file:
        for piece in _pieces(tar_parts(entries)):
            tar_hash.update(piece)
            tar_size += len(piece)
            packed = compress(piece)
            blob_hash.update(packed)
            file.write(packed)
        packed = finish()
        blob_hash.update(packed)
        file.write(packed)
        size = file.tell()
    (parts / str(index)).rename(layout / "blobs" / "sha256" / blob_hash.hexdigest())
    sizes = [entry.size for entry in entries if entry.size > 64]
    return Blob(
        digest=f"sha256:{blob_hash.hexdigest()}",
        diff_id=f"sha256:{tar_hash.hexdigest()}",
        size=size,
        tar_size=tar_size,
        entries=len(entries),
        objects=len(sizes),
        one_leaf=sum(size <= 4096 for size in sizes),
        object_bytes=sum(sizes),
    )


def _pieces(parts: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Join *parts* into pieces of at least a MiB; the last may be smaller."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        if len(buffer) >= _PIECE:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


def tar_parts(entries: list[trees.Entry]) -> Iterator[bytes | memoryview]:
    """Yield the archive of *entries*."""
    source = material(trees.SEED)
    for entry in entries:
        yield _header(entry)
        if entry.size == 0:
            continue
        if entry.texture is None:
            yield from source.compressible(entry.seed, entry.size)
        elif entry.size <= 64:
            yield b"x" * entry.size
        else:
            yield from source.contents(entry.seed, entry.size, Texture(entry.texture))
        yield bytes(-entry.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _header(entry: trees.Entry) -> bytes:
    """Return the ustar header of *entry*."""
    name, prefix = entry.path.encode() + (b"/" if entry.kind == b"5" else b""), b""
    if len(name) > 100:
        cut = name.index(b"/", len(name) - 101, -1)
        name, prefix = name[cut + 1 :], name[:cut]
        assert len(prefix) <= 155, entry.path
    block = bytearray(
        _HEADER.pack(
            name,
            b"%07o\0" % entry.mode,
            b"0000000\0",
            b"0000000\0",
            b"%011o\0" % entry.size,
            b"%011o\0" % entry.mtime,
            b" " * 8,
            entry.kind,
            entry.target.encode(),
            b"ustar\x0000",
            b"root",
            b"root",
            b"0000000\0",
            b"0000000\0",
            prefix,
        )
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _write_layout(layout: Path, compression: str, layers: list[Blob]) -> None:
    """Write config, manifest and index over the blobs of *layers*."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    host = {"architecture": architecture, "os": "linux"}
    config = {
        "created": _CREATED,
        **host,
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": _CREATED, "created_by": "bench/images.py"} for _ in layers],
    }
    media_type = "application/vnd.oci.image.layer.v1.tar" + (f"+{compression}" if compression else "")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _json_blob(layout, "application/vnd.oci.image.config.v1+json", config),
        "layers": [{"mediaType": media_type, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    descriptor = _json_blob(layout, "application/vnd.oci.image.manifest.v1+json", manifest)
    annotations = {"org.opencontainers.image.ref.name": "latest"}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**descriptor, "platform": host, "annotations": annotations}],
    }
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _json_blob(layout: Path, media_type: str, value: object) -> dict[str, object]:
    """Write *value* as a blob and return its descriptor."""
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _stats(labels: Mapping[str, object], layers: list[Blob]) -> dict[str, object]:
    names = ("size", "tar_size", "entries", "objects", "one_leaf", "object_bytes")
    sums = {name: sum(getattr(layer, name) for layer in layers) for name in names}
    return {
        "version": VERSION,
        **labels,
        **sums,
        "ratio": round(sums["tar_size"] / sums["size"], 3),
        "one_leaf_share": round(sums["one_leaf"] / sums["objects"], 3),
        "object_mean": round(sums["object_bytes"] / sums["objects"]),
        "layers": [asdict(layer) for layer in layers],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Make images and print a line about each."""
    parser = argparse.ArgumentParser(description="Make seeded OCI layouts to measure with.")
    parser.add_argument("out", nargs="?", type=Path, default=CACHE, metavar="OUT", help="default: .cache/bench")
    parser.add_argument("--scale", choices=trees.SCALES, default="small")
    parser.add_argument("--kind", choices=KINDS, action="append", help="may be repeated; default: all")
    args = parser.parse_args(argv)
    for place in ensure(args.scale, args.kind or list(KINDS), args.out).values():
        stats = json.loads((place / "stats.json").read_text())
        print(
            f"{place.name}: {len(stats['layers'])} layers, {stats['entries']} entries, {stats['objects']} objects "
            f"(mean {stats['object_mean']} B, {stats['one_leaf_share']:.0%} one leaf), "
            f"tar {stats['tar_size'] / 1e6:.1f} MB, ratio {stats['ratio']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
