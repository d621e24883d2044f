"""The commands as a user meets them: arguments, what is printed where, exit statuses, and nobody reading."""

import argparse
import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

import composefs
from composefs import Algorithm, verity
from composefs.cli import main, main_import, options, registry
from composefs.cli.parser import make_parser
from tests import commands, layouts
from tests.layouts import files_layer, image_layout, noise

WIDTH = 80
COMMANDS = [
    ("composefs",),
    *(("composefs", name) for name, *_ in registry.COMMANDS),
    *(("composefs", "oci", name) for name, *_ in registry.OCI_COMMANDS),
    ("composefs-import",),
]
MAINS = {"composefs": main, "composefs-import": main_import}
CLOSED = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]  # starts a program without standard streams
NONE = "sha256:" + "0" * 64
NO_VERITY = "made without fs-verity, which this file system does not offer"


@pytest.fixture
def layout(tmp_path):
    """A layout of one image of two layers."""
    return image_layout(tmp_path / "layout", [files_layer({"a": noise(100)}), files_layer({"b": noise(200)}, "gzip")])


@pytest.fixture
def repository(tmp_path):
    """The path of an empty repository."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


def call(capsys, *arguments):
    """Run a command in this process; return its status, and the lines on each stream."""
    name, *rest = map(str, arguments)
    status = MAINS[name](rest)
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command, capsys, monkeypatch):
    """The help of every command fits a terminal, and says what the command does."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    status, out, err = call(capsys, *command, "--help")

    assert status == 0
    assert err == []
    assert out.startswith(f"usage: {' '.join(command)} ")
    assert [line for line in out.splitlines() if len(line) > WIDTH] == []


def parsers(parser):
    """Yield *parser* and those of its commands, with their arguments."""
    parser.load()
    yield parser
    for command in parser.commands.values():
        yield from parsers(command)


@pytest.mark.parametrize(
    "parser", [*parsers(make_parser()), *parsers(make_parser("composefs-import"))], ids=lambda parser: parser.prog
)
def test_help_keeps_its_lines(parser, monkeypatch):
    """At 80 columns every example is a line that can be copied, and no paragraph has a short line inside."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    shown = parser.format_help().splitlines()

    examples = [line for line in (parser.epilog or "").splitlines() if line.startswith(" ")]
    assert [line for line in examples if line not in shown] == []
    paragraph = shown[shown.index("") + 1 :]
    first = paragraph[: paragraph.index("")]
    assert [line for line in first[:-1] if len(line) < WIDTH - 2 - 20] == []  # 20: longer than any word


def test_help_on_a_narrow_terminal(monkeypatch, capsys):
    """Where an example does not fit, what is left of it is indented further."""
    monkeypatch.setenv("COLUMNS", "40")

    _, out, _ = call(capsys, "composefs", "oci", "tag", "--help")

    assert out.endswith(
        "examples:\n  composefs oci tag sha256:1496f4a1...\n    os:43\n  composefs oci tag os:43 os:latest\n"
    )


@pytest.mark.parametrize(
    ("columns", "terminal", "wanted"),
    [("70", 50, 70), ("", 50, 50), ("0", 50, 50), ("wide", 50, 50), ("-1", 50, 50), ("", 0, 80), ("", None, 80)],
)
def test_width_of_help(columns, terminal, wanted, monkeypatch):
    """The width is what the environment says, else the terminal's, else 80: as the standard library has it."""

    def size(_=None):
        if terminal is None:
            raise OSError
        return os.terminal_size((terminal, 24))

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(os, "get_terminal_size", size)

    text = make_parser().format_help()

    assert shutil.get_terminal_size().columns == wanted
    assert wanted - 20 < max(map(len, text.splitlines())) <= wanted


