"""Contents are proved before they are served, and once they are, only changes cost another proof."""

import errno
import logging
import os
import threading
import time

import pytest

from composefs.fuse import contents
from composefs.fuse.contents import Contents
from composefs.image import Image
from composefs.tree import Backed, Inline, Object
from tests.images import directory, external, open_tree

DATA = bytes(range(256)) * 1000


@pytest.fixture
def image(repository):
    with open_tree(repository, directory()) as opened:
        yield opened


class Opener:
    """Opens contents as an image does, and counts."""

    def __init__(self, image: Image) -> None:
        self.image, self.count, self.files = image, 0, []

    def __call__(self, content):
        self.count += 1
        self.files.append(self.image.open_content(content))
        return self.files[-1]

    @property
    def open_count(self):
        return sum(not file.closed for file in self.files)


@pytest.fixture
def opener(image):
    return Opener(image)


@pytest.fixture
def opened(opener):
    """Contents that fail anew at each reading."""
    found = Contents("source", opener)
    yield found
    found.close()
    assert opener.open_count == 0


@pytest.fixture
def impatient(monkeypatch):
    """Let what failed be tried again at once."""
    monkeypatch.setattr(contents, "_PAUSE", 0.0)


@pytest.fixture
def stored(repository):
    """An object, and its path."""
    found = external(repository, DATA).content
    return found, object_path(repository, found)


def object_path(repository, content):
    """Return the path of an object."""
    digest = content.digest.hex()
    return f"{repository.path}/objects/{digest[:2]}/{digest[2:]}"


def change(path, data=b"?", offset=1000):
    """Write into a file."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def fails(found, content):
    """Tell whether reading ends in EIO."""
    try:
        found.read(content, 10, 0, b"/path")
    except OSError as error:
        return error.errno == errno.EIO
    return False


@pytest.mark.parametrize(("size", "offset"), [(10, 0), (0, 0), (1000, 255_990), (10, 256_000), (10, 1 << 40)])
def test_read(opened, stored, size, offset):
    """What is read is what is there, from wherever it comes."""
    wanted = DATA[offset : offset + size]

    assert opened.read(stored[0], size, offset, b"/path") == wanted
    assert opened.read(Inline(DATA), size, offset, b"/path") == wanted
    assert opened.read(Backed(len(DATA)), size, offset, b"/path") == bytes(len(wanted))


def test_proved_once(opened, opener, stored):
    """A file is proved once, however often it is read, and two with one content are one."""
    content, _ = stored

    for offset in range(0, len(DATA), 4096):
        opened.read(content, 4096, offset, b"/a")
        opened.read(Object(content.size, content.digest), 4096, offset, b"/b")

    assert opener.count == 1


def test_eight_readers_prove_once(image, stored):
    """The others wait for the one who proves."""
    begun, go = threading.Event(), threading.Event()
    count = []

    def opener(content):
        count.append(1)
        begun.set()
        assert go.wait(10)
        return image.open_content(content)

    found, results = Contents("source", opener), []
    readers = [
        threading.Thread(target=lambda: results.append(found.read(stored[0], 100, 50, b"/path"))) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    assert begun.wait(10)
    go.set()
    for reader in readers:
        reader.join(10)

    assert results == [DATA[50:150]] * 8
    assert len(count) == 1
    found.close()


def test_few_stay_open(repository, opener):
    """Of the files that nobody reads, the last ones stay open."""
    found = Contents("source", opener, keep=2)
    files = [external(repository, b"%d" % number * 100).content for number in range(5)]

    for content in files:
        assert len(found.read(content, 1000, 0, b"/path")) == content.size
    assert opener.open_count == 2
    found.read(files[3], 1, 0, b"/path")
    found.read(files[4], 1, 0, b"/path")
    assert opener.count == 5
    found.read(files[0], 1, 0, b"/path")
    assert (opener.count, opener.open_count) == (6, 2)

    found.close()


@pytest.mark.usefixtures("impatient")
def test_broken_object(opened, opener, stored, caplog):
    """A broken object is EIO, and a line that says which; when it is repaired, it is read."""
    content, path = stored
    change(path)

    assert fails(opened, content)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    for part in ("source: /path: ", content.digest.hex()[2:], "wanted", "got"):
        assert part in record.getMessage()
    assert fails(opened, content)
    assert opener.open_count == 0

    change(path, DATA[1000:1001])
    assert opened.read(content, 10, 995, b"/path") == DATA[995:1005]


@pytest.mark.usefixtures("impatient")
def test_missing_object(opened, stored, caplog):
    """So is one that is missing."""
    content, path = stored
    os.rename(path, f"{path}-")

    assert fails(opened, content)
    assert "no object" in caplog.text

    os.rename(f"{path}-", path)
    assert not fails(opened, content)


def test_other_size(opened, stored, caplog):
    """And one that is larger than the image says."""
    content, _ = stored

    assert fails(opened, Object(content.size - 1, content.digest))
    assert f"{content.size - 1} bytes" in caplog.text


def test_one_failure_for_many_readings(opened, opener, stored, caplog):
    """What failed is not hashed again at each of the kernel's attempts, and told once."""
    content, path = stored
    change(path)

    for _ in range(100):
        assert fails(opened, content)

    assert len(caplog.records) == 1
    assert opener.count == 1


