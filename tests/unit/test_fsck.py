"""The check of a repository: what it looks at, and how; tests/unit/test_fsck_damage.py has what it finds."""

import dataclasses
import errno
import json
import os
import shutil
import threading

import pytest

from composefs import Algorithm, Digest, Repository
from composefs._native import ObjectState
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, NotFoundError, RepositoryError
from composefs.repository.fsck import Counts, Finding, Kind, check_repository, open_damaged
from composefs.repository.fsck import images as fsck_images
from composefs.repository.fsck.index import ObjectIndex
from composefs.tree import Leaf, Object
from composefs.verity import compute_digest
from tests import damage, images
from tests.damage import DAMAGES, HIGH, LOW

ALGORITHM = Algorithm.SHA256
CLEAN = Counts(objects_checked=11, streams_checked=4, images_checked=1)


def check(place, **options):
    """Check a repository, damaged as it may be."""
    try:
        opened = Repository.open(place.path, upgrade=False)
    except (FormatError, NotFoundError):
        opened = open_damaged(str(place.path))
    with opened as repository:
        return check_repository(repository, **options)


def raw_name(path):
    """The digits of the object at *path*."""
    return path.removeprefix("objects/").replace("/", "")


def mismatch(path, data):
    """The finding that the object at *path*, which nothing needs, holds *data*."""
    name, got = raw_name(path), compute_digest(data, ALGORITHM).hex
    return Finding(Kind.OBJECT_DIGEST_MISMATCH, path, object_id=name, wanted=name, got=got)


def test_broken_metadata_is_a_finding_beside_the_others(place):
    """Where `meta.json` says nothing, names of objects tell the algorithm, and the rest is checked."""
    DAMAGES["meta"].do(place)
    DAMAGES["emptied"].do(place)

    report = check(place)

    what = "offset 14: broken JSON: Expecting property name enclosed in double quotes"
    assert report.findings == [
        Finding(Kind.METADATA_PARSE_FAILED, "meta.json", what),
        mismatch(place.unused, b""),
    ]
    assert not report.has_metadata
    assert report.counts == dataclasses.replace(CLEAN, objects_corrupted=1)


def test_a_repository_without_metadata_is_one_of_old(place):
    """No `meta.json` is nothing wrong, since old tools made none; and none is written."""
    (place.path / "meta.json").unlink()

    report = check(place)

    assert (report.findings, report.has_metadata) == ([], False)
    assert not (place.path / "meta.json").exists()


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"version": 2}, {"detail": "repository version 2 is newer than 1"}),
        ({"features": {"incompatible": ["x"]}}, {"detail": "repository has unknown features: x"}),
        ({"algorithm": "fsverity-sha512-12"}, {"wanted": "fsverity-sha512-12", "got": "sha256"}),
    ],
)
def test_metadata_that_changes_under_us(place, change, finding):
    """What would keep a repository from being opened is a finding in one that is open."""
    path = place.path / "meta.json"
    with Repository.open(place.path) as repository:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        report = check_repository(repository)

    assert report.findings == [Finding(Kind.METADATA_ALGORITHM_MISMATCH, "meta.json", **finding)]
    assert report.has_metadata


def test_metadata_that_cannot_be_read(place):
    """A directory in the place of `meta.json` is a finding."""
    with Repository.open(place.path) as repository:
        (place.path / "meta.json").unlink()
        (place.path / "meta.json").mkdir()
        report = check_repository(repository)

    assert report.findings == [Finding(Kind.METADATA_PARSE_FAILED, "meta.json", "offset 0: no regular file")]


def test_a_damaged_repository_is_refused_where_nothing_tells_what_it_is(tmp_path):
    """Without `meta.json` and without objects there is nothing to check."""
    with pytest.raises(NotFoundError, match="neither meta.json nor objects"):
        open_damaged(str(tmp_path))


