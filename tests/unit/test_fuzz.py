"""Running the fuzz targets: figures, status, and what is saved of a failure."""

import subprocess
import sys
from argparse import Namespace

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import native, runs, worker
from tests.fuzz.board import Board
from tests.fuzz.target import Target
from tests.tools import require_tool

BROKEN_TARGET = """
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	REQUIRE(size < 3 || data[2] != 'x');
	return 0;
}
"""


@pytest.fixture
def options(tmp_path):
    return Namespace(engine="seeded", seed=3, findings=tmp_path / "findings", cache=tmp_path / "cache")


def test_figures(options):
    """A process of its own checks what it is told to, and says how it went."""
    figures = runs.run("meta", 40, options)

    assert (figures.inputs, figures.failures) == (40, 0)
    assert 0 < figures.taken < 40
    assert str(figures).startswith("meta               40 inputs, ")
    assert not options.findings.exists()


def test_failures_are_saved(tmp_path, capsys):
    """Each failure is told with its input; the others are checked all the same."""

    def check(data):
        assert not data.endswith(b"7")
        return data.endswith(b"1")

    target = Target("name", check, lambda chance, data: data, dict)
    target.__dict__["input"] = lambda seed, number: b"%d" % number
    with Board(str(tmp_path / "board")) as board:
        status = worker._seeded(target, 3, 10, 20, board, tmp_path / "findings")

        assert status == 1
        assert board.read() == (20, 2, 2, 30)
    assert {path.name: path.read_bytes() for path in (tmp_path / "findings").iterdir()} == {
        "name-3-17": b"17",
        "name-3-27": b"27",
    }
    assert "name-3-17:\nTraceback" in capsys.readouterr().err


def test_deaths_are_failures(options, monkeypatch, capfd):
    """A process that dies is a failure of the input it was at; another one goes on behind that."""
    real = subprocess.run

    def run(command, **more):
        if "tests.fuzz.worker" in command and command[6] == "0":
            with Board(command[8]) as board:
                board.write(5, 2, 0, 5)
            command = [sys.executable, "-c", "import os; os.abort()"]
        return real(command, **more)

    monkeypatch.setattr(runs.subprocess, "run", run)

    figures = runs.run("meta", 12, options)

    assert (figures.inputs, figures.failures) == (5 + 6, 1)
    assert [path.name for path in options.findings.iterdir()] == ["meta-3-5"]
    assert f"{options.findings}/meta-3-5: a process ended with status -6" in capfd.readouterr().err


def test_command(tmp_path, capsys):
    """The command runs the targets that it is told to, and one input again."""
    findings, file = tmp_path / "findings", tmp_path / "input"
    file.write_bytes(b"{}")
    arguments = ["--target", "meta", "--target", "oci", "--engine", "seeded", "--findings", str(findings)]

    status = fuzz.main(["--count", "20", "--workers", "1", *arguments])
    again = fuzz.main(["--target", "meta", "--file", str(file)])

    *lines, last, refused = capsys.readouterr().out.splitlines()
    assert (status, again, refused) == (0, 0, "refused")
    assert {line.split()[0] for line in lines} == {"meta", "oci"}
    assert last.startswith("all                20 inputs of series 1, 0 failures; ")


def test_driver(tmp_path):
    """The driver for gcc sees what aborts, saves it, and mutates the same way each time."""
    require_tool("gcc")
    sources, program = native.SOURCES, tmp_path / "target"
    (tmp_path / "target.c").write_text(BROKEN_TARGET)
    flags = ["-std=gnu11", "-fsanitize=address", f"-I{sources}", f"-I{sources.parent}"]
    subprocess.run(["gcc", *flags, sources / "driver.c", tmp_path / "target.c", "-o", program], check=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(b"abc")
    arguments = [program, "-runs=100000", "-timeout=20", f"-artifact_prefix={tmp_path}/found-", corpus]

    first, second = (
        subprocess.run([*arguments, "-seed=5"], capture_output=True, text=True, check=False) for _ in range(2)
    )
    (found,) = tmp_path.glob("found-*")
    again = subprocess.run([program, found], cwd=tmp_path, capture_output=True, text=True, check=False)
    fine = subprocess.run([program, corpus / "seed"], capture_output=True, text=True, check=False)

    assert (first.returncode, again.returncode, fine.returncode) == (77, 77, 0)
    assert "target.c:6: size < 3 || data[2] != 'x'" in first.stderr
    assert first.stderr == second.stderr
    assert found.read_bytes()[2:3] == b"x"
    assert "stat::number_of_executed_units: 1" in fine.stderr


def test_compiled_targets_have_seeds():
    """Every target in C begins with something, and those in Python do."""
    assert all(any(native.corpus_of(name).iterdir()) for name in native.NAMES)
