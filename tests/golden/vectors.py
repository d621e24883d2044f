"""The golden vectors of composefs-rs 0.9.4 (`cfsctl/README.md` beside this file), as tests use them."""

import functools
import gzip
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent / "cfsctl"

Json = dict[str, Any]


def expected(place: str) -> Any:
    """Return the JSON of `place/expected.json`."""
    return json.loads((ROOT / place / "expected.json").read_text())


def image_names() -> list[str]:
    return sorted(path.name for path in (ROOT / "images").iterdir())


def read(path: Path) -> bytes:
    """Return the contents of a vector, unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def write_layout(name: str, directory: Path) -> Path:
    """Write the OCI layout of the image or random case *name*, and return *directory*."""
    _generated()[name].write(directory)
    return directory


def layer_archives(name: str) -> list[bytes]:
    """Return the tar archives of the layers of an image."""
    return [layer.tar for layer in _generated()[name].layers]


sys.path.insert(0, str(ROOT))  # the generator imports itself as a top-level package
import make  # noqa: E402
from generator.layout import TAR, Image, Layer, write_files  # noqa: E402, F401  # for the tests, too

sys.path.remove(str(ROOT))


@functools.cache
def _generated() -> dict[str, Image]:
    cases = make.shared_vectors()
    return {case.name: Image.of(case.layers) for cases in (cases.images, cases.random) for case in cases}


def layer(tar: bytes, blob: bytes, media_type: str = TAR) -> Layer:
    """Return a layer that is stored as *blob*."""
    return Layer(tar, blob, media_type)


def layers_layout(layers: list[Layer]) -> Image:
    """Return an image of *layers*, which can be written as a layout."""
    return Image.of(layers)


def lines(text: list[str] | Json) -> str:
    """Return a recorded text, or of a long one its sha256."""
    if isinstance(text, list):
        return "".join(f"{line}\n" for line in text)
    return str(text["sha256"])


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def listing(repository: Path) -> list[str]:
    """Return the tree of a repository as the vectors have it: `d MODE PATH`, `f MODE SIZE PATH`, `l PATH -> TEXT`."""
    return sorted(_lines_of(repository), key=lambda line: line.split(" -> ")[0].split(" ")[-1])


def _lines_of(repository: Path) -> Iterator[str]:
    for directory, names, files in os.walk(repository):
        for name in [*names, *files] + (["."] if Path(directory) == repository else []):
            path = Path(directory) / name
            info = path.lstat()
            relative = path.relative_to(repository)
            if stat.S_ISLNK(info.st_mode):
                yield f"l {relative} -> {path.readlink()}"
            elif stat.S_ISDIR(info.st_mode):
                yield f"d {info.st_mode & 0o7777:04o} {relative}"
            else:
                yield f"f {info.st_mode & 0o7777:04o} {info.st_size} {relative}"


def before_image(vector: Json, made: Json) -> list[str]:
    """Return what the tree recorded in *made* was before images were built and linked to config and manifest."""
    before = vector["streams_before_image"]
    after = made["streams"]
    gone = {made[key]["id"] for key in ("image", "boot_image") if key in made}
    gone |= {after[key]["id"] for key in ("config", "manifest")}
    gone -= {before[key]["id"] for key in ("config", "manifest")}
    links = {_object(after[key]["id"]): _object(before[key]["id"]) for key in ("config", "manifest")}
    kept = []
    for line in made["tree"]:
        kind, _, rest = line.partition(" ")
        path = rest.split(" -> ")[0].split(" ")[-1]
        if path.split("/")[0] == "images" or any(path == _object(digest) for digest in gone):
            continue
        link, _, target = line.partition(" -> ../")
        kept.append(f"{link} -> ../{links[target]}" if kind == "l" and target in links else line)
    objects = [line.split(" ")[-1] for line in kept if line.startswith("f")]
    used = {path.rpartition("/")[0] for path in objects}
    return [line for line in kept if not line.startswith("d 0755 objects/") or line.split(" ")[-1] in used]


def _object(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"
