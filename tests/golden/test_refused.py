"""What composefs-rs refuses of an image is refused, and leaves no name; what it takes gives the same image.

Where we differ, it is said here and why.
"""

import io
import tarfile

import pytest

import composefs
from composefs import verity
from composefs.dumpfile import format_dump
from composefs.erofs.writer import write_image
from composefs.oci.manifest import Platform
from composefs.oci.trees import tree_of_image
from tests.golden import vectors

TAKEN_HERE = {
    "cut-after-empty-entry": "the archive may end there; composefs-rs stores it, too, but cannot read it back",
    "blob-gzip-is-plain": "it is no case here: the media type was not recorded",
    "blob-gzip-header-crc": "a valid member (RFC 1952, FHCRC)",
    "blob-docker-type": "a layer of Docker's media type is a layer",
    "layout-index-nested-twice": "the specification sets no limit to nesting",
}
REFUSED_HERE = {
    "lie-layer": "the blob has another digest",
    "lie-config": "the config has another digest",
    "lie-manifest": "the manifest has another digest",
    "lie-diff-id": "the archive has another digest",
    "xattr-value-65536": "EROFS has no such value: composefs-rs makes a broken image",
    "xattr-value-65537": "likewise",
    "name-256": "no kernel reads such a name",
    "name-4084": "likewise",
    "name-nul": "no kernel reads such a name",
    "deep-2050": "no kernel takes such a path; composefs-rs makes an image that it does not read",
    "symlink-4096": "no kernel follows such a target",
    "symlink-5000": "likewise; composefs-rs makes a broken image",
}
IMAGE_HERE = {"layout-config-docker": "a config of Docker's media type is one of a container image, no artifact's"}
CASES = [case for case in vectors.expected("refused") if "pull" in case]


def is_refused(case):
    """Tell whether a case is to be refused."""
    if case["case"] in TAKEN_HERE:
        return False
    return case["case"] in REFUSED_HERE or case["pull"]["status"] != 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_case(case, tmp_path):
    layout = tmp_path / "layout"
    write(case, layout)
    reference = case.get("reference", "oci:layout").replace("oci:layout", f"oci:{layout}")
    path = tmp_path / "repository"
    composefs.Repository.init(path, composefs.Algorithm.SHA256)

    with composefs.Repository.open(path) as repository:
        if is_refused(case):
            with pytest.raises(composefs.ComposefsError):
                composefs.import_image(repository, reference, platform=Platform("linux", "amd64"))
            kept = [entry.name for entry in path.glob("streams/*")]  # layers that were finished by then
            assert all(name.startswith("oci-layer-sha256:") for name in kept)
            assert not (path / "images").exists()
        else:
            result = composefs.import_image(repository, reference, name="golden", platform=Platform("linux", "amd64"))
            names = {f"oci-layer-{layer.diff_id}" for layer in result.layers}
            names |= {f"oci-config-{result.config}", f"oci-manifest-{result.manifest}", "refs"}
            assert {entry.name for entry in (path / "streams").iterdir()} == names
            if case["case"] in IMAGE_HERE:
                assert result.image is not None
            elif case["pull"]["status"] == 0:
                check_image(repository, result, case["pull"])


def check_image(repository, result, recorded):
    """The image and its dump are the recorded ones."""
    assert result.image.hex == recorded["image"]
    root = tree_of_image(repository, "golden")
    assert vectors.is_text(recorded["dump"], b"".join(format_dump(root)).decode())
    newer = verity.compute_digest(write_image(root, 2), repository.algorithm)
    assert newer.hex == recorded.get("image_V2", newer.hex)


def write(case, layout):
    """Write the layout of a case: as it was recorded, or of the recorded layers."""
    if "layout" in case:
        data = vectors.read(vectors.ROOT / "refused" / case["layout"])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            vectors.write_files({member.name: archive.extractfile(member).read() for member in archive}, layout)
        return
    vectors.layers_layout([refused_layer(layer) for layer in case["layers"]]).write(layout)


def refused_layer(layer):
    tar = vectors.read(vectors.ROOT / "refused" / layer["file"])
    if "blob" not in layer:
        return vectors.layer(tar, tar)
    return vectors.layer(tar, (vectors.ROOT / "refused" / layer["blob"]).read_bytes(), layer["media_type"])
