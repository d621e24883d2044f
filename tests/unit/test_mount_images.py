"""What the kernel must demand of an image's objects, and how a mount is called."""

import os

import pytest

import composefs
from composefs import Algorithm, FormatError, IntegrityError, NotFoundError, Repository, UsageError, kernel, verity
from composefs.kernel import Verity
from composefs.mount import mount_image, open_image, source_of
from tests.layouts import files_layer, image_layout, noise


@pytest.fixture
def path(tmp_path):
    """A repository with an image: its ref is base, its tag os."""
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/": b"", "usr/file": noise(5000)})])
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        result = composefs.import_image(repository, str(layout), name="os", workers=1)
        repository.images.set_ref("base", result.image)
    return tmp_path / "repository"


def opened(path, *, requires_verity):
    """Open the repository as if it had been made with or without fs-verity."""
    repository = Repository.open(path, insecure=True)  # whatever the kernel is made to say of its meta.json
    if not requires_verity:
        return repository
    sealed = Repository(repository.path, repository._fd, repository.meta, verity=True)
    repository.objects.close()
    return sealed


@pytest.fixture(params=["id", "ref", "full ref", "tag"])
def name(path, request):
    """Each name of the image."""
    with Repository.open(path) as repository:
        digest = repository.images.resolve("base")
    return {"id": digest.hex, "ref": "base", "full ref": "refs/base", "tag": "os"}[request.param]


@pytest.fixture
def seal(monkeypatch):
    """Let the kernel measure the right digest of every file, as if it was sealed."""

    def do():
        monkeypatch.setattr(verity, "measure", verity.compute_file_digest)

    return do


def test_not_sealed(path, name):
    """Where nothing is sealed and nothing requires it, nothing is demanded, whatever the name."""
    with opened(path, requires_verity=False) as repository, open_image(repository, name) as image:
        assert image.verity is Verity.DISABLED
        assert image.digest == repository.images.resolve("base")
        assert verity.compute_file_digest(image.file.fileno(), Algorithm.SHA256) == image.digest
    assert image.file.closed


def test_sealed(path, name, seal):
    """A sealed image demands it where the kernel can, also where the repository does not."""
    seal()

    with opened(path, requires_verity=False) as repository, open_image(repository, name) as image:
        assert image.verity is Verity.TRY


def test_required(path, name, seal):
    """Where the repository requires it, an image that is not sealed is refused."""
    with (
        opened(path, requires_verity=True) as repository,
        pytest.raises(IntegrityError, match="got no fs-verity"),
    ):
        open_image(repository, name)
    seal()

    with opened(path, requires_verity=True) as repository, open_image(repository, name) as image:
        assert image.verity is Verity.REQUIRED


@pytest.mark.parametrize("requires_verity", [False, True])
def test_sealed_with_another_digest(path, name, requires_verity, monkeypatch):
    """An image whose measured digest is not the one that the name leads to is refused."""
    wrong = composefs.Digest(Algorithm.SHA256, bytes(32))
    monkeypatch.setattr(verity, "measure", lambda *_: wrong)

    with (
        opened(path, requires_verity=requires_verity) as repository,
        pytest.raises(IntegrityError, match=f"got {wrong.hex}"),
    ):
        open_image(repository, name)


def test_insecure(path, monkeypatch):
    """A repository that requires fs-verity can be opened as if it did not."""
    meta = composefs.repository.meta
    monkeypatch.setattr(composefs.repository, "_read_meta", lambda fd, where, upgrade: (meta.read(fd, where)[0], True))

    with Repository.open(path) as repository:
        assert repository.verity
    with Repository.open(path, insecure=True) as repository, open_image(repository, "base") as image:
        assert image.verity is Verity.DISABLED


@pytest.mark.parametrize(
    ("wrong", "error"), [("nothing", NotFoundError), ("refs/nothing", NotFoundError), ("0" * 64, NotFoundError)]
)
def test_missing(path, wrong, error):
    """What there is not is not found."""
    with Repository.open(path) as repository, pytest.raises(error, match=f"image not found: {wrong}"):
        open_image(repository, wrong)


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000)])
def test_no_image(path, data):
    """An object that is no image is said to be none, before the kernel is asked."""
    with Repository.open(path) as repository:
        digest = repository.images.store(data)
        repository.images.link(digest)

        with pytest.raises(FormatError, match=f"image {digest.hex}, offset "):
            open_image(repository, digest.hex)


def test_source(path):
    """A mount is called by the name that was given; where the kernel would not take it, by the id."""
    digest = composefs.Digest(Algorithm.SHA512, bytes(range(64)))

    assert source_of("refs/a b", digest) == "composefs:refs/a b"
    assert source_of("\u00e9" * 122, digest) == "composefs:" + "\u00e9" * 122
    assert source_of("\u00e9" * 123, digest) == f"composefs:{digest.hex}"


def test_what_the_kernel_gets(path, seal, tmp_path, monkeypatch):
    """Descriptors of the right things, and what was asked for; all are closed again."""
    seen = []

    def mount(image_fd, object_fds, options, features):
        fds = (image_fd, *object_fds, options.upper_fd, options.work_fd, options.idmap_fd)
        seen.append((options.source, options.verity, options.read_only, [_inode(f"/proc/self/fd/{fd}") for fd in fds]))
        return "mount"

    monkeypatch.setattr("composefs.mount.images.mount_by_kernel", mount)
    for directory in ("upper", "work"):
        (tmp_path / directory).mkdir()
    seal()
    with Repository.open(path) as repository:
        open_image(repository, "base").file.close()  # opens the directory of objects, which stays
        before = _descriptors()
        result = mount_image(
            repository,
            "base",
            upper=tmp_path / "upper",
            work=tmp_path / "work",
            read_write=True,
            idmap="/proc/self/ns/user",
        )
        assert _descriptors() == before
        image = path / "objects" / repository.images.resolve("base").object_path

    assert result == "mount"
    files = [image, path / "objects", tmp_path / "upper", tmp_path / "work", "/proc/self/ns/user"]
    assert seen == [("composefs:base", Verity.REQUIRED, False, [_inode(file) for file in files])]


@pytest.mark.parametrize("options", [{"upper": "."}, {"work": "."}, {"read_write": True}])
def test_options_that_need_others(path, options):
    """An upper layer, a work directory and writing belong together."""
    with Repository.open(path) as repository:
        open_image(repository, "base").file.close()  # opens the directory of objects, which stays
        before = _descriptors()
        with pytest.raises(UsageError):
            mount_image(repository, "base", **options)
        assert _descriptors() == before


@pytest.mark.parametrize("option", ["upper", "work", "idmap"])
def test_paths_that_are_missing(path, option, tmp_path):
    """What cannot be opened is named."""
    options = {"upper": tmp_path, "work": tmp_path} | {option: tmp_path / "missing"}

    with Repository.open(path) as repository, pytest.raises(FileNotFoundError) as caught:
        mount_image(repository, "base", **options)

    assert caught.value.filename == str(tmp_path / "missing")


def test_public_name(path):
    """The function is one of the package, and what it gives is the kernel's."""
    assert composefs.mount_image is mount_image
    assert mount_image.__annotations__["return"] == kernel.Mount.__name__


def _inode(path):
    info = os.stat(path)
    return info.st_dev, info.st_ino


def _descriptors():
    return len(os.listdir("/proc/self/fd"))
