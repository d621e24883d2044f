"""Objects in bulk, as the extension lists, marks and removes them."""

import errno
import os

import pytest

from composefs._native.sweep import SweepAction, Sweeper, SweepError, list_objects, mark_objects

SIZES = [32, 64]


@pytest.fixture
def directory(tmp_path):
    """A directory of objects, open."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def make(tmp_path, byte, size, count):
    """Make objects whose digests begin with *byte*; return these, sorted."""
    digests = [bytes([byte, number * 37 % 251]) + bytes([number]) * (size - 2) for number in range(count)]
    (tmp_path / f"{byte:02x}").mkdir(exist_ok=True)
    for digest in digests:
        (tmp_path / f"{byte:02x}" / digest.hex()[2:]).write_bytes(b"x" * digest[2])
    return b"".join(sorted(digests))


@pytest.mark.parametrize("size", SIZES)
def test_listing(tmp_path, directory, size):
    """Objects come sorted, and what is none by its name, which need not be text."""
    digests = make(tmp_path, 0xAB, size, 100)
    for name in (b"stray", b"\xff\xfe", b"0" * (2 * size - 3), b"A" * (2 * size - 2)):
        os.close(os.open(os.fsencode(tmp_path) + b"/ab/" + name, os.O_CREAT | os.O_WRONLY))

    found, strays = list_objects(directory, 0xAB, size)

    assert found == digests
    assert sorted(map(os.fsencode, strays)) == sorted(
        [b"stray", b"\xff\xfe", b"0" * (2 * size - 3), b"A" * (2 * size - 2)]
    )
    assert list_objects(directory, 0xAC, size) == (b"", [])
    (tmp_path / "ac").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        list_objects(directory, 0xAC, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_marks(size, count):
    """What is wanted is marked, in whatever order and however often it is asked for."""
    digests = sorted(os.urandom(1) + bytes([number]) * (size - 1) for number in range(count))
    marks = bytearray(count)

    mark_objects(b"".join(digests), size, b"".join([*digests[::-2], *digests[::-2], os.urandom(size)]), marks)

    assert marks == bytes((count - 1 - index) % 2 == 0 for index in range(count))


@pytest.mark.parametrize("size", SIZES)
def test_sweeping(tmp_path, directory, size):
    """What has no mark is weighed, moved, or removed."""
    digests = make(tmp_path, 0x11, size, 10)
    marks = bytes([1, 0] * 5)
    wanted = [digests[index * size : (index + 1) * size] for index in range(1, 10, 2)]
    (tmp_path / "target/11").mkdir(parents=True)
    target = os.open(tmp_path / "target", os.O_RDONLY)

    weighed = Sweeper(directory, size, SweepAction.WEIGH).sweep(digests, marks)
    assert (weighed.done, weighed.size) == (5, sum(digest[2] for digest in wanted))
    assert weighed.newest == max(int(path.stat().st_ctime) for path in (tmp_path / "11").iterdir())
    assert Sweeper(directory, size, SweepAction.MOVE, target).sweep(digests, marks).done == 5
    assert sorted(os.listdir(tmp_path / "target/11")) == [digest.hex()[2:] for digest in wanted]
    assert Sweeper(directory, size, SweepAction.REMOVE).sweep(digests, marks).done == 0
    assert Sweeper(directory, size, SweepAction.REMOVE).sweep(digests, bytes(10)).done == 5
    assert os.listdir(tmp_path / "11") == []
    os.close(target)


def test_failures(tmp_path, directory):
    """The object is told that it could not be done with; or none, if the directory is to blame."""
    digests = make(tmp_path, 0x22, 32, 4)
    broken = digests[64:96]
    path = tmp_path / "22" / broken.hex()[2:]
    path.unlink()
    path.mkdir()
    with pytest.raises(SweepError) as caught:
        Sweeper(directory, 32, SweepAction.WEIGH).sweep(digests, bytes(4))
    assert (caught.value.errno, caught.value.digest) == (errno.EISDIR, broken)
    # A directory that is not there has nothing to be done with.
    assert Sweeper(directory, 32, SweepAction.REMOVE).sweep(b"\x33" + digests[1:32], bytes(1)).done == 0
    with pytest.raises(SweepError) as caught:
        Sweeper(-1, 32, SweepAction.REMOVE).sweep(digests, bytes(4))
    assert (caught.value.errno, caught.value.digest) == (errno.EBADF, None)
    stopped = Sweeper(directory, 32, SweepAction.REMOVE)
    stopped.stop()
    with pytest.raises(SweepError) as caught:
        stopped.sweep(digests, bytes(4))
    assert caught.value.errno == errno.ECANCELED
    assert len(os.listdir(tmp_path / "22")) == 4
