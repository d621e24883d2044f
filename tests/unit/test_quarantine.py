"""Quarantine: what is itself broken is moved, nothing is lost, and what is hurt by it stays and can be healed."""

import errno
import json
import os
import stat

import pytest

from composefs import Repository, limits
from composefs._native import ObjectState
from composefs.errors import BusyError, RepositoryError
from composefs.oci.fsck import OciKind, check_images
from composefs.oci.importer import import_image
from composefs.oci.names import config_name
from composefs.repository.fsck import Kind, check_repository
from composefs.repository.fsck import quarantine as module
from composefs.repository.fsck.quarantine import set_aside
from composefs.splitstream import ContentType
from tests import damage
from tests.damage import DAMAGES, HIGH, LOW, TAG
from tests.oci_checking import rewrite

OBJECTS = {  # damages that are in one object, and which
    "flipped": lambda place: place.object(HIGH),
    "grown": lambda place: place.object(LOW),
    "emptied": lambda place: place.unused,
    "directory-as-object": lambda place: place.unused,
    "link-as-object": lambda place: place.unused,
    "loop-as-object": lambda place: place.object(LOW),
    "stream-flipped": lambda place: place.object_of(place.layer_stream(1)),
    "stream-header": lambda place: place.object_of(place.layer_stream(1)),
    "stream-cut": lambda place: place.object_of(place.layer_stream(0)),
    "socket-as-stream": lambda place: place.object_of(place.layer_stream(0)),
    "image-flipped": lambda place: place.object_of(place.image_name),
    "directory-as-image": lambda place: place.object_of(place.image_name),
    "stray-object": lambda place: f"{os.path.dirname(place.object(LOW))}/stray",
    "capital-object": lambda place: f"{os.path.dirname(place.unused)}/{os.path.basename(place.unused).upper()}",
}
NAMES = {  # damages that are in one name, and which
    "stream-object-gone": lambda place: place.layer_stream(0),
    "file-as-stream": lambda place: place.layer_stream(0),
    "directory-as-stream": lambda place: place.layer_stream(0),
    "loop-as-stream": lambda place: place.layer_stream(0),
    "no-stream": lambda place: place.layer_stream(0),
    "stream-outside": lambda place: place.layer_stream(0),
    "other-stream": lambda place: place.config_stream,
    "tag-dangles": lambda place: place.tag,
    "file-as-ref": lambda place: "streams/refs/note",
    "ref-to-object": lambda place: place.ref,
    "ref-outside": lambda place: "streams/refs/oci/outside",
    "nested-ref-dangles": lambda place: "images/refs/a/b/c",
    "socket-as-ref": lambda place: "images/refs/socket",
    "image-object-gone": lambda place: place.image_name,
    "file-as-image": lambda place: place.image_name,
    "no-image": lambda place: f"images/{place.object(LOW)[8:].replace('/', '')}",
    "image-called-otherwise": lambda place: f"images/{'0' * 64}",
    "refs-in-disorder": lambda place: f"streams/oci-config-sha256:{'1' * 64}",
    "object-twice": lambda place: f"streams/oci-layer-sha256:{'1' * 64}",
}
NOTHING = {"none", "removed", "meta-other"}  # damages of which nothing is moved


def everything(path):
    """Return what every file and link below *path* is, by what it is, and where."""
    found = {}
    for each in sorted(path.rglob("*")):
        info = each.lstat()
        if not stat.S_ISDIR(info.st_mode):
            found[str(each.relative_to(path))] = (info.st_ino, stat.S_IFMT(info.st_mode), info.st_size)
    return found


def aside(place, **options):
    """Check, and set aside what is broken."""
    with Repository.open(place.path) as repository:
        return set_aside(repository, check_repository(repository).findings, **options)


def check(place):
    with Repository.open(place.path) as repository:
        return check_repository(repository)


def test_every_damage_is_in_a_table():
    """The tables have all damages."""
    assert OBJECTS.keys() | NAMES.keys() | NOTHING | {"cut", "swapped"} == {
        name for name, each in DAMAGES.items() if not each.refused
    }


