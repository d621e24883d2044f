"""What an import costs: what blobs tell, what is taken as usual, and what then becomes of it."""

import dataclasses
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

import composefs
from composefs import Algorithm, Repository
from composefs.errors import RoomError, UsageError
from composefs.oci import room as room_module
from composefs.oci.cost import LayerCost, Target, Verdict, add_up, import_cost
from composefs.oci.glance import glance
from composefs.oci.manifest import Compression
from composefs.oci.plan import plan_layers
from composefs.oci.room import Room, check_room, stored_sizes
from composefs.oci.sizes import TAIL_SIZE, Contents, Known, Range, archive_size, least_stored
from composefs.oci.sources.opening import open_source
from composefs.oci.toc import TocEntry
from tests import chunked, layouts
from tests.layouts import Layer, files_layer, image_layout, noise, rooted, tar
from tests.registries import answers
from tests.registries.reaching import reaching
from tests.sources import opened

GZIP, ZSTD, PLAIN = Compression.GZIP, Compression.ZSTD, Compression.NONE
MB, GB = 10**6, 10**9
ROOM = Room(free=100 * GB, inodes=10**7, block_size=4096)
EMPTY = Target(Algorithm.SHA512, seals=False, room=ROOM, stored=Counter())


@dataclass(frozen=True)
class Annotated(Layer):
    """A layer whose descriptor has annotations."""

    annotations: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def descriptor(self) -> dict[str, Any]:
        return super().descriptor | {"annotations": self.annotations}


def chunked_layer(files, make=chunked.zstd_chunked, **forged):
    """Return a layer of *files*, and what they need, that has a table of contents."""
    made = make(rooted(files))
    compression = "gzip" if make is chunked.estargz else "zstd"
    plain = layouts.layer(made.archive, compression, blob=made.blob, **forged)
    return Annotated(**vars(plain), annotations=made.annotations)


