"""Whoever may write in a repository, or has made an image, cannot lead us out of the repository, nor make us wait.

Nothing outside is written, moved, sealed or deleted; what stands in a wrong place is told with its path.
"""

import io
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, Repository, _native, verity
from composefs.cli import main
from composefs.digest import Digest
from composefs.errors import ComposefsError, FormatError, NotFoundError, RepositoryError, UsageError
from composefs.oci.tags import tag_image, untag_image
from composefs.repository import create
from composefs.repository.fsck import record
from composefs.verity import compute_digest
from tests import damage
from tests.layouts import files_layer, image_layout, layer, noise
from tests.threads import meanwhile
from tests.tools import require_root

ALGORITHM = Algorithm.SHA256
PATIENCE = 60  # seconds, far beyond what any of this takes
DIRECTORIES = [
    "objects",
    "streams",
    "streams/refs",
    "streams/refs/oci",
    "images",
    "images/refs",
    "images/refs/web",
    "trash",
    "trash/000001",
    "trash/000001/objects",
    "quarantine",
]
NOT_FOLLOWED = "is no directory, and links are not followed"


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Fail what waits for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError("waits for ever")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a repository that has all there can be, and a layout with another image."""
    directory = tmp_path_factory.mktemp("prepared")
    place = damage.make(directory)
    with Repository.open(place.path) as repository:
        repository.objects.ensure(noise(2000, 77))
    assert main(["--repo", str(place.path), "gc", "--trash", "30"]) == 0
    with Repository.open(place.path) as repository:
        repository.objects.ensure(noise(2000, 78))
    assert main(["--repo", str(place.path), "fsck"]) == 0
    image_layout(directory / "other", [files_layer({"usr/other": noise(50_000, 9)})], "other")
    return place


@pytest.fixture
def place(prepared, tmp_path):
    return prepared.copy(tmp_path / "repository")


@pytest.fixture
def outside(tmp_path):
    made = tmp_path / "outside"
    made.mkdir()
    (made / "file").write_text("precious")
    return made


def everything(directory: Path) -> dict[str, object]:
    """Return all that can be known of *directory*, without a look through links."""
    found: dict[str, object] = {}
    for path in [directory, *directory.rglob("*")]:
        info = path.lstat()
        content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns, content)
    return found


@contextmanager
def untouched(directory: Path) -> Iterator[None]:
    """See that nothing in *directory* is changed meanwhile."""
    before = everything(directory)
    yield
    assert everything(directory) == before


def commands(place, directory) -> list[list[str]]:
    """Return what can be done with a repository."""
    layouts = place.path.parent
    return [
        command.split()
        for command in (
            f"import oci:{layouts}/other:other --name new --workers 1",
            f"oci pull oci:{layouts}/other:other again/and:again",
            "oci tag os:42 moved",
            "oci untag os:42",
            f"create-image {layouts}/tree web/tree",
            "fsck",
            "oci fsck",
            "oci images",
            "images",
            "oci dump os:42",
            "ls web/os /",
            "fsck --quarantine",
            "fsck --since-last",
            f"fsck --repair-from {directory}",
            "gc --dry-run",
            "gc --undo",
            "gc --trash 1",
            "gc",
            "oci fsck --quarantine",
            f"init --reset-metadata --algorithm {ALGORITHM.value} --insecure {place.path}",
        )
    ]


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_that_is_a_link(prepared, place, outside, name, capsysbinary):
    """Each directory is moved elsewhere and replaced by a link, by which all would go well: nothing goes there."""
    shutil.copytree(prepared.path.parent / "other", place.path.parent / "other")
    (place.path.parent / "tree/usr").mkdir(parents=True)
    (place.path.parent / "tree/usr/file").write_bytes(noise(3000, 5))
    (place.path / "quarantine").mkdir(exist_ok=True)
    damage.flip(place.path / place.object(noise(2000, 78)))
    os.rename(place.path / name, outside / "moved")
    (place.path / name).symlink_to(outside / "moved")
    said = []
    with untouched(outside):
        for arguments in commands(place, prepared.path):
            assert main(["--repo", str(place.path), *arguments]) in (0, 1)
            said.append("".join(text.decode() for text in capsysbinary.readouterr()))

    assert any(name in text for text in said)


def test_an_object_directory_that_is_a_link(place, outside, capsysbinary):
    """No object is stored through it, sealed in it, read from it, or removed there."""
    data = noise(70_000, 4)  # what nothing needs
    path = place.path / place.object(data)
    os.rename(path.parent, outside / "moved")
    path.parent.symlink_to(outside / "moved")
    new = next(text for text in map(b"%d".__mod__, range(10_000)) if object_path(text)[:2] == path.parent.name)
    with untouched(outside), Repository.open(place.path) as repository:
        for work in (
            lambda: repository.objects.ensure(data),
            lambda: repository.objects.ensure(new),
            lambda: list(repository.objects.ensure_spans(new, _span(len(new)), raw(new))),
            lambda: repository.objects.ensure_pieces([new]),
            lambda: repository.objects.open(Digest(ALGORITHM, raw(data))),
            lambda: repository.objects.exists(Digest(ALGORITHM, raw(new))),
        ):
            with pytest.raises(RepositoryError) as caught:
                work()
            assert str(caught.value) == f"{path.parent}: {NOT_FOLLOWED}"
    with untouched(outside):
        for arguments in (["fsck"], ["fsck", "--quarantine"], ["gc"], ["gc", "--trash", "1"]):
            main(["--repo", str(place.path), *arguments])
            capsysbinary.readouterr()


def raw(data: bytes) -> bytes:
    return compute_digest(data, ALGORITHM).raw


def object_path(data: bytes) -> str:
    return compute_digest(data, ALGORITHM).object_path


def _span(size: int) -> bytes:
    return (0).to_bytes(8, "little") + size.to_bytes(8, "little")


def _link(path: Path, outside: Path) -> None:
    shutil.copy(path.with_name(path.name + ".away"), outside / "same")
    path.symlink_to(outside / "same")


def _socket(path: Path, _outside: Path) -> None:
    directory = os.open(path.parent, os.O_PATH)
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(f"/proc/self/fd/{directory}/{path.name[:40]}")
    os.rename(path.with_name(path.name[:40]), path)
    os.close(directory)


def _device(path: Path, _outside: Path) -> None:
    require_root("devices")
    os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))  # /dev/zero, which never ends


_REPLACEMENTS = {
    "link": _link,
    "fifo": lambda path, _: os.mkfifo(path),
    "socket": _socket,
    "device": _device,
    "directory": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("replacement", _REPLACEMENTS)
@pytest.mark.parametrize("which", ["stream", "image", "file"])
def test_an_object_that_is_something_else(place, outside, replacement, which, capsysbinary):
    """It is not followed, waited for, or read; fsck tells, and quarantine takes it away."""
    name = {"stream": place.layer_stream(0), "image": place.image_name, "file": ""}[which]
    path = place.path / (place.object_of(name) if name else place.object(damage.HIGH))
    os.rename(path, path.with_name(path.name + ".away"))
    _REPLACEMENTS[replacement](path, outside)
    path.with_name(path.name + ".away").unlink()
    with untouched(outside):
        for arguments in (
            "oci dump os:42",
            "cat-file web/os /usr/high",
            f"oci layer {place.layers[0]}",
            f"extract web/os {outside.parent}/target",
            "gc --dry-run",
        ):
            assert main(["--repo", str(place.path), *arguments.split()]) in (0, 1)
    capsysbinary.readouterr()
    with untouched(outside):
        assert main(["--repo", str(place.path), "fsck"]) == 1
        told = capsysbinary.readouterr().out.decode()
        assert "object-open-failed" in told
        assert str(path.relative_to(place.path)) in told
        main(["--repo", str(place.path), "fsck", "--quarantine"])
    assert not os.path.lexists(path)


@pytest.mark.parametrize("replacement", _REPLACEMENTS)
def test_metadata_that_is_something_else(place, outside, replacement):
    """A `meta.json` is a file in the repository, or none."""
    path = place.path / "meta.json"
    os.rename(path, path.with_name("meta.json.away"))
    _REPLACEMENTS[replacement](path, outside)
    with untouched(outside), pytest.raises((ComposefsError, IsADirectoryError), match="meta.json"):
        Repository.open(place.path)


def test_a_link_to_a_repository(place, tmp_path):
    """Whoever names a repository by a link wants that."""
    (tmp_path / "link").symlink_to(place.path)
    with Repository.open(tmp_path / "link") as repository:
        assert tag_image(repository, "os:42", "new")


@pytest.mark.parametrize("planted", ["link", "fifo", "directory", "huge"])
@pytest.mark.parametrize("name", ["fsck-record", "trash/000001/batch.json"])
def test_planted_state(place, outside, name, planted, capsysbinary):
    """What a file says that somebody else has put there is not waited for, nor believed."""
    path = place.path / name
    path.unlink()
    if planted == "link":
        path.symlink_to(outside / "file")
    elif planted == "fifo":
        os.mkfifo(path)
    elif planted == "directory":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 42)
    damage.flip(place.path / place.object(damage.HIGH))
    with untouched(outside):
        assert main(["--repo", str(place.path), "fsck", "--since-last"]) == 1
        assert "object-digest-mismatch" in capsysbinary.readouterr().out.decode()
        for arguments in (["gc", "--undo"], ["gc", "--trash", "2"], ["gc"]):
            assert main(["--repo", str(place.path), *arguments]) in (0, 1)


_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/../../../x",
    "/etc/x",
    "a//b",
    "a/",
    "a\0b",
    "x" * 300,
    "a/" + "y" * 256,
    "\ud800",
    "d/" * 2000 + "e",
]


@pytest.mark.parametrize("name", _NAMES)
def test_names_of_references(place, outside, name):
    """A reference is below its directory, and has a name that a file can have."""
    with Repository.open(place.path) as repository, untouched(outside.parent):
        digest = repository.images.resolve("web/os")
        for work in (
            lambda: repository.images.set_ref(name, digest),
            lambda: repository.streams.set_ref(name, "oci-manifest-x"),
            lambda: repository.streams.unset_ref(name),
            lambda: repository.streams.open(f"refs/{name}"),
            lambda: repository.streams.open(name),
            lambda: repository.images.open(name),
        ):
            with pytest.raises((UsageError, NotFoundError, RepositoryError)):
                work()


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "-x", "a b", "%2F..%2F", "a" * 255, "/".join(["deep"] * 800)])
def test_odd_names_of_references(place, name, monkeypatch):
    """What a file can be called, a reference can."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # of each directory, of which there may be many
    with Repository.open(place.path) as repository:
        digest = repository.images.resolve("web/os")
        repository.images.set_ref(name, digest)
        assert dict(repository.images.refs())[name] == digest.hex
    subprocess_remove(place.path / "images/refs")


