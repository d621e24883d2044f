"""`composefs images` and what the global options ask of a repository."""

import io
import json
from collections.abc import Callable

import pytest

import composefs
from composefs import Algorithm, Repository, limits
from composefs.cli import main
from composefs.erofs.writer import write_image
from composefs.repository import refs
from composefs.repository.images import ImageStore
from composefs.verity import compute_digest
from tests.images import directory, inline


@pytest.fixture
def path(tmp_path):
    """The path of a repository with two images of one name each, and one of none."""
    path = tmp_path / "repository"
    Repository.init(path, Algorithm.SHA256, require_verity=False)
    with Repository.open(path) as repository:
        for name, data in (("b/c", b"one"), ("a", b"two"), (None, b"three")):
            digest = repository.images.store(data)
            repository.images.link(digest)
            if name is not None:
                repository.images.set_ref(name, digest)
    return path


def call(capsys, *arguments):
    """Run the command in this process; return its status, and the lines on each stream."""
    status = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def ids(path):
    with Repository.open(path) as repository:
        return dict(repository.images.refs())


def test_table(path, capsys):
    """The named images are listed by name, digests shortened unless told otherwise."""
    known = ids(path)

    short = call(capsys, "--repo", path, "images")
    whole = call(capsys, "--repo", path, "list-images", "--no-trunc")

    assert short == (0, ["NAME  DIGEST", f"a     {known['a'][:12]}", f"b/c   {known['b/c'][:12]}"], [])
    assert whole == (0, ["NAME  DIGEST", f"a     {known['a']}", f"b/c   {known['b/c']}"], [])


def test_json(path, capsys):
    """--json prints whole digests."""
    status, out, _ = call(capsys, "--repo", path, "images", "--json")

    assert status == 0
    wanted = [{"name": name, "digest": digest} for name, digest in sorted(ids(path).items())]
    assert json.loads("\n".join(out)) == {"images": wanted}


def test_none(tmp_path, capsys):
    """An empty repository is said to be empty."""
    Repository.init(tmp_path / "new", require_verity=False)

    assert call(capsys, "--repo", tmp_path / "new", "images") == (0, ["No images found"], [])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--hash", "sha512"], 1, "{path}: has the algorithm fsverity-sha256-12, but --hash sha512 was given"),
        (["--hash", "sha256"], 0, None),
        (["--require-verity"], 1, "{path}: was made without fs-verity"),
        (["--no-repo"], 2, "--no-repo is only for commands that compute: compute-id, compute-karg, create-dumpfile"),
    ],
)
def test_expectations(arguments, status, message, path, capsys):
    """What a repository must be is looked at before the work."""
    got, _, err = call(capsys, "--repo", path, *arguments, "images")

    assert got == status
    if message is not None:
        assert err[0].startswith(f"composefs: {message.format(path=path)}")


def test_no_upgrade(path, capsys):
    """--no-upgrade leaves a repository without meta.json as it is, and refuses it."""
    (path / "meta.json").unlink()

    refused = call(capsys, "--repo", path, "--no-upgrade", "images")

    assert refused == (1, [], [f"composefs: {path} has no meta.json; `composefs init` makes a repository"])
    assert not (path / "meta.json").exists()
    assert call(capsys, "--repo", path, "images")[0] == 0
    assert (path / "meta.json").exists()


def test_public_names():
    """What the package promises can be imported, and nothing else pretends to be there."""
    for name in composefs.__all__:
        assert isinstance(getattr(composefs, name), Callable)
    assert set(composefs.__all__) <= set(dir(composefs))
    with pytest.raises(AttributeError, match="module 'composefs' has no attribute 'Repositori'"):
        composefs.Repositori  # noqa: B018


def give(monkeypatch, data):
    """Let *data* come on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_import_image(path, capsys, monkeypatch):
    """An image is stored and flushed, gets its names after that, and its id is printed."""
    image = bytes(write_image(directory({"a": inline(b"a")}), 1))
    order = []
    link, sync, store = refs.link, Repository.sync, ImageStore.store
    monkeypatch.setattr(refs, "link", lambda *a: (order.append(a[1]), link(*a))[1])
    monkeypatch.setattr(Repository, "sync", lambda self: (order.append("sync"), sync(self))[1])
    monkeypatch.setattr(ImageStore, "store", lambda self, data: (order.append("store"), store(self, data))[1])
    give(monkeypatch, image)

    status, (text,), err = call(capsys, "--repo", path, "import-image", "new/one")

    digest = compute_digest(image, Algorithm.SHA256)
    assert (status, text, err) == (0, str(digest), [])
    assert ids(path)["new/one"] == digest.hex
    assert order == ["store", "sync", f"images/{digest.hex}", "images/refs/new/one"]
    with Repository.open(path) as repository, repository.images.open("new/one") as file:
        assert file.read() == image


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "offset 0: is empty, where an EROFS image is wanted"),
        (b"no image", "offset 8: the image ends before its inodes, which begin at 1152"),
    ],
)
def test_import_no_image(path, capsys, monkeypatch, data, what):
    """What is no image is neither stored nor named."""
    before = sorted(path.rglob("*"))
    give(monkeypatch, data)

    assert call(capsys, "--repo", path, "import-image", "new") == (1, [], [f"composefs: standard input, {what}"])
    assert sorted(path.rglob("*")) == before


class Endless(io.RawIOBase):
    """A stream of zero bytes that complains when too many of them are read."""

    def __init__(self):
        self.left = 1 << 20

    def readable(self):
        return True

    def readinto(self, buffer):
        self.left -= len(buffer)
        assert self.left > 0
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_import_endless_image(path, capsys, monkeypatch):
    """Of an image that is larger than any may be, no more is read than shows it."""
    monkeypatch.setattr(limits, "EROFS_SIZE", 1 << 16)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    before = ids(path)

    status, out, err = call(capsys, "--repo", path, "import-image", "new")

    assert (status, out) == (1, [])
    assert err == ["composefs: standard input, offset 0: 65537 bytes of image, more than 65536"]
    assert ids(path) == before
