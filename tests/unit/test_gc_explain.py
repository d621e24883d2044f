"""Why something is kept: the ways from references to it; or what is known about when that ended."""

import os

import pytest

from composefs import IntegrityError, NotFoundError, Repository, RepositoryError
from composefs.digest import object_path
from composefs.repository.gc import collect_garbage, explain
from composefs.splitstream import ContentType
from tests.garbage import Maker


@pytest.fixture
def maker(tmp_path):
    """A repository with an image that two tags stand for, and an image with a reference."""
    maker = Maker(tmp_path / "repository")
    maker.data = maker.object(b"data" * 100)
    maker.layer = maker.stream("oci-layer-l", [maker.data])
    maker.erofs = maker.image([maker.data])
    named = {"l": maker.layer, "composefs.image": maker.erofs}
    maker.config = maker.stream("oci-config-c", [], named, content_type=ContentType.CONFIG)
    maker.stream("oci-manifest-m", [], {"c": maker.config, "l": maker.layer}, content_type=ContentType.MANIFEST)
    maker.ref("streams/refs/oci/os:42", "oci-manifest-m")
    maker.ref("streams/refs/oci/a%2Fb", "oci-manifest-m")
    maker.ref("images/refs/web/os", maker.erofs.hex())
    return maker


def ask(maker, what, **options):
    with Repository.open(maker.path) as repository:
        return explain(repository, what, **options)


def chains_of(maker, what):
    return [" ".join(chain) for chain in ask(maker, what).chains]


def test_an_object(maker):
    """For each reference that keeps it there is the shortest way, however it is written."""
    hex_digits, path = maker.data.hex(), f"objects/{object_path(maker.data)}"
    expected = [
        f"images/refs/web/os images/{maker.erofs.hex()} {path}",
        f"streams/refs/oci/a%2Fb streams/oci-manifest-m streams/oci-layer-l {path}",
        f"streams/refs/oci/os:42 streams/oci-manifest-m streams/oci-layer-l {path}",
    ]

    for what in (hex_digits, f"sha256:{hex_digits}", path.removeprefix("objects/"), path, hex_digits.upper()):
        assert chains_of(maker, what) == expected, what
    assert ask(maker, path).subject == path


def test_entries(maker):
    """A stream or image is kept by a reference, or by what refers to its object."""
    manifest, tags = "streams/oci-manifest-m", ("streams/refs/oci/a%2Fb", "streams/refs/oci/os:42")
    layer = [f"{tag} {manifest} streams/oci-layer-l" for tag in tags]
    erofs = f"images/{maker.erofs.hex()}"
    image = [f"images/refs/web/os {erofs}", *[f"{tag} {manifest} streams/oci-config-c {erofs}" for tag in tags]]

    assert chains_of(maker, "oci-layer-l") == chains_of(maker, "streams/oci-layer-l") == layer
    for what in (
        maker.erofs.hex(),
        f"sha256:{maker.erofs.hex()}",
        erofs,
        "web/os",
        "refs/web/os",
        "images/refs/web/os",
    ):
        assert chains_of(maker, what) == image, what
    for what in ("os:42", "a/b", "refs/oci/os:42", "streams/refs/oci/a%2Fb", "oci-manifest-m"):
        assert chains_of(maker, what) == [f"{tag} {manifest}" for tag in tags], what
    # Its object is kept likewise.
    path = f"objects/{object_path(maker.erofs)}"
    assert chains_of(maker, path) == [
        f"{chain} {path}" for chain in (image[0], *[f"{tag} {manifest} streams/oci-config-c" for tag in tags])
    ]


def test_additional_roots(maker):
    """They keep as references do, and are told as options."""
    raw = maker.object(b"other" * 100)
    maker.stream("s", [raw])

    assert not ask(maker, raw.hex()).is_alive
    assert ask(maker, raw.hex(), roots=["s"]).chains == [["--root s", "streams/s", f"objects/{object_path(raw)}"]]
    with pytest.raises(NotFoundError):
        ask(maker, raw.hex(), roots=["t"])


def test_what_nothing_keeps(maker):
    """Then it is told what refers to it and is not kept, either; and when its file was written."""
    raw = maker.object(b"other" * 100)
    os.utime(maker.path / "objects" / object_path(raw), (10, 1_000_000_000))
    maker.stream("a", [raw])
    maker.stream("b", [], {"x": raw})
    image = maker.image([raw], "c")

    found = ask(maker, raw.hex())

    assert (found.is_alive, found.stored, found.batch) == (False, 1_000_000_000, None)
    assert found.held_by == [f"images/{image.hex()}", "streams/a", "streams/b"]
    assert ask(maker, "a").held_by == []
    assert found.as_json()["stored"] == "2001-09-09T01:46:40Z"


def test_in_the_trash(maker):
    """What was collected says since when it lies there."""
    raw = maker.object(b"other" * 100)
    maker.stream("s", [raw])
    with Repository.open(maker.path) as repository:
        report = collect_garbage(repository, trash_days=2)

    for what in (raw.hex(), "s", "streams/s"):
        found = ask(maker, what)
        assert (found.is_alive, found.stored, found.batch) == (False, None, "000001")
        assert found.expires == report.expires == found.trashed + 2 * 86_400
    # What is stored again is there, and there.
    maker.object(b"other" * 100)
    found = ask(maker, raw.hex())
    assert found.stored is not None
    assert found.batch == "000001"


@pytest.mark.parametrize(
    "what", ["nothing", "", "/", "..", "streams/", "a\0b", "0" * 64, "objects/00/" + "0" * 62, "x" * 300]
)
def test_what_is_not_there(maker, what):
    """That is told, and nothing else."""
    with pytest.raises(NotFoundError):
        ask(maker, what)


def test_a_missing_object_that_is_wanted(maker):
    """It is kept, as far as that goes."""
    (maker.path / "objects" / object_path(maker.data)).unlink()

    found = ask(maker, maker.data.hex())

    assert found.is_alive
    assert found.stored is None


def test_broken_repositories(maker):
    """What would keep garbage from being collected is told as there; what is broken and not kept is passed over."""
    dead = maker.stream("dead", [maker.data], text=b"x")
    with (maker.path / "objects" / object_path(dead)).open("r+b") as file:
        file.write(b"xx")
    raw = maker.object(b"other" * 100)
    assert ask(maker, raw.hex()).held_by == []
    with (maker.path / "objects" / object_path(maker.config)).open("r+b") as file:
        file.write(b"xx")
    with pytest.raises(IntegrityError):
        ask(maker, raw.hex())
    (maker.path / "streams/stray").touch()
    with pytest.raises(RepositoryError):
        ask(maker, raw.hex())


def test_a_digest_in_a_table_is_found_where_digests_begin(maker):
    """Bytes of two neighbours are no object."""
    first, second = b"\x01" * 32, b"\x02" * 32
    maker.stream("s", [first, second])
    maker.ref("streams/refs/s", "s")
    odd = first[16:] + second[:16]

    with pytest.raises(NotFoundError):
        ask(maker, odd.hex())
    assert ask(maker, second.hex()).is_alive
