"""What a shell is offered when somebody types Tab."""

import pytest

import composefs
from composefs.cli import completer, main, registry
from composefs.mountinfo import read_mounts
from tests import commands
from tests.layouts import files_layer, image_layout, noise


def candidates(directory, line, name="composefs"):
    """Return what the command offers at the end of *line*, as the script of a shell asks for it."""
    environment = {
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(directory / "candidates"),
    }
    (directory / "candidates").touch()
    result = commands.run(directory, name, env=environment, cwd=directory)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return [each.strip() for each in (directory / "candidates").read_text().split("\n")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with a repository that holds an image called os."""
    directory = tmp_path_factory.mktemp("completion")
    image_layout(directory / "layout", [files_layer({"usr/": b"", "usr/a": noise(100)})])
    composefs.Repository.init(directory / "repository", require_verity=False)
    with composefs.Repository.open(directory / "repository") as repository:
        composefs.import_image(repository, f"oci:{directory}/layout", name="os", workers=1)
        digest = repository.images.store(b"image")
        repository.images.link(digest)
        repository.images.set_ref("base", digest)
    return directory


@pytest.mark.parametrize(
    ("line", "known"), [("composefs ", registry.COMMANDS), ("composefs oci ", registry.OCI_COMMANDS)]
)
def test_commands(line, known, directory):
    """All commands are offered."""
    assert {command.name for command in known} <= set(candidates(directory, line))


def test_options_of_a_command(directory):
    """Options of the chosen command are offered, and values of those that have choices."""
    assert "--reset-metadata" in candidates(directory, "composefs init --re")
    assert candidates(directory, "composefs init --algorithm fsverity-sha2") == ["fsverity-sha256-12"]
    assert "--workers" in candidates(directory, "composefs-import --", name="composefs-import")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("composefs --repo repository cat refs/", ["refs/oci/os"]),
        ("composefs --repo repository oci untag ", ["os"]),
        ("composefs --repo repository ls ba", ["base"]),
        ("composefs --repo repository mount ba", ["base"]),
        ("composefs --repo repository mount os lay", ["layout/"]),
        ("composefs --repo repository oci mount o", ["os"]),
        ("composefs mount.composefs lay", ["layout/"]),
        ("composefs --repo repository ls o", ["os"]),
        ("composefs --repo repository oci tag o", ["os"]),
        ("composefs --repo repository diff ba", ["base"]),
        ("composefs --repo repository diff lay", ["layout/"]),
        ("composefs --repo repository info ls ba", []),
        ("composefs --repo nowhere oci untag ", []),
    ],
)
def test_names(line, wanted, directory):
    """Names are those of the repository that is chosen before; where there is none, nothing is offered."""
    assert [each for each in candidates(directory, line) if not each.startswith("-") and each] == wanted


def test_layers(directory):
    """Layers are offered by diff_id."""
    with composefs.Repository.open(directory / "repository") as repository:
        wanted = [name.removeprefix("oci-layer-") for name, _ in repository.streams.names() if "layer" in name]

    assert candidates(directory, "composefs --repo repository oci layer sha") == wanted


def test_files(directory):
    """Whatever else is an argument is a file."""
    assert "layout/" in candidates(directory, "composefs digest lay")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script(shell, capsys):
    """The script names both commands."""
    assert main(["completion", shell]) == 0

    out = capsys.readouterr().out
    assert "composefs-import" in out
    assert "_ARGCOMPLETE" in out


def test_mountpoints(directory, monkeypatch, tmp_path):
    """To unmount, places where an image is mounted are offered, and no others."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "66 43 0:40 / /mnt/os ro,relatime - overlay composefs:os ro\n"
        "67 43 0:41 / /home/me ro,relatime - fuse.composefs composefs:os ro\n"
    )
    monkeypatch.setattr("composefs.mount.table.read_mounts", lambda: read_mounts(str(tmp_path)))

    assert completer.mountpoints("") == ["/mnt/os", "/home/me"]
    assert completer.mountpoints("/m") == ["/mnt/os"]
    monkeypatch.setattr("composefs.mount.table.read_mounts", lambda: read_mounts(str(tmp_path / "missing")))
    assert completer.mountpoints("") == []
    assert [each for each in candidates(directory, "composefs umount lay") if each] == []
