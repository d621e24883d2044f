"""P1: however many workers, whatever executor, however the input is cut: the same repository, byte for byte."""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import composefs
from composefs import Algorithm
from composefs.oci import blobs
from composefs.oci import layer as layer_module
from composefs.oci import split as split_module
from tests import layouts
from tests.golden import vectors
from tests.layouts import files_layer, image_layout, layer, noise

GOLDEN = ["four-layers", "compression-gzip-members", "compression-zstd-frames", "contents-repeated", "layer-repeated"]
SMALLEST_READ = 1 << 10  # bytes; half of it must hold the header of a gzip member


def duplicates():
    """Layers that share most of their contents, within and between them, and one that stands there twice."""
    common = {f"file{number}": noise(50 + 37 * number, number) for number in range(60)}
    first = files_layer(common | {f"again{name}": data for name, data in common.items()}, "gzip")
    second = files_layer(common | {"own": noise(100_000, 99)}, "zstd")
    third = files_layer(dict(reversed(common.items())))
    return [first, second, first, third, files_layer({"large": noise(9 << 20, 1), "own": noise(100_000, 99)}, "gzip")]


def many():
    """Many small layers of all compressions."""
    return [
        files_layer(
            {f"{number}/{name}": noise(60 + name, name) for name in range(10)}, ("none", "gzip", "zstd")[number % 3]
        )
        for number in range(24)
    ]


def members():
    """A layer in many gzip members and zstd frames, with empty ones between."""
    archive = layouts.tar(layouts.rooted({f"{number}": noise(number * 100, number) for number in range(100)}))
    parts = [archive[start : start + 10_007] for start in range(0, len(archive), 10_007)]
    found = []
    for compression in ("gzip", "zstd"):
        pieces = [layer(part, compression).blob for part in parts]
        found.append(layer(archive, compression, blob=layer(b"", compression).blob.join(pieces)))
    return found


MADE = {"duplicates": duplicates, "many": many, "members": members}


def tree(path):
    """Return the tree of a repository: names, link texts, modes and digests of contents."""
    found = {}
    for directory, names, files in os.walk(path):
        for name in [*names, *files]:
            entry = os.path.join(directory, name)
            if os.path.islink(entry):
                value = os.readlink(entry)
            elif os.path.isdir(entry):
                value = os.stat(entry).st_mode
            else:
                with open(entry, "rb") as file:
                    value = os.stat(entry).st_mode, hashlib.file_digest(file, "sha256").digest()
            found[os.path.relpath(entry, path)] = value
    return found


class Images:
    """The layouts of the images, and what importing each gives in the simplest way; all of it below *root*."""

    def __init__(self, root):
        self._root = root
        self._layouts, self._references = {}, {}

    def imported(self, path, name, **options):
        """Import an image into a repository at *path*, made if need be; return the tree then, and the result."""
        composefs.Repository.init(path, Algorithm.SHA512, require_verity=False)
        platform = composefs.Platform("linux", "amd64") if name in GOLDEN else None
        with composefs.Repository.open(path) as repository:
            result = composefs.import_image(repository, self._layout(name), name="os", platform=platform, **options)
        return tree(path), result

    def reference(self, name):
        """Return tree and result of an import by one worker, with nothing changed."""
        if name not in self._references:
            self._references[name] = self.imported(self._root / f"repository-{name}", name, workers=1)
        return self._references[name]

    def check(self, found, name):
        """The tree is that of the reference, and so is the result, but for the time."""
        (found_tree, result), (wanted_tree, wanted) = found, self.reference(name)
        assert found_tree == wanted_tree
        assert dataclasses.replace(result, seconds=wanted.seconds) == wanted

    def _layout(self, name):
        if name not in self._layouts:
            path = self._root / f"layout-{name}"
            made = image_layout(path, MADE[name]()) if name in MADE else f"oci:{vectors.write_layout(name, path)}"
            self._layouts[name] = str(made)
        return self._layouts[name]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return Images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", [*MADE, *GOLDEN])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers(images, tmp_path, name, workers):
    """Any number of workers gives the same repository."""
    images.check(images.imported(tmp_path / "repository", name, workers=workers), name)


@pytest.mark.parametrize("name", [*MADE, *GOLDEN])
def test_threads(images, tmp_path, name):
    """Threads of the caller give the same repository."""
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        images.check(images.imported(tmp_path / "repository", name, executor=executor), name)


@pytest.mark.parametrize("name", MADE)
def test_order(images, tmp_path, name):
    """Layers that finish in another order give the same repository."""

    class Backwards(concurrent.futures.Executor):
        """Runs the jobs when they are waited for: the last one first."""

        def __init__(self):
            self.jobs = []

        def submit(self, function, job):
            future = concurrent.futures.Future()
            self.jobs.append((future, function, job))
            if len(self.jobs) == len({summary.diff_id for summary in images.reference(name)[1].layers}):
                for waiting, call, argument in reversed(self.jobs):
                    waiting.set_result(call(argument))
            return future

    images.check(images.imported(tmp_path / "repository", name, executor=Backwards()), name)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("decoder", [blobs.ZlibDecoder, blobs.new_member_decoder], ids=["zlib", "isal"])
