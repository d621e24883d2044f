"""`composefs bench`: what is printed, where files are created, and that none stays."""

import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from composefs import Algorithm, Repository
from composefs.benchmark import suite
from composefs.benchmark.entries import EntrySpeed
from composefs.benchmark.hashing import KernelSpeed
from composefs.benchmark.inflating import DecoderSpeed
from composefs.benchmark.machine import Cpus, FileSystem
from composefs.benchmark.storing import FileSpeed
from composefs.cli import main
from composefs.oci.manifest import Compression
from tests.layouts import files_layer, image_layout

FILES = FileSpeed(
    mean_size=20_000,
    writers=2,
    one=40e-6,
    several=25e-6,
    cpu=30e-6,
    flush=10e-6,
    seal=100e-6,
    write_rate=2e9,
    flush_rate=1e12,
)
RESULTS = suite.Results(
    cpus=Cpus("A CPU of a Maker whose Name and Trade Marks fill more than Half of any Line", 64, 4, 2.5),
    load=3.25,
    directory="/srv/" + "directory/" * 6 + "repository",
    file_system=FileSystem("ext4", unnamed_files=True, reflinks=False, verity=True),
    obstacle=None,
    kernels=[
        KernelSpeed(algorithm, name, chosen, 4e9, 1e9)
        for algorithm in Algorithm
        for name, chosen in (("avx512", True), ("generic", False))
    ],
    streams={"sha256": 2e9, "sha512": 1e9},
    stream_library="OpenSSL 3.0.22",
    decoders=[
        DecoderSpeed(Compression.GZIP, "ISA-L, isal 1.9.1", 800e6, 3.1),
        DecoderSpeed(Compression.ZSTD, "libzstd 1.5.7", 1400e6, 3.0),
    ],
    files=FILES,
    entries=EntrySpeed(5e-6, 4e-6),
)


@pytest.fixture
def given(monkeypatch):
    """Have these results instead of measuring; the value is what was asked for."""
    calls = []

    def run(directory, algorithm, plan, say):
        calls.append((directory, algorithm, plan))
        return RESULTS

    monkeypatch.setattr(suite, "run", run)
    return calls


def test_tables(given, capsys):
    """Everything is printed, in 80 columns."""
    assert main(["bench", "/tmp", "--hash", "sha256"]) == 2  # an option of composefs itself
    capsys.readouterr()

    assert main(["--hash", "sha256", "bench", "/tmp"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    squeezed = [re.sub("  +", " | ", line) for line in lines]
    assert "CPUs for this process (64 online, 4 by affinity, 2.50 by quota)" in " ".join(lines)
    assert "load average 3.2: other work makes these figures worse" in lines
    assert "ext4, O_TMPFILE yes, reflinks no, fs-verity yes" in " ".join(lines)
    for wanted in (
        "sha256 avx512 * | 4.00 GB/s | 2.00 | 1.00 GB/s",
        "sha512 generic | 4.00 GB/s | 4.00 | 1.00 GB/s",
        "sha512 OpenSSL 3.0.22, stream | 1.00 GB/s | 1.00 | -",
        "gzip | ISA-L, isal 1.9.1 | 800 MB/s",
        "created by 1 writer | 40.0 us a file",
        "created by 2 writers | 25.0 us a file",
        "fs-verity enabled | 100.0 us a file",
        "flushed | 10.0 us a file",
        "large file, written | 2.00 GB/s",
        "large file, flushed | at once",
        "gzip | 5.7 s | 34 %",
        "recommended: --workers 3",
    ):
        assert wanted in squeezed
    assert "20 layers, 1.44 GB of gzip, 4.56 GB of archives, 240,000 entries, 156,000" in " ".join(lines)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], "bound by the file system: creating files"),
        (["--objects", "1"], "bound by the CPU, most of it gzip (43 %)"),
        (["--objects", "1", "--compression", "zstd"], "bound by the CPU, most of it zstd (31 %)"),
        (["--layers", "1", "--objects", "1"], "bound by the CPU, most of it gzip (43 %)"),
    ],
)
def test_bound(given, capsys, options, wanted):
    """The image can be described; what bounds its import is said in a sentence."""
    assert main(["bench", "/tmp", *options]) == 0

    assert wanted in capsys.readouterr().out


def test_json_of_what_was_given(given, capsys):
    """The image of the estimate is the one that was asked for."""
    arguments = "--layers 3 --size 1.5 --compression none --entries 70 --objects 60 --json".split()

    assert main(["bench", "/tmp", *arguments]) == 0

    value = json.loads(capsys.readouterr().out)
    assert value["workload"] == {
        "layers": 3,
        "blob_size": value["workload"]["archive_size"],
        "archive_size": pytest.approx(1_500_000_000, abs=3),
        "entries": 70,
        "objects": 60,
    }
    assert value["estimate"]["complete"] is True
    assert {stage["name"] for stage in value["estimate"]["stages"]} == {"diff_id", "leaves", "entries", "files"}


