"""What is imported and started, and what is not: a command that has little to do ends soon.

No time is measured here; docs/performance.md has figures.
"""

import json
import os
import subprocess
import sys

import pytest

import composefs
from composefs.cli import registry
from tests import commands
from tests.layouts import files_layer, image_layout, noise

# Starts nothing but what the command itself starts, and writes what it saw to the file named first.
_OBSERVER = """\
import os, sys
before = set(sys.modules)
seen = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        seen.append(f"open {arguments[0]} to write")
    elif event in {"os.fork", "os.posix_spawn", "os.exec", "_thread.start_new_thread"}:
        seen.append(event)
    elif event in {"os.link", "os.remove", "os.rename"}:
        seen.append(event)
sys.addaudithook(hook)
"""
_WRITE = """\
found = {"events": list(seen), "modules": sorted({*sys.modules} - before)}
import json
with open(report, "w") as file:
    json.dump(found, file)
"""

CLI = {"composefs", "composefs.cli", "composefs.cli.failure", "composefs.cli.output", "composefs.errors"}
PARSER = CLI | {
    "composefs.cli.options",
    "composefs.cli.parser",
    "composefs.cli.registry",
    "composefs.digest",
    "composefs.erofs",
    "composefs.text",
}
# What the arguments of commands may need.
LIGHT = PARSER | {"composefs.dialect", "composefs.xattrs"}
SLOW = {  # of other projects, and of the standard library: milliseconds each
    "argcomplete",
    "concurrent.futures",
    "dataclasses",
    "datetime",
    "hashlib",
    "isal",
    "json",
    "logging",
    "multiprocessing",
    "pathlib",
    "rich",
    "subprocess",
    "tempfile",
    "zstandard",
}