def subprocess_remove(path: Path) -> None:
    """Remove what is too deep for Python."""
    assert os.spawnlp(os.P_WAIT, "rm", "rm", "-r", str(path)) == 0


# A directory that is exchanged for a link while others work: whatever the moment, nothing gets out.


@contextmanager
def exchanging(directory: Path, outside: Path) -> Iterator[None]:
    """Put a link to *outside* in the place of *directory*, and back, over and over."""
    link = directory.with_name(directory.name + ".link")
    link.symlink_to(outside)
    fd = os.open(directory.parent, os.O_RDONLY)

    def exchange(ended: threading.Event) -> None:
        while not ended.is_set():
            _native.rename(fd, link.name, fd, directory.name, _native.RENAME_EXCHANGE)

    try:
        with meanwhile(exchange):
            yield
    finally:
        os.close(fd)


_ENOUGH = 20  # times that the directory was there, and that the link was


def _until_both(work: Callable[[int], object]) -> None:
    """Do *work* until it was done, and was refused, often enough."""
    done = refused = number = 0
    while min(done, refused) < _ENOUGH:
        try:
            work(number)
            done += 1
        except (RepositoryError, NotFoundError):
            refused += 1
        number += 1


def test_objects_while_their_directory_is_exchanged(place, outside):
    """Neither C nor Python stores an object elsewhere."""
    texts = (text for text in map(b"%d".__mod__, itertools.count()) if raw(text)[0] == 0)
    (place.path / "objects/00").mkdir(exist_ok=True)
    with (
        untouched(outside),
        Repository.open(place.path) as repository,
        exchanging(place.path / "objects/00", outside),
    ):
        _until_both(lambda _: repository.objects.ensure(next(texts)))
        _until_both(lambda _: list(repository.objects.ensure_spans(text := next(texts), _span(len(text)), raw(text))))


