"""Container storage that somebody else wrote: its lists, and the parts of archives, up to what is made of them.

An input is, with SEPARATOR between: images.json, layers.json, a manifest, and the lines of a tar-split.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tempfile
from pathlib import Path

from composefs.errors import ComposefsError, FormatError
from composefs.oci.sources.access import Access
from composefs.oci.sources.storage import StorageSource
from composefs.oci.sources.storage.store import find_stores
from composefs.oci.sources.storage.tar_split import read_tar_split
from composefs.reference import parse_reference
from composefs.reference.values import StorageReference
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target
from tests.layouts import CONFIG, layer, rooted, sha256, tar
from tests.storages import Storage, gzipped, tar_split

SEPARATOR = b"\n\xfe\n"
_FILES = {"usr/a": b"x" * 100, "usr/b": b"y"}
_ARCHIVE = tar(rooted(_FILES))
_WORDS = ["..", "../../etc/passwd", "", "a" * 64, "A" * 64, 0, -1, 1 << 63, 1.5, True, None, [], {}, "usr/a", "/usr/a"]
_READ_MAX = 1 << 20  # bytes of an archive; what says that it has more is let go
_ID = "0" * 64
_CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha256(_ARCHIVE)]}}).encode()


def check(data: bytes) -> bool:
    """Read an image out of a store that is made of *data*."""
    images, layers, manifest, lines = [*data.split(SEPARATOR, 3), b"", b"", b""][:4]
    taken = _check_parts(lines)
    with tempfile.TemporaryDirectory() as directory:
        storage = Storage(Path(directory))
        (storage.images / "images.json").write_bytes(images)
        (storage.layers / "layers.json").write_bytes(layers)
        (storage.images / _ID).mkdir()
        (storage.images / _ID / "manifest").write_bytes(manifest)
        storage.big_data(_ID, sha256(_CONFIG), _CONFIG)
        storage.tar_split(_ID).write_bytes(gzip.compress(lines, 1))
        for name, content in _FILES.items():
            path = storage.files(_ID) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return _check_image(storage) or taken


def _check_parts(lines: bytes) -> bool:
    try:
        for part in read_tar_split(io.BytesIO(gzip.compress(lines, 1)), "tar-split"):
            assert isinstance(part, bytes) or (isinstance(part.path, bytes) and part.size > 0)
    except FormatError:
        return False
    return True


def _check_image(storage: Storage) -> bool:
    reference = parse_reference(f"{storage}x")
    assert isinstance(reference, StorageReference)
    stores = find_stores(str(storage.root), None)
    try:
        with StorageSource(reference, stores, Access()) as source:
            image = source.image()
            for index in range(len(image.manifest.layers)):
                blob = source.blob(image, index)
                assert str(storage.root) in blob.place.tar_split
                assert all(path.startswith(f"{storage.root}/overlay/") for path in blob.place.directories)
                _read(blob.place)
    except ComposefsError as error:
        assert str(error).encode("utf-8", "backslashreplace")
        return False
    return True


def _read(place) -> None:
    stream = place.open("layer", lambda: 1)
    try:
        left = _READ_MAX
        while left > 0 and (piece := stream.read(1 << 16)):
            left -= len(piece)
    finally:
        stream.close()


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Break one part as JSON, or the whole as bytes."""
    parts = data.split(SEPARATOR)
    number = chance.randrange(len(parts))
    if chance.random() < 0.3:
        return havoc(chance, data)
    if number == 3 and parts[number]:
        lines = parts[number].split(b"\n")
        line = chance.randrange(len(lines))
        lines[line] = json_value(chance, lines[line], _WORDS)
        parts[number] = b"\n".join(lines)
    else:
        parts[number] = json_value(chance, parts[number], _WORDS)
    return SEPARATOR.join(parts)


def make_seeds() -> dict[str, bytes]:
    """Return a store with one image, whole, and one of which nothing is left but the parts of an archive."""
    lines = gzip.decompress(gzipped(tar_split(_ARCHIVE)))
    config = {"mediaType": CONFIG, "digest": sha256(_CONFIG), "size": len(_CONFIG)}
    layers = [layer(_ARCHIVE, "gzip").descriptor]
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()
    digests = {"manifest": sha256(manifest), f"manifest-{sha256(manifest)}": sha256(manifest)}
    image = {"id": _ID, "digest": sha256(manifest), "names": ["x"], "layer": _ID, "big-data-digests": digests}
    stored = {"id": _ID, "diff-digest": sha256(_ARCHIVE), "diff-size": len(_ARCHIVE)}
    lists = [json.dumps([each]).encode() for each in (image, stored)]
    return {"image": SEPARATOR.join([*lists, manifest, lines]), "parts": SEPARATOR.join([b"", b"", b"", lines])}


STORAGE = Target("storage", check, mutate, make_seeds, share=3)
