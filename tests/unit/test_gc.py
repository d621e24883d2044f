"""Garbage collection: what is kept, what goes, what is refused, and that nothing happens where it is."""

import os
import stat
import subprocess

import pytest

from composefs import (
    FormatError,
    IntegrityError,
    NotFoundError,
    Repository,
    RepositoryError,
    _native,
)
from composefs._native import sweep
from composefs.digest import object_path
from composefs.errors import BusyError
from composefs.repository.gc import collect_garbage
from composefs.repository.gc import objects as gc_objects
from composefs.splitstream import ContentType
from tests.garbage import Maker, contents, objects_in
from tests.tools import require_root

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def maker(tmp_path):
    """An empty repository to fill."""
    return Maker(tmp_path / "repository")


def collect(maker, **options):
    with Repository.open(maker.path) as repository:
        return collect_garbage(repository, **options)


def test_an_empty_repository(maker):
    """Where nothing is, nothing is made."""
    before = os.listdir(maker.path)

    report = collect(maker)

    assert (report.objects_removed, report.objects_kept, report.streams_pruned) == (0, 0, 0)
    assert os.listdir(maker.path) == before


def test_what_references_keep(maker):
    """A reference keeps a stream, its objects, and what it refers to by name; all else goes, with its names."""
    kept, dead = [maker.object(b"%d" % number * 100) for number in range(4)], maker.object(b"dead" * 100)
    image = maker.image([maker.object(b"of the image" * 20)])
    layer = maker.stream("oci-layer-1", kept[:2])
    config = maker.stream("oci-config", [kept[2]], {"layer": layer, "image": image}, content_type=ContentType.CONFIG)
    maker.stream("oci-manifest", [kept[3]], {"config": config})
    other = maker.stream("oci-layer-2", [dead])
    maker.ref("streams/refs/oci/os", "oci-manifest")
    before = contents(maker.path)
    size = sum((maker.path / "objects" / object_path(raw)).stat().st_size for raw in (dead, other))
    size += len(b"of the image" * 20)

    planned = collect(maker, dry_run=True)
    assert contents(maker.path) == before
    report = collect(maker)

    # What the image names is kept by a reference to the image only.
    assert (report.objects_removed, report.objects_bytes, report.objects_kept) == (3, size, 8)
    assert (report.images_pruned, report.streams_pruned) == (0, 1)
    planned.dry_run = False
    assert planned == report
    after = contents(maker.path)
    assert before.items() > after.items()
    assert "streams/oci-layer-2" not in after
    assert {*kept, image, layer, config} < objects_in(maker.path)
    assert collect(maker).objects_removed == 0


def test_an_image_with_a_reference(maker):
    """It keeps what its files are."""
    named, other = maker.object(b"named" * 100), maker.object(b"other" * 100)
    first, second = maker.image([named], "first"), maker.image([other], "second")
    maker.ref("images/refs/a/b/c", first.hex())

    report = collect(maker)

    assert objects_in(maker.path) == {named, first}
    assert os.listdir(maker.path / "images") == ["refs", first.hex()] or report.images_pruned == 1
    assert not (maker.path / f"images/{second.hex()}").is_symlink()


def test_roots(maker):
    """What the caller names is kept as if a reference stood for it."""
    image, stream = maker.image([maker.object(b"1" * 100)]), maker.stream("s", [maker.object(b"2" * 100)])

    report = collect(maker, roots=[image.hex(), "s"])

    assert (report.objects_removed, report.objects_kept) == (0, 4)
    assert {image, stream} < objects_in(maker.path)
    with pytest.raises(NotFoundError, match="no entry t in images/ or streams/"):
        collect(maker, roots=["s", "t"])
    assert collect(maker).objects_removed == 4


def test_a_stream_that_has_no_name_is_not_followed(maker):
    """It is kept, and what it refers to is not: as by cfsctl."""
    inner = maker.object(b"inner" * 100)
    unnamed = maker.stream(None, [inner], text=b"unnamed")
    maker.stream("root", [], {"x": unnamed})
    maker.ref("streams/refs/r", "root")

    assert collect(maker).objects_removed == 1
    assert inner not in objects_in(maker.path)
    assert unnamed in objects_in(maker.path)


