"""Container storage as podman writes it, made by hand: right, or wrong in the one way that a test needs."""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from composefs.oci.platforms import host_platform
from tests.layouts import CONFIG, MANIFEST, Json, layer, sha256

_PLATFORM = host_platform()


def tar_split(archive: bytes) -> list[Json]:
    """Return the parts of *archive* as tar-split has them; the CRCs are no real ones."""
    found: list[Json] = []

    def add(entry: Json) -> None:
        found.append(entry | {"position": len(found)})

    def add_bytes(data: bytes) -> None:
        add({"type": 2, "payload": base64.b64encode(data).decode()})

    position = 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            add_bytes(archive[position : member.offset_data])
            position = member.offset_data
            if member.isreg() and member.size:
                add({"type": 1, "name": member.name, "size": member.size, "payload": "AAAAAAAAAAA="})
                position += member.size
            else:
                add({"type": 1, "name": member.name, "payload": None})
    add_bytes(archive[position:])
    return found


def gzipped(lines: Sequence[Json]) -> bytes:
    """Return the file that *lines* make."""
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), mtime=0)


class Storage:
    """The store in the directory *root*."""

    def __init__(self, root: Path, driver: str = "overlay") -> None:
        self.root, self.driver = root, driver
        self.images, self.layers = root / f"{driver}-images", root / f"{driver}-layers"
        for path in (self.images, self.layers, root / driver):
            path.mkdir(parents=True)
        (self.images / "images.lock").touch()
        (self.layers / "layers.lock").touch()
        self.records: dict[str, list[Json]] = {"images": [], "layers": []}

    def __str__(self) -> str:
        return f"containers-storage:[{self.driver}@{self.root}]"

    def files(self, layer_id: str) -> Path:
        """Return the directory of the files of a layer."""
        if self.driver == "overlay":
            return self.root / "overlay" / layer_id / "diff"
        return self.root / "vfs/dir" / layer_id

    def tar_split(self, layer_id: str) -> Path:
        """Return the file of a layer that has what is no contents."""
        return self.layers / f"{layer_id}.tar-split.gz"

    def layer(self, archive: bytes, parent: str | None = None, **changes: object) -> str:
        """Add a layer, and return its id."""
        diff_id = sha256(archive)
        layer_id = (diff_id if parent is None else sha256(f"{parent} {diff_id}".encode())).removeprefix("sha256:")
        record = {"id": layer_id, "parent": parent, "diff-digest": diff_id, "diff-size": len(archive), **changes}
        self.records["layers"].append({key: value for key, value in record.items() if value is not None})
        self.tar_split(layer_id).write_bytes(gzipped(tar_split(archive)))
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                if member.isreg():
                    path = self.files(layer_id) / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = opened.extractfile(member)
                    assert file is not None
                    path.write_bytes(file.read())
                    path.chmod(member.mode)
        return layer_id

    def image(self, archives: Sequence[bytes], *names: str, top: str | None = None, **changes: object) -> str:
        """Add an image of layers that are made, or whose last one is *top*; return its id."""
        if top is None:
            for archive in archives:
                top = self.layer(archive, top)
        layers = [layer(archive, "gzip") for archive in archives]  # as the registry had them; they are not here
        config = json.dumps(
            {
                "os": _PLATFORM.os,
                "architecture": _PLATFORM.architecture,
                "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
                "layers": [each.descriptor for each in layers],
            }
        ).encode()
        image_id = sha256(config).removeprefix("sha256:")
        digest = sha256(manifest)
        self.big_data(image_id, sha256(config), config)
        self.big_data(image_id, "manifest", manifest)
        self.big_data(image_id, f"manifest-{digest}", manifest)
        record = {
            "id": image_id,
            "digest": digest,
            "names": list(names),
            "layer": top,
            "big-data-digests": {"manifest": digest, f"manifest-{digest}": digest, sha256(config): sha256(config)},
            **changes,
        }
        self.records["images"].append(record)
        return image_id

    def big_data(self, image_id: str, key: str, data: bytes) -> Path:
        """Store *data* of an image, and return the file."""
        name = key if key.isalnum() else "=" + base64.b64encode(key.encode()).decode()
        path = self.images / image_id / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def write(self) -> "Storage":
        """Write the lists of images and layers."""
        (self.images / "images.json").write_text(json.dumps(self.records["images"]))
        (self.layers / "layers.json").write_text(json.dumps(self.records["layers"]))
        return self