def observe(directory, code, *arguments):
    """Run *code* in a process of its own; return its status, its output, and what the observer saw."""
    script = f"{_OBSERVER}report = sys.argv.pop(1)\n{code}\n{_WRITE}"
    report = directory / "report.json"
    environment = os.environ | {"PYTHONPATH": str(commands.ROOT)}
    call = [sys.executable, "-B", "-c", script, str(report), *map(str, arguments)]
    result = subprocess.run(
        call, capture_output=True, text=True, env=environment, timeout=commands.TIMEOUT, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(report.read_text())
    return result, found["events"], set(found["modules"])


def of_package(modules):
    return {module for module in modules if module.partition(".")[0] == "composefs"}


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("function", ["main", "main_import"])
def test_help(function, option, tmp_path):
    """Help needs the parser, and of the commands only the one it is about."""
    code = f"from composefs.cli import {function} as run\nassert run(sys.argv[1:]) == 0"

    result, events, modules = observe(tmp_path, code, option)

    own = {f"composefs.cli.{module}" for module in ("access", "import_", "importing", "logs")}
    own = own if function == "main_import" else set()
    assert result.stdout
    assert of_package(modules) - own == PARSER
    assert modules & SLOW == set()
    assert events == []


def test_arguments_of_commands(tmp_path):
    """To know the arguments of a command, nothing is imported that does its work."""
    code = """\
from composefs.cli.parser import make_parser
def load(parser):
    parser.load()
    for command in parser.commands.values():
        load(command)
load(make_parser())
"""
    _, events, modules = observe(tmp_path, code)

    known = {command.module for command in (*registry.COMMANDS, *registry.OCI_COMMANDS)} - {None}
    assert {f"composefs.cli.{module}" for module in known} <= modules
    assert {module for module in of_package(modules) - LIGHT if not module.startswith("composefs.cli.")} == set()
    assert modules & (SLOW - {"json"}) == set()
    assert events == []


def test_library(tmp_path):
    """To import the package costs nothing; a name brings what it needs."""
    _, _, modules = observe(tmp_path, "import composefs")
    assert of_package(modules) == {"composefs"}

    _, _, modules = observe(tmp_path, "import composefs\ncomposefs.Algorithm")
    assert of_package(modules) == {"composefs", "composefs.digest"}


@pytest.fixture
def imported(tmp_path):
    """The arguments of an import of what is there already."""
    files = {"usr/": b"", **{f"usr/{number}": noise(100, number) for number in range(100)}}
    layout = image_layout(tmp_path / "layout", [files_layer(files), files_layer({"usr/b": noise(200)}, "gzip")])
    composefs.Repository.init(tmp_path / "repository", require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        composefs.import_image(repository, str(layout), name="os", workers=1)
    return [str(layout), "--repo", tmp_path / "repository", "--name", "os"]


def test_nothing_new(imported, tmp_path):
    """Where all is there, all is proved, and nothing else is done: nothing written, flushed, started or prepared."""
    code = "from composefs.cli import main_import\nassert main_import(sys.argv[1:]) == 0"

    result, events, modules = observe(tmp_path, code, *imported, "--progress", "plain")

    assert result.stdout.splitlines()[4].startswith("objects  0 new + 0 already present")
    assert "flushing" not in result.stderr
    assert "making" not in result.stderr
    assert events == []
    assert (
        modules & {"concurrent.futures", "isal", "logging", "multiprocessing", "pathlib", "rich", "subprocess"} == set()
    )
    working = {"blobs", "index", "layer", "merge", "missing", "pool", "read", "work"}
    assert of_package(modules) & {f"composefs.oci.{module}" for module in working} == set()
    assert (
        of_package(modules) & {"composefs.erofs.writer", "composefs.tar", "composefs.transform", "composefs.tree"}
        == set()
    )


def test_configuration_of_the_host(imported, tmp_path, monkeypatch):
    """Of an image in a directory it is asked whether it may be taken, and nothing else: no network, no other file."""
    home = tmp_path / "home"
    for name in ("policy.json", "registries.conf", "auth.json", "registries.conf.d/a.conf"):
        path = home / ".config/containers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"default": [{"type": "insecureAcceptAnything"}]}' if name == "policy.json" else "broken")
    monkeypatch.setenv("HOME", str(home))
    code = f"""\
read = []
sys.addaudithook(lambda event, arguments: read.append(arguments[0]) if event == "open" else None)
from composefs.cli import main_import
assert main_import(sys.argv[1:]) == 0
print(*(path for path in read if str(path).startswith({str(home)!r})))
"""
    result, _, modules = observe(tmp_path, code, *imported)

    assert result.stdout.splitlines()[-1].split() == [f"{home}/.config/containers/policy.json"]
    unwanted = {"auth", "certs", "helpers", "network", "places", "proxies", "registries"}
    assert of_package(modules) & {f"composefs.hostconfig.{module}" for module in unwanted} == set()
    assert {module for module in of_package(modules) if module.startswith("composefs.registry")} == set()
    assert modules & {"http.client", "logging", "select", "socket", "ssl", "tomllib", "urllib3"} == set()


def test_something_new(imported, tmp_path):
    """The observer sees what it is there to see: a layer that is lost is imported again."""
    with composefs.Repository.open(tmp_path / "repository") as repository:
        name, _ = next(each for each in repository.streams.names() if each[0].startswith("oci-layer-"))
    (tmp_path / "repository/streams" / name).unlink()
    code = "from composefs.cli import main_import\nassert main_import(sys.argv[1:]) == 0"

    result, events, modules = observe(tmp_path, code, *imported, "--progress", "plain")

    assert "flushing" in result.stderr
    assert "composefs.oci.missing" in modules
    assert events


KEPT = "; what was stored is kept for the next run"


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        ("argparse", ""),  # nobody knows yet which command it will be
        ("composefs.cli.parser", ""),
        ("composefs.repository", KEPT),
        ("composefs.oci.importer", KEPT),
    ],
)
def test_interrupt_at_the_start(module, kept, imported, tmp_path):
    """An interrupt while modules are being imported is told in one line, too."""
    script = f"""\
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the tests, as a job in the background, may not have
def hook(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
from composefs.cli import main_import
sys.exit(main_import(sys.argv[1:]))
"""
    environment = os.environ | {"PYTHONPATH": str(commands.ROOT)}

    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, imported)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=commands.TIMEOUT,
        check=False,
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"composefs-import: interrupted{kept}\n"