def test_streams_in_a_ring(maker):
    """A stream that refers to one that a reference keeps does not make it live; each is walked once."""
    first = maker.stream("first")
    names = ["first"]
    for number in range(50):
        first = maker.stream(f"s{number}", [], {"x": first, "y": first}, text=b"%d" % number)
        names.append(f"s{number}")
    maker.ref("streams/refs/deep/er/and/deeper", names[-1])
    maker.ref("streams/refs/also", names[-1])

    assert collect(maker).objects_kept == 51


def test_names_whose_objects_are_gone(maker):
    """A name that leads nowhere goes, unless a reference needs it."""
    raw = maker.stream("lost")
    (maker.path / "objects" / object_path(raw)).unlink()

    assert collect(maker, dry_run=True).streams_pruned == 1
    assert collect(maker).streams_pruned == 1
    assert os.listdir(maker.path / "streams") == []


@pytest.mark.parametrize("text", ["..", "/", ".", "/nowhere/.."])
def test_references_without_a_name(maker, text):
    """A link that ends with no name is no root; it goes if it leads nowhere, and only then."""
    maker.stream("s")
    maker.link("streams/refs/odd", text)

    report = collect(maker)

    assert report.objects_removed == 1
    assert report.streams_pruned == 1 + (text == "/nowhere/..")
    assert (maker.path / "streams/refs/odd").is_symlink() == (text != "/nowhere/..")


def test_a_reference_of_the_wrong_depth_is_a_root(maker):
    """Only the last part of a reference counts, and what keeps something is not removed."""
    raw = maker.stream("s")
    maker.link("streams/refs/a/b", "../s")  # of streams/refs/s, which is not there

    assert collect(maker).streams_pruned == 0
    assert raw in objects_in(maker.path)
    assert (maker.path / "streams/refs/a/b").is_symlink()


def _stray_in_streams(maker):
    (maker.path / "streams/stray").write_bytes(b"")


def _directory_in_images(maker):
    (maker.path / "images/directory").mkdir(parents=True)


def _file_in_refs(maker):
    (maker.path / "streams/refs/deep").mkdir(parents=True)
    (maker.path / "streams/refs/deep/note").write_text("remember")


def _fifo_in_refs(maker):
    os.mkfifo(maker.path / "streams/refs/fifo")


def _dangling_ref(maker):
    maker.ref("images/refs/lost", "0" * 64)


def _link_elsewhere(maker):
    maker.link("streams/elsewhere", "../meta.json")


def _link_in_capitals(maker):
    maker.link("streams/capitals", f"../objects/{'AB/' + 'C' * 62}")


def _link_with_a_detour(maker):
    maker.link("streams/detour", f"../streams/../objects/{'ab/' + 'c' * 62}")


def _link_of_other_digits(maker):
    maker.link("streams/digits", f"../objects/{'zz/' + 'c' * 62}")


def _loop(maker):
    maker.link("streams/refs/loop", "loop")


def _linked_directory(maker):
    os.rename(maker.path / "objects", maker.path / "elsewhere")
    maker.link("objects", "elsewhere")


def _linked_streams(maker):
    os.rename(maker.path / "streams", maker.path / "elsewhere")
    maker.link("streams", "elsewhere")


def _linked_refs(maker):
    os.rename(maker.path / "streams/refs", maker.path / "elsewhere")
    maker.link("streams/refs", "../elsewhere")


def _directory_as_object(maker):
    (maker.path / "objects" / object_path(b"\xff" * 32)).mkdir(parents=True)