def test_a_repository_of_a_later_version_is_refused(place):
    """Rules of today do not judge what is made by others."""
    DAMAGES["meta-newer"].do(place)

    with pytest.raises(RepositoryError, match="version 2 is newer"):
        check(place)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_any_number_of_workers_finds_the_same(workers, place):
    """Findings come in the same order, however many threads there are."""
    for name in ("flipped", "grown", "emptied", "stray-object"):
        DAMAGES[name].do(place)

    report = check(place, workers=workers)

    paths = [finding.path for finding in report.findings]
    stray = f"{os.path.dirname(place.object(LOW))}/stray"
    assert paths == [stray, *sorted([place.object(HIGH), place.object(LOW), place.unused])]


def test_progress_goes_to_all(place):
    """Progress counts objects up to their number, and comes in the thread of the caller."""
    told = []

    check(place, on_progress=lambda *args: told.append((*args, threading.current_thread())))

    assert {thread for *_, thread in told} == {threading.current_thread()}
    for what, total in (("objects", 11), ("streams", 4), ("images", 1)):
        of_it = [(done, of) for kind, done, of, _ in told if kind == what]
        assert of_it == sorted(of_it)
        assert of_it[-1] == (total, total)


@pytest.mark.parametrize("name", ["objects", "streams", "images"])
def test_a_directory_that_is_none(name, place):
    """What is no directory ends the check, with its path."""
    with Repository.open(place.path) as repository:
        shutil.rmtree(place.path / name)
        (place.path / name).touch()

        with pytest.raises(RepositoryError) as error:
            check_repository(repository)

    assert str(error.value) == f"{place.path}/{name}: is no directory, and links are not followed"


def test_an_empty_repository(tmp_path):
    """Directories that are not made yet are empty ones."""
    Repository.init(tmp_path / "repository", ALGORITHM, require_verity=False)

    with Repository.open(tmp_path / "repository") as repository:
        report = check_repository(repository)

    assert (report.findings, report.counts) == ([], Counts())


def test_a_file_as_directory_of_objects(place):
    """A file in the place of a directory of objects is a finding, and all that should be there is missing."""
    directory = place.path / os.path.dirname(place.unused)
    shutil.rmtree(directory)
    directory.touch()

    report = check(place)

    path = os.path.dirname(place.unused)
    assert report.findings == [Finding(Kind.OBJECT_OPEN_FAILED, path, os.strerror(errno.ENOTDIR))]


def test_a_link_as_directory_of_references(place):
    """References are not followed out of the repository."""
    shutil.rmtree(place.path / "streams/refs")
    (place.path / "streams/refs").symlink_to("../images/refs")

    report = check(place)

    assert report.findings == [Finding(Kind.UNEXPECTED_FILE_TYPE, "streams/refs", "is a symbolic link")]


@pytest.mark.parametrize(
    ("state", "error", "finding"),
    [
        (ObjectState.NOT_OPENED, errno.EACCES, (Kind.OBJECT_OPEN_FAILED, os.strerror(errno.EACCES))),
        (ObjectState.NOT_READ, errno.EIO, (Kind.OBJECT_VERITY_FAILED, os.strerror(errno.EIO))),
        (ObjectState.NOT_SEALED, 0, (Kind.OBJECT_VERITY_MISSING, "")),
    ],
)
def test_what_no_test_can_do_to_a_disk(place, monkeypatch, state, error, finding):
    """Errors of the disk, and objects without fs-verity where that is required."""
    damage.report_state(monkeypatch, place.unused, state, error)

    kind, what = finding
    assert check(place).findings == [Finding(kind, place.unused, what, object_id=raw_name(place.unused))]


def test_no_object_is_read_through_a_link(place):
    """A directory of objects that is a link leads to no stream, whatever is there."""
    directory = place.path / os.path.dirname(place.object_of(place.manifest_stream))
    directory.rename(place.path / "elsewhere")
    directory.symlink_to("../elsewhere")

    kinds = {finding.kind for finding in check(place).findings if finding.path == place.manifest_stream}

    assert kinds == {Kind.STREAM_OPEN_FAILED}


