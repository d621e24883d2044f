"""The keys under which a config records EROFS images."""

import pytest

from composefs.digest import Algorithm, Digest
from composefs.oci.slots import ErofsImage, Slot, key_order, recorded
from composefs.transform import XattrFilter

DEFAULT, KEEP = XattrFilter.ALLOWLIST_ONLY, XattrFilter.KEEP_USER_XATTRS
KEYS = {  # in the order of composefs-rs
    "composefs.image": Slot(2),
    "composefs.image.v1": Slot(1),
    "composefs.image.boot": Slot(2, bootable=True),
    "composefs.image.boot.v1": Slot(1, bootable=True),
    "composefs.image.boot.v1.xattrs=keep-user-xattrs": Slot(1, bootable=True, xattrs=KEEP),
    "composefs.image.boot.xattrs=keep-user-xattrs": Slot(2, bootable=True, xattrs=KEEP),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys(key):
    """Each slot has its key, and each key its slot."""
    assert Slot.parse(key) == KEYS[key]
    assert KEYS[key].key == key


@pytest.mark.parametrize(
    "key",
    [
        "sha256:0",
        "",
        "composefs.imag",
        "composefs.images",
        "composefs.image.v2",
        "composefs.image.v1.boot",
        "composefs.image.bootable",
        "composefs.image.boot.v1.xattrs=",
        "composefs.image.boot.v1.xattrs=allowlist-only",
        "composefs.image.boot.xattrs=else",
        "composefs.image.boot.keep-user-xattrs",
        "composefs.image.xattrs=keep-user-xattrs",
        "composefs.image.v1.xattrs=keep-user-xattrs",
    ],
)
def test_other_keys(key):
    """Anything else is no image."""
    assert Slot.parse(key) is None


def test_order():
    """Keys are sorted with the images for booting behind the plain ones."""
    by_name = sorted(KEYS)

    assert by_name != list(KEYS)
    assert sorted(by_name, key=key_order) == list(KEYS)


def image(version, *, bootable=False, xattrs=DEFAULT):
    return ErofsImage(Digest(Algorithm.SHA256, bytes([version]) * 32), version, bootable, xattrs)


def test_slots_of_images():
    """V0 and V1 share a slot, in which V1 is recorded if both are there."""
    assert [image(version).slot for version in (0, 1, 2)] == [Slot(1), Slot(1), Slot(2)]
    assert image(2, bootable=True, xattrs=KEEP).slot == Slot(2, bootable=True, xattrs=KEEP)
    for order in ((0, 1), (1, 0)):
        assert recorded(map(image, order)) == {"composefs.image.v1": image(1).digest}
    assert recorded([image(0), image(2)]) == {"composefs.image.v1": image(0).digest, "composefs.image": image(2).digest}