def test_failure_is_forgotten(opened, opener, stored, monkeypatch):
    """After a second it is tried again."""
    content, path = stored
    change(path)
    assert fails(opened, content)
    later = time.monotonic() + 1.5
    monkeypatch.setattr(contents.time, "monotonic", lambda: later)

    assert fails(opened, content)

    assert opener.count == 2


def test_changed_after_the_proof(opened, opener, stored, caplog):
    """What is written to the object in place after it was proved is not served, also while it stays open."""
    content, path = stored
    assert not fails(opened, content)
    change(path)  # within the same tick of the clock, most likely

    assert fails(opened, content)

    assert "after a change" in caplog.text
    assert opener.open_count == 0


def test_cut_after_the_proof(opened, stored):
    """Nor what is left of one that was cut."""
    content, path = stored
    assert not fails(opened, content)
    os.chmod(path, 0o644)
    os.truncate(path, 100_000)

    assert fails(opened, content)


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_changed_during_the_proof(image, stored, delay, caplog):
    """Nor what is written where the proof has been already."""
    content, path = stored

    def opener(content):
        file = image.open_content(content)
        time.sleep(delay)  # for which the rest is hashed
        change(path)
        return file

    found = Contents("source", opener)

    assert fails(found, content)
    assert "after a change" in caplog.text
    found.close()


def test_changed_back_in_the_middle(opened, stored, monkeypatch):
    """Nor what was there only between two proofs, the second of another reader."""
    content, path = stored
    wanted = opened.read(content, 10, 1000, b"/path")
    pread = os.pread

    def read_what_is_there_for_a_moment(*arguments):
        monkeypatch.setattr(contents.os, "pread", pread)
        change(path)
        data = pread(*arguments)
        change(path, DATA[1000:1001])
        assert opened.read(content, 10, 1000, b"/other") == wanted
        return data

    monkeypatch.setattr(contents.os, "pread", read_what_is_there_for_a_moment)

    assert opened.read(content, 10, 1000, b"/path") == wanted


def test_clock_was_set_back(opened, opener, stored, monkeypatch):
    """Files from the future are read as any others, without waiting."""
    content, _ = stored
    earlier = time.time_ns() - 1_000_000_000
    monkeypatch.setattr(contents.time, "time_ns", lambda: earlier)
    monkeypatch.setattr(contents.time, "sleep", lambda _: pytest.fail("waits"))

    assert opened.read(content, 10, 0, b"/path") == DATA[:10]
    assert opener.count == 1


def test_few_failures_are_remembered(repository, opener, caplog):
    """An image of nothing but broken objects does not fill the memory; those that were forgotten are tried again."""
    found = Contents("source", opener, keep=2)
    missing = [Object(100, bytes([number]) * 32) for number in range(5)]

    for content in missing + missing[3:]:
        assert fails(found, content)
    assert len(caplog.records) == 5
    assert fails(found, missing[0])
    assert len(caplog.records) == 6

    assert len(found._files) == 2
    found.close()


@pytest.mark.usefixtures("impatient")
def test_failed_for_another_reader(image, stored):
    """Who fails late does not disturb those who have tried it again meanwhile."""
    content, path = stored
    begun, go = threading.Event(), threading.Event()
    opener = Opener(image)

    def slow_at_first(content):
        if not begun.is_set():
            begun.set()
            assert go.wait(10)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opener(content)

    found, results = Contents("source", slow_at_first, keep=1), []
    slow = threading.Thread(target=lambda: results.append(fails(found, content)))
    slow.start()
    assert begun.wait(10)
    (file,) = found._files.values()
    assert found._has_failed(file)  # for a third reader

    assert found.read(content, 10, 995, b"/path") == DATA[995:1005]
    go.set()
    slow.join(10)
    assert results == [True]
    assert found.read(content, 10, 995, b"/path") == DATA[995:1005]
    assert opener.count == 1

    found.close()
    assert opener.open_count == 0


def test_other_names_do_not_matter(opened, opener, stored, tmp_path):
    """A file that only got another name, or another mode, is hashed again, and read on."""
    content, path = stored
    assert not fails(opened, content)
    os.link(path, tmp_path / "other")
    assert not fails(opened, content)
    os.unlink(path)  # by whoever puts a new one there
    os.chmod(tmp_path / "other", 0o400)

    assert opened.read(content, 10, 1000, b"/path") == DATA[1000:1010]
    assert opener.count == 1


def test_files_without_digest(tmp_path):
    """A file whose digest nobody has is served as it is."""
    (tmp_path / "file").write_bytes(b"before")
    found = Contents("source", lambda content: (tmp_path / os.fsdecode(content.path)).open("rb"))
    content = Backed(6, b"file")

    assert found.read(content, 100, 0, b"/path") == b"before"
    (tmp_path / "file").write_bytes(b"after!")
    assert found.read(content, 100, 0, b"/path") == b"after!"
    found.close()


@pytest.mark.parametrize(
    ("limit", "kept"), [((1024, 4096), 248), ((1 << 20, 1 << 20), 4096), ((-1, -1), 4096), ((64, 64), 8), ((20, 20), 0)]
)
def test_limit_of_open_files(monkeypatch, opener, limit, kept):
    """Only a part of the descriptors that a process may have is taken."""
    monkeypatch.setattr(contents.resource, "getrlimit", lambda _: limit)

    assert Contents("source", opener)._keep == kept
