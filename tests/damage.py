"""A small repository, and what can happen to it: each kind of damage that a check must find, made by one function."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from struct import Struct

import pytest

from composefs import Algorithm, Digest, Repository, zstd
from composefs._native import Buffer, FoundObjects, ObjectChecker, ObjectState
from composefs.oci.importer import import_image
from composefs.splitstream import ContentType
from composefs.verity import compute_digest
from tests.layouts import files_layer, image_layout, noise

LOW, HIGH, SHARED = noise(5000, 1), noise(100_000, 2), noise(3000, 3)
TAG = "os:42"
_INFO = Struct("<8Q8sQ")  # the info block of a splitstream


@dataclass
class Place:
    """A repository with one tagged image of two layers, an image with a ref, and an object that nothing needs.

    Paths are relative to that of the repository.
    """

    path: Path
    manifest: str  # digest, as the next
    config: str
    layers: tuple[str, ...]  # diff_ids
    image: str  # hexadecimal digits
    unused: str  # path of an object
    algorithm: Algorithm = Algorithm.SHA256

    @property
    def manifest_stream(self) -> str:
        return f"streams/oci-manifest-{self.manifest}"

    @property
    def config_stream(self) -> str:
        return f"streams/oci-config-{self.config}"

    def layer_stream(self, number: int) -> str:
        return f"streams/oci-layer-{self.layers[number]}"

    @property
    def image_name(self) -> str:
        return f"images/{self.image}"

    tag = "streams/refs/oci/os:42"
    ref = "images/refs/web/os"

    def object_of(self, link: str) -> str:
        """Return the path of the object that the entry *link* leads to."""
        return os.path.normpath(f"{os.path.dirname(link)}/{os.readlink(self.path / link)}")

    def object(self, data: bytes) -> str:
        """Return the path of the object that holds *data*."""
        return f"objects/{compute_digest(data, self.algorithm).object_path}"

    def copy(self, path: Path) -> "Place":
        """Return a copy of the repository at *path*."""
        shutil.copytree(self.path, path, symlinks=True)
        return replace(self, path=path)


def make(directory: Path, algorithm: Algorithm = Algorithm.SHA256, erofs_version: int = 1) -> Place:
    """Return a repository without damage, in *directory*, where the layout of its image is, too."""
    layers = [
        files_layer({"usr/low": LOW, "usr/shared": SHARED, "usr/small": b"x"}),
        files_layer({"usr/high": HIGH, "usr/also": SHARED}, "gzip"),
    ]
    image_layout(directory / "layout", layers)
    path = directory / "repository"
    Repository.init(path, algorithm, erofs_version=erofs_version, require_verity=False)
    with Repository.open(path) as repository:
        result = import_image(repository, f"oci:{directory / 'layout'}", name=TAG, workers=1)
        repository.images.set_ref("web/os", result.image)
        digest, _ = repository.objects.ensure(noise(70_000, 4))
    unused = f"objects/{Digest(algorithm, digest).object_path}"
    diff_ids = tuple(layer.diff_id for layer in result.layers)
    return Place(path, result.manifest, result.config, diff_ids, result.image.hex, unused, algorithm)


# What happens


def flip(path: Path, offset: int = 0) -> None:
    """Change one byte of the file *path*."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def replace_link(path: Path, target: str) -> None:
    """Let the link *path* lead to *target*."""
    path.unlink()
    path.symlink_to(target)


def _meta(place: Place) -> None:
    (place.path / "meta.json").write_text('{"version": 1,')


def _meta_newer(place: Place) -> None:
    path = place.path / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))


def _flipped(place: Place) -> None:
    flip(place.path / place.object(HIGH), 50_000)


def _grown(place: Place) -> None:
    with (place.path / place.object(LOW)).open("ab") as file:
        file.write(b"x")


def _cut(place: Place) -> None:
    os.truncate(place.path / place.object(HIGH), 4096)


def _emptied(place: Place) -> None:
    os.truncate(place.path / place.unused, 0)


def _swapped(place: Place) -> None:
    (place.path / place.object(LOW)).write_bytes(SHARED)


def _removed(place: Place) -> None:
    (place.path / place.object(SHARED)).unlink()


def _directory_as_object(place: Place) -> None:
    path = place.path / place.unused
    path.unlink()
    path.mkdir()


