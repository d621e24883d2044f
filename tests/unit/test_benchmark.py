"""What is timed is right, of the smallest sizes, and leaves nothing behind; no test asks how fast."""

import errno
import hashlib
import os
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import zstandard

from composefs import _native
from composefs.benchmark import hashing, inflating, machine, storing, suite
from composefs.benchmark.entries import time_entries
from composefs.benchmark.machine import FileSystem, file_system_type, find_cpus, find_file_system
from composefs.benchmark.sample import file_sizes, make_sample
from composefs.benchmark.storing import Amounts, check_room, scratch_directory, time_files
from composefs.benchmark.timing import time_runs
from composefs.cpus import cpu_quota
from composefs.digest import Algorithm
from composefs.errors import RepositoryError
from composefs.oci import blobs
from composefs.oci.manifest import Compression
from composefs.verity import compute_digest

TINY = Amounts(files=200, large=1 << 16)
PLAIN = FileSystem("ext4", unnamed_files=True, reflinks=False, verity=False)


@pytest.fixture(scope="module")
def sample():
    return make_sample(300_000)


def test_runs():
    """Work is done at least once besides the run that does not count, and not for ever."""
    calls = []

    assert time_runs(lambda: calls.append(1), 0) > 0
    assert len(calls) == 2
    assert time_runs(lambda: calls.append(1), 1000) > 0
    assert len(calls) < 2000


def test_sample(sample):
    """A sample is a layer, the same each time, and its blobs are the archive."""
    assert make_sample(300_000) == sample
    assert zlib.decompress(sample.blobs[Compression.GZIP], wbits=31) == sample.archive
    assert zstandard.ZstdDecompressor().decompress(sample.blobs[Compression.ZSTD]) == sample.archive
    with tarfile.open(fileobj=BytesIO(sample.archive)) as archive:
        members = archive.getmembers()
    assert len(members) > 5
    assert len({member.name for member in members}) == len(members)
    for blob in sample.blobs.values():
        assert 2 < len(sample.archive) / len(blob) < 5


def test_file_sizes():
    """However many files, their sizes are mixed alike."""
    assert sorted(file_sizes(40)) == sorted(file_sizes(20) * 2)
    assert file_sizes(7) == file_sizes(7)
    assert min(file_sizes(1000)) > 64
    assert sorted(file_sizes(1000))[529] < 4096 < sorted(file_sizes(1000))[560]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_kernels(algorithm):
    """Every kernel of this CPU is timed, one is in use, and stays so."""
    before = _native.hash_implementation(algorithm.kernel_id)

    found = hashing.time_kernels(algorithm, 0.001, data_size=8192)

    assert [kernel.name for kernel in found] == _native.hash_implementations(algorithm.kernel_id)
    assert [kernel.name for kernel in found if kernel.chosen] == [before]
    assert all(kernel.large > 0 and kernel.small > 0 and kernel.algorithm is algorithm for kernel in found)
    assert _native.hash_implementation(algorithm.kernel_id) == before


def test_kernel_is_given_back(monkeypatch):
    """A kernel that was tried does not stay in use when the trial is interrupted."""
    before = _native.hash_implementation(Algorithm.SHA512.kernel_id)
    monkeypatch.setattr(hashing, "time_runs", interrupt)

    with pytest.raises(KeyboardInterrupt):
        hashing.time_kernels(Algorithm.SHA512, 0)

    assert _native.hash_implementation(Algorithm.SHA512.kernel_id) == before


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_stream(name):
    assert hashing.time_stream(name, 0, data_size=1000) > 0


def test_stream_library(monkeypatch):
    """It is told whether OpenSSL hashes."""
    assert hashing.stream_library().startswith("OpenSSL ")
    monkeypatch.setattr(hashlib, "sha256", object)
    assert hashing.stream_library() == "Python, without OpenSSL"