REFUSED = {
    _stray_in_streams: "streams/stray: is no symbolic link",
    _directory_in_images: "images/directory: is no symbolic link",
    _file_in_refs: "streams/refs/deep/note: is no symbolic link",
    _fifo_in_refs: "streams/refs/fifo: is no symbolic link",
    _dangling_ref: "images/refs/lost: dangles: there is no images/000",
    _link_elsewhere: "streams/elsewhere: link to '../meta.json' is none to an object",
    _link_in_capitals: "streams/capitals: link to .* is none to an object",
    _link_with_a_detour: "streams/detour: link to .* is none to an object",
    _link_of_other_digits: "streams/digits: link to .* is none to an object",
    _loop: "streams/refs/loop: dangles: there is no streams/loop",
    _linked_directory: "objects: is no directory, and links are not followed",
    _linked_streams: "streams: is no directory, and links are not followed",
    _linked_refs: "streams/refs: is no directory, and links are not followed",
    _directory_as_object: "objects/ff/f*: is a directory, where an object should be",
}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__.strip("_"))
def test_refusals(maker, damage, dry_run):
    """What stands where only names and objects should is not passed over, and nothing is removed."""
    maker.stream("kept", [maker.object(b"1" * 100)])
    maker.ref("streams/refs/r", "kept")
    maker.stream("dead", [maker.object(b"2" * 100)])
    damage(maker)
    before = contents(maker.path)

    with pytest.raises(RepositoryError, match=REFUSED[damage]) as caught:
        collect(maker, dry_run=dry_run)

    assert caught.value.__notes__[-1] == "nothing was removed"
    assert contents(maker.path) == before


def _flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_what_is_broken_is_not_believed(maker):
    """A stream or image that is not what its name says ends it, for its list is not to be trusted."""
    kept = maker.object(b"1" * 100)
    stream, image = maker.stream("s", [kept]), maker.image([kept])
    maker.object(b"dead" * 100)
    for path, entry, raw in (("streams/refs/r", "s", stream), ("images/refs/r", image.hex(), image)):
        maker.ref(path, entry)
        where = maker.path / "objects" / object_path(raw)
        whole = where.read_bytes()
        for offset in (8, len(whole) - 1):  # in the header or at the end: what was decoded is nobody's business
            _flip(where, offset)
            before = contents(maker.path)
            with pytest.raises(IntegrityError) as caught:
                collect(maker)
            assert f"{path.split('/')[0]}/{entry} is needed by a reference" in caught.value.__notes__
            assert contents(maker.path) == before
            where.write_bytes(whole)
        where.unlink()
        with pytest.raises(NotFoundError, match="no object"):
            collect(maker)
        where.write_bytes(whole)
    assert collect(maker).objects_removed == 1


def test_what_is_no_stream_is_not_believed(maker):
    """An object of the right name that is no stream cannot say what it keeps."""
    raw = maker.object(b"no stream" * 100)
    maker.link("streams/s", f"../objects/{object_path(raw)}")
    maker.link("images/x", f"../objects/{object_path(raw)}")
    maker.ref("streams/refs/r", "s")

    with pytest.raises(FormatError, match="not a splitstream"):
        collect(maker)
    (maker.path / "streams/refs/r").unlink()
    maker.ref("images/refs/r", "x")
    with pytest.raises(FormatError, match="image x"):
        collect(maker)


def test_strays_are_left_alone(maker):
    """What is no object stays, and is told; so does what is in no directory of objects."""
    raw = maker.object(b"1" * 100)
    directory = maker.path / "objects" / raw.hex()[:2]
    capitals = raw.hex()[2:].upper()
    for name in ("stray", capitals):
        (directory / name).touch()
    (directory / "sub/dir").mkdir(parents=True)
    (maker.path / "objects/other").mkdir()

    report = collect(maker)

    assert report.strays == [f"objects/{raw.hex()[:2]}/{name}" for name in sorted(["stray", capitals, "sub"])]
    assert (report.objects_removed, sorted(os.listdir(directory))) == (1, sorted(["stray", capitals, "sub"]))
    assert (maker.path / "objects/other").is_dir()