def _link_as_object(place: Place) -> None:
    replace_link(place.path / place.unused, "../../meta.json")


def _stray_object(place: Place) -> None:
    (place.path / place.object(LOW)).with_name("stray").touch()


def _capital_object(place: Place) -> None:
    path = place.path / place.unused
    path.rename(path.with_name(path.name.upper()))


def _stream_object_gone(place: Place) -> None:
    (place.path / place.object_of(place.layer_stream(0))).unlink()


def _stream_flipped(place: Place) -> None:
    flip(place.path / place.object_of(place.layer_stream(1)), 200)


def _stream_header(place: Place) -> None:
    flip(place.path / place.object_of(place.layer_stream(1)), 3)


def _file_as_stream(place: Place) -> None:
    path = place.path / place.layer_stream(0)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def _loop_as_stream(place: Place) -> None:
    replace_link(place.path / place.layer_stream(0), os.path.basename(place.layer_stream(0)))


def _no_stream(place: Place) -> None:
    replace_link(place.path / place.layer_stream(0), f"../{place.object(LOW)}")


def _other_stream(place: Place) -> None:
    replace_link(place.path / place.config_stream, f"../{place.object_of(place.manifest_stream)}")


def _stream_outside(place: Place) -> None:
    copy = place.path / "copy"
    shutil.copy(place.path / place.object_of(place.layer_stream(0)), copy)
    replace_link(place.path / place.layer_stream(0), "../copy")


def _tag_dangles(place: Place) -> None:
    (place.path / place.manifest_stream).unlink()


def _file_as_ref(place: Place) -> None:
    (place.path / "streams/refs/note").write_text("remember")


def _ref_to_object(place: Place) -> None:
    replace_link(place.path / place.ref, f"../../../{place.object_of(place.image_name)}")


def _image_object_gone(place: Place) -> None:
    (place.path / place.object_of(place.image_name)).unlink()


def _file_as_image(place: Place) -> None:
    (place.path / place.image_name).unlink()
    (place.path / place.image_name).write_bytes(b"")


def _no_image(place: Place) -> None:
    path = place.object(LOW)
    (place.path / "images" / path.removeprefix("objects/").replace("/", "")).symlink_to(f"../{path}")


def _image_flipped(place: Place) -> None:
    flip(place.path / place.object_of(place.image_name), 1024)  # the magic of EROFS


def _image_called_otherwise(place: Place) -> None:
    (place.path / "images" / ("0" * 64)).symlink_to(f"../{place.object_of(place.image_name)}")


def _meta_other(place: Place) -> None:
    path = place.path / "meta.json"
    other = next(each for each in Algorithm if each is not place.algorithm)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"algorithm": other.value}))


def _loop_as_object(place: Place) -> None:
    path = place.path / place.object(LOW)
    replace_link(path, path.name)


def _directory_as_image(place: Place) -> None:
    path = place.path / place.object_of(place.image_name)
    path.unlink()
    path.mkdir()


def _socket_as_stream(place: Place) -> None:
    path = place.path / place.object_of(place.layer_stream(0))
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o644)


def _stream_cut(place: Place) -> None:
    os.truncate(place.path / place.object_of(place.layer_stream(0)), 120)  # in the tables


def _directory_as_stream(place: Place) -> None:
    path = place.path / place.layer_stream(0)
    path.unlink()
    path.mkdir()


def _socket_as_ref(place: Place) -> None:
    os.mknod(place.path / "images/refs/socket", stat.S_IFSOCK | 0o644)


def _ref_outside(place: Place) -> None:
    (place.path / "streams/refs/oci/outside").symlink_to("../../../meta.json")


def _nested_ref_dangles(place: Place) -> None:
    (place.path / "images/refs/a/b").mkdir(parents=True)
    (place.path / "images/refs/a/b/c").symlink_to("../../../" + "0" * 64)


def _refs_in_disorder(place: Place) -> None:
    _write_stream(place, "oci-config-sha256:" + "1" * 64, ["b", "a"])


def _object_twice(place: Place) -> None:
    _write_stream(place, "oci-layer-sha256:" + "1" * 64, [], times=2)