@pytest.fixture
def repository(tmp_path):
    """An empty repository, open."""
    Repository.init(tmp_path / "repository", require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        yield repository


def costs(repository, reference, **options):
    """Return what it costs to import the image."""
    with opened(reference) as source:
        return import_cost(source, source.image(), repository, Target.of(repository), **options)


def seen(reference):
    """Return what is told of the layers of an image."""
    with opened(reference) as source:
        image = source.image()
        return glance(source, image, range(len(image.manifest.layers)))


def used(repository):
    """Return the bytes and inodes that a repository takes."""
    paths = [os.path.join(top, name) for top, *names in os.walk(repository.path) for name in sum(names, ["."])]
    found = {(info.st_ino, info.st_blocks) for info in map(os.lstat, paths)}
    return 512 * sum(blocks for _, blocks in found), len(found)


def is_within(number, found):
    return found.least <= number <= found.most


def layer_cost(contents, size=GB, *, is_present=False):
    return LayerCost(0, "sha256:", "sha256:", size, is_present, contents)


@pytest.mark.parametrize(
    ("size", "compression", "tail", "wanted", "known"),
    [
        (1000, PLAIN, None, Range(1000, 1000, 1000), Known.PLAIN),
        (1000, GZIP, None, Range(1000, 3160, 8000), Known.USUAL),
        (1000, ZSTD, None, Range(1000, 3500, 8000), Known.USUAL),
        (1000, ZSTD, bytes(4) + (5000).to_bytes(4, "little"), Range(1000, 3500, 8000), Known.USUAL),
        (1000, GZIP, bytes(4) + (5000).to_bytes(4, "little"), Range(5000, 5000, 5000), Known.TRAILER),
        (2 * GB, GZIP, bytes(4) + (5000).to_bytes(4, "little"), Range.exactly((1 << 32) + 5000), Known.TRAILER),
        (1000, GZIP, bytes(4) + (999).to_bytes(4, "little"), Range(1000, 3160, 8000), Known.USUAL),
        (1000, GZIP, bytes(4) + (2 * GB).to_bytes(4, "little"), Range(1000, 3160, 8000), Known.USUAL),
        (50 * MB, GZIP, bytes(4) + MB.to_bytes(4, "little"), Range(50 * MB, 158 * MB, (1 << 32) + MB), Known.USUAL),
        (1000, GZIP, bytes(TAIL_SIZE - 1), Range(1000, 3160, 8000), Known.USUAL),
    ],
)
def test_archive_size(size, compression, tail, wanted, known):
    """The end of a gzip blob is believed if it is likely; else the usual ratio counts."""
    assert archive_size(size, compression, tail) == (wanted, known)


def test_usual_contents():
    """Of what is not known, a layer has what the image has that was measured; at least it has half the blob."""
    whole = Contents.of_blob(1_443_849_818, GZIP, bytes(4) + (4_595_133_440 % (1 << 32)).to_bytes(4, "little"))

    assert whole.archive == Range.exactly(4_595_133_440)
    assert whole.entries.likely == pytest.approx(240_365, rel=0.01)
    assert whole.objects.likely == pytest.approx(156_447, rel=0.01)
    assert whole.size.likely == pytest.approx(4_255_577_095, rel=0.01)
    assert whole.size.least == 721_924_909
    assert Contents.of_blob(3160, PLAIN).size.least == 500
    assert Contents.of_blob(3160, None) == Contents(
        Known.PLAIN, Range.exactly(3160), Range.exactly(0), Range.exactly(1), Range.exactly(3160)
    )


def test_contents_of_a_table():
    """Each content above 64 bytes is an object, once; a chunk is no entry."""
    entries = [
        TocEntry("a/", "dir", 0, None, None, None),
        TocEntry("a/1", "reg", 1000, 0, 9, "sha256:1"),
        TocEntry("a/1", "chunk", 0, 9, 20, None),
        TocEntry("a/2", "reg", 1000, 20, 30, "sha256:1"),
        TocEntry("a/3", "reg", 64, 30, 40, "sha256:2"),
        TocEntry("a/4", "reg", 65, 40, 50, "sha256:3"),
        TocEntry("a/5", "reg", 0, None, None, None),
        TocEntry("a/6", "symlink", 0, None, None, None),
    ]

    found = Contents.of_entries(entries)

    assert found.files == {"sha256:1": 1000, "sha256:3": 65}
    assert (found.entries, found.objects, found.size) == (Range.exactly(7), Range.exactly(2), Range.exactly(1065))
    assert found.archive == Range.exactly(512 * (2 + 7 + 2 + 2 + 1 + 1))


@pytest.mark.parametrize("make", [chunked.zstd_chunked, chunked.estargz])
def test_a_table_is_exact(make, repository, tmp_path):
    """What a table of contents tells is what an import makes of the layers."""
    files = {"usr/a": noise(5000, 1), "usr/b": noise(70_000, 2), "usr/c": noise(64, 3), "usr/d": noise(5000, 1)}
    layers = [chunked_layer(files, make), chunked_layer({"usr/e": noise(300, 4), "usr/a": noise(5000, 1)}, make)]
    layout = image_layout(tmp_path / "layout", layers)

    found = costs(repository, layout)

    assert {layer.contents.known for layer in found.layers} == {Known.CONTENTS}
    before = used(repository)
    result = composefs.import_image(repository, str(layout), workers=1)
    assert found.objects == Range.exactly(result.stats.objects_new)
    assert found.object_size == Range.exactly(result.stats.bytes_new)
    disk, inodes = (after - first for after, first in zip(used(repository), before, strict=True))
    assert is_within(disk, found.disk)
    assert is_within(inodes, found.inodes)


def test_what_is_stored_already(repository, tmp_path):
    """A file of which an object has the size is taken to be there; if it is large, that is likely."""
    old = {f"usr/{size}": noise(size, size) for size in (100, 5000, 70_000)}
    image_layout(tmp_path / "old", [files_layer(old)])
    composefs.import_image(repository, f"oci:{tmp_path / 'old'}", workers=1)
    stored = stored_sizes(repository)
    assert [stored[size] for size in (100, 5000, 70_000)] == [1, 1, 1]

    new = {**old, "usr/100": noise(100, 1), "usr/9000": noise(9000), "usr/70000b": noise(70_000, 2)}
    found = costs(repository, image_layout(tmp_path / "new", [chunked_layer(new)]))

    assert found.objects == Range(2, 3, 5)
    assert found.object_size == Range(79_000, 79_100, 154_100)
    result = composefs.import_image(repository, f"oci:{tmp_path / 'new'}", workers=1)
    assert (result.stats.objects_new, result.stats.bytes_new) == (3, 79_100)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_import_is_in_the_range(compression, repository, tmp_path):
    """Of layers without a table, what an import takes lies between the least and the most."""
    layers = [files_layer({f"usr/{n}{i}": noise(40 * i * i, i) for i in range(40)}, compression) for n in "ab"]
    layout = image_layout(tmp_path / "layout", [*layers, files_layer({"usr/c": noise(100_000, 99)}, compression)])

    found = costs(repository, layout)

    assert found.fetched == sum(layer.size for layer in found.layers)
    before = used(repository)
    stats = composefs.import_image(repository, str(layout), workers=1).stats
    disk, inodes = (after - first for after, first in zip(used(repository), before, strict=True))
    assert is_within(stats.objects_new, found.objects)
    assert is_within(stats.bytes_new, found.object_size)
    assert is_within(disk, found.disk)
    assert is_within(inodes, found.inodes)


def test_nothing_is_missing(repository, tmp_path):
    """What is there costs nothing, and its stream tells how large it is; a further image costs only itself."""
    layer = files_layer({"usr/a": noise(1000), "usr/b": noise(1000)}, "gzip")
    layout = image_layout(tmp_path / "layout", [layer])
    composefs.import_image(repository, str(layout), workers=1)

    found = costs(repository, layout)

    assert (found.fetched, found.disk, found.inodes) == (0, Range.exactly(0), Range.exactly(0))
    (only,) = found.layers
    assert (only.is_present, only.contents.known, only.contents.objects) == (True, Known.STORED, Range.exactly(1))
    assert only.contents.archive == Range.exactly(len(tar(rooted({"usr/a": noise(1000), "usr/b": noise(1000)}))))
    assert found.verdict is Verdict.FITS
    more = costs(repository, layout, erofs_version=2)
    assert more.streams == Range.exactly(0)
    assert 4096 <= more.images.least <= more.disk.least
    with pytest.raises(UsageError):
        costs(repository, layout, erofs_version=7)


def test_images_to_make(repository, tmp_path):
    """With one for booting it is twice as many; an artifact has none."""
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/a": noise(1000)})])
    one, two = costs(repository, layout), costs(repository, layout, bootable=True)
    assert two.images == one.images.times(2, 2, 2)

    artifact = layouts.Layout(tmp_path / "artifact")
    artifact.write(artifact.artifact([layouts.layer(noise(1000), media_type="text/plain", diff_id="")]))
    found = costs(repository, artifact)
    assert (found.images, found.object_size) == (Range.exactly(0), Range.exactly(1000))


def test_glance(tmp_path):
    """A plain blob, the end of a gzip blob, and nothing of zstd."""
    files = {"usr/a": noise(3000)}
    layout = image_layout(tmp_path / "layout", [files_layer(files, each) for each in ("none", "gzip", "zstd")])
    archive = len(tar(rooted(files)))

    found = seen(layout)

    assert [each.known for each in found] == [Known.PLAIN, Known.TRAILER, Known.USUAL]
    assert [each.archive for each in found[:2]] == [Range.exactly(archive)] * 2


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda layout, layer: layout.blob_path(layer.digest).unlink(), Known.USUAL),
        (lambda layout, layer: layout.blob_path(layer.digest).write_bytes(layer.blob[:-500]), Known.USUAL),
        (lambda layout, layer: layout.blob_path(layer.digest).write_bytes(b"x" * len(layer.blob)), Known.USUAL),
    ],
)
def test_glance_at_what_is_broken(change, known, tmp_path):
    """A blob that is missing or broken is taken to be as usual: the import says what is wrong with it."""
    layer = chunked_layer({"usr/a": noise(5000)})
    layout = image_layout(tmp_path / "layout", [layer])
    change(layout, layer)

    (found,) = seen(layout)

    assert found.known is known
    assert found.archive.least == len(layer.blob)


