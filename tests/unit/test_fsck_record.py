"""Checks since the last one: what has changed is looked into, what has not is not, and the record is never half."""

import errno
import os
import stat
import time
from array import array
from dataclasses import replace

import pytest

from composefs import Algorithm, Repository, _native
from composefs.errors import FormatError, RepositoryError
from composefs.oci.fsck import check_images
from composefs.repository.fsck import Kind, check_repository, record
from composefs.repository.fsck.record import NAME, Record
from tests import damage
from tests.damage import DAMAGES, HIGH, LOW
from tests.layouts import noise


@pytest.fixture
def settled(place, monkeypatch):
    """A repository whose objects were changed long enough ago; and what a clean check saw of it is recorded."""
    monkeypatch.setattr(record, "_TICK", 0)
    time.sleep(0.02)  # two of the longest ticks
    with Repository.open(place.path) as repository:
        record.save(repository, check_repository(repository, records=True).record)
    return place


def since_last(place, **options):
    """Check what has changed."""
    with Repository.open(place.path) as repository:
        return check_repository(repository, last=record.load(repository), records=True, **options)


def looked_into(place, monkeypatch):
    """Check what has changed; return the report, and the paths of the objects that were looked into."""
    seen = []
    check = _native.ObjectChecker.check

    def spy(self, digests):
        seen.extend(bytes(digests[start : start + 32]).hex() for start in range(0, len(digests), 32))
        return check(self, digests)

    monkeypatch.setattr(_native.ObjectChecker, "check", spy)
    report = since_last(place)
    return report, {f"objects/{name[:2]}/{name[2:]}" for name in seen}


def test_nothing_has_changed(settled, monkeypatch):
    """Where no inode has changed, no object is looked into."""
    report, seen = looked_into(settled, monkeypatch)

    assert (report.ok, report.objects_unchanged, seen) == (True, 11, set())
    assert report.counts.objects_checked == 11


def touch(path):
    os.utime(path, ns=(path.stat().st_atime_ns, 1))


