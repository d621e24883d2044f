"""Two checks of one repository: what `cfsctl fsck` finds we find, in its words, and some that it does not."""

import json
import os
import subprocess

import pytest

from composefs import Algorithm, Repository
from composefs.oci.fsck import OciKind, check_images
from composefs.oci.importer import import_image
from composefs.oci.repair import ImageSource
from composefs.repository.fsck import Kind, check_repository, open_damaged, record
from composefs.repository.fsck.other import OtherRepository
from composefs.repository.fsck.quarantine import set_aside
from composefs.repository.fsck.repair import repair
from composefs.splitstream import ContentType
from tests import damage, layouts
from tests.damage import DAMAGES
from tests.oci_checking import rewrite, store_layer, without
from tests.sources import opened
from tests.tools import require_tool
from tests.unit.test_oci_fsck_names import NONE, SUBJECT, record_images, refer

# Where both see the same, and call it by different names: what is no file is not opened here.
OTHER_WORDS = {"directory-as-object", "link-as-object", "loop-as-object", "directory-as-image", "socket-as-stream"}
NOT_ASKED = {"meta-other"}  # where cfsctl takes links for right by the objects that they lead to
OURS = {"errors", "findings", "objects_unchanged"}  # keys that cfsctl has not, or whose values have messages
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


def paths_of(report, kind, start):
    """Return the paths of the findings of *kind* that begin with *start*."""
    return [each.path for each in report.findings if each.kind is kind and each.path.startswith(start)]


def start(finding_or_text):
    """Return kind and path."""
    return tuple(str(finding_or_text).split(": ")[1:3])


@pytest.fixture(scope="module", params=[(Algorithm.SHA512, 2), (Algorithm.SHA256, 0)], ids=["sha512-v2", "sha256-v0"])
def other(request, tmp_path_factory):
    """A repository without damage of another algorithm, or another format of images."""
    return damage.make(tmp_path_factory.mktemp("other"), *request.param)


@pytest.mark.parametrize("name", ["none", "flipped", "removed", "stream-cut", "image-flipped", "image-object-gone"])
def test_both_agree_whatever_the_formats(name, other, tmp_path, cfsctl):
    """The same holds for both algorithms, and all formats of images."""
    test_both_agree(name, other.copy(tmp_path / "repository"), cfsctl)


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
    if name in NOT_ASKED:
        ours["images_corrupted"] = found["images_corrupted"]
    counts = {key: value for key, value in ours.items() if key not in OURS}
    assert {key: found[key] for key in counts} == counts
    if name in OTHER_WORDS:
        theirs = {start(text)[1] for text in found["errors"]}
        ours = {path for finding in report.findings for path in (finding.path, *finding.hurts)}
        assert {finding.path for finding in report.findings} <= theirs <= ours
        return
    texts = {str(finding) for finding in report.findings if finding.kind not in DETAILS}
    starts = {start(finding) for finding in report.findings if finding.kind in DETAILS}
    if name in NOT_ASKED:
        texts = {text for text in texts if start(text)[0] != Kind.LINK_INVALID.value}
        starts |= {(Kind.STREAM_OPEN_FAILED.value, path) for path in paths_of(report, Kind.LINK_INVALID, "streams/")}
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


def odd_tag(place):
    (place.path / "streams/refs/oci/a%41").symlink_to(f"../../{os.path.basename(place.manifest_stream)}")


def nested_tag(place):
    (place.path / "streams/refs/oci/a").mkdir()
    (place.path / "streams/refs/oci/a/b").symlink_to(f"../../../{os.path.basename(place.manifest_stream)}")


def untagged(place):
    (place.path / place.tag).unlink()
    rewrite(place, os.path.basename(place.config_stream), ContentType.CONFIG, without(place.layers[1]))


def referrer(place):
    refer(place, f"oci-referrers/{SUBJECT}/ARTIFACT", os.path.basename(place.manifest_stream))


