"""A container store: its lists and big data, which may be missing, broken or too large."""

import json
import os
import re

import pytest

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError
from composefs.oci.sources.storage.store import Store, find_stores, is_composefs, other_drivers
from tests.layouts import sha256, tar
from tests.storages import Storage

ID = "a" * 64


@pytest.fixture
def storage(tmp_path):
    """A store without images."""
    return Storage(tmp_path / "root")


def opened(storage):
    return Store(str(storage.root), storage.driver)


def test_records(storage):
    """Images and layers are as the lists have them."""
    archives = [tar({"a": b"1"}), tar({"b": b"2"})]
    image_id = storage.image(archives, "localhost/x:latest")
    store = opened(storage.write())

    (image,) = store.images
    manifest = storage.records["images"][0]["digest"]

    assert (image.id, image.names, image.digest) == (image_id, ("localhost/x:latest",), manifest)
    assert image.digests == {manifest}
    assert [store.layers[each].diff_id for each in store.ids_of(image.layer)] == [
        sha256(archive) for archive in reversed(archives)
    ]
    assert store.layers[image.layer].size == len(archives[1])


@pytest.mark.parametrize("text", [None, "[]", "null", ""])
def test_no_records(storage, text):
    """Lists that are missing, empty, or null have nothing; an empty file is broken."""
    if text is not None:
        (storage.images / "images.json").write_text(text)
    store = opened(storage)

    if text == "":
        with pytest.raises(FormatError, match="broken JSON"):
            _ = store.images
    else:
        assert store.images == ()
    assert store.layers == {}


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"id": 1}]', '[{"id": "../x"}]', f'[{{"id": "{ID.upper()}"}}]'])
def test_broken_records(storage, text):
    """They are refused, with the file."""
    (storage.layers / "layers.json").write_text(text)

    with pytest.raises(FormatError) as caught:
        _ = opened(storage).layers

    assert caught.value.source == f"{storage.layers}/layers.json"


def test_odd_records(storage):
    """What is of another type than it should be counts as unknown."""
    (storage.images / "images.json").write_text(
        json.dumps([{"id": ID, "names": ["a", 7, ""], "layer": 7, "digest": [], "big-data-digests": {"manifest": 7}}])
    )
    (storage.layers / "layers.json").write_text(json.dumps([{"id": ID, "parent": ID, "diff-size": True}]))
    store = opened(storage)

    (image,) = store.images

    assert (image.names, image.layer, image.digest, image.digests) == (("a",), None, None, frozenset())
    assert (store.layers[ID].diff_id, store.layers[ID].size) == (None, None)
    assert len(store.ids_of(ID)) == limits.LAYERS  # one that is its own parent
    assert store.ids_of("b" * 64) == []


def test_big_data(storage):
    """It is found by its key, in base64 if that is no plain word; no link leads elsewhere."""
    image_id = storage.image([tar({"a": b"1"})], "x")
    store = opened(storage.write())
    (image,) = store.images

    assert sha256(store.read(image, "manifest", "manifest")) == image.digest
    assert sha256(store.read(image, f"sha256:{image_id}", "config")) == f"sha256:{image_id}"
    with pytest.raises(NotFoundError, match=re.escape(f"other is missing: no file {storage.images}/{image_id}/b")):
        store.read(image, "b", "other")
    (storage.images / image_id / "link").symlink_to("manifest")
    with pytest.raises(OSError, match="Too many levels"):
        store.read(image, "link", "other")


def test_big_data_that_is_too_big(storage, monkeypatch):
    """It is not read whole."""
    storage.image([tar({"a": b"1"})], "x")
    store = opened(storage.write())
    (image,) = store.images
    monkeypatch.setattr(limits, "JSON_SIZE", 10)

    with pytest.raises(LimitError, match="bytes of JSON"):
        store.read(image, "manifest", "manifest")


def test_find_stores(tmp_path):
    """A directory may have stores of several drivers, and those that are not known here."""
    Storage(tmp_path, "vfs")
    Storage(tmp_path)
    Storage(tmp_path, "btrfs")
    (tmp_path / "zfs-images").touch()

    assert [store.driver for store in find_stores(str(tmp_path), None)] == ["overlay", "vfs"]
    assert [store.driver for store in find_stores(str(tmp_path), "vfs")] == ["vfs"]
    assert find_stores(str(tmp_path), "btrfs") == []
    assert other_drivers(str(tmp_path)) == ["btrfs"]
    assert find_stores(str(tmp_path / "vfs"), None) == []
    with pytest.raises(FileNotFoundError):
        find_stores(str(tmp_path / "missing"), None)
    with pytest.raises(NotADirectoryError):
        find_stores(str(tmp_path / "zfs-images"), None)


def test_layers_that_are_composefs(storage):
    """They are told from others: their files are called by their digests."""
    layer = storage.layer(tar({"a": b"1"}))
    store = opened(storage.write())

    assert not is_composefs(store, layer)
    os.mkdir(storage.root / "overlay" / layer / "composefs-data")
    assert is_composefs(store, layer)