def test_image(given, tmp_path, capsys):
    """The sizes of an image are taken from its layout."""
    layer = files_layer({"usr/a": b"a" * 100_000}, "gzip")
    image_layout(tmp_path, [layer], "latest")

    assert main(["bench", "/tmp", "--image", f"oci:{tmp_path}:latest", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)["workload"]
    assert (found["layers"], found["blob_size"]) == (1, len(layer.blob))
    assert found["archive_size"] == len(gzip.decompress(layer.blob))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--image", "oci:NONE", "--layers", "2"], 2, "--layers is not for an --image, which has its own"),
        (["--image", "oci:NONE"], 1, "no directory NONE"),
        (["--seconds", "0.5"], 2, "'0.5' is no number from 1 to 600"),
        (["--seconds", "nan"], 2, "'nan' is no number from 1 to 600"),
        (["--seconds", "x"], 2, "'x' is no number from 1 to 600"),
        (["--seconds", "2", "--quick"], 2, "not allowed with argument"),
        (["--size", "-1"], 2, "'-1' is no size in gigabytes"),
        (["--size", "inf"], 2, "'inf' is no size in gigabytes"),
        (["--layers", "0"], 2, "'0' is no number above zero"),
        ([""], 2, "DIR is empty"),
        (["/nowhere/at/all"], 1, "/nowhere/at/all: No such file or directory"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, capsys, arguments, status, message):
    """What makes no sense is said before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite, "time_kernels", None)

    assert main(["bench", *arguments]) == status

    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_directory(given, tmp_path, monkeypatch, capsys):
    """Files are created where told, in the repository, or where temporary files are."""
    home, repository = tmp_path / "home", tmp_path / "repository"
    Repository.init(repository, Algorithm.SHA256, require_verity=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    for arguments in (
        ["bench", "DIR"],
        ["--repo", str(repository), "bench"],
        ["--repo", str(repository), "bench", "DIR", "--quick"],
        ["--user", "bench"],
    ):
        assert main(arguments) == 0
    (home / ".var/lib/composefs").mkdir(parents=True)
    assert main(["--user", "bench", "--seconds", "3"]) == 0
    monkeypatch.delenv("HOME")
    assert main(["--user", "bench"]) == 0

    capsys.readouterr()
    assert [str(directory) for directory, _, _ in given] == [
        "DIR",
        str(repository),
        "DIR",
        str(tmp_path),
        str(home / ".var/lib/composefs"),
        str(tmp_path),
    ]
    assert [algorithm for _, algorithm, _ in given][:4] == [Algorithm.SHA512, *[Algorithm.SHA256] * 2, Algorithm.SHA512]
    assert [plan.seconds for _, _, plan in given] == [6, 6, 2, 6, 3, 6]


def test_it_really_measures(tmp_path, capsys):
    """The whole, shortened; nothing stays in the directory."""
    assert main(["bench", str(tmp_path), "--quick"]) == 0

    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= max(80, len(str(tmp_path)) + 1)
    assert "recommended: --workers" in out
    assert err == ""
    assert os.listdir(tmp_path) == []


def test_read_only(capsys):
    """Where nothing can be written, the rest is measured, and that is said."""
    assert main(["bench", "/sys", "--seconds", "1"]) == 0

    out, _ = capsys.readouterr()
    assert re.search(r"^/sys: .*: no files are created$", out, re.MULTILINE)
    assert "without files and entries, which could not be tried" in out
    assert "WHAT" not in out


def test_read_only_json(capsys):
    assert main(["bench", "/sys", "--seconds", "1", "--json"]) == 0

    value = json.loads(capsys.readouterr().out)
    assert value["obstacle"].startswith("/sys: ")
    assert (value["file_system"], value["files"], value["entries"]) == (None, None, None)
    assert value["estimate"]["complete"] is False
    assert value["estimate"]["seconds"] > 0


def test_too_little_room(tmp_path, monkeypatch, capsys):
    """A full disk is said in one line, and nothing is made."""
    real = os.statvfs(tmp_path)
    full = {"f_bavail": 25, "f_frsize": 1_000_000, "f_files": real.f_files, "f_favail": real.f_favail}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Status", (), full))

    assert main(["bench", str(tmp_path)]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        rf"composefs: {tmp_path}: 25 MB are free, and trying how fast files are created takes \d+\n", err
    )
    assert os.listdir(tmp_path) == []


PROGRAM = [sys.executable, "-c", "import sys; from composefs.cli import main; sys.exit(main(sys.argv[1:]))", "bench"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path, signum):
    """Ctrl-C, and SIGTERM, leave nothing."""
    process = subprocess.Popen(
        [*PROGRAM, str(tmp_path), "--seconds", "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(Path(tmp_path).glob(".composefs-bench-*/objects/*/*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)

    process.send_signal(signum)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (1, "")
    assert err.startswith("composefs: ")
    assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_status_on_a_terminal(tmp_path):
    """A terminal shows what is being done, and in the end nothing of it."""
    parent, child = pty.openpty()
    done = subprocess.run([*PROGRAM, "/sys", "--seconds", "1"], stdout=subprocess.PIPE, stderr=child, check=False)
    os.close(child)
    shown = os.read(parent, 1 << 16).decode()
    os.close(parent)

    assert done.returncode == 0
    assert "\r\x1b[Kdecompressing it …" in shown
    assert shown.endswith("\r\x1b[K")