def forged(place):
    archive = layouts.tar({"usr/evil": b"x"})
    with Repository.open(place.path) as repository:
        store_layer(repository, archive, f"oci-layer-{NONE}")


def unreadable(place):
    archive = layouts.tar({"usr/file": layouts.noise(1000)})
    with Repository.open(place.path) as repository:
        store_layer(repository, archive, f"oci-layer-{layouts.sha256(archive)}")


ALONE = {
    "odd-tag": (odd_tag, OciKind.INVALID_REF_NAME),
    "nested-tag": (nested_tag, OciKind.INVALID_REF_NAME),
    "config-without-a-name": (lambda place: (place.path / place.config_stream).unlink(), OciKind.CONFIG_STREAM_MISSING),
    "image-in-the-wrong-place": (
        lambda place: record_images(place, lambda refs: refs | {"composefs.image": refs["composefs.image.v1"]}),
        OciKind.EROFS_IMAGE_INVALID,
    ),
    "image-without-a-name": (
        lambda place: [(place.path / path).unlink() for path in (place.ref, place.image_name)],
        OciKind.EROFS_IMAGE_UNNAMED,
    ),
    "untagged": (untagged, OciKind.LAYER_REF_MISSING),
    "referrer": (referrer, OciKind.REFERRER_INVALID),
    "forged": (forged, OciKind.LAYER_DIGEST_MISMATCH),
    "unreadable": (unreadable, OciKind.LAYER_CHECK_FAILED),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_found_here_alone(name, place, cfsctl):
    """What is wrong with images that cfsctl does not look at: docs/compatibility.md has a table."""
    make, kind = ALONE[name]
    make(place)

    status, out = cfsctl(place, "oci", "fsck")

    assert (status, "errors" in out) == (0, False)
    with Repository.open(place.path) as repository:
        report = check_images(repository)
    assert report.repository.findings == []
    assert {finding.kind for finding in report.findings} == {kind}


@pytest.mark.parametrize("name", ["flipped", "stray-object", "file-as-stream", "tag-dangles", "image-called-otherwise"])
def test_what_was_set_aside_is_nothing_to_cfsctl(name, original, place, cfsctl):
    """It checks and collects as if `quarantine/` and our record were not there, and nothing there is touched."""
    DAMAGES[name].do(place)
    with Repository.open(place.path) as repository:
        set_aside(repository, check_repository(repository).findings)
        import_image(repository, f"oci:{original.path.parent / 'layout'}", name=damage.TAG, workers=1)
        record.save(repository, check_repository(repository, records=True).record)
    before = {path: path.lstat().st_ino for path in (place.path / "quarantine").rglob("*")}

    assert cfsctl(place, "fsck")[0] == 0
    assert cfsctl(place, "gc")[0] == 0
    assert cfsctl(place, "oci", "fsck")[0] == 0

    assert {path: path.lstat().st_ino for path in (place.path / "quarantine").rglob("*")} == before
    assert before
    with Repository.open(place.path) as repository:
        assert check_images(repository, last=record.load(repository)).ok


@pytest.mark.parametrize("name", ["flipped", "removed", "stream-cut", "image-object-gone", "tag-dangles"])
@pytest.mark.parametrize("source", ["other", "image"])
def test_what_was_mended_is_whole_to_cfsctl(name, source, original, place, cfsctl):
    """After a repair cfsctl finds nothing, either."""
    DAMAGES[name].do(place)
    with Repository.open(original.path) as other, Repository.open(place.path) as repository:
        whence = (
            OtherRepository(other, repository)
            if source == "other"
            else ImageSource(opened(f"oci:{original.path.parent / 'layout'}"), repository)
        )
        assert repair(repository, check_repository(repository), whence).after.ok

    assert cfsctl(place, "fsck")[0] == 0
    assert cfsctl(place, "oci", "fsck")[0] == 0
