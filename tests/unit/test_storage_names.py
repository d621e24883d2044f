"""Names and ids of images in container storage: what they mean, and when they mean too much."""

import pytest

from composefs.errors import NotFoundError, UsageError
from composefs.oci.sources.storage.names import find_image
from composefs.oci.sources.storage.store import find_stores
from tests.layouts import tar
from tests.storages import Storage


class Places:
    """Two stores: the first has three images, the second one of them, by another name, and one more."""

    def __init__(self, path):
        first, second = Storage(path / "first"), Storage(path / "second")
        self.one = first.image([tar({"1": b"1"})], "localhost/app:latest", "registry.test/org/app:v1")
        self.two = first.image([tar({"2": b"2"})], "registry.test/other/app:v2", "registry.test/other/tool:v2")
        self.three = first.image([tar({"3": b"3"})], "registry.test/org/tool:v2")
        assert second.image([tar({"1": b"1"})], "localhost/elsewhere:v1") == self.one
        self.four = second.image([tar({"4": b"4"})], "localhost/app:latest", "localhost/beef:latest")
        self.digests = {record["id"]: record["digest"] for record in first.records["images"]}
        first.write()
        second.write()
        self.stores = [store for each in (first, second) for store in find_stores(str(each.root), None)]

    def find(self, name, image_id=None):
        store, image = find_image(self.stores, name, image_id)
        return store.root.rpartition("/")[2], image.id


@pytest.fixture
def places(tmp_path):
    """The stores."""
    return Places(tmp_path)


def test_names(places):
    """In full, or behind a slash, with the tag latest if there is none; the first store that has it wins."""
    one = ("first", places.one)
    for name in (
        "localhost/app:latest",
        "localhost/app",
        "app",
        "app:latest",
        "org/app:v1",
        "registry.test/org/app:v1",
    ):
        assert places.find(name) == one
    assert places.find("beef") == ("second", places.four)
    assert places.find("elsewhere:v1") == ("second", places.one)


def test_ids(places):
    """A whole id, or its beginning; a name may stand beside it, which must be its own."""
    assert places.find("", places.two) == ("first", places.two)
    assert places.find(places.two[:12]) == ("first", places.two)
    assert places.find("registry.test/other/app:v2", places.two) == ("first", places.two)
    assert places.find("elsewhere:v1", places.one) == ("second", places.one)
    with pytest.raises(NotFoundError, match=f"no image app:v1@{places.two}"):
        places.find("app:v1", places.two)


def test_digests(places):
    """With a digest the repository counts and the tag does not."""
    digest = places.digests[places.two]

    for name in ("registry.test/other/app", "registry.test/other/app:v9", "other/app", "tool"):
        assert places.find(f"{name}@{digest}") == ("first", places.two)
    with pytest.raises(NotFoundError):
        places.find(f"registry.test/org/app@{digest}")


def test_several(places):
    """What may mean several images is refused, and says which."""
    with pytest.raises(
        UsageError, match="may mean several images: registry.test/org/tool:v2, registry.test/other/app:v2, "
    ):
        places.find("tool:v2")


def test_none(places):
    """The error says where it was looked for, and what there is."""
    with pytest.raises(
        NotFoundError, match="no image nothing in .*/first, .*/second; there are localhost/app:latest, "
    ):
        places.find("nothing")
    for name in ("pp", "ab", "first", ""):
        with pytest.raises(NotFoundError):
            places.find(name)