def test_width_without_standard_output(monkeypatch):
    """Where there is no standard output, help is as wide as where there is no terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)

    assert 60 < max(map(len, make_parser().format_help().splitlines())) <= 80


def test_examples_of_the_import(capsys):
    """As a command of `composefs`, import has the options of the repository before it."""
    _, short, _ = call(capsys, "composefs-import", "--help")
    _, long, _ = call(capsys, "composefs", "import", "--help")

    assert "  composefs-import --user oci:/srv/app --json" in short
    assert "  composefs --user import oci:/srv/app --json" in long
    assert "  composefs --repo /var/lib/repo import ./layout --platform linux/arm64" in long


@pytest.mark.parametrize(
    ("command", "arguments", "wanted"),
    [
        ("ls", ["os", "-l", "/usr"], {"image": "os", "path": "/usr", "long": True}),
        ("ls", ["os", "-lR", "/usr"], {"image": "os", "path": "/usr", "long": True, "recursive": True}),
        ("ls", ["os", "/usr", "-l"], {"image": "os", "path": "/usr", "long": True}),
        ("ls", ["os", "-l", "--", "-R"], {"image": "os", "path": "-R", "long": True, "recursive": False}),
        ("ls", ["os", "-5"], {"image": "os", "path": "-5"}),
        ("extract", ["os", "x", "--json", "a", "-q", "b"], {"target": "x", "paths": ["a", "b"], "quiet": True}),
        ("create-image", ["d", "--workers", "3", "n"], {"path": "d", "name": "n", "workers": 3}),
        ("create-image", ["d", "--workers=3", "n"], {"path": "d", "name": "n", "workers": 3}),
        ("mkcomposefs", ["-", "--from-file", "-"], {"source": "-", "image": "-", "from_file": True}),
        ("info", ["ls", "a", "--filter", "etc", "b"], {"files": ["a", "b"], "filter": ["etc"]}),
    ],
)
def test_options_anywhere(command, arguments, wanted):
    """Options may stand between the arguments of a command, as those of other programs."""
    parsed = vars(make_parser().parse_args([command, *arguments]))

    assert {name: parsed[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compute-id", "d", "--workers"], "argument --workers: expected one argument"),
        (
            ["ls", "--repo", "r", "os"],
            "composefs ls: error: unrecognized arguments: --repo (options of composefs itself stand before the",
        ),
        (["oci", "images", "--repo=r"], "unrecognized arguments: --repo=r (options of composefs itself stand before"),
        (["oci", "tag", "a", "b", "c"], "composefs oci tag: error: unrecognized arguments: c"),
        (["init", "", "--json"], "composefs init: error: unrecognized arguments: --json"),
    ],
)
def test_wrong_options_anywhere(arguments, message, capsys):
    """An option without its value does not take an argument for it, and unknown ones stay unknown."""
    status, _, err = call(capsys, "composefs", *arguments)

    assert status == 2
    assert message in err[-1]


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(name, option, capsys):
    """The version is printed as `cfsctl` prints its own."""
    assert call(capsys, name, option) == (0, f"{name} {composefs.__version__}\n", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["composefs", "frobnicate"], "argument COMMAND: invalid choice: 'frobnicate'"),
        (["composefs-import"], "the following arguments are required: REF"),
        (["composefs-import", "x", "--workers", "0"], "argument --workers: '0' is no number above zero"),
        (["composefs-import", "x", "--workers", "-1"], "argument --workers: "),
        (["composefs-import", "x", "--workers", "two"], "argument --workers: 'two' is no number above zero"),
        (["composefs-import", "x", "--workers", "٣"], "argument --workers: '٣' is no number above zero"),
        (["composefs-import", "x", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["composefs-import", "x", "y"], "unrecognized arguments: y"),
        (["composefs-import", "x", "--algorithm", "md5"], "argument --algorithm: invalid choice: 'md5'"),
        (["composefs-import", "x", "--progress", "loud"], "argument --progress: invalid choice: 'loud'"),
        (["composefs-import", "x", "--repo", "a", "--user"], "argument --user: not allowed with argument --repo"),
        (["composefs-import", "x", "--system", "--user"], "argument --user: not allowed with argument --system"),
        (["composefs", "--repo", "a", "--system", "init"], "argument --system: not allowed with argument --repo"),
        (["composefs", "init", "--insecure", "--require-verity"], "not allowed with argument --insecure"),
        (["composefs", "init", "--erofs-version", "3"], "argument --erofs-version: invalid choice: 3"),
        (["composefs", "--hash", "md5", "images"], "argument --hash: invalid choice: 'md5'"),
        (["composefs", "images", "--js"], "unrecognized arguments: --js"),
        (["composefs", "completion", "tcsh"], "argument SHELL: invalid choice: 'tcsh'"),
        (["composefs", "digest"], "the following arguments are required: FILE"),
        (["composefs", "oci", "layer"], "the following arguments are required: DIFF_ID"),
        (["composefs", "extract", "os"], "the following arguments are required: TARGET\n"),
    ],
)
def test_usage(arguments, message, capsys):
    """Wrong usage is told with the usage, and exits with 2."""
    status, out, err = call(capsys, *arguments)

    assert status == 2
    assert out == ""
    assert err[0].startswith("usage: composefs")
    assert message in err[-1] + "\n"


@pytest.mark.parametrize("arguments", [["composefs"], ["composefs", "oci"]])
def test_no_command(arguments, capsys):
    """Without a command the help is printed, as a wrong usage."""
    status, out, err = call(capsys, *arguments)

    assert (status, out) == (2, "")
    assert err[0].startswith("usage: composefs")
    assert "commands:" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platform", "amd64"], "platform 'amd64' is not of the form OS/ARCH[/VARIANT], such as linux/arm64/v8"),
        (["--platform", ""], "platform '' is not of the form OS/ARCH[/VARIANT], such as linux/arm64/v8"),
        (["--name", "@os"], "the name '@os' begins with @, which is for digests"),
        (["--name", ""], "'' is no name for an image"),
        (["--name", "a/" * 100], f"the name {'a/' * 100!r} is too long: 400 of 255 bytes once encoded"),
        (["--repo", ""], "--repo needs a path"),
    ],
)
def test_usage_found_later(arguments, message, layout, tmp_path, capsys):
    """Wrong usage that the arguments alone do not show exits with 2 as well, in one line, before anything is made."""
    repository = ["--repo", tmp_path / "new"] if "--repo" not in arguments else []

    status, out, err = call(capsys, "composefs-import", layout, *repository, *arguments)

    assert (status, out) == (2, "")
    assert err == [f"composefs-import: {message} (see composefs-import --help)"]
    assert not (tmp_path / "new").exists()


def test_two_readings(tmp_path, capsys):
    """A reference that may mean two things is refused, with both, and nothing is made."""
    status, _, err = call(capsys, "composefs-import", "x/y:z", "--repo", tmp_path / "new")

    assert status == 2
    assert "write ./x/y:z for a file or directory, docker://docker.io/x/y:z for Docker Hub" in err[0]
    assert not (tmp_path / "new").exists()


def test_credentials_in_a_reference(tmp_path, capsys):
    """They are refused, and not repeated, whatever else is wrong with it."""
    reference = f"docker://me:secret@example.org/{'x' * 300}"

    status, out, err = call(capsys, "composefs-import", reference, "--repo", tmp_path / "new")

    assert (status, out, len(err)) == (2, "", 1)
    assert "secret" not in err[0]


def test_text(layout, repository, capsys):
    """The result is printed as `cfsctl oci pull` prints it."""
    status, out, err = call(
        capsys, "composefs-import", layout, "--repo", repository, "--name", "os", "--progress", "none"
    )

    lines = out.splitlines()
    assert (status, err) == (0, [])
    assert re.fullmatch(r"manifest sha256:[0-9a-f]{64}", lines[0])
    assert re.fullmatch(r"config   sha256:[0-9a-f]{64}", lines[1])
    assert re.fullmatch(r"verity   [0-9a-f]{64}", lines[2])
    assert lines[3] == "tagged   os"
    inline = 10240 + 10240 - 300
    assert lines[4] == (
        f"objects  2 new + 0 already present objects; 300 B stored, {options.binary_size(inline)} inlined"
    )
    assert re.fullmatch(r"image    [0-9a-f]{64}", lines[5])
    assert len(lines) == 6


def test_json(layout, repository, capsys):
    """--json prints one object of known keys, and nothing else goes to standard output."""
    status, out, _ = call(capsys, "composefs-import", layout, "--repo", repository, "--name", "os", "--json")

    result = json.loads(out)
    assert status == 0
    assert " ".join(result) == (
        "manifest source_manifest config verity name image boot_image images layers "
        "objects_new objects_present bytes_new bytes_inline seconds"
    )
    assert [" ".join(layer) for layer in result["layers"]] == ["digest diff_id stream status size"] * 2
    first = result["layers"][0]
    assert first["status"] == "imported"
    assert first["diff_id"] == first["digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", first["stream"])
    assert (result["name"], result["objects_new"], result["objects_present"]) == ("os", 2, 0)
    assert result["bytes_new"] == 300
    assert isinstance(result["seconds"], float)


def test_plain_progress(layout, repository, capsys):
    """Plain progress is a line for each step; a layer that is there is named."""
    arguments = ["composefs-import", layout, "--repo", repository, "--progress", "plain"]
    _, _, first = call(capsys, *arguments)
    (repository / "streams" / f"oci-layer-{files_layer({'b': noise(200)}).diff_id}").unlink()
    _, out, again = call(capsys, *arguments)

    one, two = (files_layer(files).diff_id for files in ({"a": noise(100)}, {"b": noise(200)}))
    assert first[0] == f"importing {layout}: 2 of 2 layers, 0.0 MB"
    assert sorted(first[1:3]) == sorted(f"imported layer {layer}: 1 new objects, 0 present" for layer in (one, two))
    assert first[3:] == ["making the EROFS image, format V1", "flushing the file system"]
    assert again == [
        f"importing {layout}: 1 of 2 layers, 0.0 MB",
        f"already have layer {one}",
        f"imported layer {two}: 0 new objects, 1 present",
        "flushing the file system",
    ]
    assert out.startswith("manifest ")


def test_json_progress(layout, repository, capsys):
    """JSON progress is one object a line, each with its event's name."""
    _, _, err = call(capsys, "composefs-import", layout, "--repo", repository, "--progress", "json")

    events = [json.loads(line) for line in err]
    kinds = [event["event"] for event in events if event["event"] != "layer-progress"]
    assert kinds == ["import-started", "layer-done", "layer-done", "building-image", "syncing", "import-done"]
    assert events[0]["total"] == sum(layer["size"] for layer in events[0]["layers"])
    assert sorted(events[0]["layers"][0]) == ["diff_id", "digest", "present", "size"]
    assert events[-1]["name"] == str(layout)


