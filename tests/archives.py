"""Archives of images, as the programs write them that are named, or wrong in the one way that a test needs."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from composefs.oci.platforms import host_platform
from tests.layouts import CONFIG, MANIFEST, Json, Layer, Layout, sha256

Member = tuple[str, bytes | tuple[bytes, str]]  # a name, and contents; or a link: tarfile's type, and its target
_HOST = {"os": host_platform().os, "architecture": host_platform().architecture}


def pack(members: Iterable[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar archive of *members*, which may have equal names; those that end in a slash are directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            if isinstance(contents, tuple):
                info.type, info.linkname = contents
                archive.addfile(info)
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def pack_directory(directory: Path, prefix: str = "", *, backwards: bool = False) -> bytes:
    """Return a tar archive of the files in *directory*, whose names begin with *prefix*."""
    paths = sorted((path for path in directory.rglob("*") if path.is_file()), reverse=backwards)
    return pack((f"{prefix}{path.relative_to(directory)}", path.read_bytes()) for path in paths)


def config_of(layers: Sequence[Layer], **more: object) -> bytes:
    """Return the config of an image, by default for this machine."""
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    return json.dumps({**_HOST, **more, "rootfs": rootfs}).encode()


def manifest_json(*images: Json) -> Member:
    """Return the file by which an archive of Docker's says what is in it."""
    return "manifest.json", json.dumps(images).encode()


def entry(config: bytes, paths: Sequence[str], names: Sequence[str] | None, config_path: str | None = None) -> Json:
    """Return what manifest.json says of an image."""
    path = config_path if config_path is not None else f"{sha256(config).removeprefix('sha256:')}.json"
    return {"Config": path, "RepoTags": names, "Layers": list(paths)}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def skopeo(layers: Sequence[Layer], names: Sequence[str] | None, config: bytes) -> list[Member]:
    """Layers by their diff_ids, links to them, and manifest.json last."""
    blobs: Mapping[str, bytes] = {f"{_hex(layer.diff_id)}.tar": layer.blob for layer in layers}
    links: list[Member] = [
        (f"{number:064}/layer.tar", (tarfile.SYMTYPE, f"../{path}")) for number, path in enumerate(blobs)
    ]
    said = entry(config, [f"{_hex(layer.diff_id)}.tar" for layer in layers], names)
    return [*blobs.items(), (said["Config"], config), *links, manifest_json(said), ("repositories", b"{}")]


def old_docker(layers: Sequence[Layer], names: Sequence[str] | None, config: bytes) -> list[Member]:
    """A directory for each layer; one that was there before is a link to it."""
    first: dict[str, str] = {}
    members: list[Member] = []
    paths = []
    for number, layer in enumerate(layers):
        path = f"{number:064x}/layer.tar"
        paths.append(path)
        members += [(f"{number:064x}/", b""), (f"{number:064x}/VERSION", b"1.0")]
        if layer.diff_id in first:
            members.append((path, (tarfile.SYMTYPE, f"../{first[layer.diff_id]}")))
        else:
            members.append((path, layer.blob))
            first[layer.diff_id] = path
    said = entry(config, paths, names)
    return [*members, (said["Config"], config), manifest_json(said), ("repositories", b"{}")]


def new_docker(layers: Sequence[Layer], names: Sequence[str] | None, config: bytes) -> list[Member]:
    """The blobs of an OCI layout, which manifest.json names also."""
    blobs = {sha256(config): config} | {layer.digest: layer.blob for layer in layers}
    manifest = oci_manifest(layers, config)
    blobs[sha256(manifest)] = manifest
    index = {"schemaVersion": 2, "manifests": [described(MANIFEST, manifest)]}
    paths = {digest: f"blobs/sha256/{_hex(digest)}" for digest in blobs}
    said = entry(config, [paths[layer.digest] for layer in layers], names, paths[sha256(config)])
    return [
        ("blobs/", b""),
        ("blobs/sha256/", b""),
        *((paths[digest], blob) for digest, blob in blobs.items()),
        ("index.json", json.dumps(index).encode()),
        manifest_json(said),
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ]


def described(media_type: str, data: bytes) -> Json:
    """Return the descriptor of *data*."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def oci_manifest(layers: Sequence[Layer], config: bytes, **more: object) -> bytes:
    """Return a manifest that is not written as ours are."""
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, config),
        "layers": [layer.descriptor for layer in layers],
        **more,
    }
    return json.dumps(value, indent=1).encode()


Dialect = Callable[[Sequence[Layer], Sequence[str] | None, bytes], list[Member]]
DIALECTS: dict[str, Dialect] = {"skopeo": skopeo, "old-docker": old_docker, "new-docker": new_docker}


def layout_archive(layout: Layout, path: Path) -> Path:
    """Write the archive of *layout* to *path*."""
    path.write_bytes(pack_directory(layout.path))
    return path