def test_decoders(sample, monkeypatch):
    """Both decoders are timed; it is told which one is used for gzip."""
    found = inflating.time_decoders(sample, 0)
    monkeypatch.setattr(blobs, "new_member_decoder", blobs.ZlibDecoder)
    without = inflating.time_decoders(sample, 0)

    for decoders in (found, without):
        assert [each.compression for each in decoders] == [Compression.GZIP, Compression.ZSTD]
        assert all(each.rate > 0 for each in decoders)
        assert decoders[0].ratio == len(sample.archive) / len(sample.blobs[Compression.GZIP])
    assert "isal" in found[0].library
    assert without[0].library == "zlib: without the package isal, half as fast"
    assert found[1].library == "libzstd 1.5.7"


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_files(tmp_path, sample, algorithm, unnamed):
    """Files are created, as objects are, in the given directory only."""
    system = FileSystem("any", unnamed_files=unnamed, reflinks=False, verity=False)
    with scratch_directory(str(tmp_path)) as scratch:
        found = time_files(scratch, system, sample.archive, algorithm, writers=2, seconds=0.01, amounts=TINY)
        objects = [path for path in Path(scratch).glob("objects/*/*") if not path.name.startswith(".")]
        others = [path.name for path in Path(scratch).rglob("*") if path.is_file() and path not in objects]
        for path in objects[:20]:
            assert path.parent.name + path.name == compute_digest(path.read_bytes(), algorithm).hex
        assert Path(scratch).parent == tmp_path

    assert len(objects) == 4 * 200  # a round before the others, one by one writer, one by two
    assert others == ["large"]
    assert min(found.one, found.several, found.cpu, found.write_rate, found.flush_rate) > 0
    assert found.flush >= 0
    assert (found.writers, found.seal) == (2, None)
    assert os.listdir(tmp_path) == []


def test_files_with_verity(tmp_path, sample, monkeypatch):
    """Where there is fs-verity, it is enabled for some files, as for those of a repository."""
    real, seals = _native.store_objects, []

    def store_objects(dir_fd, seal, *rest):
        seals.append(seal)
        return real(dir_fd, 0, *rest)

    monkeypatch.setattr(_native, "store_objects", store_objects)
    system = FileSystem("any", unnamed_files=True, reflinks=False, verity=True)

    found = time_files(str(tmp_path), system, sample.archive, Algorithm.SHA512, writers=1, seconds=0, amounts=TINY)

    assert seals == [0] * 30 + [Algorithm.SHA512.kernel_id] * 10
    assert found.seal >= 0


def test_part_of_a_cpu_is_one_writer(tmp_path, sample):
    """Whoever may use half a CPU is not slowed down by several threads."""
    found = time_files(str(tmp_path), PLAIN, sample.archive, Algorithm.SHA256, writers=0.5, seconds=0, amounts=TINY)

    assert found.writers == 1


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["create", "flush", "write_large", "_store", "_prepare"])
def test_interrupted(tmp_path, sample, monkeypatch, name):
    """Whenever Ctrl-C comes, nothing stays."""
    monkeypatch.setattr(storing._Files, name, interrupt)

    with pytest.raises(KeyboardInterrupt), scratch_directory(str(tmp_path)) as scratch:
        time_files(scratch, PLAIN, sample.archive, Algorithm.SHA256, writers=2, seconds=0, amounts=TINY)

    assert os.listdir(tmp_path) == []


def test_interrupted_while_removing(tmp_path, monkeypatch):
    """Also when it comes at the very end."""
    removers = iter([interrupt, storing.shutil.rmtree])
    monkeypatch.setattr(storing.shutil, "rmtree", lambda path, real=storing.shutil.rmtree: next(removers)(path))

    with pytest.raises(KeyboardInterrupt), scratch_directory(str(tmp_path)):
        pass

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_writers_end_together(tmp_path, sample, monkeypatch, failure):
    """If one of several writers fails, the others stop, and the failure is told."""
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise failure

    with storing._Files(str(tmp_path), sample.archive, Algorithm.SHA256, unnamed=True) as files:
        monkeypatch.setattr(files, "_store", fail)
        with pytest.raises(type(failure)):
            files.create(writers=2)

    assert len(calls) <= 20


def test_failed_store(tmp_path, sample, monkeypatch):
    """What the kernel says of one of many files is told."""
    monkeypatch.setattr(_native, "store_objects", lambda *_: [1, -errno.EDQUOT])

    with pytest.raises(OSError, match="quota") as error:
        time_files(str(tmp_path), PLAIN, sample.archive, Algorithm.SHA256, writers=1, seconds=0, amounts=TINY)

    assert error.value.errno == errno.EDQUOT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"f_bavail": 500}, f"DIR: 2 MB are free, and trying how fast files are created takes {TINY.needed / 1e6:.0f}"),
        ({"f_favail": 100}, f"DIR: 100 inodes are free, and {TINY.inodes} are needed"),
    ],
)
def test_too_little_room(monkeypatch, status, message):
    """A full disk is told before anything is written."""
    usual = {"f_bavail": 1 << 30, "f_frsize": 4096, "f_files": 1 << 20, "f_favail": 1 << 20}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Status", (), usual | status))

    with pytest.raises(RepositoryError) as error:
        check_room("DIR", TINY)

    assert str(error.value) == message


