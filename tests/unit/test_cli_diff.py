"""`composefs diff`: what its arguments may be, what is printed, and the exit statuses."""

import io
import json
import os
import re
import subprocess

import pytest

from composefs import Algorithm, Repository
from composefs.cli import diff, main, sources
from composefs.dumpfile import format_dump
from composefs.erofs.writer import write_image
from composefs.scan import scan_directory
from composefs.transform import transform_for_oci
from tests import commands
from tests.layouts import files_layer, image_layout, noise

EPOCH = 1_700_000_000_000_000_000
LAYERS = [
    files_layer({"usr/old": noise(100), "usr/changed": b"one"}),
    files_layer({"usr/changed": b"other", "usr/new": noise(200, 1), "boot/kernel": b"k", "sysroot/": b""}),
]
DIGEST = r"[0-9a-f]{64}"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty directory to work in, and a home without a repository, also for root."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def repository(tmp_path, capsys):
    """The path of a repository with the image of one layer, tagged `base`, and that of two, tagged `os`."""
    path = tmp_path / "repository"
    Repository.init(path, Algorithm.SHA256, require_verity=False)
    for tag, layers in (("base", LAYERS[:1]), ("os", LAYERS)):
        layout = image_layout(tmp_path / tag, layers)
        assert main(["--repo", str(path), "oci", "pull", f"oci:{layout.path}", tag]) == 0
        layout.path.rename(tmp_path / f"{tag}-layout")
    capsys.readouterr()
    return path


def make_directory(path, mtime=EPOCH, **contents):
    """Make a small root file system, and return its path."""
    for name in ("usr/bin", "boot", "sysroot", "run"):
        (path / name).mkdir(parents=True)
    for name, data in {"tool": b"data", **contents}.items():
        (path / "usr/bin" / name).write_bytes(data)
    for below in [*path.rglob("*"), path]:
        os.utime(below, ns=(mtime, mtime))
    return path


def tree_of(path, algorithm=Algorithm.SHA512):
    root = scan_directory(path, algorithm)
    transform_for_oci(root)
    return root


