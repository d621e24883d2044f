"""Images of a repository: what they are called, and what a name may be."""

import os

import pytest

from composefs import Algorithm, Digest, IntegrityError, NotFoundError, RepositoryError, UsageError


@pytest.fixture
def digest(repository):
    """An image that is stored and named by its digest."""
    digest = repository.images.store(b"image")
    repository.images.link(digest)
    return digest


def test_link(repository, digest):
    """The name of an image is a link to its object."""
    link = os.readlink(f"{repository.path}/images/{digest.hex}")

    assert link == f"../objects/{digest.object_path}"
    assert repository.images.find(digest)


@pytest.mark.parametrize(("ref", "up"), [("os", "../"), ("a/b", "../../"), ("a b/é", "../../")])
def test_ref(ref, up, repository, digest):
    """A ref is a link to the name, and is found with its prefix and without."""
    repository.images.set_ref(ref, digest)

    assert os.readlink(f"{repository.path}/images/refs/{ref}") == f"{up}{digest.hex}"
    assert list(repository.images.refs()) == [(ref, digest.hex)]
    for name in (ref, f"refs/{ref}", digest.hex, str(digest)):
        assert repository.images.resolve(name) == digest
        with repository.images.open(name) as file:
            assert file.read() == b"image"


def test_ref_is_replaced(repository, digest):
    """A ref stands for the image that it was given last."""
    other = repository.images.store(b"other")
    repository.images.link(other)

    repository.images.set_ref("os", digest)
    repository.images.set_ref("os", other)

    assert repository.images.resolve("os") == other


@pytest.mark.parametrize("ref", ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".", "a\0b", "x" * 256])
def test_refused_refs(ref, repository, digest):
    """A ref that is no path below images/refs is refused, and nothing is found under it."""
    with pytest.raises(UsageError, match="is no name for"):
        repository.images.set_ref(ref, digest)
    with pytest.raises(NotFoundError, match="image not found"):
        repository.images.resolve(ref)
    with pytest.raises(NotFoundError, match="image not found"):
        repository.images.resolve(f"refs/{ref}")
    with pytest.raises(NotFoundError, match="image not found"):
        repository.images.resolve(f"sha256:{ref}")


def test_not_found(repository, digest):
    """A name that leads nowhere is not found, whatever it looks like."""
    for name in ("none", "refs/none", "ab" * 32, "none/none"):
        with pytest.raises(NotFoundError, match=f"image not found: {name}"):
            repository.images.resolve(name)
    assert not repository.images.find(Digest.from_hex(Algorithm.SHA256, "ab" * 32))


def test_dangling_ref(repository, digest):
    """A ref to an image that is gone says so."""
    repository.images.set_ref("os", digest)
    os.unlink(f"{repository.path}/images/{digest.hex}")

    with pytest.raises(NotFoundError, match=f"os stands for {digest.hex}, which is not there"):
        repository.images.resolve("os")
    assert not repository.images.find(digest)


def test_image_without_object(repository, digest):
    """An image whose object is gone is not there."""
    os.unlink(f"{repository.path}/objects/{digest.object_path}")

    assert not repository.images.find(digest)
    with pytest.raises(NotFoundError, match="no object"):
        repository.images.open(digest.hex)


def test_wrong_link(repository, digest):
    """A name that is no link to an object is refused; one to another object is not the image."""
    path = f"{repository.path}/images/{digest.hex}"
    os.unlink(path)
    os.symlink("../../etc/passwd", path)
    with pytest.raises(RepositoryError, match="is none to an object"):
        repository.images.resolve(digest.hex)
    os.unlink(path)
    os.symlink(f"../objects/ab/{'cd' * 31}", path)

    assert not repository.images.find(digest)


def test_broken_image(repository, digest):
    """Contents are proved when an image is opened."""
    path = f"{repository.path}/objects/{digest.object_path}"
    with open(path, "r+b") as file:
        file.write(b"I")

    with pytest.raises(IntegrityError, match=digest.hex):
        repository.images.open(digest.hex)