def test_progress_is_plain_without_a_terminal(layout, repository, capsys):
    """Where standard error is no terminal there are lines, not bars."""
    _, _, err = call(capsys, "composefs-import", layout, "--repo", repository)

    assert err[0].startswith("importing ")
    assert "\x1b" not in "".join(err)


def test_quiet(layout, tmp_path, capsys):
    """--quiet prints nothing, not even that a repository was made; but errors."""
    arguments = ["composefs-import", "--repo", tmp_path / "new", "--quiet"]

    assert call(capsys, *arguments, layout) == (0, "", [])
    assert call(capsys, *arguments, "oci:/nowhere") == (1, "", ["composefs-import: no directory /nowhere"])


def test_quiet_json(layout, repository, capsys):
    """--quiet leaves the result that --json asks for."""
    status, out, err = call(capsys, "composefs-import", layout, "--repo", repository, "--quiet", "--json")

    assert (status, err) == (0, [])
    assert json.loads(out)["objects_new"] == 2


def terminal(tmp_path, *arguments, stdout=None, env=None):
    """Run `composefs-import` with standard error on a terminal; return its status and all that came there."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    environment = {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": "24", **(env or {})}
    streams = {"stdout": theirs if stdout is None else stdout, "stderr": theirs}
    with commands.start(tmp_path, "composefs-import", *arguments, env=environment, **streams) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # EIO: nobody has the terminal any more
            pass
        os.close(ours)
    return process.returncode, seen.decode()


def visible(text):
    """Return the lines that a terminal was told to show, each as it was drawn, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line for line in re.split(r"[\r\n]+", plain) if line]