@pytest.mark.parametrize(("read_size", "slot_size"), [(1 << 10, 511), (4099, 512), (1 << 18, 4096), (1 << 24, 1 << 24)])
def test_slices(images, tmp_path, monkeypatch, name, decoder, read_size, slot_size):
    """Any size of reads and slots gives the same repository, by each decoder."""
    monkeypatch.setattr(blobs, "new_member_decoder", decoder)
    monkeypatch.setattr(blobs, "READ_SIZE", read_size)
    monkeypatch.setattr(blobs, "SLOT_SIZE", slot_size)
    monkeypatch.setattr(layer_module, "SLOT_SIZE", slot_size)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        images.check(images.imported(tmp_path / "repository", name, executor=executor), name)


@pytest.mark.parametrize("name", MADE)
def test_files_in_pieces(images, tmp_path, monkeypatch, name):
    """A file that is streamed gives the object that one put together in memory gives."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 64)
    monkeypatch.setattr(blobs, "SLOT_SIZE", 8192)

    images.check(images.imported(tmp_path / "repository", name, workers=1), name)


@pytest.mark.parametrize("name", MADE)
def test_second_import(images, tmp_path, name):
    """Importing again, by other workers, changes nothing."""
    path = tmp_path / "repository"
    images.imported(path, name, workers=1)

    again, result = images.imported(path, name, workers=3)

    assert again == images.reference(name)[0]
    assert result.stats.objects_new == 0


def test_what_is_missing(images, tmp_path):
    """Importing into a repository that lost some of its objects and names restores it, byte for byte."""
    path = tmp_path / "repository"
    images.imported(path, "many", workers=1)
    dice = random.Random(5)
    for directory in ("objects", "streams"):
        entries = [entry for entry in sorted((path / directory).rglob("*")) if not entry.is_dir() or entry.is_symlink()]
        for entry in dice.sample(entries, len(entries) // 3):
            entry.unlink()

    again, _ = images.imported(path, "many", workers=2)

    assert again == images.reference("many")[0]


_NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120
).filter(lambda name: name not in (".", "..", "usr") and len(name.encode()) <= 255)
_SIZES = st.integers(0, 300) | st.sampled_from([63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 20_000])
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@st.composite
def archives(draw):
    """Archives of a few entries beside /usr, in each of the formats that tarfile writes."""
    buffer = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    leaves = []  # that a hard link may be to
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        archive.addfile(_directory("usr"))
        for seed, (name, kind, size) in enumerate(draw(st.lists(st.tuples(_NAMES, _KINDS, _SIZES), max_size=6))):
            info = tarfile.TarInfo(name)
            info.type = kind if kind != tarfile.LNKTYPE or leaves else tarfile.REGTYPE
            if info.type == tarfile.SYMTYPE:
                info.linkname = "target" * (size % 30 + 1)
            elif info.type == tarfile.LNKTYPE:
                info.linkname = leaves[size % len(leaves)]
            info.size = size if info.type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(noise(size, seed)))
            leaves = [leaf for leaf in leaves if leaf != name] + [name] * (kind != tarfile.DIRTYPE)
    return buffer.getvalue()


def _directory(name):
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    parts=st.lists(archives(), min_size=1, max_size=3),
    compression=st.sampled_from(["none", "gzip", "zstd"]),
    read_size=st.integers(SMALLEST_READ, 5000),
    slot_size=st.integers(1, 5000),
    in_memory=st.integers(0, 5000),
    zlib=st.booleans(),
)
def test_any_slicing(parts, compression, read_size, slot_size, in_memory, zlib):
    """Any images, read and decoded in any pieces, give the repository that whole slots give, and come back whole."""
    trees = []
    with tempfile.TemporaryDirectory() as directory:
        layout = image_layout(Path(directory) / "layout", [layer(part, compression) for part in parts])
        for number in range(2):
            path = Path(directory) / f"{number}"
            composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
            with composefs.Repository.open(path) as repository, pytest.MonkeyPatch.context() as patch:
                if number:
                    patch.setattr(blobs, "READ_SIZE", read_size)
                    patch.setattr(blobs, "SLOT_SIZE", slot_size)
                    patch.setattr(split_module, "_GATHERED_MAX", in_memory)
                patch.setattr(composefs.Repository, "sync", lambda _: None)  # 80 of them take long on a busy disk
                if zlib:
                    patch.setattr(blobs, "new_member_decoder", blobs.ZlibDecoder)
                result = composefs.import_image(repository, str(layout), name="os", workers=1)
                for part, summary in zip(parts, result.layers, strict=True):
                    with repository.streams.open_object(summary.stream, "layer") as stream:
                        assert b"".join(map(bytes, stream.merged())) == part
            trees.append(tree(path))

    assert trees[0] == trees[1]