def test_room_without_a_count_of_inodes(monkeypatch):
    """btrfs says that there are none at all, and means that there is no limit."""
    status = {"f_bavail": 1 << 30, "f_frsize": 4096, "f_files": 0, "f_favail": 0}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Status", (), status))

    check_room("DIR", Amounts())


def test_amounts_are_enough(tmp_path, sample):
    """What is written is not more than what was asked for."""
    with scratch_directory(str(tmp_path)) as scratch:
        time_files(scratch, PLAIN, sample.archive, Algorithm.SHA256, writers=2, seconds=0.01, amounts=TINY)
        paths = [os.path.join(place, name) for place, _, names in os.walk(scratch) for name in names]
        used = sum(os.lstat(path).st_blocks * 512 for path in paths)

    assert used <= TINY.needed
    assert len(paths) <= TINY.inodes


@pytest.mark.parametrize("algorithm", Algorithm)
def test_entries(tmp_path, algorithm):
    """Two images are imported; what is made is below the directory that was given."""
    found = time_entries(str(tmp_path), algorithm, (20, 400))

    assert found.layer >= 0
    assert found.image > 0
    assert sorted(os.listdir(tmp_path)) == ["import-20", "import-400", "import-first"]


def test_cpus():
    """The CPUs are those that the system names."""
    found = find_cpus()

    assert found.model
    assert 1 <= found.affinity <= found.online
    assert found.affinity == len(os.sched_getaffinity(0))
    assert found.quota == cpu_quota()
    assert 0 < found.usable <= found.affinity


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"sys/vm/dirty_background_bytes": "4096\n", "meminfo": "MemAvailable: 10 kB\n"}, 4096),
        (
            {
                "sys/vm/dirty_background_bytes": "0\n",
                "sys/vm/dirty_background_ratio": "10\n",
                "meminfo": "MemFree: 7 kB\nMemAvailable:   1000 kB\n",
            },
            102_400,
        ),
        ({}, 0),
    ],
)
def test_dirty_limit(tmp_path, files, wanted):
    """The kernel is told a size, or a share of the memory."""
    write(tmp_path, files)

    assert machine.dirty_limit(str(tmp_path)) == wanted


def test_file_system(tmp_path):
    """What a directory can do is tried; nothing stays in it."""
    found = find_file_system(str(tmp_path))

    assert found.kind == file_system_type(str(tmp_path)) != "an unknown file system"
    assert file_system_type("/proc") == "proc"
    assert os.listdir(tmp_path) == []


def test_file_system_without_anything(tmp_path, monkeypatch):
    """What cannot be done is not an error."""
    monkeypatch.setattr(_native, "store_file", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(_native, "reflink", refuse(errno.EXDEV))
    monkeypatch.setattr(_native, "enable_verity", refuse(errno.ENOTTY))

    found = find_file_system(str(tmp_path), proc=str(tmp_path))

    assert found == FileSystem("an unknown file system", unnamed_files=False, reflinks=False, verity=False)


def test_file_system_that_fails(tmp_path, monkeypatch):
    """Any other failure is one, with the directory."""
    monkeypatch.setattr(_native, "store_file", refuse(errno.EIO))

    with pytest.raises(OSError, match="Input/output error") as error:
        find_file_system(str(tmp_path))

    assert error.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []


def refuse(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_failure_has_a_path(tmp_path, monkeypatch):
    """A disk that gets full meanwhile is told with the directory, and nothing stays."""
    monkeypatch.setattr(_native, "store_objects", refuse(errno.ENOSPC))

    with pytest.raises(OSError, match="No space") as error:
        suite.run(str(tmp_path), Algorithm.SHA256, suite.Plan(0, TINY, (20, 40)), lambda _: None)

    assert error.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []


def test_suite(tmp_path):
    """All of it, and what an estimate needs of it."""
    said = []

    found = suite.run(str(tmp_path), Algorithm.SHA512, suite.Plan(0, TINY, (20, 200)), said.append)

    assert said[0] == "hashing: sha256"
    assert said[-1] == "removing the files"
    assert (found.directory, found.obstacle) == (str(tmp_path), None)
    assert found.files is not None
    speeds = found.speeds(Algorithm.SHA512)
    chosen = next(kernel for kernel in found.kernels if kernel.chosen and kernel.algorithm is Algorithm.SHA512)
    assert speeds.leaves == chosen.large
    assert speeds.small_file == 4096 / chosen.small
    assert speeds.digest == found.streams["sha256"]
    assert speeds.decoders.keys() == {Compression.GZIP, Compression.ZSTD}
    assert os.listdir(tmp_path) == []