def test_tags_while_their_directory_is_exchanged(place, outside):
    """A name is made, replaced and removed in the repository, or not at all."""
    for number in range(50):
        (outside / f"{number}").symlink_to("precious")
    stream = place.manifest_stream.partition("/")[2]

    def tag_and_untag(number: int) -> None:
        repository.streams.set_ref(f"oci/{number % 100}", stream)
        repository.streams.unset_ref(f"oci/{number % 100}")

    with (
        untouched(outside),
        Repository.open(place.path) as repository,
        exchanging(place.path / "streams/refs/oci", outside),
    ):
        _until_both(tag_and_untag)


# Layouts and layers of somebody else.


@pytest.mark.parametrize("target", ["/proc/self/mem", "/dev/zero", "/proc/kmsg", "fifo", "directory", "/"])
@pytest.mark.parametrize("which", ["index.json", "manifest", "config", "layer"])
def test_blobs_that_are_something_else(tmp_path, place, target, which):
    """What is no file of the promised size is refused; nothing is waited for."""
    made = files_layer({"usr/file": noise(5000)})
    layout = image_layout(tmp_path / "hostile", [made])
    blobs = sorted(layout.path.glob("blobs/sha256/*"), key=lambda path: path.stat().st_size)
    path = {"index.json": layout.path / "index.json", "config": blobs[0], "manifest": blobs[1], "layer": blobs[2]}[
        which
    ]
    path.unlink()
    if target == "fifo":
        os.mkfifo(path)
    elif target == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    assert main(["--repo", str(place.path), "import", str(layout), "--name", "hostile", "--workers", "1"]) == 1
    assert main(["--repo", str(place.path), "oci", "fsck"]) == 0