def test_bars(tmp_path, repository):
    """On a terminal there are bars that fit it, which are gone at the end, and the cursor is back."""
    slow = [layouts.slow_layer(0, 150), layouts.slow_layer(1, 100)]
    layout = image_layout(tmp_path / "layout", [files_layer({}), *slow])

    status, seen = terminal(tmp_path, layout, "--repo", repository, "--workers", "2", stdout=subprocess.DEVNULL)

    lines = visible(seen)
    assert status == 0
    assert any("total" in line for line in lines)
    assert any(layouts.slow_layer(0, 150).diff_id[7:19] in line for line in lines)
    assert max(map(len, lines)) <= WIDTH
    assert seen.rindex("\x1b[?25h") > seen.rindex("total")
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h")
    last_bar = max(seen.rindex("total"), seen.rindex("flushing") if "flushing" in seen else 0)
    assert "\x1b[2K" in seen[last_bar:]  # the line of the bar is wiped
    assert visible(seen[seen.rindex("\x1b[2K") :]) == []


def test_bars_and_result(tmp_path, layout):
    """The result follows the bars on the same terminal, whole; a layer that is there is named whole."""
    arguments = [layout, "--repo", tmp_path / "repository", "--name", "os", "--algorithm", "fsverity-sha256-12"]
    terminal(tmp_path, *arguments)

    status, seen = terminal(tmp_path, *arguments)

    assert status == 0
    assert f"already have layer {files_layer({'a': noise(100)}).diff_id}" in visible(seen)
    assert visible(seen)[-6].startswith("manifest sha256:")
    assert visible(seen)[-3] == "tagged   os"