@pytest.fixture
def server(server, tmp_path):
    """A registry with an image: layers of gzip, and of zstd with a table of contents."""
    layers = [files_layer({"usr/a": noise(2_000_000)}, "gzip"), chunked_layer({"usr/b": noise(1_000_000, 2)})]
    image_layout(tmp_path / "layout", layers)
    server.contents.put_layout(tmp_path / "layout", "x", "tag")
    return server


def costs_at(server, repository):
    server.requests.clear()
    with open_source(f"docker://{server.address}/x:tag", reaching()) as source:
        return import_cost(source, source.image(), repository, Target.of(repository))


def test_a_registry_is_asked_for_little(server, repository):
    """A few bytes of each layer are fetched, and no layer is."""
    found = costs_at(server, repository)

    assert [layer.contents.known for layer in found.layers] == [Known.TRAILER, Known.CONTENTS]
    ranges = sorted(request.range for request in server.blob_requests if request.range is not None)
    assert len(ranges) == 2
    assert server.blob_bytes < 3000
    assert found.fetched > 3_000_000


def test_a_registry_without_ranges(server, repository):
    """Where no ranges are given, nothing is fetched instead, and all is as usual."""
    server.always("GET .*/blobs/", answers.ignore_range)

    found = costs_at(server, repository)

    assert [layer.contents.known for layer in found.layers] == [Known.USUAL, Known.USUAL]
    assert server.blob_bytes < 1_000_000