def _archive(*entries: tuple[str, bytes, str]) -> bytes:
    """Return a tar archive of entries with name, type and target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, target in (("usr", tarfile.DIRTYPE, ""), *entries):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o755
            data = b"evil" if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


_FILE, _HARD, _SOFT = b"0", b"1", b"2"
_LAYERS = {
    "absolute": [("/OUT/new", _FILE, "")],
    "dots": [("../../../../../../../../../../OUT/new", _FILE, "")],
    "dots-inside": [("usr/../../OUT/new", _FILE, "")],
    "through-link": [("link", _SOFT, "/OUT"), ("link/new", _FILE, "")],
    "through-relative-link": [("usr/link", _SOFT, "../../../../../../../../../OUT"), ("usr/link/new", _FILE, "")],
    "link-over-directory": [("usr/d/file", _FILE, ""), ("usr/d", _SOFT, "/OUT"), ("usr/d/new", _FILE, "")],
    "hard-link": [("usr/hard", _HARD, "/OUT/file")],
    "hard-link-dots": [("usr/hard", _HARD, "../../../../../../../../../../OUT/file")],
    "hard-link-through-link": [("link", _SOFT, "/OUT"), ("usr/hard", _HARD, "link/file")],
    "whiteout-of-root": [(".wh..", _FILE, ""), ("usr/.wh...", _FILE, ""), (".wh.", _FILE, "")],
    "opaque-root": [(".wh..wh..opq", _FILE, "")],
    "whiteout-through-link": [("link", _SOFT, "/OUT"), ("link/.wh.file", _FILE, "")],
    "name-of-slashes": [("///", _FILE, ""), ("usr//", _FILE, "")],
    "dot-is-a-link": [(".", _SOFT, "/OUT"), ("./new", _FILE, "")],
    "root-is-a-file": [("/", _FILE, "")],
}


@pytest.mark.parametrize("name", _LAYERS)
@pytest.mark.parametrize("split", [False, True])
def test_layers_that_point_elsewhere(tmp_path, place, outside, name, split, capsysbinary):
    """Entries mean what they mean in the image, however they are called; to extract them touches nothing outside."""
    entries = [
        (path.replace("OUT", str(outside)[1:]), kind, to.replace("/OUT", str(outside)))
        for path, kind, to in _LAYERS[name]
    ]
    archives = [_archive(entry) for entry in entries] if split else [_archive(*entries)]
    layout = image_layout(tmp_path / "hostile", [layer(archive) for archive in archives])
    with untouched(outside):
        status = main(["--repo", str(place.path), "import", str(layout), "--name", "hostile", "--workers", "1"])
        said = capsysbinary.readouterr()
        if status == 0:
            image = said.out.decode().split("image")[-1].split()[0]
            for command in (
                ["ls", image, "/"],
                ["extract", image, str(tmp_path / "target")],
                ["oci", "dump", "hostile"],
            ):
                assert main(["--repo", str(place.path), *command]) in (0, 1)
        else:
            assert status == 1
            assert said.err
    assert main(["--repo", str(place.path), "oci", "fsck"]) == 0


def test_a_file_that_is_no_directory_of_objects(place):
    """To infer what an old repository is, nothing is followed either."""
    (place.path / "meta.json").unlink()
    shutil.rmtree(place.path / "objects")
    (place.path / "objects").symlink_to("/")
    fd = os.open(place.path, os.O_RDONLY)
    with pytest.raises(RepositoryError, match=NOT_FOLLOWED):
        create.infer(fd, str(place.path))
    os.close(fd)
    with pytest.raises(RepositoryError, match=NOT_FOLLOWED):
        Repository.open(place.path)


def test_untag_does_not_follow(place, outside):
    """Who untags removes no file elsewhere."""
    shutil.rmtree(place.path / "streams/refs/oci")
    (outside / "victim").symlink_to("somewhere")
    (place.path / "streams/refs/oci").symlink_to(outside)
    with Repository.open(place.path) as repository, untouched(outside), pytest.raises(RepositoryError):
        untag_image(repository, "victim")


# A repository of somebody else, in which root works: never refused, never believed, never followed.


def test_an_object_that_is_another_name_of_a_file(place, outside):
    """What has the size of an object, and nothing else, is neither changed nor sealed, but replaced."""
    path = place.path / place.object(damage.HIGH)
    (outside / "victim").write_bytes(bytes(len(damage.HIGH)))
    path.unlink()
    os.link(outside / "victim", path)
    with Repository.open(place.path) as repository:
        repository.objects.distrust([raw(damage.HIGH)])
        repository.objects.ensure(damage.HIGH)

    assert path.read_bytes() == damage.HIGH
    assert (outside / "victim").read_bytes() == bytes(len(damage.HIGH))
    assert (outside / "victim").stat().st_nlink == 1


def test_nothing_is_sealed_but_what_has_the_digest(place, outside, monkeypatch):
    """Where the file system has fs-verity, a file of the same size would be read-only for ever."""
    sealed = []
    monkeypatch.setattr(verity, "is_known", lambda _: True)
    monkeypatch.setattr(verity, "seal", lambda fd, digest, *_: (sealed.append(os.pread(fd, 1 << 20, 0)), True)[1])
    path = place.path / place.object(damage.HIGH)
    path.unlink()
    (outside / "victim").write_bytes(bytes(len(damage.HIGH)))
    os.link(outside / "victim", path)
    with Repository.open(place.path) as repository:
        repository.objects.ensure_pieces([damage.HIGH])

    assert sealed == [damage.HIGH]


def test_a_record_of_the_owner_is_not_believed(place, capsysbinary):
    """Who may change the repository may not say what root need not look at; his own record he has himself to blame."""
    require_root("files of others")
    damage.flip(place.path / place.object(damage.HIGH), 5)
    with Repository.open(place.path) as repository:
        assert record.load(repository).prefixes
    for path in (place.path, place.path / record.NAME):
        os.chown(path, 1234, 1234)
    with Repository.open(place.path) as repository, pytest.raises(FormatError, match="others may have written it"):
        record.load(repository)
    assert main(["--repo", str(place.path), "fsck", "--since-last"]) == 1
    assert b"object-digest-mismatch" in capsysbinary.readouterr().out


def test_the_doctor_tells_whose_it_is(place, capsysbinary):
    """Nobody is refused; but who asks is told that another user may change what he uses."""
    require_root("files of others")
    os.chown(place.path, 1234, 1234)
    main(["--repo", str(place.path), "doctor", "--json"])
    found = json.loads(capsysbinary.readouterr().out)
    (finding,) = [each for each in found["findings"] if each["id"] == "repository.permissions"]

    assert "owner uid 1234" in finding["found"]
    assert "that user may change what is in it" in finding["found"]


def test_a_linked_directory_of_objects_is_not_mounted(tmp_path: Path) -> None:
    """What is mounted is what was opened by name, and nothing else."""
    Repository.init(tmp_path / "repository", ALGORITHM, require_verity=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "repository/objects").symlink_to("../elsewhere")

    with Repository.open(tmp_path / "repository") as repository, pytest.raises(RepositoryError, match=NOT_FOLLOWED):
        repository.open_objects()
