"""Make a small OCI image on the spot, tagged `demo`, for this machine: `sample_image.py DIR`.

Three layers of a made-up root file system, the same bytes each time: gzip, plain, gzip; with duplicates across layers,
a symbolic and a hard link, an extended attribute and a whiteout.
"""

import gzip
import hashlib
import io
import json
import platform
import random
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

MTIME = 1_700_000_000  # seconds; nothing depends on the clock
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYER = "application/vnd.oci.image.layer.v1.tar"

WORDS = ("every", "file", "once", "named", "by", "its", "digest", "and", "mounted", "by", "the", "kernel")

Entry = tuple[tarfile.TarInfo, bytes]


def directory(path: str) -> Entry:
    return _entry(path, tarfile.DIRTYPE, mode=0o755)


def file(path: str, content: bytes, **fields: object) -> Entry:
    return _entry(path, tarfile.REGTYPE, content, **fields)


def link(path: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return _entry(path, kind, linkname=target)


def base(seeded: random.Random) -> Iterator[Entry]:
    yield from map(directory, ("usr", "usr/bin", "usr/lib", "usr/share", "etc"))
    for number in range(120):
        yield file(f"usr/bin/tool-{number:03}", program(seeded, 3_000), mode=0o755)
    yield link("usr/bin/tool", "tool-000")
    yield link("usr/bin/tool-again", "usr/bin/tool-000", tarfile.LNKTYPE)
    for number in range(60):
        yield file(f"usr/lib/lib{number:03}.so", program(seeded, 40_000), mode=0o755)


def configuration(seeded: random.Random) -> Iterator[Entry]:
    yield from map(directory, ("etc", "usr/share", "usr/share/doc"))
    yield file("etc/hostname", b"demo\n")
    for number in range(150):
        yield file(f"usr/share/doc/{number:03}.txt", text(seeded, 2_000))
    yield file("usr/bin/ping", program(seeded, 9_000), pax_headers={"SCHILY.xattr.user.note": "a note"})


def update(seeded: random.Random) -> Iterator[Entry]:
    again = random.Random(1)  # the first layer's files under other names: objects that are there already
    for number in range(30):
        yield file(f"usr/bin/copy-{number:03}", program(again, 3_000), mode=0o755)
    yield file("usr/bin/.wh.tool", b"")
    yield file("usr/lib/large.bin", seeded.randbytes(2_000_000))


def program(seeded: random.Random, size: int) -> bytes:
    """Return bytes that compress about as machine code does."""
    words = [seeded.randbytes(8) for _ in range(64)]
    return b"".join(seeded.choices(words, k=seeded.randrange(size // 16, size // 8)))


def text(seeded: random.Random, size: int) -> bytes:
    return " ".join(seeded.choices(WORDS, k=size // 5)).encode() + b"\n"


def archive(entries: Iterator[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_image(root: Path) -> None:
    archives = [archive(make(random.Random(seed))) for seed, make in enumerate((base, configuration, update), 1)]
    layers = []
    for number, data in enumerate(archives):
        plain = number == 1
        blob = data if plain else gzip.compress(data, mtime=0)
        layers.append(write_blob(root, blob, LAYER if plain else f"{LAYER}+gzip"))
    machine = {"architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux"}
    rootfs = {"type": "layers", "diff_ids": [digest(data) for data in archives]}
    config = write_json(root, {**machine, "config": {}, "rootfs": rootfs}, "config.v1")
    manifest = write_json(root, {"schemaVersion": 2, "config": config, "layers": layers}, "manifest.v1")
    tagged = {**manifest, "platform": machine, "annotations": {"org.opencontainers.image.ref.name": "demo"}}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    (root / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def write_json(root: Path, value: object, kind: str) -> dict[str, object]:
    return write_blob(root, json.dumps(value).encode(), f"application/vnd.oci.image.{kind}+json")


def write_blob(root: Path, data: bytes, media_type: str) -> dict[str, object]:
    path = root / "blobs" / digest(data).replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _entry(path: str, kind: bytes, content: bytes = b"", **fields: object) -> Entry:
    info = tarfile.TarInfo(path)
    info.type, info.size, info.mtime = kind, len(content), MTIME
    for name, value in fields.items():
        setattr(info, name, value)
    return info, content


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_image(Path(sys.argv[1]))
