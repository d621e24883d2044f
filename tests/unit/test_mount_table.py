"""Which mounts are composefs images, and of which."""

import pytest

from composefs.mount.table import image_of, is_image, requires_verity
from composefs.mountinfo import MountPoint


def mount(kind, source, *options):
    return MountPoint(kind, source, "/m", "0:3", options=options)


@pytest.mark.parametrize(
    ("kind", "source", "is_one"),
    [
        ("overlay", "composefs", True),  # the C tools
        ("overlay", "composefs:ab", True),
        ("overlay", "composefs:a\nb", True),
        ("overlay", "composefs-fuse", True),  # composefs-rs
        ("fuse", "composefs-fuse", True),
        ("fuse.composefs", "anything", True),
        ("overlay", "overlay", False),
        ("overlay", "composefsx", False),
        ("ext4", "composefs:os", False),
        ("fuse.sshfs", "host:composefs", False),
        ("tmpfs", "composefs", False),
    ],
)
def test_what_is_one(kind, source, is_one):
    """Every tool's mounts count, and nothing that only looks alike."""
    assert is_image(mount(kind, source)) is is_one


@pytest.mark.parametrize(
    ("source", "image"),
    [
        ("composefs:os", "os"),
        ("composefs:refs/a:b", "refs/a:b"),
        ("composefs:composefs", None),  # a file
        ("composefs", None),
        ("composefs-fuse", None),
    ],
)
def test_image(source, image):
    """The source tells the image, if it has a name."""
    assert image_of(mount("overlay", source)) == image


def test_verity():
    """What the kernel demands is an option of the overlay."""
    assert requires_verity(mount("overlay", "composefs:os", "ro", "verity=require", "metacopy=on"))
    assert not requires_verity(mount("overlay", "composefs:os", "ro", "lowerdir+=/verity=require"))
