"""Two checks of one repository: what `cfsctl fsck` finds we find, in its words, and some that it does not."""

import json
import subprocess

import pytest

from composefs import Repository
from composefs.oci.fsck import check_images
from composefs.repository.fsck import Kind, check_repository, open_damaged
from tests import damage
from tests.damage import DAMAGES
from tests.tools import require_tool

# Where both see the same, and call it by different names: what is no file is not opened here.
OTHER_WORDS = {"directory-as-object", "link-as-object"}
DETAILS = {  # what is a message of the system or of the program that reads
    Kind.STREAM_OPEN_FAILED,
    Kind.IMAGE_INVALID,
    Kind.STAT_FAILED,
    Kind.UNEXPECTED_FILE_TYPE,
    Kind.OBJECT_INVALID_NAME,
}


@pytest.fixture
def cfsctl():
    """Run `cfsctl` on a repository, and return its status and output."""
    program = require_tool("cfsctl")

    def run(place, *arguments):
        command = [program, "--repo", str(place.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return run


def start(finding_or_text):
    """Return kind and path."""
    return tuple(str(finding_or_text).split(": ")[1:3])


@pytest.mark.parametrize("name", DAMAGES)
def test_both_agree(name, place, cfsctl):
    """Each kind of damage is found by both, unless the table says that we alone do."""
    DAMAGES[name].do(place)
    is_damaged = name != "none"

    status, _ = cfsctl(place, "fsck")

    assert status == int(is_damaged and DAMAGES[name].by_cfsctl)
    if DAMAGES[name].refused:
        return
    with Repository.open(place.path, upgrade=False) as repository:
        report = check_repository(repository)
    assert report.ok != is_damaged
    found = json.loads(cfsctl(place, "fsck", "--json")[1])
    if not DAMAGES[name].by_cfsctl:
        assert found["ok"]
        return
    ours = report.as_json()
    counts = {key: value for key, value in ours.items() if key not in ("errors", "findings")}
    assert {key: found[key] for key in counts} == counts
    if name in OTHER_WORDS:
        assert [start(text)[1] for text in found["errors"]] == [finding.path for finding in report.findings]
        return
    texts = {str(finding) for finding in report.findings if finding.kind not in DETAILS}
    starts = {start(finding) for finding in report.findings if finding.kind in DETAILS}
    theirs = set(found["errors"])
    assert texts <= theirs
    assert {start(text) for text in theirs - texts} == starts


def test_broken_metadata_is_checked_here_alone(place, cfsctl):
    """Without `meta.json`, cfsctl does not begin."""
    DAMAGES["meta"].do(place)

    assert cfsctl(place, "fsck") == (1, "")
    with open_damaged(str(place.path)) as repository:
        assert [finding.kind for finding in check_repository(repository).findings] == [Kind.METADATA_PARSE_FAILED]


@pytest.mark.parametrize(
    "name", ["none", "flipped", "removed", "stream-object-gone", "stream-header", "file-as-stream", "tag-dangles"]
)
def test_both_agree_about_images(name, place, cfsctl):
    """Whether something is wrong with images is not a question of whom one asks."""
    DAMAGES[name].do(place)

    status, _ = cfsctl(place, "oci", "fsck")

    with Repository.open(place.path) as repository:
        report = check_images(repository)
    assert status == int(not report.ok)


def test_a_repository_of_cfsctl(place, cfsctl, tmp_path):
    """What cfsctl has made is clean."""
    made = damage.Place(tmp_path / "made", place.manifest, place.config, place.layers, place.image, place.unused)
    layers = [damage.files_layer({"usr/file": damage.LOW}), damage.files_layer({"usr/other": damage.HIGH}, "zstd")]
    layout = damage.image_layout(tmp_path / "layout", layers)
    assert cfsctl(made, "init", "--insecure", str(made.path))[0] == 0
    assert cfsctl(made, "oci", "pull", str(layout), "os")[0] == 0

    with Repository.open(made.path) as repository:
        report = check_images(repository)

    assert (report.findings, report.repository.findings, report.layers_checked) == ([], [], 2)