@pytest.fixture
def call(capsys):
    """Run the command; return its status, and the lines on each stream."""

    def run(*arguments, repo=None):
        chosen = [] if repo is None else ["--repo", str(repo)]
        status = main([*chosen, "diff", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def test_equal(call, tmp_path):
    """Equal trees are told in one line, and exit with 0."""
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y")

    assert call("x", "y") == (0, ["a: directory x", "b: directory y", "Equal: 7 entries on each side."], [])


def test_different(call, tmp_path):
    """Differences are told in groups, with what explains them, and path by path; exit with 1."""
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y", mtime=0, extra=b"more")

    status, out, err = call("x", "y")

    assert (status, err) == (1, [])
    assert out[:3] == ["a: directory x", "b: directory y", "8 differences; a has 7 entries, b has 8."]
    assert "  6 directories differ only in mtime: mtime 1700000000 -> 0 in all of them" in out
    assert "All mtimes are 0 in b: this explains 7 of 8 differences." in out
    assert "+ /usr/bin/extra (file)" in out
    assert max(map(len, out)) <= 80


def test_no_explain(call, tmp_path):
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y", mtime=0)

    status, out, _ = call("--no-explain", "x", "y")

    assert status == 1
    assert not any("explains" in line for line in out)


@pytest.mark.parametrize(
    ("options", "count"), [([], 20), (["--limit", "2"], 2), (["--limit", "0"], 0), (["--all"], 25)]
)
def test_limit(call, tmp_path, options, count):
    """So many paths are shown; groups count all of them."""
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y", **{f"f{number}": b"" for number in range(25)})

    status, out, _ = call(*options, "x", "y")

    assert status == 1
    assert "  25 files added" in out
    assert sum(line.startswith("+ /usr/bin/f") for line in out) == count
    assert (f"... and {25 - count} more" in out) == (0 < count < 25)


def test_every_source_of_one_tree_is_equal(call, tmp_path, monkeypatch):
    """A directory, its dump, its image as a file and in a repository, by id and by both forms of its name."""
    root = tree_of(make_directory(tmp_path / "x", large=noise(5000)), Algorithm.SHA256)
    dump = b"".join(format_dump(root))
    (tmp_path / "x.dump").write_bytes(dump)
    (tmp_path / "x.cfs").write_bytes(write_image(root, 1))
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        digest = repository.images.store(write_image(root, 1))
        repository.images.link(digest)
        repository.images.set_ref("name", digest)
    kinds = {"x": "directory", "x.dump": "dumpfile", "x.cfs": "image file"}
    names = {"name": "image", "refs/name": "image", digest.hex: "image"}
    prefixed = {"dir:x": "directory", "dump:x.dump": "dumpfile", "file:x.cfs": "image file", "image:name": "image"}

    for text, kind in (kinds | names | prefixed).items():
        status, out, err = call(text, "x", repo=tmp_path / "repository")
        assert (status, err) == (0, [])
        assert out[0] == f"a: {kind} {text.rpartition(':')[2]}"
    for text in ("-", "dump:-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(dump)))
        assert call(text, "x.cfs")[:2] == (
            0,
            ["a: dumpfile -", "b: image file x.cfs", "Equal: 8 entries on each side."],
        )


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_directory_has_digests_of_the_algorithm_of_the_other_side(call, tmp_path, algorithm):
    """Whatever the default is, so that the same contents are equal."""
    root = tree_of(make_directory(tmp_path / "x", large=noise(5000)), algorithm)
    (tmp_path / "x.dump").write_bytes(b"".join(format_dump(root)))

    assert call("x", "x.dump")[0] == call("x.dump", "x")[0] == 0


def test_hash_says_the_algorithm(call, tmp_path, capsys):
    root = tree_of(make_directory(tmp_path / "x", large=noise(5000)), Algorithm.SHA512)
    (tmp_path / "x.dump").write_bytes(b"".join(format_dump(root)))

    assert main(["--hash", "sha256", "diff", "x", "x.dump"]) == 1
    assert "different algorithms" in capsys.readouterr().out


def test_tags(call, repository):
    """Of OCI images the layer that brought a difference is told."""
    status, out, err = call("base", "tag:os", repo=repository)

    assert (status, err) == (1, [])
    assert out[:2] == ["a: OCI tag base, 1 layer", "b: OCI tag os, 2 layers"]
    assert "~ /usr/changed (file, layer 2)" in out
    assert "+ /usr/new (file, layer 2)" in out
    assert "+ /boot (directory, 1 entry below, layer 2)" in out
    assert "  2 directories added, with 1 entry below, from layer 2" in out


def test_layers_of_what_is_gone(call, repository):
    """What only A has is of a layer of A."""
    out = call("os", "base", repo=repository)[1]

    assert "- /usr/new (file, layer 2)" in out
    assert "~ /usr/changed (file, layer 1)" in out


def test_a_tag_equals_the_image_that_was_made_of_it(call, repository):
    with Repository.open(repository) as opened:
        (image,) = {digest for _, digest in opened.images.refs()} or {None}
    images = [path.name for path in (repository / "images").iterdir() if re.fullmatch(DIGEST, path.name)]

    assert image is None  # pulling names no image
    assert sorted(call("os", name, repo=repository)[0] for name in images) == [0, 1]


def test_digests_of_manifests_and_configs_are_tags_too(call, repository):
    with Repository.open(repository) as opened:
        config = next(name for name in os.listdir(repository / "streams") if name.startswith("oci-config-"))
        assert opened.algorithm is Algorithm.SHA256
    digest = config.removeprefix("oci-config-")

    statuses = {call(f"@{digest}", tag, repo=repository)[0] for tag in ("os", "base")}

    assert statuses == {0, 1}


def test_transforms_of_tags_and_directories(call, repository, tmp_path):
    """--bootable empties /boot on both sides, --xattrs keeps attributes, and both can be left out."""
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y")
    (tmp_path / "y/boot/kernel").write_bytes(b"k")
    os.setxattr(tmp_path / "y/usr/bin/tool", "user.a", b"a")
    os.utime(tmp_path / "y/boot", ns=(EPOCH, EPOCH))
    (tmp_path / "y/run/lock").write_bytes(b"")

    assert call("x", "y")[0] == 1
    assert call("--bootable", "x", "y")[0] == 0
    assert "    xattr user.a: none -> a" in call("--bootable", "--xattrs", "keep-user-xattrs", "x", "y")[1]
    assert "+ /run/lock (file)" in call("--no-propagate-usr-to-root", "x", "y")[1]
    assert "~ /boot" not in "".join(call("--bootable", "os", "tag:os", repo=repository)[1])
    assert call("--bootable", "base", "os", repo=repository)[2] == [
        "composefs diff: /boot does not exist, but such an image must have it"
    ]


def test_json(call, repository):
    """One object: the sources, and all that the library says."""
    status, out, err = call("--json", "base", "os", repo=repository)
    value = json.loads("\n".join(out))

    assert (status, err) == (1, [])
    assert value["a"] == {"kind": "tag", "name": "base", "layers": 1, "version": None}
    assert value["b"] == {"kind": "tag", "name": "os", "layers": 2, "version": None}
    assert value["equal"] is False
    by_path = {change["path"]: change for change in value["changes"]}
    assert by_path["/usr/new"]["layer"] == {"number": 2, "diff_id": LAYERS[1].diff_id}
    assert len(value["changes"]) == value["total"] == sum(group["count"] for group in value["groups"])
    equal = json.loads("\n".join(call("--json", "os", "os", repo=repository)[1]))
    assert (equal["equal"], equal["changes"], equal["explanations"]) == (True, [], [])


@pytest.mark.parametrize(
    ("made", "choices"),
    [
        ("directory", "a directory or an OCI tag: say dir:os or tag:os"),
        ("file", "a dumpfile or an OCI tag: say dump:os or tag:os"),
        ("ref", "an image or an OCI tag: say image:os or tag:os"),
        ("all", "a directory or an image or an OCI tag: say dir:os or image:os or tag:os"),
    ],
)
def test_what_may_mean_two_things_is_asked_back(call, repository, tmp_path, made, choices):
    if made in ("directory", "all"):
        (tmp_path / "os").mkdir()
    elif made == "file":
        (tmp_path / "os").write_bytes(b"/ 0 40755 2 0 0 0 0.0 - - -\n")
    if made in ("ref", "all"):
        with Repository.open(repository) as opened:
            digest = opened.images.store(b"image")
            opened.images.link(digest)
            opened.images.set_ref("os", digest)

    status, out, err = call("os", "base", repo=repository)

    assert (status, out) == (2, [])
    assert err == [f"composefs diff: os may mean {choices} (see composefs diff --help)"]
    assert call("tag:os", "oci-tag:os", repo=repository)[0] == 0


def test_paths_beyond_doubt_are_no_tags(call, repository, tmp_path):
    make_directory(tmp_path / "os")

    assert call("./os", tmp_path / "os", repo=repository)[0] == 0


def test_one_tree_in_two_formats(call, tmp_path):
    """Two images of one tree are told apart by their formats, since their ids differ."""
    root = tree_of(make_directory(tmp_path / "x"))
    for version in (0, 1):
        (tmp_path / f"v{version}").write_bytes(write_image(root, version))

    status, out, err = call("v0", "v1")
    value = json.loads("\n".join(call("--json", "v0", "v1")[1]))

    assert (status, err) == (1, [])
    assert out[-1] == "The ids differ all the same: a has the EROFS format V0, b V1."
    assert (value["equal"], value["total"], value["a"]["version"], value["b"]["version"]) == (False, 0, 0, 1)
    assert call("v1", "v1")[0] == 0


def test_one_tree_laid_out_differently(call, tmp_path):
    """The same format in other bytes is told, too."""
    image = write_image(tree_of(make_directory(tmp_path / "x")), 1)
    (tmp_path / "ours").write_bytes(image)
    (tmp_path / "longer").write_bytes(bytes(image) + bytes(4096))

    status, out, _ = call("ours", "longer")

    assert status == 1
    assert out[-1] == "The ids differ all the same: other programs, or other rules, laid out the same files."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "x"], "nothing: no such file or directory, and there is no repository"),
        (["x", "dir:nothing"], "nothing: No such file or directory"),
        (["x", "dump:x"], "x: Is a directory"),
        (["x", "file:x.dump"], "x.dump, offset "),
        (["x", "dump:x.cfs"], "x.cfs, "),
        (["x", "dir:"], "dir: names nothing (see composefs diff --help)"),
        (["-", "dump:-"], "standard input can be read once only (see composefs diff --help)"),
        (["--bootable", "x.dump", "x.dump"], "--bootable, --xattrs and --no-propagate-usr-to-root are for directories"),
        (["--xattrs", "keep-user-xattrs", "x.cfs", "x.dump"], "--bootable, --xattrs and --no-propagate-usr-to-root"),
        (
            ["x", "empty"],
            "directory empty: /usr does not exist, but such an image must have it; for what is no root file system "
            "there is --no-propagate-usr-to-root",
        ),
        (["x", "image:y"], "home/.var/lib/composefs"),
    ],
)
def test_trouble(call, tmp_path, arguments, message):
    """What cannot be compared exits with 2, since 1 means a difference."""
    root = tree_of(make_directory(tmp_path / "x"))
    (tmp_path / "x.dump").write_bytes(b"".join(format_dump(root)))
    (tmp_path / "x.cfs").write_bytes(write_image(root, 1))
    (tmp_path / "empty").mkdir()

    status, out, err = call(*arguments)

    assert (status, out) == (2, [])
    (line,) = err
    assert line.startswith("composefs diff: ")
    assert message in line