def test_verity_is_required_where_it_is(place):
    """Where the kernel must enforce digests, contents are not a substitute."""
    with Repository.open(place.path) as repository:
        repository.verity = True
        report = check_repository(repository)

    assert {finding.kind for finding in report.findings} == {Kind.OBJECT_VERITY_MISSING}
    assert (len(report.findings), report.counts.objects_corrupted) == (11, 11)


@pytest.mark.parametrize(("error_in", "kind"), [("open", Kind.IMAGE_OPEN_FAILED), ("read", Kind.IMAGE_READ_FAILED)])
def test_an_image_that_the_disk_does_not_give(place, monkeypatch, error_in, kind):
    """An image that cannot be read is a finding, whatever fails."""

    class Bad:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, _):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open_object(*_):
        if error_in == "open":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return Bad()

    monkeypatch.setattr(fsck_images, "open_object", open_object)

    report = check(place)

    hurts = (place.ref, place.tag, place.config_stream, place.manifest_stream)
    assert report.findings == [Finding(kind, place.image_name, os.strerror(errno.EIO), hurts=hurts)]
    assert report.counts.images_corrupted == 1


def test_a_fifo_as_object_of_a_stream(place):
    """What would never end to be read is not read."""
    path = place.path / place.object_of(place.layer_stream(0))
    path.unlink()
    os.mkfifo(path)

    report = check(place)

    hurts = (place.tag, place.config_stream, place.manifest_stream)
    name = raw_name(str(path.relative_to(place.path)))
    of_object = (place.tag, place.config_stream, place.layer_stream(0), place.manifest_stream)
    assert report.findings == [
        Finding(Kind.OBJECT_OPEN_FAILED, f"objects/{name[:2]}/{name[2:]}", "is no regular file", name, hurts=of_object),
        Finding(Kind.STREAM_OPEN_FAILED, place.layer_stream(0), "is no regular file", hurts=hurts),
    ]


@pytest.mark.parametrize("name", ["ostree-commit-1", "anything"])
def test_streams_of_others_may_be_of_any_type(place, name):
    """Of names that are not known, the content type is not judged."""
    with Repository.open(place.path) as repository:
        writer = repository.streams.writer(b"whatever")
        writer.inline(b"hello")
        repository.streams.link(name, repository.streams.store(writer))
        report = check_repository(repository)

    assert report.findings == []


def test_an_object_of_another_algorithm_is_missing(place):
    """An image may name an object that cannot be here, since its digest has another size."""
    name = bytes(64)
    root = images.directory({"file": Leaf(images.STAT, Object(100, name))})
    with Repository.open(place.path) as repository:
        digest = images.store(repository.images, write_image(root, 1), "other")
        report = check_repository(repository)

    assert report.findings == [
        Finding(
            Kind.IMAGE_MISSING_OBJECT,
            f"images/{digest.hex}",
            object_id=name.hex(),
            hurts=("images/refs/other",),
            files=("/file",),
        )
    ]


def test_files_of_an_object(place):
    """All names of the files whose content an object is are told, odd ones so that they can be shown."""
    other = b"other" * 100
    with Repository.open(place.path) as repository:
        leaf = images.external(repository, HIGH)
        below = images.directory({"again": leaf, b"\xff\n": images.external(repository, HIGH, mode=0o600)})
        images.store(repository.images, write_image(images.directory({"a": leaf, "below": below}), 2), "other")
        images.store(repository.images, write_image(images.directory({"b": images.external(repository, other)}), 1))
    (place.path / place.object(HIGH)).unlink()

    with Repository.open(place.path) as repository:
        report = check_repository(repository)

    assert {finding.files for finding in report.findings} == {("/a", "/below/again", "/below/\\xff\\x0a", "/usr/high")}