def test_error_after_bars(tmp_path):
    """An error stands on a line of its own, below no remains of bars."""
    bad = files_layer({"a": noise(100)}, diff_id=layouts.sha256(b""))
    layout = image_layout(tmp_path / "layout", [bad, files_layer({"b": noise(100)})])

    status, seen = terminal(tmp_path, layout, "--repo", tmp_path / "repository")

    assert status == 1
    assert visible(seen)[-1].startswith("composefs-import: layer sha256:")
    assert "Traceback" not in seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["composefs-import", "LAYOUT", "--repo", "REPO", "--quiet", "--json"],
        ["composefs-import", "LAYOUT", "--repo", "REPO", "--progress", "none"],
        ["composefs", "--repo", "REPO", "oci", "images"],
        ["composefs", "--repo", "REPO", "oci", "layer", "LAYER"],
        ["composefs", "--repo", "REPO", "cat", "oci-layer-LAYER"],
        ["composefs", "digest", "FILE"],
        ["composefs", "--repo", "REPO", "init", "--algorithm", "fsverity-sha256-12"],
        ["composefs", "--help"],
        ["composefs-import", "--version"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("output", ["closed-pipe", "full-device"])
def test_nobody_reads(tmp_path, repository, arguments, output):
    """Output that cannot be written gives status 1 without a traceback: silently, if the reader has gone."""
    large = files_layer({"a": noise(1 << 20)})
    layout = image_layout(tmp_path / "layout", [large])
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(layout), workers=1)
    words = {"LAYOUT": layout, "REPO": repository, "FILE": layout.path / "index.json", "LAYER": large.diff_id}
    arguments = [words.get(word, word.replace("LAYER", large.diff_id)) for word in arguments]
    if output == "closed-pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)

    done = commands.run(tmp_path, *arguments, stdout=writer)
    os.close(writer)

    assert done.returncode == 1
    if output == "closed-pipe":
        assert done.stderr == ""
    else:
        what = "No space left on device; the disk is full: make room and run it again"
        kept = "; what was stored is kept" if layout in arguments else ""  # an import
        assert done.stderr == f"{arguments[0]}: {what}{kept}\n"


def test_reader_that_leaves(tmp_path, repository):
    """A reader that takes one byte and goes away, as `head -c1`, ends the command silently."""
    large = files_layer({"a": noise(4 << 20)})
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(image_layout(tmp_path / "layout", [large])), workers=1)
    arguments = ["--repo", repository, "oci", "layer", large.diff_id]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    with commands.start(tmp_path, "composefs", *arguments, **streams) as process:
        head = subprocess.run(["head", "-c1"], stdin=process.stdout, capture_output=True, check=True)
        process.stdout.close()
        err = process.stderr.read()

    assert head.stdout == large.blob[:1]
    assert (process.returncode, err) == (1, b"")


def test_closed_streams(tmp_path, layout, repository):
    """A command whose standard streams are all closed does its work."""
    arguments = [layout, "--repo", repository, "--name", "os", "--workers", "2"]
    with commands.start(tmp_path, "composefs-import", *arguments, wrapper=CLOSED) as process:
        process.wait(commands.TIMEOUT)

    assert process.returncode == 0
    assert (repository / "streams/refs/oci/os").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import-image", "os"], "composefs: the image comes on standard input: redirect it from a file or a pipe"),
        (["mkcomposefs", "--from-file", "-", "x"], "composefs: standard input is closed: redirect it from a file or"),
        (["diff", "-", "."], "composefs diff: standard input is closed: redirect it from a file or a pipe"),
    ],
)
def test_closed_standard_input(arguments, message, repository, tmp_path):
    """A closed standard input is wrong usage."""
    wrapper = ["sh", "-c", 'exec "$@" <&-', "sh"]

    done = commands.run(tmp_path, "composefs", "--repo", repository, *arguments, wrapper=wrapper, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["init", ""], 2, "PATH is empty"),
        (["extract", "os", ""], 2, "TARGET is empty"),
        (["mkcomposefs", ".", ""], 2, "IMAGE is empty"),
        (["mkcomposefs", ".", "image.cfs", "--digest-store", ""], 2, "--digest-store needs a path"),
        (["oci", "copy", "os", "--from", ""], 2, "--from needs a path"),
        (["cat", ""], 2, "STREAM is empty"),
        (["diff", "", "."], 2, "'' names nothing"),
        (["digest", ""], 1, "'': No such file or directory"),
        (["info", "ls", ""], 1, "'': No such file or directory"),
        (["digest", "."], 1, ".: Is a directory"),
        (["info", "measure-file", "."], 1, ".: Is a directory"),
    ],
)
def test_arguments_without_a_file(arguments, status, message, repository, capsys):
    """An empty argument, as of a variable that is not set, is told as what it is, and a directory by its path."""
    done, out, err = call(capsys, "composefs", "--repo", repository, *arguments)

    assert (done, out) == (status, "")
    assert len(err) == 1
    assert f": {message}" in err[0]


def namespace(**values):
    return argparse.Namespace(**({"repo": None, "user": False, "system": False} | values))


