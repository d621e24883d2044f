"""What entries take besides their contents, by two small imports: what the larger one takes more than the smaller.

Their files are too small to become objects; what is left is headers, the index of the layer, its splitstream, the merge
of the layers, and the EROFS image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import tarfile
import time
from dataclasses import dataclass

from composefs.digest import Algorithm
from composefs.oci.importer import import_image
from composefs.oci.manifest import REF_NAME
from composefs.oci.platforms import host_platform
from composefs.oci.progress import Event, LayerDone, Syncing
from composefs.repository import Repository

COUNTS = (1000, 13_000)  # entries of the two images
_CONTENT = bytes(64)  # the most that becomes no object
_SPEC = "application/vnd.oci.image"


@dataclass(frozen=True)
class EntrySpeed:
    """What one entry takes, in seconds."""

    layer: float  # CPU seconds while the layers are read, in parallel
    image: float  # afterwards, by one CPU: in the merge and the EROFS image


def time_entries(scratch: str, algorithm: Algorithm, counts: tuple[int, int] = COUNTS) -> EntrySpeed:
    """Import two images, of *counts* entries, into new repositories.

    Args:
        scratch: a directory; what is made in it is for the caller to remove.
        algorithm: of the repositories.
        counts: the larger one last.

    Raises:
        OSError: something could not be made or written.
    """
    _import(os.path.join(scratch, "import-first"), algorithm, counts[0])  # whatever is done once in a process
    small, large = (_import(os.path.join(scratch, f"import-{count}"), algorithm, count) for count in counts)
    layer = (large[0] - small[0]) / (counts[1] - counts[0])
    return EntrySpeed(max(layer, 0.0), large[1] / counts[1])


def _import(directory: str, algorithm: Algorithm, count: int) -> tuple[float, float]:
    """Import an image of *count* entries; return the CPU seconds of its layer, and the seconds of its EROFS image."""
    os.mkdir(directory)
    layout, path = os.path.join(directory, "layout"), os.path.join(directory, "repository")
    _make_layout(layout, _archive(count))
    Repository.init(path, algorithm, require_verity=False)
    marks: dict[type[Event], tuple[float, float]] = {}

    def on_event(event: Event) -> None:
        marks.setdefault(type(event), (_cpu_seconds(), time.perf_counter()))

    with Repository.open(path) as repository:
        start = _cpu_seconds()
        import_image(repository, layout, name="benchmark", workers=1, progress=on_event)
    stored, syncing = marks[LayerDone], marks[Syncing]
    return stored[0] - start, syncing[1] - stored[1]


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _archive(count: int) -> bytes:
    """Return an archive: of 20 entries, 2 are directories, 3 symbolic links and 15 files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            kind = number % 20
            directory = f"usr/package-{number // 20}"
            name = "usr" if number == 0 else directory if kind == 1 else f"{directory}-{kind}"
            info = tarfile.TarInfo(name if kind < 2 else f"{directory}/name-of-entry-{number}")
            info.mtime = 1_700_000_000 + number
            if kind < 2:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif kind < 5:
                info.type, info.linkname = tarfile.SYMTYPE, f"../target-{number}"
            else:
                info.size = len(_CONTENT)
            archive.addfile(info, io.BytesIO(_CONTENT))
    return out.getvalue()


def _make_layout(path: str, archive: bytes) -> None:
    """Make an OCI layout of one image with one layer that is not compressed."""
    os.makedirs(os.path.join(path, "blobs/sha256"))

    def add(media_type: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(path, "blobs/sha256", digest), "xb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = add(f"{_SPEC}.layer.v1.tar", archive)
    platform = host_platform()
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    about = {"os": platform.os, "architecture": platform.architecture, "rootfs": rootfs}
    config = add(f"{_SPEC}.config.v1+json", json.dumps(about).encode())
    manifest = {"schemaVersion": 2, "config": config, "layers": [layer]}
    described = add(f"{_SPEC}.manifest.v1+json", json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [{**described, "annotations": {REF_NAME: "latest"}}]}
    with open(os.path.join(path, "index.json"), "x", encoding="utf-8") as file:
        json.dump(index, file)
