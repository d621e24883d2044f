"""What composefs-rs refuses of an image is refused, and leaves no name; where we differ, it is said here and why."""

import io
import tarfile

import pytest

import composefs
from composefs.oci.manifest import Platform
from tests.golden import vectors

TAKEN_HERE = {
    "blob-gzip-header-crc": "a valid member (RFC 1952, FHCRC)",
    "blob-docker-type": "a layer of Docker's media type is a layer",
    "layout-index-nested-twice": "the specification sets no limit to nesting",
}
REFUSED_HERE = {
    "lie-layer": "the blob has another digest",
    "lie-config": "the config has another digest",
    "lie-manifest": "the manifest has another digest",
    "lie-diff-id": "the archive has another digest",
}
CASES = [case for case in vectors.expected("refused") if "pull" in case]


def is_refused(case):
    """Tell whether the layers of a case are to be refused: those that only make no image import all the same."""
    if case["case"] in TAKEN_HERE:
        return False
    if case["case"] in REFUSED_HERE:
        return True
    is_plain = "import_layer" in case and not any("blob" in layer for layer in case["layers"])
    return (case["import_layer"] if is_plain else case["pull"])["status"] != 0


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
            assert not (path / "streams").exists()
        else:
            result = composefs.import_image(repository, reference, name="golden", platform=Platform("linux", "amd64"))
            names = {f"oci-layer-{layer.diff_id}" for layer in result.layers}
            names |= {f"oci-config-{result.config}", f"oci-manifest-{result.manifest}", "refs"}
            assert {entry.name for entry in (path / "streams").iterdir()} == names


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