def set_back(path):
    """Change contents and give the old times back: that changes the ctime."""
    info = path.stat()
    damage.flip(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def copy(path):
    """Put another file with the same contents and times there."""
    info, data = path.stat(), path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize(
    ("change", "is_wrong"),
    [(touch, False), (lambda path: path.chmod(0o600), False), (copy, False), (set_back, True), (damage.flip, True)],
)
def test_what_has_changed(settled, monkeypatch, change, is_wrong):
    """An object of which anything is otherwise is looked into, and only that."""
    path = settled.object(HIGH)
    change(settled.path / path)

    report, seen = looked_into(settled, monkeypatch)

    assert seen == {path}
    assert [finding.kind for finding in report.findings] == [Kind.OBJECT_DIGEST_MISMATCH] * is_wrong
    assert report.objects_unchanged == 10


def test_what_is_new_and_what_is_gone(settled, monkeypatch):
    """New objects are looked into; what is missing is found without a look."""
    with Repository.open(settled.path) as repository:
        digest, _ = repository.objects.ensure(noise(99, 9))
    (settled.path / settled.object(LOW)).unlink()

    report, seen = looked_into(settled, monkeypatch)

    assert seen == {f"objects/{digest[:1].hex()}/{digest[1:].hex()}"}
    assert {finding.kind for finding in report.findings} == {Kind.MISSING_OBJECT_REF, Kind.IMAGE_MISSING_OBJECT}


@pytest.mark.parametrize("name", [name for name in DAMAGES if not DAMAGES[name].refused])
def test_every_damage_is_found(name, settled):
    """A check of what has changed finds what a whole one finds."""
    DAMAGES[name].do(settled)

    with Repository.open(settled.path) as repository:
        try:
            last = record.load(repository)
        except FormatError:
            assert name == "meta-other"
            return
        found = check_repository(repository, last=last)
        whole = check_repository(repository)

    assert (found.findings, found.counts) == (whole.findings, whole.counts)


def test_what_is_not_seen(settled, monkeypatch):
    """Contents that change without their inode are not seen, which is why there are whole checks."""
    with Repository.open(settled.path) as repository:
        stamps = iter([record.load(repository).stamps.tobytes()])
    damage.flip(settled.path / settled.object(HIGH))
    monkeypatch.setattr(record._native, "stamp_objects", lambda *_: next(stamps, b""))

    assert since_last(settled).ok


def test_what_was_changed_just_now_is_not_recorded(place):
    """What could be changed again within the tick of a clock is looked into the next time."""
    path = place.path / place.object(HIGH)
    touch(path)
    with Repository.open(place.path) as repository:
        seen = check_repository(repository, records=True).record
        record.save(repository, seen)
        damage.flip(path)

        assert 0 in seen.stamps
        assert not check_repository(repository, last=record.load(repository)).ok


def test_a_clock_that_was_set_back(place, monkeypatch):
    """What was changed in what is now the future is looked into, however often."""
    monkeypatch.setattr(record.time, "time_ns", lambda: 10**18)  # in 2001

    with Repository.open(place.path) as repository:
        record.save(repository, check_repository(repository, records=True).record)
        report = check_repository(repository, last=record.load(repository), records=True)

    assert (report.objects_unchanged, set(report.record.stamps)) == (0, {0})


def test_each_field_makes_another_stamp(tmp_path):
    """Inode, size, mtime and ctime: whichever is another, the stamp is."""
    name = bytes(range(32))
    path = tmp_path / name[:1].hex() / name[1:].hex()
    path.parent.mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    never = 1 << 62

    def stamp(time=never):
        (number,) = array("Q", bytes(_native.stamp_objects(fd, name, 32, time)))
        return number

    try:
        assert stamp() == 0
        path.write_bytes(b"1")
        seen = [stamp()]
        os.utime(path, ns=(1, 1))
        seen.append(stamp())
        os.truncate(path, 5)
        os.utime(path, ns=(1, 1))
        seen.append(stamp())
        path.rename(tmp_path / "old")
        path.write_bytes(b"12345")
        os.utime(path, ns=(1, 1))
        seen.append(stamp())
        assert len({*seen}) == len(seen) == 4
        assert stamp(path.stat().st_ctime_ns + 1) == seen[-1]
        assert stamp(path.stat().st_ctime_ns) == 0
        path.unlink()
        path.symlink_to(tmp_path / "old")
        assert stamp() == 0
    finally:
        os.close(fd)


# The file


def test_the_file(settled):
    """Anybody may read it, who can read the repository; nothing else is left."""
    info = (settled.path / NAME).stat()

    assert (stat.S_IMODE(info.st_mode), info.st_size) == (0o644, 32 + 16 * 11 + 32)
    assert [path.name for path in settled.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("layers", [frozenset(), frozenset({bytes(16), b"x" * 16})])
@pytest.mark.parametrize("sealed", [False, True])
def test_it_is_read_as_it_was_written(algorithm, layers, sealed):
    """Parsing undoes packing."""
    written = Record(algorithm, array("Q", [1, 2, 1 << 63]), array("Q", [5, 0, 7]), layers, sealed)

    assert Record.parse(b"".join(written.pack()), algorithm, sealed=sealed) == written


def test_any_broken_byte_is_seen(settled):
    """A record that is not whole is none."""
    data = (settled.path / NAME).read_bytes()

    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(FormatError, match="checksum"):
            Record.parse(bytes(broken), Algorithm.SHA256)
        with pytest.raises(FormatError, match="checksum"):
            Record.parse(data[:place], Algorithm.SHA256)
    with pytest.raises(FormatError, match="another algorithm or policy"):
        Record.parse(data, Algorithm.SHA512)
    with pytest.raises(FormatError, match="another algorithm or policy"):
        Record.parse(data, Algorithm.SHA256, sealed=True)


def test_counts_that_lie():
    """Numbers of entries are those of the file."""
    written = b"".join(Record(Algorithm.SHA256, array("Q", [1]), array("Q", [2])).pack())
    forged = written[:16] + (1 << 60).to_bytes(8, "little") + written[24:-32]
    sha256 = record.hashlib.sha256(forged).digest()

    with pytest.raises(FormatError, match="are not those of 1152921504606846976 objects and 0 layers"):
        Record.parse(forged + sha256, Algorithm.SHA256)


def test_whom_it_is_believed(settled, monkeypatch):
    """A record that somebody else may have written is none."""
    path = settled.path / NAME
    with Repository.open(settled.path) as repository:
        path.chmod(0o666)
        with pytest.raises(FormatError, match="others may have written it"):
            record.load(repository)
        path.chmod(0o644)
        assert record.load(repository)
        path.rename(settled.path / "elsewhere")
        path.symlink_to("elsewhere")
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            record.load(repository)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(FormatError, match="no file"):
            record.load(repository)


def test_a_record_that_cannot_be_written(settled, monkeypatch):
    """The last one stays, and nothing else does."""
    before = (settled.path / NAME).read_bytes()

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Repository.open(settled.path) as repository:
        found = check_repository(repository, records=True).record
        monkeypatch.setattr(record.os, "fsync", fail)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            record.save(repository, found)

    assert (settled.path / NAME).read_bytes() == before
    assert [path.name for path in settled.path.iterdir() if path.name.startswith(".")] == []


def test_what_was_seen_is_on_disk(settled, monkeypatch):
    """Contents are flushed before a record says that they were right; if they cannot be, it does not."""
    before = (settled.path / NAME).read_bytes()
    flushed = []

    def sync(repository):
        flushed.append((settled.path / NAME).read_bytes() == before)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Repository.open(settled.path) as repository:
        found = check_repository(repository, records=True).record
        monkeypatch.setattr(Repository, "sync", sync)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            record.save(repository, found)

    assert flushed == [True]
    assert (settled.path / NAME).read_bytes() == before


def test_an_empty_repository(tmp_path):
    """Where there is nothing, that is recorded, and nothing is made."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        record.save(repository, check_repository(repository, records=True).record)
        report = check_repository(repository, last=record.load(repository), records=True)

    assert (report.ok, report.objects_unchanged, len(report.record.stamps)) == (True, 0, 0)
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == [NAME, "meta.json"]


def test_a_repository_that_is_not_ours(settled, monkeypatch):
    """Into a repository that this program must not write, nothing is written."""

    def refuse(_):
        raise RepositoryError("here", "is read-only to this program")

    with Repository.open(settled.path) as repository:
        found = check_repository(repository, records=True).record
        monkeypatch.setattr(Repository, "check_writable", refuse)
        with pytest.raises(RepositoryError):
            record.save(repository, found)


# Layers


def test_layers_that_were_proved(settled, monkeypatch):
    """A layer that was proved is passed over, until something of it is broken; a check without images keeps that."""
    with Repository.open(settled.path) as repository:
        first = check_images(repository, records=True)
        record.save(repository, first.repository.record)
        record.save(repository, replace(first.repository.record, layers=frozenset()))  # as a check without images does
        second = check_images(repository, last=record.load(repository), records=True)
        damage.flip(settled.path / settled.object(HIGH))
        third = check_images(repository, last=record.load(repository))

    assert (first.layers_checked, first.layers_unchanged, len(first.repository.record.layers)) == (2, 0, 2)
    assert (second.layers_checked, second.layers_unchanged, second.ok) == (2, 2, True)
    assert second.repository.record.layers == first.repository.record.layers
    assert (third.layers_unchanged, third.layers_corrupted) == (1, 1)