@pytest.mark.parametrize(
    ("chosen", "uid", "path"),
    [
        ({"repo": "some/where"}, 0, "some/where"),
        ({"user": True}, 0, "/home/me/.var/lib/composefs"),
        ({"user": True}, 1000, "/home/me/.var/lib/composefs"),
        ({"system": True}, 1000, "/sysroot/composefs"),
        ({}, 0, "/sysroot/composefs"),
        ({}, 1000, "/home/me/.var/lib/composefs"),
    ],
)
def test_repository_path(monkeypatch, chosen, uid, path):
    """The repository is the one that is named, else root's or the user's."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "getuid", lambda: uid)

    assert options.repository_path(namespace(**chosen)) == path


@pytest.mark.parametrize("home", [None, ""])
def test_no_home(monkeypatch, layout, capsys, home):
    """Without $HOME --user has no meaning, and a path must be named."""
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)

    status, out, err = call(capsys, "composefs-import", layout, "--user")

    assert (status, out) == (2, "")
    what = "$HOME is not set; choose a repository with --repo"
    assert err == [f"composefs-import: {what} (see composefs-import --help)"]


def test_user(monkeypatch, layout, tmp_path, capsys):
    """--user makes the repository in the home directory, for its owner only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    status, _, _ = call(capsys, "composefs-import", layout, "--user")

    path = tmp_path / "home/.var/lib/composefs"
    assert status == 0
    assert (path / "meta.json").exists()
    assert path.stat().st_mode & 0o777 == 0o700


def test_missing_repository(layout, tmp_path, capsys):
    """A repository that is not there is made, of the algorithm asked for, and what it lacks is said."""
    path = tmp_path / "new/repository"
    probe = tmp_path / "probe"
    has_verity = composefs.Repository.init(probe) and composefs.Repository.open(probe).verity

    arguments = ["composefs-import", layout, "--repo", path, "--progress", "none"]
    status, _, err = call(capsys, *arguments, "--algorithm", "fsverity-sha256-12")

    assert status == 0
    assert err == ([] if has_verity else [f"{path}: {NO_VERITY}"])
    with composefs.Repository.open(path) as repository:
        assert repository.algorithm is Algorithm.SHA256


@pytest.mark.parametrize("reference", ["oci:/nowhere", "LAYOUT:none", "EMPTY"])
def test_nothing_is_made_for_an_image_that_is_missing(layout, tmp_path, capsys, reference):
    """An image that does not exist makes no repository."""
    (tmp_path / "empty").mkdir()
    reference = reference.replace("LAYOUT", str(layout)).replace("EMPTY", str(tmp_path / "empty"))

    status, out, err = call(capsys, "composefs-import", reference, "--repo", tmp_path / "new/repository")

    assert (status, out, len(err)) == (1, "", 1)
    assert not (tmp_path / "new").exists()


def test_init(tmp_path, capsys, monkeypatch):
    """`init` makes a repository and says what it is; a second time it says that it is there."""
    path = tmp_path / "some/where"

    made = call(capsys, "composefs", "init", "--insecure", path)
    again = call(capsys, "composefs", "--repo", path, "init", "--insecure")
    other = call(capsys, "composefs", "init", "--insecure", "--algorithm", "fsverity-sha256-12", path)

    said = [
        f"Initialized composefs repository at {path}",
        "  algorithm: fsverity-sha512-12",
        "  verity:    not required (insecure)",
    ]
    assert made == (0, "\n".join(said) + "\n", [])
    assert again == (0, f"Repository already initialized at {path}\n", [])
    have, want = (f"algorithm fsverity-{name}-12, EROFS V1" for name in ("sha512", "sha256"))
    assert other == (1, "", [f"composefs: {path}: repository exists with {have}; it cannot become one with {want}"])


def test_init_ensure(tmp_path, capsys):
    """`init --ensure` makes a repository, or takes the one that is there, whatever its settings."""
    path = tmp_path / "repository"

    made = call(capsys, "composefs", "init", "--insecure", "--ensure", path)
    taken = call(capsys, "composefs", "init", "--ensure", "--erofs-version", "2", path)
    meta = (path / "meta.json").read_text()
    (path / "objects/00").mkdir(parents=True)
    (path / "objects/00" / ("0" * 126)).write_bytes(b"x")
    (path / "meta.json").unlink()
    upgraded = call(capsys, "composefs", "init", "--ensure", path)

    assert made[1].splitlines()[0] == f"Initialized composefs repository at {path}"
    assert taken == (0, f"Repository already initialized at {path} (existing configuration preserved)\n", [])
    assert '"default": 1' in meta
    assert upgraded == (0, f"Upgraded legacy repository at {path}\n", [])


