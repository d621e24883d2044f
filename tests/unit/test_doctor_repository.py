"""What is said of what repositories are, and of who may do what in them."""

import errno
import os
from dataclasses import replace

import pytest

from composefs import Algorithm, Repository, verity
from composefs.digest import Digest
from composefs.doctor import Job, Status
from composefs.doctor.repository import Contents, Sample, find_contents, judge_contents
from composefs.repository.meta import Meta
from tests.layouts import noise

BOTH = (Job.IMPORT, Job.MOUNT)
META = Meta.new(Algorithm.SHA512)
SEALED = Contents("/srv/repo", 0, 0o700, META, sealed=True, sample=Sample(3, "objects/00/11", sealed=3))
OPEN = replace(SEALED, sealed=False, sample=Sample(3, "objects/00/11", unsealed=3))


@pytest.fixture
def repository(tmp_path):
    """The path of a repository that has objects."""
    path = tmp_path / "repository"
    Repository.init(path, require_verity=False)
    with Repository.open(path) as opened:
        for seed in range(40):
            opened.objects.ensure(noise(100, seed))
    return path


def look(path):
    dir_fd = os.open(path, os.O_RDONLY)
    try:
        return find_contents(dir_fd, str(path))
    finally:
        os.close(dir_fd)


def judge(contents, *, require_verity=False):
    findings = judge_contents(contents, require_verity=require_verity)
    return {finding.id.removeprefix("repository."): finding for finding in findings}


def test_contents(repository):
    """A repository is described; some of its objects, each from another directory, are looked at."""
    found = look(repository)

    assert (found.meta, found.sealed, found.legacy, found.problem) == (META, False, False, "")
    assert (found.owner, found.mode, found.unsafe) == (os.getuid(), 0o700, ())
    assert found.sample.count == 16
    assert (found.sample.sealed, found.sample.unsealed, found.sample.broken) == (0, 16, ())
    assert os.path.isfile(repository / found.sample.intact)


def test_empty_repository(tmp_path):
    """A repository without objects is one."""
    Repository.init(tmp_path / "new", require_verity=False)

    found = look(tmp_path / "new")

    assert found.sample == Sample()
    assert judge(found)["objects"].found == "none yet"


def test_judgement():
    """A sealed repository is ok; one that is not could be."""
    sealed, unsealed = judge(SEALED, require_verity=True), judge(OPEN)

    assert {finding.status for finding in sealed.values()} == {Status.OK}
    assert sealed["metadata"].found == "fsverity-sha512-12, images of EROFS format V1"
    assert sealed["objects"].found == "3 objects looked at: 3 with fs-verity, each as its name says"
    assert (unsealed["verity"].status, unsealed["verity"].prevents) == (Status.DEGRADED, ())
    assert unsealed["objects"].found == "3 objects looked at: none has fs-verity"


def test_required_verity():
    """Who demands fs-verity cannot use a repository that was made without."""
    assert judge(OPEN, require_verity=True)["verity"].prevents == BOTH


def test_unsealed_object():
    """In a sealed repository, an object without fs-verity cannot be read through a mount."""
    found = judge(replace(SEALED, sample=Sample(3, "objects/00/11", sealed=2, unsealed=1)))["objects"]

    assert found.prevents == (Job.MOUNT,)
    assert found.found == "1 of 3 objects looked at have no fs-verity: reading them fails"
    assert "composefs fsck" in found.remedy


def test_broken_objects(repository):
    """What should be an object and is none is told, and not taken for a sample."""
    directories = sorted(os.listdir(repository / "objects"))
    first, second, third = (repository / "objects" / name for name in directories[:3])
    (first / "00").write_bytes(b"")
    (second / ("0" * 126)).mkdir()
    (third / ("0" * 126)).symlink_to("nowhere")

    found = look(repository).sample

    assert len(found.broken) == len([step for step in (0, 1, 2) if step % (len(directories) // 16) == 0])
    assert "wanted a sha512 digest, got another name" in found.broken[0]
    assert not found.intact.startswith(f"objects/{directories[0]}")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.mkdir(), "wanted a regular file, got something else"),
        (lambda path: path.symlink_to("nowhere"), os.strerror(errno.ELOOP)),
    ],
)
def test_no_file(tmp_path, make, text):
    """A directory or a link is no object."""
    Repository.init(tmp_path / "new", require_verity=False)
    (tmp_path / "new/objects/00").mkdir(parents=True)
    make(tmp_path / "new/objects/00" / ("0" * 126))

    found = look(tmp_path / "new")

    assert found.sample.broken == (f"objects/00/{'0' * 126}: {text}",)
    assert judge(found)["objects"].prevents == (Job.MOUNT,)