def _write_stream(place: Place, name: str, names: list[str], times: int = 1) -> None:
    """Write a stream that no writer would: references in that order, and an object several times."""
    content_type = ContentType.CONFIG if "config" in name else ContentType.LAYER
    raw = bytes.fromhex(place.object(LOW).removeprefix("objects/").replace("/", ""))
    with Repository.open(place.path) as repository:
        writer = repository.streams.writer(content_type)
        writer.inline(b"x")
        data = b"".join(writer.finish())
        head, info = data[:32], list(_INFO.unpack_from(data, 32))
        records = zstd.compressor()
        packed = records.compress(b"".join(b"0:%s\0" % each.encode() for each in names)) + records.flush()
        parts = [raw if names else b"", raw * times, data[info[4] : info[5]], packed]
        ends = [32 + _INFO.size]
        for part in parts:
            ends.append(ends[-1] + len(part))
        places = [end for pair in pairwise(ends) for end in pair]
        body = head + _INFO.pack(*places, *info[8:]) + b"".join(parts)
        digest, _ = repository.objects.ensure(body)
        repository.streams.link(name, Digest(place.algorithm, digest))


def _nothing(_: Place) -> None:
    """Leave all as it is."""


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    Attributes:
        do: makes it.
        by_cfsctl: whether `cfsctl fsck` 0.9.4 finds it.
        refused: whether the repository cannot be used at all, so that there is no report.
    """

    do: Callable[[Place], None]
    by_cfsctl: bool = True
    refused: bool = field(default=False)


DAMAGES = {
    "none": Damage(_nothing),
    "meta": Damage(_meta, refused=True),
    "meta-newer": Damage(_meta_newer, refused=True),
    "flipped": Damage(_flipped),
    "grown": Damage(_grown),
    "cut": Damage(_cut),
    "emptied": Damage(_emptied),
    "swapped": Damage(_swapped),
    "removed": Damage(_removed),
    "directory-as-object": Damage(_directory_as_object),
    "link-as-object": Damage(_link_as_object),
    "stray-object": Damage(_stray_object),
    "capital-object": Damage(_capital_object, by_cfsctl=False),
    "stream-object-gone": Damage(_stream_object_gone),
    "stream-flipped": Damage(_stream_flipped),
    "stream-header": Damage(_stream_header),
    "file-as-stream": Damage(_file_as_stream),
    "loop-as-stream": Damage(_loop_as_stream),
    "no-stream": Damage(_no_stream),
    "other-stream": Damage(_other_stream, by_cfsctl=False),
    "stream-outside": Damage(_stream_outside, by_cfsctl=False),
    "tag-dangles": Damage(_tag_dangles),
    "file-as-ref": Damage(_file_as_ref),
    "ref-to-object": Damage(_ref_to_object, by_cfsctl=False),
    "image-object-gone": Damage(_image_object_gone),
    "file-as-image": Damage(_file_as_image),
    "no-image": Damage(_no_image),
    "image-flipped": Damage(_image_flipped),
    "image-called-otherwise": Damage(_image_called_otherwise, by_cfsctl=False),
    "meta-other": Damage(_meta_other),
    "loop-as-object": Damage(_loop_as_object),
    "directory-as-image": Damage(_directory_as_image),
    "socket-as-stream": Damage(_socket_as_stream),
    "stream-cut": Damage(_stream_cut),
    "directory-as-stream": Damage(_directory_as_stream),
    "socket-as-ref": Damage(_socket_as_ref),
    "ref-outside": Damage(_ref_outside, by_cfsctl=False),
    "nested-ref-dangles": Damage(_nested_ref_dangles),
    "refs-in-disorder": Damage(_refs_in_disorder, by_cfsctl=False),
    "object-twice": Damage(_object_twice, by_cfsctl=False),
}


def report_state(monkeypatch: pytest.MonkeyPatch, path: str, state: ObjectState, error: int) -> None:
    """Let checks find the object *path* in a *state* that no test can bring about, with that *error* of the system."""
    check_all = ObjectChecker.check
    wanted = bytes.fromhex(path.removeprefix("objects/").replace("/", ""))

    def check_one(self: ObjectChecker, digests: Buffer) -> FoundObjects:
        found = check_all(self, digests)
        at = bytes(digests).find(wanted) // len(wanted)
        if at < 0:
            return found
        found.states[at] = state
        return FoundObjects(found.digests, found.states, [*found.errors[:at], error, *found.errors[at + 1 :]])

    monkeypatch.setattr(ObjectChecker, "check", check_one)