def test_what_is_not_in_the_repository(call, repository, tmp_path):
    make_directory(tmp_path / "x")

    for text in ("nothing", "0" * 64):
        assert call("x", text, repo=repository) == (
            2,
            [],
            [f"composefs diff: {text}: no such file or directory, and no image or tag in {repository}"],
        )
    assert call("x", "tag:nothing", repo=repository)[2] == [f"composefs diff: {repository}: no tag nothing"]
    assert call("x", "x", repo=tmp_path / "other")[0] == 2  # the repository that was asked for does not exist


def test_no_repository_is_opened_if_none_is_needed(call, tmp_path):
    make_directory(tmp_path / "x")

    assert call("dir:x", tmp_path / "x", repo=tmp_path / "other")[0] == 0


@pytest.mark.parametrize(
    "arguments", [["x"], ["x", "y", "z"], ["--limit", "-1", "x", "y"], ["--xattrs", "all", "x", "y"]]
)
def test_usage(call, arguments):
    status, out, err = call(*arguments)

    assert (status, out) == (2, [])
    assert err[0].startswith("usage: composefs")


def test_names_are_shown_without_what_a_terminal_obeys(call, tmp_path):
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y\x1b[0m", **{"a\nb": b""})

    out = call("x", "y\x1b[0m")[1]

    assert out[1] == "b: directory y\\x1b[0m"
    assert "+ /usr/bin/a\\x0ab (file)" in out


def test_lines_fit_a_narrow_terminal(call, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    make_directory(tmp_path / "x", large=noise(100))
    make_directory(tmp_path / "y", large=noise(100, 1), mtime=0)

    out = call("x", "y")[1]

    assert max(map(len, out)) <= 50


def test_as_a_process(tmp_path):
    """Also when the output is a closed pipe, nothing but the status is left of it."""
    make_directory(tmp_path / "x")
    make_directory(tmp_path / "y", **{f"f{number}": b"" for number in range(3000)})

    done = commands.run(tmp_path, "composefs", "diff", "--all", tmp_path / "x", tmp_path / "y")
    with commands.start(
        tmp_path,
        "composefs",
        "diff",
        "--all",
        tmp_path / "x",
        tmp_path / "y",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        stderr = process.stderr.read()

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n+ ") == 3000
    assert (process.returncode, stderr) == (2, b"")


def test_help_names_every_prefix():
    for kind in sources.Kind:
        assert f"{kind.value}:" in diff.HELP