def test_leftovers(maker):
    """What work that ended early has left is removed, and nothing that only looks like it."""
    maker.object(b"1" * 100)
    leftovers = ["objects/.tmp-object-0123456789ab", "objects/.tmp-object-AbCdEf012345", ".symlink-0123456789ab"]
    others = ["objects/.tmp-object-short", ".symlink-0123456789ab0", "objects/ab"]
    for path in leftovers[:2]:
        (maker.path / path).touch()
    maker.link(leftovers[2], "x")
    for path in others[:2]:
        (maker.path / path).touch()
    (maker.path / "objects/.tmp-object-00000000dddd").mkdir()

    assert collect(maker, dry_run=True).leftovers_removed == 3
    assert (maker.path / leftovers[0]).exists()
    assert collect(maker).leftovers_removed == 3
    assert not any(os.path.lexists(maker.path / path) for path in leftovers)
    assert all((maker.path / path).exists() for path in others[:2])


def test_names_go_before_objects(maker, monkeypatch):
    """Names are removed, then flushed, then objects go: stopped in between, no name leads nowhere."""
    maker.stream("dead", [maker.object(b"1" * 100)])
    steps = []
    unlink, syncfs, sweep_all = os.unlink, _native.syncfs, gc_objects.ObjectSet.sweep

    def look(step):
        steps.append((step, sorted(os.listdir(maker.path / "streams")), len(objects_in(maker.path))))

    def record_sweep(self, action, target_fd=-1):
        look(action.name)
        return sweep_all(self, action, target_fd)

    monkeypatch.setattr(os, "unlink", lambda *a, **k: (look("unlink"), unlink(*a, **k)))
    monkeypatch.setattr(_native, "syncfs", lambda fd: (look("syncfs"), syncfs(fd)))
    monkeypatch.setattr(gc_objects.ObjectSet, "sweep", record_sweep)

    collect(maker)

    assert steps == [("WEIGH", ["dead"], 2), ("unlink", ["dead"], 2), ("syncfs", [], 2), ("REMOVE", [], 2)]
    assert objects_in(maker.path) == set()


def test_an_object_that_cannot_be_removed(maker, monkeypatch):
    """The failure is told with its path; what was done before is done, and another run goes on."""
    raws = sorted(maker.object(b"%d" % number * 100) for number in range(20))
    real = sweep.Sweeper.sweep

    def fail(self, digests, marks):
        if self._action is sweep.SweepAction.REMOVE and bytes(digests[:32]) == raws[10]:
            error = sweep.SweepError(1, "Operation not permitted")
            error.digest = raws[10]
            raise error
        return real(self, digests, marks)

    monkeypatch.setattr(sweep.Sweeper, "sweep", fail)
    with pytest.raises(PermissionError) as caught:
        collect(maker, workers=1)
    assert caught.value.filename == f"{maker.path}/objects/{object_path(raws[10])}"
    assert raws[10] in objects_in(maker.path)
    monkeypatch.undo()
    collect(maker)
    assert objects_in(maker.path) == set()


def test_a_name_that_cannot_be_removed(maker, monkeypatch):
    """The failure is told with its path, and no object goes."""
    maker.stream("dead", [maker.object(b"1" * 100)])

    def fail(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(PermissionError) as caught:
            collect(maker)
    assert caught.value.filename == f"{maker.path}/streams/dead"
    assert len(objects_in(maker.path)) == 2


def test_what_others_remove_meanwhile(maker, monkeypatch):
    """During a dry run, others may take references away; and root may remove anything at any time."""
    maker.stream("kept", [maker.object(b"1" * 100)])
    maker.ref("streams/refs/a", "kept")
    maker.ref("streams/refs/b", "kept")
    maker.stream("dead")
    real_readlink, real_unlink = os.readlink, os.unlink

    def readlink(name, **options):
        if name == "b":
            raise FileNotFoundError(2, "No such file or directory")
        return real_readlink(name, **options)

    def unlink(name, **options):
        real_unlink(name, **options)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "readlink", readlink)
    assert collect(maker, dry_run=True).objects_removed == 1
    monkeypatch.setattr(os, "unlink", unlink)
    assert collect(maker).streams_pruned == 1
    assert os.listdir(maker.path / "streams") in (["refs", "kept"], ["kept", "refs"])


