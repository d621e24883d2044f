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


def is_text(recorded: list[str] | Json, text: str) -> bool:
    """Tell whether *text* is the recorded one."""
    return lines(recorded) in (text, sha256(text))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def listing(repository: Path) -> list[str]:
    """Return the tree of a repository as the vectors have it: `d MODE PATH`, `f MODE SIZE PATH`, `l PATH -> TEXT`."""
    return sorted(_lines_of(repository), key=_listed_path)


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


def with_garbage(tree: list[str], vector: Json) -> list[str]:
    """Return *tree*, a listing, as it would be with the streams that the reference writes first and then replaces."""
    found = set(tree)
    for stream in vector["streams_before_image"].values():
        path = _object(stream["id"])
        found |= {f"f 0644 {stream['size']} {path}", f"d 0755 {path.rpartition('/')[0]}"}
    return sorted(found, key=_listed_path)


def tree_lines(made: Json, version: int) -> list[str] | Json:
    """Return the tree of the repository of one EROFS version, V1 or V2, where all of it was recorded, or its hash."""
    tree: list[str] | Json = made["V1"]["tree"]
    if version == 1 or not isinstance(tree, list):
        return tree
    differences = made["V2"]["tree_differences"]
    lines = set(tree) - set(differences["only_V1"]) | set(differences["only_V2"])
    return sorted(lines, key=_listed_path)


def _listed_path(line: str) -> str:
    return line.partition(" -> ")[0].rpartition(" ")[2]


def _object(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"