def test_sealed_objects(repository, monkeypatch):
    """Objects that the kernel seals are as good as their digests."""
    sealed = find_digests(repository)
    wrong = Digest(Algorithm.SHA512, bytes(64))

    def measure(fd, algorithm):
        path = os.readlink(f"/proc/self/fd/{fd}")
        return sealed.get(path, wrong) if "objects" in path else wrong

    monkeypatch.setattr(verity, "measure", measure)
    found = look(repository)
    assert (found.sealed, found.sample.sealed, found.sample.broken) == (True, 16, ())

    monkeypatch.setattr(verity, "measure", lambda *_: wrong)
    found = look(repository).sample
    assert (found.sealed, found.intact, len(found.broken)) == (0, None, 16)
    assert found.broken[0].endswith(f"wanted the digest that its name says, got {'0' * 128}")


def find_digests(path):
    return {
        str(file): Digest.from_hex(Algorithm.SHA512, file.parent.name + file.name)
        for file in (path / "objects").glob("??/*")
    }


def test_metadata(repository, tmp_path):
    """What `meta.json` says is judged as every command does that opens the repository."""
    text = (repository / "meta.json").read_text()

    (repository / "meta.json").write_text(text.replace('"v1_erofs"', '"new"'))
    found = judge(look(repository))["metadata"]
    assert (found.prevents, found.found) == ((Job.IMPORT,), "unknown features: new; it can only be read")

    (repository / "meta.json").write_text(text.replace('"version": 1', '"version": 2'))
    found = judge(look(repository))["metadata"]
    assert (found.prevents, found.found) == (BOTH, "repository version 2 is newer than 1")

    (repository / "meta.json").write_text("{")
    found = judge(look(repository))
    assert found["metadata"].prevents == BOTH
    assert found["metadata"].found.startswith(f"{repository}/meta.json, offset 1")
    assert found.keys() == {"metadata", "permissions"}


def test_metadata_that_is_no_file(repository):
    """A directory of that name is no metadata; nor is a fifo, for whose writer nobody waits."""
    (repository / "meta.json").unlink()
    (repository / "meta.json").mkdir()
    assert judge(look(repository))["metadata"].found == f"{repository}/meta.json, offset 0: no regular file"

    (repository / "meta.json").rmdir()
    os.mkfifo(repository / "meta.json")
    assert judge(look(repository))["metadata"].found == f"{repository}/meta.json, offset 0: no regular file"


def test_legacy(repository):
    """A repository without `meta.json` is known by its objects, and nothing is written."""
    (repository / "meta.json").unlink()

    found = judge(look(repository))["metadata"]

    assert (found.status, found.prevents) == (Status.DEGRADED, ())
    assert found.found == "none, as old tools made it; by its objects fsverity-sha512-12"
    assert "--ensure" in found.remedy
    assert not (repository / "meta.json").exists()


def test_legacy_without_objects(tmp_path):
    """A directory of objects that has none says nothing."""
    (tmp_path / "objects").mkdir()

    assert judge(look(tmp_path))["metadata"].prevents == BOTH


def test_permissions(repository):
    """Where everybody may replace files, a digest is all that protects; the sticky bit does as well."""
    directory = min(os.listdir(repository / "objects"))
    (repository / "objects" / directory).chmod(0o777)
    (repository / "objects").chmod(0o1777)
    (repository / "streams").mkdir()
    (repository / "streams").chmod(0o757)

    found = look(repository)

    assert found.unsafe == ("streams", f"objects/{directory}")
    finding = judge(found)["permissions"]
    assert (finding.status, finding.remedy) == (Status.DEGRADED, f"chmod -R o-w {repository}")
    assert finding.found.startswith(
        f"owner uid {os.getuid()}, mode 0700; everybody may replace what is in streams, obj"
    )


def test_many_open_directories():
    """Of many directories some are named."""
    found = judge(replace(SEALED, unsafe=tuple("abcde")))["permissions"]

    assert found.found.endswith("everybody may replace what is in a, b, c and 2 more")
