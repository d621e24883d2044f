"""What of the kernel lab needs no kernel: choosing, ordering, packing, reading results, and dying guests."""

import io
import lzma
import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.kernel.lab import __main__ as lab
from tests.kernel.lab import initramfs, suite
from tests.kernel.lab.errors import LabError, UnavailableError
from tests.kernel.lab.guest import Guest, Job
from tests.kernel.lab.kernels import Kernel, choose_packages, needed_modules
from tests.kernel.lab.packages import Packages
from tests.kernel.lab.report import Outcome, explain, parse_report, summarise
from tests.kernel.lab.tools import Tools
from tests.kernel.lab.wheel import requirements

NAMES = """
linux-image-6.1.0-47-cloud-amd64 linux-image-6.1.0-50-cloud-amd64 linux-image-6.1.0-50-cloud-amd64-unsigned
linux-image-6.1.0-50-amd64 linux-image-6.1.0-50-cloud-amd64-dbg linux-image-cloud-amd64
linux-headers-6.1.0-51-cloud-amd64
linux-image-6.12.9+deb13-cloud-amd64-unsigned linux-image-6.12.107+deb13-cloud-amd64-unsigned
linux-image-7.1.13+deb13-cloud-amd64 linux-binary-7.1.13+deb13-cloud-amd64
linux-image-7.3.4+deb13-cloud-amd64 linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64
linux-binary-unsigned-7.3.4+deb13-cloud-amd64 linux-modules-7.2.12+deb13-cloud-amd64
""".split()

REPORT = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.kernel.test_a" name="test_one" time="0.1" />
<testcase classname="tests.kernel.test_a" name="test_two[x]"><failure message="assert 1 == 2">line 7
E assert 1 == 2</failure></testcase>
<testcase classname="tests.kernel.test_a" name="test_three"><skipped message="no tool">f:1: no tool</skipped></testcase>
<testcase classname="tests.kernel.test_a" name="test_four"><error message="in setup">trace</error></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        ("6.1", ["linux-image-6.1.0-50-cloud-amd64-unsigned"]),
        ("6.12", ["linux-image-6.12.107+deb13-cloud-amd64-unsigned"]),
        ("7.1", ["linux-image-7.1.13+deb13-cloud-amd64"]),
        ("7", ["linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"]),
    ],
)
def test_newest_kernel_is_chosen(series, wanted):
    """Numbers count as numbers, 6.1 is not 6.12, and what is no kernel for clouds is left out."""
    assert choose_packages(reversed(NAMES), series) == wanted


def test_series_without_package_is_named():
    with pytest.raises(LabError, match=r"no package of a kernel 5\.10"):
        choose_packages(NAMES, "5.10")


