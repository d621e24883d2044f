"""Archives as plain files: what is spooled and how, and that nothing is left, whatever happens."""

import bz2
import errno
import gzip
import lzma
import os
import pty
import re
import resource
import socket
import subprocess
import sys
import threading

import pytest
import zstandard

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError, UsageError
from composefs.oci.sources.spool import open_plain, packing_of, spool, spool_extent
from tests import layouts
from tests.archives import pack
from tests.layouts import noise

DATA = pack([("a", noise(300_000)), ("b", bytes(700_000))])
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
PACKED = {
    "gzip": gzip.compress(DATA),
    "gzip-members": gzip.compress(DATA[:1000]) + gzip.compress(b"") + gzip.compress(DATA[1000:]),
    "zstd": zstandard.compress(DATA),
    "zstd-frames": SKIPPABLE + zstandard.compress(DATA[:1000]) + SKIPPABLE + zstandard.compress(DATA[1000:]),
    "xz": lzma.compress(DATA),
    "xz-streams": lzma.compress(DATA[:1000]) + bytes(8) + lzma.compress(DATA[1000:]) + bytes(4),
    "bzip2": bz2.compress(DATA),
    "bzip2-streams": bz2.compress(DATA[:1000]) + bz2.compress(DATA[1000:]),
}
KINDS = ["gzip", "zstd", "xz", "bzip2"]


def contents(plain):
    """Return what a worker reads."""
    script = f"import sys; sys.stdout.buffer.write(open({plain.path!r}, 'rb').read())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout


def from_pieces(data, size=100_000):
    """Return a function that gives *data* as a pipe does, never more than *size* bytes."""
    position = 0

    def read(most):
        nonlocal position
        piece = data[position : position + min(size, most)]
        position += len(piece)
        return piece

    return read


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path):
    """No test leaves a file behind in its spool, or a descriptor open."""
    (tmp_path / "spool").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    assert os.listdir(tmp_path / "spool") == []


def test_plain_stays(tmp_path):
    """A plain archive is read where it is."""
    path = tmp_path / "archive.tar"
    path.write_bytes(DATA)

    with open_plain(str(path), "/nowhere") as plain:
        assert (plain.path, plain.name) == (str(path), str(path))
        assert os.pread(plain.fd, len(DATA) + 1, 0) == DATA


@pytest.mark.parametrize("kind", PACKED)
def test_compressed(tmp_path, kind):
    """A compressed archive is plain in an unnamed file, which other processes can read."""
    path = tmp_path / "archive"
    path.write_bytes(PACKED[kind])

    with open_plain(str(path), str(tmp_path / "spool")) as plain:
        assert plain.path == f"/proc/{os.getpid()}/fd/{plain.fd}"
        assert contents(plain) == DATA
        assert os.listdir(tmp_path / "spool") == []
        assert os.fstat(plain.fd).st_nlink == 0