def test_init_reset_metadata(tmp_path, layout, capsys):
    """`init --reset-metadata` forgets names and settings, and keeps objects."""
    path = tmp_path / "repository"
    call(capsys, "composefs-import", layout, "--repo", path, "--quiet")
    objects = sorted((path / "objects").rglob("*"))

    status, out, _ = call(capsys, "composefs", "init", "--insecure", "--reset-metadata", "--erofs-version", "2", path)

    assert status == 0
    assert out.startswith("Initialized")
    assert sorted((path / "objects").rglob("*")) == objects
    assert sorted(each.name for each in path.iterdir()) == ["meta.json", "objects"]
    assert '"default": 2' in (path / "meta.json").read_text()


@pytest.mark.parametrize("place", ["before", "behind"])
def test_init_options_before_the_command(place, tmp_path, capsys):
    """The EROFS version may be given before the command, or behind it."""
    options = ["--erofs-version", "2", "--insecure"]
    before, behind = (options, []) if place == "before" else ([], options)

    status, _, _ = call(capsys, "composefs", *before, "init", *behind, tmp_path / "repository")

    assert status == 0
    assert '"default": 2' in (tmp_path / "repository/meta.json").read_text()


def test_init_heeds_hash(tmp_path, capsys):
    """The algorithm that the repository must have is the one that it is made with, or the command is refused."""
    path, other = tmp_path / "repository", "fsverity-sha512-12"

    assert call(capsys, "composefs", "--hash", "sha256", "init", path)[0] == 0
    assert '"fsverity-sha256-12"' in (path / "meta.json").read_text()
    status, _, err = call(capsys, "composefs", "--hash", "sha256", "init", "--algorithm", other, tmp_path / "another")
    assert status == 2
    assert err == [f"composefs: --hash sha256 is not of --algorithm {other} (see composefs --help)"]
    assert not (tmp_path / "another").exists()


def test_import_refuses_two_algorithms(tmp_path, layout, capsys):
    """A repository is not made with one if it must have another one."""
    algorithms = ["--hash", "sha256", "--algorithm", "fsverity-sha512-12"]

    status, _, err = call(capsys, "composefs-import", "--repo", tmp_path / "repository", *algorithms, layout)

    assert status == 2
    assert err == [
        "composefs-import: --hash sha256 is not of --algorithm fsverity-sha512-12 (see composefs-import --help)"
    ]
    assert not (tmp_path / "repository").exists()


def test_init_on_a_file(tmp_path, capsys):
    """A file where the repository should be is an error with the path."""
    (tmp_path / "file").write_text("")

    status, out, err = call(capsys, "composefs", "init", tmp_path / "file")

    assert (status, out) == (1, "")
    assert err == [f"composefs: {tmp_path}/file: Not a directory"]


def test_cat_and_layer(layout, repository, tmp_path):
    """`cat` and `oci layer` write what was imported, bit for bit."""
    archive = layouts.tar(layouts.rooted({"b": noise(200)}))
    diff_id = layouts.sha256(archive)
    with composefs.Repository.open(repository) as opened:
        result = composefs.import_image(opened, str(layout), name="a/b", workers=1)

    for arguments, wanted in [
        (["oci", "layer", diff_id], archive),
        (["cat", f"oci-layer-{diff_id}"], archive),
        (["cat", f"oci-manifest-{result.manifest}"], layout.blob_path(result.manifest).read_bytes()),
        (["cat", "refs/oci/a%2Fb"], layout.blob_path(result.manifest).read_bytes()),
    ]:
        done = commands.run(tmp_path, "composefs", "--repo", repository, *arguments, text=False)
        assert (done.returncode, done.stderr, done.stdout) == (0, b"", wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat", "none"], "{repository}: no stream none"),
        (["cat", "refs/oci/none"], "{repository}: no stream refs/oci/none"),
        (["cat", "refs"], "{repository}/streams/refs: is no symbolic link"),
        (["oci", "layer", NONE], f"{{repository}}: no layer {NONE}"),
    ],
)
def test_no_stream(layout, repository, capsys, arguments, message):
    """A stream that is not there is named."""
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(layout), workers=1)

    status, out, err = call(capsys, "composefs", "--repo", repository, *arguments)

    assert (status, out) == (1, "")
    assert err == [f"composefs: {message.format(repository=repository)}"]


@pytest.mark.parametrize("arguments", [["oci", "images"], ["cat", "x"], ["oci", "layer", NONE]])
def test_no_repository(tmp_path, capsys, arguments):
    """Commands that read need a repository, and make none."""
    status, out, err = call(capsys, "composefs", "--repo", tmp_path / "none", *arguments)

    assert (status, out, err) == (1, "", [f"composefs: no repository at {tmp_path}/none; `composefs init` makes one"])
    assert not (tmp_path / "none").exists()


