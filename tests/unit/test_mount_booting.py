"""Which image of a repository is booted, and what stops that."""

import pytest

import composefs
from composefs import Algorithm, Digest, NotFoundError, Repository, RepositoryError
from composefs.boot.kargs import ImageArgument
from composefs.erofs.writer import write_image
from composefs.mount.booting import open_selected
from tests.images import directory, inline, store

OTHER = Digest(Algorithm.SHA256, bytes(32))
FOREIGN = Digest(Algorithm.SHA512, bytes(64))
SKIPPED = "composefs: image {} not found, trying next karg"


@pytest.fixture
def path(tmp_path):
    """A repository with two images."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


@pytest.fixture
def images(path):
    """Their ids."""
    with Repository.open(path) as repository:
        return [
            store(repository.images, write_image(directory({"usr": directory({"f": inline(data)})}), 1), data.decode())
            for data in (b"one", b"two")
        ]


@pytest.fixture
def sealed(monkeypatch):
    """Let repositories require fs-verity."""
    meta = composefs.repository.meta
    monkeypatch.setattr(composefs.repository, "_read_meta", lambda fd, where, upgrade: (meta.read(fd, where)[0], True))


def insecure(digest):
    return ImageArgument(digest, 1, insecure=True)


def secure(digest):
    return ImageArgument(digest, 1, insecure=False)


def test_first_that_exists(path, images, caplog):
    """The first whose image is there is taken, and those before are told."""
    arguments = [insecure(digest) for digest in (OTHER, FOREIGN, images[1], images[0])]

    with open_selected(str(path), arguments) as (repository, argument):
        assert argument == insecure(images[1])
        assert repository.images.find(images[0])

    assert caplog.messages == [SKIPPED.format(digest.hex) for digest in (OTHER, FOREIGN)]


def test_requires_verity(path, images, sealed):
    """The repository is opened as the argument wants it: an image of the same may be booted with and without."""
    for argument in (secure(images[0]), insecure(images[0])):
        with open_selected(str(path), [argument]) as (repository, found):
            assert found == argument
            assert repository.verity == (not argument.insecure)


def test_repository_without_verity(path, images):
    """An argument that requires it stops all, even if its image is not there and another one is."""
    for digest in (images[0], OTHER):
        with (
            pytest.raises(RepositoryError, match="was made without fs-verity, which the kernel argument "),
            open_selected(str(path), [secure(digest), insecure(images[0])]),
        ):
            pass


def test_none_exists(path, images, caplog):
    """Without any, all that were tried are named."""
    with (
        pytest.raises(NotFoundError) as caught,
        open_selected(str(path), [insecure(OTHER), secure(FOREIGN)]),
    ):
        pass

    assert str(caught.value) == f"{path}: no composefs image found (tried: {OTHER.hex}, {FOREIGN.hex})"
    assert len(caplog.messages) == 2


def test_lost_object(path, images):
    """An image whose object is gone is not there."""
    (path / "objects" / images[0].object_path).unlink()

    with open_selected(str(path), [insecure(digest) for digest in images]) as (_, argument):
        assert argument.digest == images[1]


def test_no_argument(path):
    """Nothing to boot is an error."""
    with pytest.raises(NotFoundError, match="no composefs karg found in kernel cmdline"), open_selected(str(path), []):
        pass


def test_no_repository(tmp_path):
    """So is a repository that there is not, or that has no meta.json, which nobody writes then."""
    with pytest.raises(NotFoundError, match="no repository"), open_selected(str(tmp_path / "r"), [insecure(OTHER)]):
        pass
    (tmp_path / "objects").mkdir()
    with pytest.raises(NotFoundError, match="no meta.json"), open_selected(str(tmp_path), [insecure(OTHER)]):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "objects"]