@pytest.mark.parametrize("name", [*OBJECTS, *NAMES])
def test_what_is_broken_is_moved(name, original, place):
    """Just what is broken is moved, as it is, with why; everything else stays where it is."""
    broken = (OBJECTS | NAMES)[name](original)
    DAMAGES[name].do(place)
    before = everything(place.path)
    findings = [finding for finding in check(place).findings if finding.path == broken]

    result = aside(place)

    (moved,) = result.moved
    assert (moved.path, moved.to, result.failed) == (broken, f"quarantine/1/{broken}", {})
    assert moved.kind == findings[0].kind.value
    after = everything(place.path)
    after.pop("quarantine/1/manifest.jsonl")
    assert {path.removeprefix("quarantine/1/"): what for path, what in after.items()} == before
    lines = (place.path / "quarantine/1/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [broken]
    assert set(result.hurt) == set(findings[0].hurts) - {broken}


@pytest.mark.parametrize("name", [*OBJECTS, *NAMES, "removed"])
def test_an_import_heals_all(name, original, place):
    """What was hurt is whole once the image is imported again, without its names being touched by hand."""
    DAMAGES[name].do(place)
    aside(place)

    with Repository.open(place.path) as repository:
        import_image(repository, f"oci:{original.path.parent / 'layout'}", name=TAG, workers=1)
        assert check_images(repository).ok


@pytest.mark.parametrize("name", [*OBJECTS, *NAMES, *NOTHING])
def test_once_is_enough(name, place):
    """What is sound, and hurt by what was moved, is not moved the next time, either."""
    DAMAGES[name].do(place)
    aside(place)
    before = everything(place.path)

    assert aside(place).moved == []
    assert everything(place.path) == before


@pytest.mark.parametrize("name", sorted(NOTHING - {"meta-other"}))
def test_nothing_to_move(name, place):
    """Where nothing is itself broken, there is no quarantine."""
    DAMAGES[name].do(place)

    assert aside(place).moved == []
    assert not (place.path / "quarantine").exists()


def test_the_wrong_algorithm(place):
    """If `meta.json` names another algorithm, no object is called as it should be, and none is moved for that."""
    DAMAGES["meta-other"].do(place)

    result = aside(place)

    assert result.moved == []
    assert len(result.failed) == 11 + 5
    assert set(result.failed.values()) == {"is right where meta.json names fsverity-sha256-12"}


def test_many_at_once(place):
    """All that is wrong goes to one directory, and the next time to another."""
    for name in ("flipped", "stray-object", "file-as-ref", "image-called-otherwise"):
        DAMAGES[name].do(place)
    assert len(aside(place).moved) == 4
    DAMAGES["emptied"].do(place)

    (moved,) = aside(place).moved

    assert moved.to == f"quarantine/2/{place.unused}"
    assert sorted(path.name for path in (place.path / "quarantine").iterdir()) == ["1", "2"]
    modes = {stat.S_IMODE((place.path / path).stat().st_mode) for path in ("quarantine", "quarantine/1/objects")}
    assert modes == {0o700}
    assert stat.S_IMODE((place.path / "quarantine/1/manifest.jsonl").stat().st_mode) == 0o600


def test_why_is_written_before(place, monkeypatch):
    """At the time of the move it is on the disk what will be moved, and why."""
    DAMAGES["flipped"].do(place)
    seen = []

    def rename(*arguments):
        seen.append((place.path / "quarantine/1/manifest.jsonl").read_text())
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(module._native, "rename", rename)

    result = aside(place)

    assert (result.moved, result.failed) == ([], {place.object(HIGH): os.strerror(errno.EXDEV)})
    assert [json.loads(text)["path"] for text in seen] == [place.object(HIGH)]


def test_others_have_it_open(place):
    """While somebody else has the repository open, nothing is moved."""
    DAMAGES["flipped"].do(place)

    with Repository.open(place.path), pytest.raises(BusyError, match="is in use by"):
        aside(place)

    assert not (place.path / "quarantine").exists()


def test_what_was_mended_meanwhile_stays(original, place):
    """What is moved is looked at again when nobody else can change it."""
    DAMAGES["flipped"].do(place)
    findings = check(place).findings
    (place.path / place.object(HIGH)).write_bytes(HIGH)

    with Repository.open(place.path) as repository:
        assert set_aside(repository, findings).moved == []


@pytest.mark.parametrize(("limit", "most"), [("ENTRIES", 1), ("EROFS_SIZE", 4096), ("ARCHIVE_SIZE", 1000)])
def test_what_is_too_much_for_us_is_not_moved(place, monkeypatch, limit, most):
    """What is larger than is taken is refused, but it is not broken: another program may well read it."""
    monkeypatch.setattr(limits, limit, most)

    with Repository.open(place.path) as repository:
        report = check_images(repository)
        result = set_aside(repository, report.repository.findings, wrong=report.wrong)

    assert not report.ok
    assert (result.moved, result.failed) == ([], {})


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_right_stream_of_a_wrong_name_is_not_moved(place, when):
    """A manifest may lead to another config than its name: what is wrong is that one, and not the name."""
    right = os.readlink(place.path / place.config_stream)
    rewrite(place, config_name(place.config), ContentType.CONFIG, lambda _, refs: (b"{}", refs))
    if when == "before":
        damage.replace_link(place.path / place.config_stream, right)

    with Repository.open(place.path) as repository:
        report = check_images(repository)
        damage.replace_link(place.path / place.config_stream, right)
        result = set_aside(repository, report.repository.findings, wrong=report.wrong)

    assert [finding.kind for finding in report.findings] == [OciKind.CONFIG_DIGEST_MISMATCH]
    assert (result.moved, result.failed) == ([], {})


def test_a_tag_that_was_set_right_meanwhile_is_not_moved(place):
    """What only an earlier check says is wrong may have been made again before the lock was had."""
    right = os.readlink(place.path / place.tag)
    damage.replace_link(place.path / place.tag, f"../../{place.layer_stream(0).removeprefix('streams/')}")

    with Repository.open(place.path) as repository:
        report = check_images(repository)
        damage.replace_link(place.path / place.tag, right)
        result = set_aside(repository, report.repository.findings, wrong=report.wrong)

    assert [each.path for each in report.wrong] == [place.tag]
    assert result.moved == []


def test_a_link_in_the_place_of_the_quarantine(place, tmp_path):
    """Nothing is moved out of the repository."""
    DAMAGES["flipped"].do(place)
    (place.path / "quarantine").symlink_to(tmp_path)

    with pytest.raises(RepositoryError, match="links are not followed"):
        aside(place)

    assert (place.path / place.object(HIGH)).exists()


def test_a_link_in_the_place_of_references(place):
    """A directory of references that somebody has made a link may be wanted so."""
    os.rename(place.path / "streams/refs", place.path / "elsewhere")
    (place.path / "streams/refs").symlink_to("../elsewhere")

    assert aside(place).moved == []


def test_a_file_as_directory_of_objects(place):
    """A file where objects should be is moved as it is."""
    directory = os.path.dirname(place.unused)
    (place.path / place.unused).unlink()
    (place.path / directory).rmdir()
    (place.path / directory).touch()

    assert [each.path for each in aside(place).moved] == [directory]
    assert check(place).ok


@pytest.mark.parametrize(
    ("state", "error", "is_moved"),
    [
        (ObjectState.NOT_OPENED, errno.EACCES, False),
        (ObjectState.NOT_READ, errno.EIO, True),
        (ObjectState.NOT_SEALED, 0, False),
    ],
)
def test_what_no_test_can_do_to_a_disk(place, monkeypatch, state, error, is_moved):
    """What cannot be read is moved; what could not be looked at, or only lacks its seal, is not."""

    def refuse(*_):
        raise OSError(error, os.strerror(error))

    damage.report_state(monkeypatch, place.unused, state, error)
    if state is ObjectState.NOT_READ:
        monkeypatch.setattr(module, "compute_file_digest", refuse)  # it is read once more before it is moved

    result = aside(place)

    assert [each.path for each in result.moved] == ([place.unused] if is_moved else [])
    if state is ObjectState.NOT_SEALED:
        assert result.failed == {place.unused: "its contents are right; to import or to mend it seals it"}
    damage.flip(place.path / result.moved[0].to if is_moved else place.path / place.unused)
    if state is ObjectState.NOT_SEALED:
        assert [(each.path, each.kind) for each in aside(place).moved] == [
            (place.unused, Kind.OBJECT_VERITY_MISSING.value)
        ]


def test_objects_on_another_file_system(place, tmp_path, monkeypatch):
    """Where a rename cannot be, that is told, and the rest is moved."""
    for name in ("flipped", "file-as-ref"):
        DAMAGES[name].do(place)
    rename = module._native.rename

    def only_here(source, name, *target):
        if name == os.path.basename(place.object(HIGH)):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, name, *target)

    monkeypatch.setattr(module._native, "rename", only_here)

    result = aside(place)

    assert [each.path for each in result.moved] == ["streams/refs/note"]
    assert result.failed == {place.object(HIGH): os.strerror(errno.EXDEV)}


def test_a_list_that_cannot_be_written(place, monkeypatch):
    """Nothing is moved then, nothing of it is left, and the error says where it was."""
    DAMAGES["flipped"].do(place)

    def fail(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Repository.open(place.path) as repository:
        findings = check_repository(repository).findings
        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left on device") as caught:
            set_aside(repository, findings)

    assert caught.value.filename == f"{place.path}/quarantine/1/manifest.jsonl"
    assert not (place.path / "quarantine").exists()
    assert (place.path / place.object(HIGH)).exists()
