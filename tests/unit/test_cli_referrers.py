"""`composefs oci referrers`: what refers to an image in a registry."""

import json

import pytest

from composefs.cli import main
from tests.layouts import MANIFEST, files_layer, image_layout

SIGNATURE = {
    "mediaType": MANIFEST,
    "digest": "sha256:" + "1" * 64,
    "size": 1234,
    "artifactType": "application/signature",
    "annotations": {"who": "me\x1b[2J"},
}
SBOM = {"mediaType": MANIFEST, "digest": "sha256:" + "2" * 64, "size": 8}


@pytest.fixture
def digest(server, tmp_path):
    """The digest of the image `NAME/os:42` in the registry."""
    image_layout(tmp_path / "layout", [files_layer({"a": b"1"})])
    return server.contents.put_layout(tmp_path / "layout", "os", "42")


def run(server, *options):
    return main(["oci", "referrers", f"docker://{server.address}/os:42", "--tls-verify=false", *options])


def test_table(server, digest, capsys):
    """A line each, with the kind, or else the media type."""
    server.contents.referrers = {digest: [SIGNATURE, SBOM]}

    assert run(server) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["ARTIFACT", "TYPE", "DIGEST", "BYTES"],
        ["application/signature", "1" * 12, "1,234"],
        [MANIFEST, "2" * 12, "8"],
    ]


def test_json_of_one_kind(server, digest, capsys):
    """With all that is known, for programs; only those that are asked for."""
    server.contents.referrers = {digest: [SIGNATURE, SBOM]}

    assert run(server, "--json", "--artifact-type", "application/signature") == 0

    found = json.loads(capsys.readouterr().out)
    assert found["digest"] == digest
    (signature,) = found["referrers"]
    assert signature == {
        "digest": SIGNATURE["digest"],
        "media_type": MANIFEST,
        "size": 1234,
        "artifact_type": "application/signature",
        "annotations": SIGNATURE["annotations"],
    }


def test_none(server, digest, capsys):
    """That there is nothing is said, and is no failure."""
    assert run(server) == 0

    assert capsys.readouterr().out == f"nothing refers to {digest}\n"

    assert run(server, "--artifact-type", "application/none") == 0
    assert capsys.readouterr().out == f"nothing of type application/none refers to {digest}\n"


def test_no_such_image(server, capsys):
    """An image that is not there is told in a line."""
    assert run(server) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"composefs: {server.address}: ")
    assert len(err.splitlines()) == 1


def test_no_registry(capsys):
    """Only registries know of referrers."""
    assert main(["oci", "referrers", "oci:/srv/os"]) == 2

    assert "is in no registry" in capsys.readouterr().err