@pytest.mark.parametrize(
    ("free", "inodes", "wanted"),
    [
        (100 * GB, None, Verdict.FITS),
        (100 * GB, 10**7, Verdict.FITS),
        (4 * GB, 10**7, Verdict.LIKELY),
        (2 * GB, 10**7, Verdict.DOUBTFUL),
        (GB // 10, 10**7, Verdict.IMPOSSIBLE),
        (100 * GB, 200_000, Verdict.LIKELY),
        (100 * GB, 50_000, Verdict.DOUBTFUL),
        (100 * GB, 1, Verdict.IMPOSSIBLE),
        (None, 10**7, Verdict.FITS),
    ],
)
def test_verdict(free, inodes, wanted):
    """It fits whatever it is; or if it is as usual; or only if it is not; or not."""
    target = replace(EMPTY, room=Room(free, inodes, 4096))

    assert add_up([layer_cost(Contents.of_blob(GB, GZIP))], target, 1).verdict is wanted


def test_the_measured_image():
    """What the usual image took on ext4, with an EROFS image, is what is told of it."""
    contents = Contents.of_blob(1_443_849_818, GZIP, bytes(4) + (4_595_133_440 % (1 << 32)).to_bytes(4, "little"))

    found = add_up([layer_cost(contents)], EMPTY, 1)

    assert found.disk.likely == pytest.approx(4_742_242_304, rel=0.01)
    assert found.streams.likely == pytest.approx(19_620_125, rel=0.02)
    assert found.images.likely == pytest.approx(64_077_824, rel=0.02)
    assert found.inodes.likely == pytest.approx(150_304, rel=0.1)


@pytest.mark.parametrize(
    ("algorithm", "size", "blocks"),
    [
        (Algorithm.SHA256, 65, 1),
        (Algorithm.SHA256, 4096, 1),
        (Algorithm.SHA256, 4097, 2),
        (Algorithm.SHA256, 128 * 4096, 2),
        (Algorithm.SHA256, 128 * 4096 + 1, 4),
        (Algorithm.SHA512, 64 * 4096, 2),
        (Algorithm.SHA512, 64 * 4096 + 1, 4),
    ],
)
def test_sealed_files(algorithm, size, blocks):
    """Enabled fs-verity adds a Merkle tree, and a block for its descriptor."""
    files = Contents.of_entries([TocEntry("a", "reg", size, 0, 0, "sha256:1")])
    sealed, plain, unknown = (
        add_up([layer_cost(files)], replace(EMPTY, algorithm=algorithm, seals=seals), 0).disk
        for seals in (True, False, None)
    )

    assert sealed.least - plain.least == sealed.most - plain.most == 4096 * blocks
    assert (unknown.least, unknown.likely, unknown.most) == (plain.least, plain.likely, sealed.most)


def test_sealed_files_that_are_not_known():
    """Nor does one of which little is known escape that."""
    layers = [layer_cost(Contents.of_blob(GB, GZIP))]
    sealed, plain, unknown = (add_up(layers, replace(EMPTY, seals=seals), 0).disk for seals in (True, False, None))

    assert plain.likely < sealed.likely
    assert (unknown.likely, unknown.most) == (plain.likely, sealed.most)
    assert sealed.least == plain.least


def test_room(tmp_path, monkeypatch):
    """What is reserved counts only for who may use it; a file system without a number of inodes has enough."""
    fields = list(os.statvfs(tmp_path))
    fields[1:8] = [4096, 100, 50, 40, 30, 20, 10]  # f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    monkeypatch.setattr(room_module, "may_use_reserve", lambda: False)
    assert Room.of(str(tmp_path)) == Room(40 * 4096, 10, 4096)
    monkeypatch.setattr(room_module, "may_use_reserve", lambda: True)
    assert Room.of(str(tmp_path)) == Room(50 * 4096, 20, 4096)
    fields[5] = 0
    assert Room.of(str(tmp_path)).inodes is None
    fields[2] = 0  # as tmpfs of size=0 has it, which is without limit, and some that do not tell
    assert Room.of(str(tmp_path)).free is None


def test_a_new_repository(tmp_path):
    """Where none is yet, its file system is that of the directory above."""
    found = Target.new(str(tmp_path / "not/there/yet"), Algorithm.SHA256)

    assert (found.algorithm, found.seals, found.stored) == (Algorithm.SHA256, None, Counter())
    assert found.room.block_size == os.statvfs(tmp_path).f_frsize
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/a": noise(1000)})])
    with opened(layout) as source:
        cost = import_cost(source, source.image(), None, found, bootable=True)
    assert not cost.layers[0].is_present
    assert cost.inodes.likely > 256


@pytest.fixture
def plans(repository, tmp_path):
    """Two layers to import, whose blobs have 200,000 bytes and more."""
    layers = [files_layer({"usr/a": noise(200_000, seed)}, "gzip") for seed in (1, 2)]
    with opened(image_layout(tmp_path / "layout", layers)) as source:
        return plan_layers(repository, source.image())


def set_room(monkeypatch, free, inodes=None):
    monkeypatch.setattr(room_module, "room_for", lambda _: Room(free, inodes, 4096))


@pytest.mark.parametrize(("compression", "least"), [(GZIP, 500), (ZSTD, 500), (PLAIN, 158), (None, 158)])
def test_least(compression, least):
    """A file system that compresses makes no more of a layer, or an artifact, than gzip does."""
    assert least_stored(1000, compression) == least


def test_no_room(repository, plans, monkeypatch):
    """An import is refused if half of its blobs would not fit."""
    least = sum(round(plan.size / 2) for plan in plans)
    set_room(monkeypatch, least)
    check_room(repository, plans)

    set_room(monkeypatch, least - 1)
    with pytest.raises(RoomError) as caught:
        check_room(repository, plans)
    error = caught.value
    assert (error.path, error.needed, error.free, error.unit) == (repository.path, least, least - 1, "bytes")
    check_room(repository, [])


def test_room_for_what_is_stored_already(repository, plans, monkeypatch):
    """All that the repository holds may be what is in the layers."""
    repository.objects.ensure(noise(150_000))
    set_room(monkeypatch, 60_000)
    check_room(repository, plans)

    set_room(monkeypatch, 40_000)
    with pytest.raises(RoomError, match=r"has no room: needs at least 5\d,\d{3} bytes, and 40,000 are free$"):
        check_room(repository, plans)


def test_no_inodes(repository, plans, monkeypatch):
    """Each layer takes a file, whatever is in it."""
    set_room(monkeypatch, GB, 2)
    check_room(repository, plans)

    set_room(monkeypatch, GB, 1)
    with pytest.raises(RoomError, match=r"needs at least 2 inodes, and 1 are free$"):
        check_room(repository, plans)


def test_no_limit(repository, plans, monkeypatch):
    """Where nobody tells how much is free, nothing is refused."""
    set_room(monkeypatch, None)

    check_room(repository, plans)


def test_room_of_objects(repository, monkeypatch):
    """The directory of objects may be on a file system of its own, and that is the one that counts."""
    asked = []

    def statvfs(fd):
        asked.append(os.readlink(f"/proc/self/fd/{fd}"))
        return os.fstatvfs(fd)

    monkeypatch.setattr(os, "statvfs", statvfs)

    room_module.room_for(repository)
    repository.objects.ensure(noise(100))
    room_module.room_for(repository)

    assert asked == [repository.path, f"{repository.path}/objects"]


def test_files_that_go_away(repository, monkeypatch):
    """Others may use the repository meanwhile: what is gone is not counted."""
    for data in (noise(100), noise(5000)):
        repository.objects.ensure(data)
    listed = os.scandir

    @contextmanager
    def scandir(fd):
        with listed(fd) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_file() and os.stat(entry.name, dir_fd=fd).st_size == 5000:
                os.unlink(entry.name, dir_fd=fd)
        yield found

    monkeypatch.setattr(os, "scandir", scandir)

    assert stored_sizes(repository) == Counter({100: 1})


def test_the_files_of_a_repository(repository):
    """Objects are counted by size; where there are none, there is nothing to count."""
    assert stored_sizes(repository) == Counter()
    for data in (noise(100, 1), noise(100, 2), noise(5000)):
        repository.objects.ensure(data)

    assert stored_sizes(repository) == Counter({100: 2, 5000: 1})
