"""Layouts whose documents claim anything of each other and of layers: the whole way to an image, in memory.

An input is JSON documents, one a line: configs, manifests, indexes; the last one is index.json.  `@N` stands for the
digest of the document N, counted from 0, and `#N` for its size; `@name` and `#name` for those of a layer of LAYERS,
`%name` for its diff_id.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import random
import re
from types import SimpleNamespace

import zstandard

from composefs.digest import Algorithm
from composefs.errors import ComposefsError, IntegrityError
from composefs.oci.blobs import BlobReader, decompress
from composefs.oci.index import Indexer, LayerIndex
from composefs.oci.layout import OciLayout, open_layout
from composefs.oci.manifest import Image, Platform
from composefs.oci.merge import Merger
from composefs.oci.plain import plain_image
from composefs.oci.split import ArchiveSplitter
from composefs.oci.stats import Stats
from composefs.oci.storing import Storing
from composefs.splitstream import ContentType, SplitstreamWriter
from composefs.tasks import do_now
from tests import layouts
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target
from tests.fuzz.targets.documents import WORDS
from tests.fuzz.workplace import fresh_directory
from tests.splitting import Memory

_PLATFORM = Platform("linux", "amd64")
_TAR = layouts.tar(layouts.rooted({"usr/bin/large": b"x" * 1000, "etc/small": b"s"}))
_UPPER = layouts.tar({"usr/": b"", "usr/.wh.bin": b"", "opt/": b""})
_BOMB = layouts.tar({"usr/": b"", "usr/zeros": bytes(1 << 18)})
LAYERS = {  # by name: archive, blob, media type
    "plain": (_TAR, _TAR, layouts.TAR),
    "gzip": (_TAR, gzip.compress(_TAR, mtime=0), layouts.TAR_GZIP),
    "zstd": (_TAR, zstandard.compress(_TAR), layouts.TAR_ZSTD),
    "upper": (_UPPER, gzip.compress(_UPPER, mtime=0), layouts.TAR_GZIP),
    "bomb": (_BOMB, gzip.compress(_BOMB, mtime=0), layouts.TAR_GZIP),
    "cut": (_TAR, gzip.compress(_TAR, mtime=0)[:-9], layouts.TAR_GZIP),
    "junk": (_TAR, gzip.compress(_TAR, mtime=0) + b"junk", layouts.TAR_GZIP),
    "empty": (b"", b"", layouts.TAR),
}
_MARK = re.compile(rb"([@#%])([a-z]+|[0-9]{1,3})")


@functools.cache
def _place() -> str:
    """Return the path of a layout with the layers, of which each input writes the rest anew."""
    path = fresh_directory()
    os.makedirs(f"{path}/blobs/sha256")
    for _, blob, _ in LAYERS.values():
        with open(f"{path}/blobs/sha256/{hashlib.sha256(blob).hexdigest()}", "wb") as file:
            file.write(blob)
    with open(f"{path}/index.json", "wb"):
        pass
    return path


def check(data: bytes) -> bool:
    """Choose an image, split its layers, merge them, make the images; digests and sizes are those that were claimed."""
    place = _place()
    written = _write(place, data.split(b"\n"))
    layout = open_layout(place)
    try:
        image = layout.image(_PLATFORM)
        assert hashlib.sha256(image.manifest_bytes).hexdigest() == image.descriptor.digest.removeprefix("sha256:")
        assert len(image.diff_ids) == len(image.manifest.layers)
        _import(layout, image)
    except ComposefsError as error:
        assert str(error).encode("utf-8", "backslashreplace")
        return False
    finally:
        for path in written:
            os.unlink(path)
    return True


def _write(place: str, lines: list[bytes]) -> set[str]:
    """Write the documents; return the files that were not there."""
    known = {name.encode(): _facts(blob, tar) for name, (tar, blob, _) in LAYERS.items()}
    written = set()
    for number, line in enumerate(lines):
        text = _MARK.sub(lambda mark: known.get(mark[2], {}).get(mark[1], mark[0]), line)
        known[b"%d" % number] = _facts(text, text)
        path = f"{place}/blobs/sha256/{hashlib.sha256(text).hexdigest()}"
        if not os.path.exists(path):
            written.add(path)
            with open(path, "xb") as file:
                file.write(text)
    with open(f"{place}/index.json", "wb") as file:
        file.write(text)
    return written


def _facts(blob: bytes, archive: bytes) -> dict[bytes, bytes]:
    return {b"@": layouts.sha256(blob).encode(), b"#": b"%d" % len(blob), b"%": layouts.sha256(archive).encode()}


def _import(layout: OciLayout, image: Image) -> None:
    """Do what an import does, but for the repository."""
    merger = Merger()
    for index, diff_id in enumerate(image.diff_ids):
        blob_of_layer = layout.blob(image, index)
        if not image.manifest.is_container or blob_of_layer.compression is None:
            return
        batches: list = []
        objects = Memory(Algorithm.SHA256)
        writer = SplitstreamWriter(Algorithm.SHA256, ContentType.LAYER, io.BytesIO)
        repository = SimpleNamespace(algorithm=Algorithm.SHA256, objects=objects)
        indexer = Indexer(batches.append)
        splitter = ArchiveSplitter(
            repository, writer, "layer", Stats(), indexer=indexer, storing=Storing.in_turn(do_now)
        )
        source = f"layer {diff_id}"
        with BlobReader(blob_of_layer, source, lambda size: None) as blob:
            for slot in decompress(blob, blob_of_layer.compression):
                splitter.feed(slot)
            got = splitter.finish()
            blob.verify()
        if got != diff_id:
            raise IntegrityError(source, diff_id, got)
        indexer.flush()
        merger.apply(LayerIndex(source, batches))
    for version in (1, 2):
        assert plain_image(merger, version)


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change a document, or the order of all; digests and sizes follow, where they are not what is changed."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0:
            return havoc(chance, data, [b"@0", b"#1", b"@gzip", b"%zstd", b"#bomb"])
        case 1:
            lines.insert(at, chance.choice(lines))
        case 2:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            kinds, names = b"@#%", [*(name.encode() for name in LAYERS), *(b"%d" % number for number in range(6))]
            lines[at] = _MARK.sub(
                lambda mark: mark[0] if chance.randrange(3) else bytes([chance.choice(kinds)]) + chance.choice(names),
                lines[at],
            )
        case _:
            lines[at] = _restore(json_value(chance, _quoted(lines[at]), [*WORDS, "@0", "@1", "@2", "@gzip", "%gzip"]))
    return b"\n".join(lines)


def _quoted(line: bytes) -> bytes:
    """Return *line* with sizes as texts, so that it is JSON."""
    return re.sub(rb"(?<![\"\w])#([a-z0-9]+)", rb'"#\1"', line)


def _restore(line: bytes) -> bytes:
    return re.sub(rb'"(#[a-z0-9]+)"', rb"\1", line)


def _document(value: object) -> str:
    return _restore(json.dumps(value).encode()).decode()


def _image(names: list[str], first: int, *, docker: bool = False) -> list[str]:
    """Return config and manifest of an image with these layers; the config is the document number *first*."""
    config_type, manifest_type = (
        (layouts.DOCKER_CONFIG, layouts.DOCKER_MANIFEST) if docker else (layouts.CONFIG, layouts.MANIFEST)
    )
    platform = {"os": "linux", "architecture": "amd64"}
    config = {**platform, "rootfs": {"type": "layers", "diff_ids": [f"%{name}" for name in names]}}
    layers = [{"mediaType": LAYERS[name][2], "digest": f"@{name}", "size": f"#{name}"} for name in names]
    of_config = {"mediaType": config_type, "digest": f"@{first}", "size": f"#{first}"}
    manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": of_config, "layers": layers}
    return [_document(config), _document(manifest)]


def _index(*items: dict[str, object]) -> str:
    return _document({"schemaVersion": 2, "manifests": list(items)})


def _item(number: int, media_type: str = layouts.MANIFEST, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"@{number}", "size": f"#{number}", **more}


def _seeds() -> dict[str, bytes]:
    amd64, arm64 = ({"os": "linux", "architecture": name} for name in ("amd64", "arm64"))
    one = _image(["gzip", "upper"], 0)
    other = _image(["zstd"], 2, docker=True)
    layers = [{"mediaType": layouts.TAR, "digest": "@plain", "size": "#plain"}]
    artifact = {
        "schemaVersion": 2,
        "config": {"mediaType": layouts.EMPTY, "digest": "@0", "size": "#0"},
        "layers": layers,
    }
    nested = _index(_item(1, platform=amd64), _item(3, layouts.DOCKER_MANIFEST, platform=arm64))
    documents = {
        "one": [*one, _index(_item(1))],
        "every-layer": [*_image(["plain", "gzip", "zstd", "bomb", "upper"], 0), _index(_item(1))],
        "nested": [*one, *other, nested, _index(_item(4, layouts.INDEX))],
        "artifact": ["{}", _document(artifact), _index(_item(1))],
        "broken-layers": [*_image(["cut"], 0), *_image(["junk"], 2), _index(_item(1), _item(3))],
        "no-layers": [*_image([], 0), _index(_item(1))],
    }
    return {name: "\n".join(lines).encode() for name, lines in documents.items()}


LAYOUT = Target("layout", check, mutate, _seeds, share=2)