@pytest.mark.parametrize("kind", [None, *PACKED])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_pieces(tmp_path, kind, size):
    """It does not matter in what pieces a pipe gives it."""
    data = PACKED[kind][:5000] if kind else DATA[:5000]
    read = from_pieces(data, size)

    if kind:  # cut: so no piece was lost before, or passed over
        with pytest.raises(FormatError):
            spool(read, str(tmp_path / "spool"), "archive")
    else:
        with spool(read, str(tmp_path / "spool"), "archive") as plain:
            assert contents(plain) == data


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_named_pipe(tmp_path, kind):
    """What others write into a pipe is read once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[PACKED[kind] if kind else DATA])
    writer.start()

    with open_plain(str(path), str(tmp_path / "spool")) as plain:
        assert contents(plain) == DATA
    writer.join()


@pytest.fixture
def standard_input():
    """Put a descriptor in the place of standard input, until the test ends."""
    kept = os.dup(0)
    yield lambda fd: os.dup2(fd, 0)
    os.dup2(kept, 0)
    os.close(kept)


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("is_socket", [False, True])
def test_standard_input(tmp_path, standard_input, kind, is_socket):
    """A pipe or socket on standard input is read."""
    data = PACKED[kind] if kind else DATA
    if is_socket:
        ours, theirs = socket.socketpair()
        fd, write = ours.detach(), theirs.detach()
    else:
        fd, write = os.pipe()
    standard_input(fd)
    os.close(fd)

    def send():
        with open(write, "wb") as file:
            file.write(data)

    sender = threading.Thread(target=send)
    sender.start()
    with open_plain("/dev/stdin", str(tmp_path / "spool")) as plain:
        assert contents(plain) == DATA
        assert plain.name == "standard input"
    sender.join()


@pytest.mark.parametrize("is_removed", [False, True])
def test_file_on_standard_input(tmp_path, standard_input, is_removed):
    """A file on standard input is read where it is, from its start, under its name if it still has one."""
    path = tmp_path / "archive.tar"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    os.lseek(fd, 1000, os.SEEK_SET)
    standard_input(fd)
    os.close(fd)
    if is_removed:
        path.unlink()

    with open_plain("/dev/stdin", "/nowhere") as plain:
        assert plain.path == (f"/proc/{os.getpid()}/fd/{plain.fd}" if is_removed else str(path))
        assert contents(plain) == DATA


def test_replaced_file(tmp_path, standard_input):
    """A file that another one has taken the name of is not mixed up with it."""
    path = tmp_path / "archive.tar"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    standard_input(fd)
    os.close(fd)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").rename(path)

    with open_plain("/dev/stdin", "/nowhere") as plain:
        assert contents(plain) == DATA


def test_refused(tmp_path, standard_input):
    """What cannot be an archive is refused by its kind."""
    with pytest.raises(NotFoundError, match=f"^no file {tmp_path}/nothing$"):
        open_plain(f"{tmp_path}/nothing", "/nowhere")
    with pytest.raises(UsageError, match=f"^{tmp_path} is a directory, where an archive is wanted$"):
        open_plain(str(tmp_path), "/nowhere")
    controller, terminal = pty.openpty()
    standard_input(terminal)
    os.close(terminal)
    with pytest.raises(UsageError, match="^standard input is a terminal, where an archive is wanted$"):
        open_plain("/dev/stdin", "/nowhere")
    os.close(controller)


@pytest.mark.parametrize("kind", PACKED)
def test_cut(tmp_path, kind):
    """Compressed data that is cut is refused, and never taken for a shorter archive."""
    data = PACKED[kind]
    ends = {len(data) // 2, len(data) - 1, len(data) - 3, 20, 7}
    for end in ends - {len(data) - 1, len(data) - 3} if kind == "xz-streams" else ends:
        with pytest.raises(FormatError, match="^archive, offset ") as caught:
            spool(from_pieces(data[:end]), str(tmp_path / "spool"), "archive")
        assert caught.value.offset <= end


@pytest.mark.parametrize("kind", KINDS)
def test_damage(tmp_path, kind):
    """A flipped bit is found by the checksum, and what stands behind the data is refused."""
    data = bytearray(PACKED[kind])
    data[len(data) // 2] ^= 4
    if kind != "zstd":  # whose frames need not have a checksum; noise is as good as any
        with pytest.raises(FormatError, match="^archive, offset "):
            spool(from_pieces(bytes(data)), str(tmp_path / "spool"), "archive")
    with pytest.raises(FormatError, match="^archive, offset "):
        spool(from_pieces(PACKED[kind] + b"trailing"), str(tmp_path / "spool"), "archive")


@pytest.mark.parametrize("kind", KINDS)
def test_bombs(tmp_path, monkeypatch, kind):
    """What inflates to more than its size allows is given up there."""
    monkeypatch.setattr(limits, "ARCHIVE_SIZE_AT_ANY_RATIO", 1 << 20)
    compress = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}[kind]
    data = compress(layouts.tar({"file": b""})[:512] + bytes(1 << 24))

    with pytest.raises(LimitError, match=r"more than [0-9]+ bytes of archive in [0-9]+ bytes"):
        spool(from_pieces(data, 100), str(tmp_path / "spool"), "archive")


@pytest.mark.parametrize(
    ("begin", "what"),
    [(bytes(1024), "it begins with its end"), (noise(1024), "header checksum|numeric field")],
)
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_has_no_end(tmp_path, begin, what, kind):
    """What does not begin as an archive is refused before it fills the disk."""
    given = []

    def endless(_size):
        given.append(piece)
        assert sum(map(len, given)) < 8 << 20, "read on"
        return piece

    compress = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}
    piece = begin * 1024 if kind is None else compress[kind](begin * 1024)

    with pytest.raises(FormatError, match=f"^archive, offset 0: no tar archive: ({what})"):
        spool(endless, str(tmp_path / "spool"), "archive")


def test_no_space(tmp_path):
    """What cannot be written is an error that names the directory, and leaves nothing there."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, kept[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            spool(from_pieces(PACKED["gzip"]), str(tmp_path / "spool"), "archive")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "spool"))


def test_no_directory(tmp_path):
    """A spool that is not there is named."""
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        spool(from_pieces(DATA), str(tmp_path / "none"), "archive")


def test_failing_reader(tmp_path):
    """What reading raises comes out, and nothing is left."""

    def read(_):
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        spool(read, str(tmp_path / "spool"), "archive")


@pytest.mark.parametrize("kind", KINDS)
def test_part_of_a_file(tmp_path, kind):
    """A part of an archive that is compressed itself is unpacked, and nothing behind it."""
    path = tmp_path / "archive"
    path.write_bytes(b"before" + PACKED[kind] + b"behind")
    with (
        open_plain(str(path), "/nowhere") as archive,
        spool_extent(archive, 6, len(PACKED[kind]), str(tmp_path / "spool"), "part") as part,
    ):
        assert contents(part) == DATA


@pytest.mark.parametrize("data", [b"", b"\x1f", b"BZh", b"BZh0", b"\xfd7zXZ", b"\x60\x2a\x4d\x18", DATA[:6]])
def test_not_compressed(data):
    """Few bytes, and those that only look like it, are no compressed file."""
    assert packing_of(data) is None


@pytest.mark.parametrize("level", range(1, 10))
def test_bzip2_levels(level):
    """Each level of bzip2 is one."""
    assert packing_of(bz2.compress(b"x", level)).value == "bzip2"
