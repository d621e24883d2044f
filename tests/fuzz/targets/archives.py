"""Archives of images: what is found in them is what is there, and an image out of one is what its digests say."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import json
import lzma
import random
import tarfile

import zstandard

from composefs.errors import ComposefsError, FormatError
from composefs.oci.manifest import Platform
from composefs.oci.sources.archive import open_archive
from composefs.oci.sources.tar_index import TarIndex
from composefs.reference import ArchiveReference
from composefs.tar import Content, Entry, TarSplitter
from composefs.tar.header import REGULAR
from tests import archives, layouts
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target
from tests.fuzz.targets import tar
from tests.fuzz.targets.documents import WORDS
from tests.fuzz.workplace import fresh_directory

from generator.tar import Archive  # isort: skip

_PLATFORM = Platform("linux", "amd64")
_COMPRESS = (gzip.compress, zstandard.compress, lzma.compress, bz2.compress)


@functools.cache
def _place() -> str:
    return fresh_directory()


def check(data: bytes) -> bool:
    """Find what is in the archive, choose an image, and look where its layers are."""
    path = f"{_place()}/archive"
    with open(path, "wb") as file:
        file.write(data)
    with open(path, "rb") as file:
        _check_index(file.fileno(), data)
    try:
        with open_archive(ArchiveReference(path, None, path), _place()) as source:
            image = source.image(_PLATFORM)
            assert hashlib.sha256(image.manifest_bytes).hexdigest() == image.descriptor.digest.removeprefix("sha256:")
            assert layouts.sha256(image.config_bytes) == image.manifest.config.digest
            for index, descriptor in enumerate(image.manifest.layers):
                blob = source.blob(image, index)
                assert blob.digest == descriptor.digest
                stream = blob.place.open("layer", lambda: 1)
                assert stream.size is not None
                assert len(stream.read(1 << 20)) == min(stream.size, 1 << 20)
                stream.close()
    except ComposefsError as error:
        assert str(error).encode("utf-8", "backslashreplace")
        return False
    return True


def _check_index(fd: int, data: bytes) -> None:
    """Compare what headers alone tell with what the splitter of layers finds in the whole archive."""
    try:
        index = TarIndex(fd, "archive")
    except FormatError as error:
        assert 0 <= error.offset <= len(data)
        index = None
    try:
        files = _files(data)
    except FormatError:
        return  # it looks at more: what an index has no use for
    if index is None:
        assert not data, "a layer may be empty, an archive of images not"
        return
    for name, contents in files.items():
        try:
            text = name.decode()
        except UnicodeDecodeError:
            continue  # nobody can ask for it
        if contents is None:
            continue
        offset, size = index.find(text)
        assert data[offset : offset + size] == contents


def _files(data: bytes) -> dict[bytes, bytes | None]:
    """Return the regular files by their names, the last of each; None: what has the name is something else."""
    found: dict[bytes, bytes | None] = {}

    def add(entry: Entry, contents: bytes) -> None:
        parts = [part for part in entry.path.split(b"/") if part not in (b"", b".")]
        if parts and b".." not in parts:
            found[b"/".join(parts)] = contents if entry.kind in REGULAR else None

    splitter = TarSplitter("archive", add)
    for event in splitter.feed(data):
        if isinstance(event, Content) and event.position == 0:
            add(event.entry, bytes(event.data))
    splitter.close()
    return found


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Break a document in the archive, the archive, or what it is compressed by."""
    kind = chance.randrange(10)
    if kind == 0:
        return havoc(chance, data)
    if kind == 1:
        return chance.choice(_COMPRESS)(data)
    if kind < 6 and (changed := _with_other_document(chance, data)) is not None:
        return changed
    return tar.mutate(chance, data)


def _with_other_document(chance: random.Random, data: bytes) -> bytes | None:
    """Return the archive with one of its JSON documents changed, or with links in the place of files."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = [_member(archive, info) for info in archive if 0 <= info.size <= len(data)]
    except (tarfile.TarError, ValueError, OverflowError):
        return None
    if not members:
        return None
    names = [name for name, _ in members]
    at = chance.randrange(len(members))
    name, contents = members[at]
    if isinstance(contents, bytes) and contents.startswith((b"{", b"[")):
        members[at] = name, json_value(chance, contents, [*WORDS, *names])
    elif chance.randrange(2):
        members[at] = name, (chance.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), chance.choice(names))
    else:
        other = chance.randrange(len(members))
        members[at], members[other] = members[other], members[at]
    return archives.pack(members)


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> archives.Member:
    if info.isreg():
        file = archive.extractfile(info)
        assert file is not None
        return info.name, file.read()
    if info.islnk() or info.issym():
        return info.name, (info.type, info.linkname)
    return f"{info.name}/", b""


def _layers(compression: str) -> list[layouts.Layer]:
    small = Archive().directory("usr").file("usr/a", b"a" * 100).end()
    other = Archive().directory("usr").file("usr/b", b"b").end()
    return [layouts.layer(each, compression) for each in (small, other, small)]


def _seeds() -> dict[str, bytes]:
    plain, zipped = _layers("none"), _layers("gzip")
    names = ["example.org/os:1"]
    config = archives.config_of(plain, os=_PLATFORM.os, architecture=_PLATFORM.architecture)
    several = [
        ("a", b"b" * 600),
        archives.manifest_json(*[archives.entry(config, ["a"], [f"x:{number}"], "a") for number in range(2)]),
    ]
    manifest = archives.oci_manifest(zipped, config)
    layout = [
        ("./index.json", json.dumps({"manifests": [archives.described(layouts.MANIFEST, manifest)]}).encode()),
        *((f"./blobs/sha256/{layouts.sha256(blob)[7:]}", blob) for blob in (config, manifest)),
        *((f"./blobs/sha256/{layer.digest[7:]}", layer.blob) for layer in zipped),
    ]
    found = {name: archives.pack(dialect(plain, names, config)) for name, dialect in archives.DIALECTS.items()}
    found |= {f"{name}-gzip": archives.pack(each(zipped, names, config)) for name, each in archives.DIALECTS.items()}
    found |= {"several": archives.pack(several), "layout": archives.pack(layout)}
    return {name: _short(data) for name, data in found.items()}


def _short(data: bytes) -> bytes:
    """Return the archive *data*, whose last file is text, without the padding of the whole."""
    contents = data.rstrip(b"\0")
    return contents + bytes(-len(contents) % 512 + 1024)


ARCHIVES = Target("archives", check, mutate, _seeds, share=6)