def _module(*needs: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


@pytest.fixture
def kernel(tmp_path):
    """A kernel with some modules, compressed or not."""
    root = tmp_path / "kernel"
    modules = root / "usr/lib/modules/6.12.1-cloud-amd64"
    for path, contents in {
        "fs/btrfs/btrfs.ko.xz": lzma.compress(_module("xor", "raid6_pq", "libcrc32c")),
        "fs/xfs/xfs.ko": _module("libcrc32c"),
        "lib/libcrc32c.ko": _module(),
        "crypto/xor.ko": _module(),
        "lib/raid6/raid6_pq.ko": _module(),
        "drivers/char/hw_random/virtio-rng.ko": _module(),
    }.items():
        (modules / "kernel" / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / "kernel" / path).write_bytes(contents)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.12.1-cloud-amd64").touch()
    return Kernel.find("6.12", root)


def test_modules_come_after_those_they_need(kernel):
    """Each once; what has no file is built in; a dash in a file's name is an underscore in the module's."""
    order = [name for name, _ in kernel.load_order(["virtio_rng", "fuse", "btrfs", "xfs"])]

    assert order == ["virtio_rng", "xor", "raid6_pq", "libcrc32c", "btrfs", "xfs"]


def test_modules_are_unpacked(kernel):
    assert dict(kernel.load_order(["btrfs"]))["btrfs"] == _module("xor", "raid6_pq", "libcrc32c")


def test_module_that_needs_nothing():
    assert needed_modules(_module()) == []
    assert needed_modules(b"\x7fELF") == []


def test_two_kernels_in_one_place_are_refused(kernel, tmp_path):
    (tmp_path / "kernel/boot/vmlinuz-6.12.2").touch()

    with pytest.raises(LabError, match="one kernel"):
        Kernel.find("6.12", tmp_path / "kernel")


def _unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Return mode and contents of each entry of a cpio archive, as initramfs.c of the kernel reads it."""
    entries, place = {}, 0
    while True:
        assert archive[place : place + 6] == b"070701"
        fields = [int(archive[i : i + 8], 16) for i in range(place + 6, place + 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[place + 110 : place + 110 + name_size - 1].decode()
        begin = (place + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[begin : begin + size])
        place = (begin + size + 3) & ~3


def test_initramfs_has_files_and_their_directories():
    entries = _unpack(initramfs.pack([("init", b"#!"), ("lab/a/start", b"12345"), ("lab/a/empty", b"")]))

    assert list(entries) == ["init", "lab", "lab/a", "lab/a/start", "lab/a/empty"]
    assert entries["init"] == (stat.S_IFREG | 0o755, b"#!")
    assert entries["lab/a"] == (stat.S_IFDIR | 0o755, b"")
    assert entries["lab/a/start"][1] == b"12345"


def test_report_tells_every_outcome():
    assert parse_report(REPORT) == [
        Outcome("tests.kernel.test_a::test_one", "passed", ""),
        Outcome("tests.kernel.test_a::test_two[x]", "failed", "line 7\nE assert 1 == 2"),
        Outcome("tests.kernel.test_a::test_three", "skipped", "no tool"),
        Outcome("tests.kernel.test_a::test_four", "failed", "trace"),
    ]


def test_report_is_told_to_people():
    outcomes = parse_report(REPORT)

    assert summarise(outcomes) == "1 passed, 2 failed, 1 skipped"
    assert summarise([]) == "no tests"
    assert list(explain(outcomes)) == [
        "FAILED tests.kernel.test_a::test_two[x]\nline 7\nE assert 1 == 2",
        "SKIPPED tests.kernel.test_a::test_three: no tool",
        "FAILED tests.kernel.test_a::test_four\ntrace",
    ]


def test_requirements_of_the_tests_are_those_of_development(tmp_path):
    configuration = tmp_path / "pyproject.toml"
    configuration.write_text(
        '[project.optional-dependencies]\nfsspec = ["fsspec>=1"]\n'
        'dev = ["coverage[toml]>=7.6", "pytest>=8.3", "pytest-benchmark>=5", "mypy>=1", "hypothesis>=6"]\n'
    )

    assert requirements(configuration) == ("[fsspec]", ["coverage[toml]>=7.6", "pytest>=8.3", "hypothesis>=6"])


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with programs of the test's own."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))

    def add(name: str, script: str) -> None:
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)

    return add


def test_apt_touches_nothing_of_the_machine(programs, tmp_path):
    """Each call but the one that asks for the mirror has a configuration whose every place is in the directory."""
    programs(
        "apt-get", f'echo "$@" >>{tmp_path}/calls\n[ "$1" != indextargets ] || echo http://deb.example/debian/ main'
    )
    root = tmp_path / "apt"

    Packages(root)

    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("indextargets")
    assert all(call.startswith(f"--config-file={root}/apt.conf ") for call in calls[1:])
    assert "URIs: http://deb.example/debian/\n" in (root / "debian.sources").read_text()
    assert (root / "status").read_bytes() == b""
    settings = [line.split(" ", 1) for line in (root / "apt.conf").read_text().splitlines()]
    places = {name: value.strip('";') for name, value in settings if name.startswith("Dir")}
    assert places.keys() >= {"Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourcelist"}
    assert all(place == "/dev/null" or place.startswith(str(root)) for place in places.values())


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo http://archive.example/ubuntu/ main", "knows no Debian mirror"),
        ("echo 'W: unimportant' >&2; echo 'E: no network' >&2; exit 100", "E: no network"),
    ],
)
def test_apt_that_cannot_help_says_why(programs, tmp_path, script, why):
    programs("apt-get", script)

    with pytest.raises(UnavailableError, match=why):
        Packages(tmp_path / "apt")


@pytest.mark.parametrize(("demanded", "status", "word"), [("", 0, "skipped: the kernel lab"), ("1", 1, "lab")])
def test_lab_that_cannot_be_had_is_skipped_by_name(programs, tmp_path, monkeypatch, capsys, demanded, status, word):
    """And fails where all tools are demanded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COMPOSEFS_REQUIRE_TOOLS", demanded)

    assert lab.main(["test"]) == status

    assert capsys.readouterr().err.endswith(f"\n{word}: apt-get, which would fetch it, is missing\n")


class FakeTools(Tools):
    """Programs that are shell scripts: a server that waits, and a machine that does what the test says."""

    script = ""

    def emulator(self, *arguments: str) -> list[str]:
        return ["/bin/sh", "-c", self.script]

    def file_server(self, *arguments: str) -> list[str]:
        return ["/bin/sleep", "100"]


@pytest.fixture
def machine(tmp_path, kernel):
    """A function that makes a guest out of a shell script."""
    tools = FakeTools(tmp_path / "tools")
    tools.busybox.parent.mkdir(parents=True)
    tools.busybox.touch()

    def make(script: str) -> Guest:
        FakeTools.script = script
        return Guest(tools, kernel, Job(["true"], {}, "/"), [], tmp_path)

    return make


def test_guest_passes_output_and_status_on(machine, tmp_path):
    with tarfile.open(tmp_path / "made.tar", "w") as archive:
        for name, contents in {"./status": b"7\n", "./report.xml": REPORT}.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    output = io.BytesIO()

    with machine(f"echo begin; cat {tmp_path}/made.tar >{tmp_path}/results.tar; echo end") as guest:
        guest.start()
        assert guest.wait(output, 60) == 7

    assert output.getvalue() == b"begin\nend\n"
    target = tmp_path / "target"
    target.mkdir()
    guest.extract_results(target)
    assert (target / "report.xml").read_bytes() == REPORT


@pytest.mark.parametrize(
    ("script", "timeout", "why"),
    [("", 60, "died before its command ended"), ("exec sleep 100", 0.5, "not done in time")],
)
def test_guest_that_fails_shows_the_end_of_its_log(machine, tmp_path, script, timeout, why):
    guest = machine(f"echo Kernel panic >{tmp_path}/serial.log; {script}")
    guest.start()
    pids = [process.pid for process in guest.processes]

    with pytest.raises(LabError, match=rf"(?s){why}.*Kernel panic"):
        guest.wait(io.BytesIO(), timeout)

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_power_cut_ends_every_process(machine):
    with machine("exec sleep 100") as guest:
        guest.start()
        pids = [process.pid for process in guest.processes]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_suite_tells_of_a_dead_guest_what_its_tests_said(machine, kernel, tmp_path, capsys):
    """The serial log is kept for who wants to read all of it."""
    guest = machine(f"echo 'test_a.py::test_one '; echo Oops >{tmp_path}/serial.log")
    target = tmp_path / "target"
    target.mkdir()

    assert not suite.tell(suite.Part(kernel), target, lambda: suite.run(guest, target))

    told = capsys.readouterr().out
    assert told.startswith("6.12.1-cloud-amd64: the guest died")
    assert "Oops" in told
    assert told.endswith("test_a.py::test_one \n")
    assert (target / "serial.log").read_text() == "Oops\n"


def test_suite_needs_a_report(kernel, tmp_path, capsys):
    """A guest that ends well without one has not run the tests."""
    (tmp_path / "output.txt").write_text("ImportError\n")

    assert not suite.tell(suite.Part(kernel), tmp_path, lambda: 1.0)

    assert "ImportError" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "passed"), [("0", True), ("1", False)])
