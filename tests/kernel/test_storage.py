"""Files of container storage become objects that the kernel seals, under both their names: as safe as a copy."""

from pathlib import Path

import pytest

from composefs import Algorithm, Repository, import_image, verity
from composefs.digest import Digest
from composefs.oci.sources.access import Access
from tests.kernel.images import has_verity
from tests.layouts import image_layout, layer, noise, rooted, tar
from tests.storages import Storage

ALGORITHM = Algorithm.SHA512
LARGE = noise(2_000_000)
ARCHIVE = tar(rooted({"usr/large": LARGE, "usr/object": noise(5000, 1), "usr/small": b"x"}))


@pytest.mark.parametrize("local_fetch", ["auto", "zerocopy"])
def test_sealed_links(disk: Path, local_fetch: str) -> None:
    """Without reflinks a file is linked, and nobody can write to it in the store any more; the image is the same."""
    storage = Storage(disk / "storage")
    top = storage.layer(ARCHIVE)
    storage.image([ARCHIVE], "localhost/x:latest", top=top)
    storage.write()
    large = storage.files(top) / "usr/large"
    Repository.init(disk / "repository", ALGORITHM, require_verity=has_verity(disk))
    Repository.init(disk / "other", ALGORITHM, require_verity=has_verity(disk))

    with Repository.open(disk / "repository") as repository, Repository.open(disk / "other") as other:
        got = import_image(repository, f"{storage}x", name="x", workers=1, access=Access(local_fetch=local_fetch))
        layout = image_layout(disk / "layout", [layer(ARCHIVE, "gzip")])
        wanted = import_image(other, str(layout), name="x", workers=1)
        digest = verity.compute_digest(LARGE, ALGORITHM)
        with repository.objects.open(digest) as file:
            assert verity.measure(file.fileno(), ALGORITHM) == (digest if has_verity(disk) else None)

    assert (got.images, got.stats) == (wanted.images, wanted.stats)
    is_linked = large.samefile(disk / "repository/objects" / digest.object_path)
    assert is_linked == disk.is_relative_to("/disks/ext4")
    if is_linked:
        with pytest.raises(PermissionError):
            large.open("r+b")
    else:
        large.write_bytes(b"changed")
        with Repository.open(disk / "repository") as repository:
            _check(repository, digest)


def _check(repository: Repository, digest: Digest) -> None:
    """See that the object is what it was."""
    with repository.objects.open(digest) as file:
        assert file.read() == LARGE