def test_an_interrupted_check_stops(place, monkeypatch):
    """What the caller raises ends the threads, too."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(place, on_progress=interrupt)

    assert [thread for thread in threading.enumerate() if thread.name.startswith("fsck")] == []


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_the_index_knows_what_is_there(algorithm):
    """Objects are found by all of their digest, also where it begins as others do."""
    size = algorithm.digest_size
    alike = [b"\x42" * 8 + bytes([number]) * (size - 8) for number in range(5)]
    others = [compute_digest(bytes([number]), algorithm).raw for number in range(200)]
    there = sorted([*alike[::2], *others[:100]])

    index = ObjectIndex(b"".join(there), size)

    assert len(index) == len(there)
    assert [digest in index for digest in there] == [True] * len(there)
    absent = [*alike[1::2], *others[100:], b"", bytes(96 - size)]
    assert [digest in index for digest in absent] == [False] * 104
    for some in (set(), {there[0]}, {absent[0]}, {*there[:5], *absent[:5]}, {*there, *absent}):
        assert index.missing(some) == sorted(some.intersection(absent))


def test_findings_read_as_those_of_cfsctl():
    """Each form of text, with all of its fields."""
    object_id = "ab" * 32
    texts = {
        Finding(
            Kind.OBJECT_OPEN_FAILED, "objects/ab/cd", "is gone", object_id
        ): "object-open-failed: objects/ab/cd: is gone",
        Finding(Kind.OBJECT_DIGEST_MISMATCH, "p", object_id=object_id, wanted=object_id, got="12"): (
            "object-digest-mismatch: p: measured 12"
        ),
        Finding(Kind.OBJECT_VERITY_MISSING, "p", object_id=object_id): "object-verity-missing: p",
        Finding(Kind.MISSING_OBJECT_REF, "p", object_id=object_id): f"missing-object-ref: p: {object_id}",
        Finding(Kind.MISSING_NAMED_REF, "p", object_id=object_id, ref="r"): f"missing-named-ref: p: ref r: {object_id}",
        Finding(Kind.METADATA_ALGORITHM_MISMATCH, "meta.json", wanted="a", got="b"): (
            "metadata-algorithm-mismatch: meta.json: expected a, repository opened as b"
        ),
        Finding(Kind.STREAM_TYPE_MISMATCH, "p", wanted="a", got="b"): "stream-type-mismatch: p: wanted a, got b",
        Finding(Kind.BROKEN_SYMLINK, "p", wanted="q"): "broken-symlink: p",
    }

    assert {str(finding): text for finding, text in texts.items()} == {f"fsck: {text}": text for text in texts.values()}


def test_an_object_larger_than_a_buffer(tmp_path):
    """Files are hashed alone or with others, and all of them are right or wrong as they are."""
    Repository.init(tmp_path / "repository", Algorithm.SHA512, require_verity=False)
    sizes = [0, 1, 4095, 4096, 4097, 65536, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, 1 << 20, (5 << 18) + 7]
    with Repository.open(tmp_path / "repository") as repository:
        for size in sizes:
            repository.objects.ensure(damage.noise(size, size))
        assert check_repository(repository).counts == Counts(objects_checked=len(sizes))
        paths = sorted((tmp_path / "repository/objects").glob("*/*"))
        for path in paths:
            if path.stat().st_size:
                damage.flip(path, path.stat().st_size - 1)
            else:
                path.write_bytes(b"x")

        report = check_repository(repository)

    assert [finding.kind for finding in report.findings] == [Kind.OBJECT_DIGEST_MISMATCH] * len(sizes)
    assert [finding.got for finding in report.findings] == [
        compute_digest(path.read_bytes(), Algorithm.SHA512).hex for path in paths
    ]


def test_a_digest_of_any_object_names_its_path():
    """The check spells paths as the store does."""
    digest = Digest(ALGORITHM, bytes(range(32)))

    assert raw_name(f"objects/{digest.object_path}") == digest.hex