def test_no_archive_on_a_terminal(layout, repository, tmp_path):
    """An archive is not written to a terminal."""
    with composefs.Repository.open(repository) as opened:
        result = composefs.import_image(opened, str(layout), workers=1)
    ours, theirs = pty.openpty()
    diff_id = result.layers[0].diff_id

    done = commands.run(tmp_path, "composefs", "--repo", repository, "oci", "layer", diff_id, stdout=theirs)
    os.close(theirs)
    os.close(ours)

    assert done.returncode == 2
    what = "a tar archive is not for a terminal: redirect it to a file or a pipe"
    assert done.stderr == f"composefs: {what} (see composefs --help)\n"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_digest(tmp_path, capsys, algorithm):
    """`digest` prints a line a file, as sha256sum does."""
    files = {"empty": b"", "some": noise(10_000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in files]

    status, out, err = call(capsys, "composefs", "digest", "--algorithm", algorithm.value, *paths)

    assert (status, err) == (0, [])
    wanted = [
        f"{verity.compute_digest(data, algorithm)}  {path}" for path, data in zip(paths, files.values(), strict=True)
    ]
    assert out.splitlines() == wanted


def test_digest_of_nothing(tmp_path, capsys):
    """A file that is not there, or a directory, is an error with its path."""
    missing = call(capsys, "composefs", "digest", tmp_path / "none")
    directory = call(capsys, "composefs", "digest", tmp_path)

    assert missing == (1, "", [f"composefs: {tmp_path}/none: No such file or directory"])
    assert directory[0] == 1
    assert len(directory[2]) == 1


def test_images(layout, repository, capsys):
    """`oci images` prints a table, or the whole digests as JSON."""
    arguments = ["composefs", "--repo", repository, "oci", "images"]
    empty = call(capsys, *arguments)
    empty_json = call(capsys, *arguments, "--json")
    with composefs.Repository.open(repository) as opened:
        result = composefs.import_image(opened, str(layout), name="os", workers=1)

    _, table, _ = call(capsys, *arguments)
    _, text, _ = call(capsys, *arguments, "--json")

    architecture = layouts._HOST.architecture
    assert empty == (0, "No images found\n", [])
    assert json.loads(empty_json[1]) == {"images": []}
    assert [line.split() for line in table.splitlines()] == [
        ["NAME", "DIGEST", "ARCH", "LAYERS", "REFS"],
        ["os", result.manifest[7:19], architecture, "2", "0"],
    ]
    (image,) = json.loads(text)["images"]
    assert image["manifest_digest"] == result.manifest
    assert sorted(image) == sorted(
        "name manifest_digest is_container architecture os created layer_count referrer_count".split()
    )


def test_hostile_names(repository, tmp_path):
    """What an image says of itself reaches the terminal as text: no line is forged, no escape goes through."""
    name = "evil\n\x1b[2Jname\r\u2028x"
    layer = layouts.layer(layouts.tar({name: noise(10_000)})[:8192])
    layout = image_layout(tmp_path / "layout", [layer])

    done = commands.run(tmp_path, "composefs-import", layout, "--repo", repository, "--progress", "none")

    assert done.returncode == 1
    escaped = r"evil\n\x1b[2Jname\r\u2028x"
    what = "archive ends 3344 bytes before the contents do"
    assert done.stderr == f"composefs-import: layer {layer.diff_id}, entry {escaped}, offset 8192: {what}\n"


def test_names_that_are_no_text(repository, tmp_path, layout):
    """A name that is not UTF-8 is taken and printed all the same."""
    done = commands.run(
        tmp_path, "composefs-import", layout, "--repo", repository, "--name", os.fsdecode(b"\xff"),
        "--progress", "none", env={"LC_ALL": "C.UTF-8"},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "tagged   \\udcff" in done.stdout
    assert [os.fsencode(entry) for entry in os.listdir(repository / "streams/refs/oci")] == [b"\xff"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (1 << 20, "1.00 MiB"),
        (5 << 30, "5.00 GiB"),
        (3 << 40, "3.00 TiB"),
        (5000 << 40, "5000.00 TiB"),
    ],
)
def test_sizes(size, text):
    """Sizes are in binary units with two decimals, as in `cfsctl`."""
    assert options.binary_size(size) == text


def test_start_of_the_command(tmp_path):
    """Importing an image without bars needs neither rich nor the network modules at start."""
    code = "import sys, composefs.cli; print(*sorted(set(sys.modules) & {'rich', 'http.client', 'asyncio', 'ssl'}))"
    environment = {**os.environ, "PYTHONPATH": str(commands.ROOT)}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)

    assert done.stdout.strip() == ""