def test_suite_passes_with_pytest(kernel, tmp_path, capsys, status, passed):
    (tmp_path / "report.xml").write_bytes(REPORT)
    (tmp_path / "status").write_text(f"{status}\n")

    assert suite.tell(suite.Part(kernel), tmp_path, lambda: 12.3) is passed

    assert capsys.readouterr().out.startswith("6.12.1-cloud-amd64: 1 passed, 2 failed, 1 skipped in 12 s\nFAILED ")


def test_guests_share_the_tests_of_a_kernel(kernel):
    parts = [suite.Part(kernel, 0, 2), suite.Part(kernel, 1, 2)]

    assert [part.name for part in parts] == ["6.12-1", "6.12-2"]
    assert str(parts[1]) == "6.12.1-cloud-amd64 (2 of 2)"
    assert suite.divide([kernel], whole=False) == parts
    assert suite.divide([kernel], whole=True) == [suite.Part(kernel)]


def test_tests_for_guests_are_not_collected_outside(pytestconfig, monkeypatch):
    """They would change disks that a guest has, and this machine has not."""
    command = ["--collect-only", "-q", "-p", "no:cacheprovider", str(Path(__file__).parents[1] / "kernel")]
    monkeypatch.delenv("COMPOSEFS_LAB", raising=False)

    assert pytest.main(command) == pytest.ExitCode.NO_TESTS_COLLECTED