def test_an_unreadable_link(maker, monkeypatch):
    """What the system says of a name is told with its path."""
    maker.stream("s")

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "readlink", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        collect(maker)
    assert caught.value.filename == f"{maker.path}/streams/s"


def test_an_unreadable_directory(maker, monkeypatch):
    """What cannot be listed is not taken for empty."""
    raw = maker.stream("s")
    maker.ref("streams/refs/r", "s")
    real = gc_objects.list_objects

    def fail(fd, byte, size):
        if byte == raw[0]:
            raise PermissionError(13, "Permission denied")
        return real(fd, byte, size)

    monkeypatch.setattr(gc_objects, "list_objects", fail)
    with pytest.raises(PermissionError) as caught:
        collect(maker)
    assert caught.value.filename == f"{maker.path}/objects/{raw[0]:02x}"
    assert (maker.path / "streams/s").is_symlink()


def test_a_linked_directory_of_objects(maker):
    """objects/xx that is a link is not followed."""
    raw = maker.object(b"1" * 100)
    directory = maker.path / "objects" / raw.hex()[:2]
    directory.rename(maker.path / "elsewhere")
    directory.symlink_to("../elsewhere")

    with pytest.raises(RepositoryError, match="is no directory, and links are not followed") as caught:
        collect(maker)

    assert caught.value.path == str(directory)
    assert os.listdir(maker.path / "elsewhere") == [raw.hex()[2:]]


def test_a_repository_that_is_open(maker):
    """While anybody has it open, nothing is collected; a dry run is."""
    maker.object(b"1" * 100)
    with Repository.open(maker.path) as other:
        assert collect(maker, dry_run=True).objects_removed == 1
        with pytest.raises(BusyError, match=rf"is in use by process {os.getpid()} \("):
            collect(maker)
        with pytest.raises(BusyError):
            collect(maker, wait=0.05)
        assert other.objects.seals in {True, False}
    assert collect(maker).objects_removed == 1


def test_a_repository_that_is_not_ours(maker, monkeypatch):
    """Who may not write is told so before anything is done."""
    maker.object(b"1" * 100)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    with pytest.raises(RepositoryError, match="is not writable"):
        collect(maker)
    assert collect(maker, dry_run=True).objects_removed == 1


def test_deep_references(maker):
    """References at any depth are roots, also beyond the length of a path."""
    raw = maker.stream("s")
    fd = os.open(maker.path, os.O_RDONLY)
    name = "d" * 200
    os.mkdir("streams/refs", dir_fd=fd)
    inner = os.open("streams/refs", os.O_RDONLY, dir_fd=fd)
    for _ in range(30):
        os.mkdir(name, dir_fd=inner)
        deeper = os.open(name, os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.symlink("../" * 31 + "s", "ref", dir_fd=inner)
    os.close(inner)
    os.close(fd)

    assert collect(maker).objects_kept == 1
    assert raw in objects_in(maker.path)


def test_an_object_without_permissions(maker):
    """It is removed like others."""
    raw = maker.object(b"1" * 100)
    os.chmod(maker.path / "objects" / object_path(raw), 0)

    assert collect(maker).objects_removed == 1


def test_a_link_in_the_place_of_an_object(maker):
    """The link goes, and what it leads to does not; its own size counts."""
    maker.link(f"objects/{object_path(bytes(32))}", "../../meta.json")

    report = collect(maker)

    assert (report.objects_removed, report.objects_bytes) == (1, len("../../meta.json"))
    assert stat.S_ISREG((maker.path / "meta.json").stat().st_mode)


def test_a_read_only_file_system(maker, tmp_path):
    """There a dry run works, and the rest is refused."""
    require_root("mounts")

    maker.object(b"1" * 100)
    subprocess.run(["mount", "--bind", maker.path, maker.path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", maker.path], check=True)
        assert collect(maker, dry_run=True).objects_removed == 1
        with pytest.raises(RepositoryError, match="mounted read-only"):
            collect(maker)
    finally:
        subprocess.run(["umount", maker.path], check=True)
