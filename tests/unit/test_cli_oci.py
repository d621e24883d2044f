"""The `oci` commands as a user meets them: what they print and where, exit statuses, and what becomes of mistakes."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

import composefs
from composefs import Algorithm
from composefs.cli import main
from composefs.cli.registry import OCI_COMMANDS
from tests import commands, layouts
from tests.layouts import files_layer, image_layout, noise

WIDTH = 80
NONE = "sha256:" + "0" * 64
ARCHIVE = layouts.tar({"usr/": b"", "usr/file": noise(1000)})
BOOTABLE = {"usr/lib/a": noise(100), "boot/": b"", "sysroot/": b""}


@pytest.fixture
def layout(tmp_path):
    """A layout of one image of two layers, which may be booted."""
    return image_layout(tmp_path / "layout", [files_layer(BOOTABLE), files_layer({"usr/b": noise(200)}, "gzip")])


@pytest.fixture
def repository(tmp_path):
    """The path of an empty repository."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


@pytest.fixture
def image(repository, layout):
    """The result of importing the image as `os`."""
    with composefs.Repository.open(repository) as opened:
        return composefs.import_image(opened, str(layout), name="os", workers=1)


@pytest.fixture
def run(repository, capsys):
    """Run an `oci` command; return its status, its output, and the lines on standard error."""

    def run(*arguments, path=repository):
        status = main(["--repo", str(path), "oci", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def error(text):
    return [f"composefs: {text}"]


def usage(text):
    return [f"composefs: {text} (see composefs --help)"]


@pytest.mark.parametrize("command", [command.name for command in OCI_COMMANDS])
def test_help(command, capsys, monkeypatch):
    """The help of every command fits a terminal, says what it does, and ends in examples of it."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    status = main(["oci", command, "--help"])

    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: composefs oci {command} ")
    assert [line for line in out.splitlines() if len(line) > WIDTH] == []
    examples = out.partition("\nexamples:\n")[2]
    assert len(re.findall(rf"oci {command}\b", examples)) >= 1


def test_tag_and_untag(run, image):
    """A tag is given by digest or by another tag, and taken away."""
    assert run("tag", image.manifest, "a/b:c%") == (0, f"Tagged {image.manifest} as a/b:c%\n", [])
    assert run("tag", "a/b:c%", "new") == (0, f"Tagged {image.manifest} as new\n", [])
    assert run("tag", "@" + image.config, "more") == (0, f"Tagged {image.manifest} as more\n", [])
    assert run("untag", "a/b:c%") == (0, "Removed tag a/b:c%\n", [])
    assert [row.split()[0] for row in run("images")[1].splitlines()[1:]] == ["more", "new", "os"]


def test_tag_mistakes(run, image, repository):
    """A tag that would lead nowhere is not made, and one that is not there not removed."""
    assert run("tag", NONE, "new") == (1, "", error(f"{repository}: no manifest and no config {NONE}"))
    assert run("tag", "none", "new") == (1, "", error(f"{repository}: no tag none"))
    assert run("tag", image.manifest, "@new") == (2, "", usage("the name '@new' begins with @, which is for digests"))
    assert run("untag", "none") == (1, "", error(f"{repository}: no tag none"))
    assert os.listdir(repository / "streams/refs/oci") == ["os"]


def test_hostile_tags(run, image, repository):
    """What a name holds reaches the terminal as text."""
    name = "evil\n\x1b[2Jname"

    assert run("tag", image.manifest, name) == (0, f"Tagged {image.manifest} as evil\\n\\x1b[2Jname\n", [])
    assert "evil\\n\\x1b[2Jname" in run("images")[1]
    assert run("inspect", name + "x") == (1, "", error(f"{repository}: no tag evil\\n\\x1b[2Jnamex"))
    assert run("untag", name) == (0, "Removed tag evil\\n\\x1b[2Jname\n", [])


def test_names_that_are_no_text(tmp_path, image, repository):
    """A tag that is not UTF-8 works everywhere."""
    name, environment = os.fsdecode(b"\xff"), {"LC_ALL": "C.UTF-8"}
    for arguments in (["tag", image.manifest, name], ["inspect", name], ["dump", name], ["images"], ["untag", name]):
        done = commands.run(tmp_path, "composefs", "--repo", repository, "oci", *arguments, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(os.fsencode(repository / "streams/refs/oci")) == [b"os"]


def test_which_digest(run, image):
    """A digest of the kind that `cfsctl` does not take there is taken, and it is said for what."""
    config, manifest = f"@{image.config}", f"@{image.manifest}"
    is_config = [f"{image.config} is a config, of manifest {image.manifest}"]
    is_manifest = [f"{image.manifest} is a manifest, of config {image.config}"]

    assert run("inspect", config) == (0, run("inspect", "os")[1], is_config)
    assert run("inspect", manifest) == (0, run("inspect", "os")[1], [])
    for command in ("dump", "compute-id"):
        assert run(command, manifest) == (0, run(command, "os")[1], is_manifest)
        assert run(command, config) == (0, run(command, "os")[1], [])


def test_inspect(run, image, layout):
    """The parts are printed as they are stored, the whole as JSON."""
    manifest, config = (layout.blob_path(digest).read_text() for digest in (image.manifest, image.config))

    assert run("inspect", "os", "--manifest") == (0, manifest + "\n", [])
    assert run("inspect", "os", "--config") == (0, config + "\n", [])
    value = json.loads(run("inspect", "os")[1])
    assert (value["manifest"], value["config"]) == (manifest, config)
    assert (value["composefs_erofs"], value["composefs_boot_erofs"]) == (image.image.hex, None)


def test_referrers(run, image, repository):
    """What refers to an image is listed with it."""
    with composefs.Repository.open(repository) as opened:
        opened.streams.set_ref(f"oci-referrers/{image.manifest}/{NONE}", f"oci-manifest-{NONE}")

    assert json.loads(run("inspect", "os")[1])["referrers"] == [NONE]


def test_pull(run, layout, repository):
    """A pull prints the lines of `cfsctl`, and with --bootable one more."""
    plain = run("pull", layout, "os", "--progress", "none")
    bootable = run("pull", layout, "os", "--bootable", "--progress", "none")
    quiet = run("pull", layout, "os", "--bootable", "--local-fetch", "auto", "--quiet")

    words = ["manifest", "config", "verity", "tagged", "objects"]
    assert [line.split()[0] for line in plain[1].splitlines()] == words
    assert [line.split()[0] for line in bootable[1].splitlines()] == [*words, "Boot"]
    verity = bootable[1].splitlines()[2].split()[1]
    manifest = bootable[1].split()[1]
    assert (repository / f"streams/oci-manifest-{manifest}").readlink().parts[-2:] == (verity[:2], verity[2:])
    assert (plain[0], plain[2], bootable[0], quiet) == (0, [], 0, (0, "", []))


def test_pull_expected(run, layout, repository):
    """The image for booting that has an id is looked for; where there is none, nothing is tagged."""
    wanted = run("pull", layout, "first", "--bootable", "-q", "--json")
    boot = json.loads(wanted[1])["boot_image"]

    found = run("pull", layout, "second", "--bootable", "--expected-digest", boot, "--progress", "none")
    missing = run("pull", layout, "third", "--bootable", "--expected-digest", "0" * 64, "--progress", "none")

    assert found[1].splitlines()[-1] == f"Boot image: {boot} (xattr-mode=allowlist-only, format-version=V1)"
    assert (missing[0], missing[1], len(missing[2])) == (1, "", 1)
    assert sorted(os.listdir(repository / "streams/refs/oci")) == ["first", "second"]


def test_pull_mistakes(run, layout, tmp_path):
    """Options that do not go together are told; a repository is not made."""
    assert run("pull", layout, "--expected-digest", "0" * 64) == (2, "", usage("--expected-digest needs --bootable"))
    status, out, err = run("pull", layout, "--bootable", "--expected-digest", "00")
    assert (status, out) == (1, "")
    assert err[0].endswith("'00' is no sha256 digest in hexadecimal")
    status, out, err = run("pull", layout, path=tmp_path / "none")
    assert (status, out, err) == (1, "", error(f"no repository at {tmp_path}/none; `composefs init` makes one"))


def test_bootable_artifact(run, tmp_path):
    """Of an artifact no image for booting is made, which is no success."""
    layout = layouts.Layout(tmp_path / "artifact")
    layout.write(layout.artifact([layouts.layer(b"blob", media_type="text/plain")]))

    status, out, err = run("pull", layout, "art", "--bootable", "--progress", "none")

    assert (status, len(out.splitlines())) == (1, 5)
    assert err == error(f"{layout} is an artifact, of which no image for booting is made")


def test_other_version(layout, repository, capsys):
    """--erofs-version is the format of the images of this call, and nothing more."""
    for version in (2, 1):
        arguments = ["--repo", repository, "--erofs-version", version, "oci", "pull", layout, "os", "-q", "--json"]
        assert main(list(map(str, arguments))) == 0
        (image,) = json.loads(capsys.readouterr().out)["images"]
        assert image["version"] == version
        assert main(["--repo", str(repository), "--erofs-version", str(version), "oci", "compute-id", "os"]) == 0
        assert capsys.readouterr().out.strip() == image["id"]


def test_layer(run, image, repository):
    """Facts and entries of a layer, and what is no layer."""
    diff_id = image.layers[1].diff_id
    facts = json.loads(run("layer", diff_id, "--json")[1])
    lines = run("layer", diff_id, "--dumpfile")[1].splitlines()

    assert facts["diffId"] == diff_id
    assert (facts["entryCount"], facts["splitstream"]["externalSize"]) == (2, 200)
    assert [line.split()[:2] for line in lines] == [["/usr", "0"], ["/usr/b", "200"]]
    for form in ([], ["--json"], ["--dumpfile"]):
        assert run("layer", NONE, *form) == (1, "", error(f"{repository}: no layer {NONE}"))


def test_layer_on_a_terminal(image, repository, tmp_path):
    """Facts and entries are for a terminal; the archive is not."""
    for form, status in ([], 2), (["--json"], 0), (["--dumpfile"], 0):
        ours, theirs = pty.openpty()
        arguments = ["--repo", repository, "oci", "layer", image.layers[0].diff_id, *form]
        done = commands.run(tmp_path, "composefs", *arguments, stdout=theirs)
        os.close(theirs)
        os.close(ours)
        assert done.returncode == status


def test_dump_and_compute_id(run, image, layout):
    """The dump makes the image whose id is computed, which is the one that was made."""
    status, out, err = run("compute-id", "os")
    lines = run("dump", "os")[1].splitlines()

    assert (status, out.strip(), err) == (0, image.image.hex, [])
    assert [line.split()[0] for line in lines] == ["/", "/boot", "/sysroot", "/usr", "/usr/b", "/usr/lib", "/usr/lib/a"]
    boot = json.loads(run("pull", layout, "os", "--bootable", "-q", "--json")[1])["boot_image"]
    assert run("compute-id", "os", "--bootable") == (0, boot + "\n", [])


def test_config_verity(run, image, repository):
    """The id of the config's stream proves it; another one is refused, or none at all."""
    verity = "".join((repository / f"streams/oci-config-{image.config}").readlink().parts[-2:])

    assert run("compute-id", "@" + image.config, verity) == (0, image.image.hex + "\n", [])
    status, _, err = run("compute-id", "@" + image.config, "0" * 64)
    assert (status, f"wanted {'0' * 64}, got {verity}" in err[0]) == (1, True)
    assert run("compute-id", "os", "zz") == (1, "", error(f"{repository}: 'zz' is no sha256 digest in hexadecimal"))


def test_linked_images(run, layout, repository):
    """All images of an OCI image are listed from any of them; an id may be of none, or no id."""
    result = json.loads(run("pull", layout, "os", "--bootable", "-q", "--json")[1])
    run("untag", "os")

    for image in (result["image"], result["boot_image"].upper()):
        assert json.loads(run("linked-erofs-images", image)[1]) == result["images"]
    assert run("linked-erofs-images", "0" * 64) == (1, "", error(f"{repository}: image not found: {'0' * 64}"))
    assert run("linked-erofs-images", "zz")[0] == 1


def import_layer(tmp_path, repository, *arguments, data=None, **options):
    """Run `oci import-layer` with *data* on standard input."""
    words = ["--repo", repository, "oci", "import-layer", *arguments]
    if data is None:
        return commands.run(tmp_path, "composefs", *words, **options)
    (tmp_path / "input").write_bytes(data)
    with (tmp_path / "input").open("rb") as file:
        return commands.run(tmp_path, "composefs", *words, stdin=file, **options)


def test_import_layer(tmp_path, repository):
    """The archive comes on standard input, and becomes a stream."""
    diff_id = layouts.sha256(ARCHIVE)

    first = import_layer(tmp_path, repository, diff_id, data=ARCHIVE)
    named = import_layer(tmp_path, repository, diff_id, "some/name", "--json", data=None)

    verity = "".join((repository / f"streams/oci-layer-{diff_id}").readlink().parts[-2:])
    assert (first.returncode, first.stdout, first.stderr) == (0, f"sha256:{verity}\n", "")
    assert json.loads(named.stdout)["status"] == "present"
    assert (repository / "streams/refs/some/name").readlink().name == f"oci-layer-{diff_id}"


def test_import_layer_mistakes(tmp_path, repository):
    """An archive that is another one, or none, is refused; names and digests are looked at before it is read."""
    diff_id = layouts.sha256(ARCHIVE)
    for arguments, data, status, message in [
        (
            [NONE],
            ARCHIVE,
            1,
            f"layer {NONE}, diff_id: wanted {NONE}, got {diff_id}; the image or the repository is dam",
        ),
        ([diff_id], ARCHIVE[:700], 1, f"layer {diff_id}, entry usr/file, offset 700: archive ends inside "),
        (["sha256:00"], ARCHIVE, 2, "'sha256:00' is no digest; wanted sha256: and 64 digits of 0-9a-f"),
        ([diff_id, "../x"], ARCHIVE, 2, "'../x' is no name for a reference"),
    ]:
        done = import_layer(tmp_path, repository, *arguments, data=data)
        assert (done.returncode, done.stdout) == (status, "")
        assert len(done.stderr.splitlines()) == 1
        if "archive ends" not in message:
            assert done.stderr.startswith(f"composefs: {message}")
    assert not (repository / "streams").exists()


def test_import_layer_from_a_terminal(tmp_path, repository):
    """Nobody types an archive; but a layer that is there can be named from a terminal, and without standard input."""
    diff_id = layouts.sha256(ARCHIVE)
    ours, theirs = pty.openpty()
    refused = import_layer(tmp_path, repository, diff_id, stdin=theirs)
    closed = import_layer(tmp_path, repository, diff_id, wrapper=["sh", "-c", 'exec "$@" <&-', "sh"])
    import_layer(tmp_path, repository, diff_id, data=ARCHIVE)
    named = import_layer(tmp_path, repository, diff_id, "name", stdin=theirs)
    os.close(theirs)
    os.close(ours)

    what = "the archive comes on standard input: redirect it from a file or a pipe"
    for done in (refused, closed):
        assert (done.returncode, done.stderr.splitlines()) == (2, usage(what))
    assert named.returncode == 0


def test_copy(run, image, tmp_path, repository):
    """A copy prints the lines of `cfsctl`; without a name it has no tag."""
    composefs.Repository.init(tmp_path / "target", Algorithm.SHA512, require_verity=False)

    status, out, err = run("copy", "os", "--from", repository, "--name", "a/b", path=tmp_path / "target")
    nameless = run("copy", f"@{image.config}", "--from", repository, path=tmp_path / "target")

    lines = out.splitlines()
    assert (status, err) == (0, [])
    assert lines[0] == f"Copied image os from {repository} to destination repo, tagged as a/b"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "Manifest digest", "Manifest verity", "Config digest", "Config verity",
    ]  # fmt: skip
    assert lines[1] == f"Manifest digest: {image.manifest}"
    assert nameless[1].splitlines()[0] == f"Copied image @{image.config} from {repository} to destination repo"
    assert nameless[2] == [f"{image.config} is a config, of manifest {image.manifest}"]
    assert os.listdir(tmp_path / "target/streams/refs/oci") == ["a%2Fb"]


def test_copy_mistakes(run, image, tmp_path, repository):
    """Each of the two repositories, and what is between them, is named."""
    composefs.Repository.init(tmp_path / "target", Algorithm.SHA512, require_verity=False)
    target = tmp_path / "target"
    missing = f"no repository at {tmp_path}/none; `composefs init` makes one"
    sharing = "has the algorithm fsverity-sha512-12: it can share no objects named by fsverity-sha256-12"

    assert run("copy", "os", "--from", tmp_path / "none", path=target) == (1, "", error(missing))
    assert run("copy", "os", "--from", repository, path=tmp_path / "none") == (1, "", error(missing))
    assert run("copy", "none", "--from", repository, path=target) == (1, "", error(f"{repository}: no tag none"))
    assert run("copy", "os", "--from", repository, "--zerocopy", path=target) == (1, "", error(f"{target}: {sharing}"))
    assert not (target / "streams").exists()


@pytest.mark.parametrize(
    "arguments", [["tag", "os", "new"], ["untag", "os"], ["copy", "os", "--from", "REPO"], ["pull", "LAYOUT", "new"]]
)
def test_read_only(run, image, layout, repository, monkeypatch, arguments):
    """A repository that cannot be written is named, with the owner."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    arguments = [{"REPO": repository, "LAYOUT": layout}.get(word, word) for word in arguments]

    status, out, err = run(*arguments)

    assert (status, out) == (1, "")
    assert err == error(f"{repository}: is not writable: it belongs to uid {os.getuid()}, this is uid {os.geteuid()}")


@pytest.mark.parametrize("arguments", [["dump", "os"], ["layer", "LAYER", "--dumpfile"], ["inspect", "os"]])
@pytest.mark.parametrize("output", ["closed-pipe", "full-device"])
def test_nobody_reads(tmp_path, repository, arguments, output):
    """Output that cannot be written gives status 1 without a traceback: silently, if the reader has gone."""
    layer = files_layer({f"usr/{number}": noise(100, number) for number in range(1000)})
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(image_layout(tmp_path / "large", [layer])), name="os", workers=1)
    arguments = [layer.diff_id if word == "LAYER" else word for word in arguments]
    if output == "closed-pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)

    done = commands.run(tmp_path, "composefs", "--repo", repository, "oci", *arguments, stdout=writer)
    os.close(writer)

    assert done.returncode == 1
    assert ("No space left on device" in done.stderr) == (output == "full-device")
    assert "Traceback" not in done.stderr


def test_reader_that_leaves(tmp_path, repository):
    """`dump | head -1` ends silently."""
    layer = files_layer({f"usr/{number}": noise(100, number) for number in range(5000)})
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(image_layout(tmp_path / "large", [layer])), name="os", workers=1)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    with commands.start(tmp_path, "composefs", "--repo", repository, "oci", "dump", "os", **streams) as process:
        head = subprocess.run(["head", "-1"], stdin=process.stdout, capture_output=True, check=True)
        process.stdout.close()
        err = process.stderr.read()

    assert head.stdout.startswith(b"/ 0 40755 ")
    assert (process.returncode, err) == (1, b"")


def test_interrupted_import_layer(tmp_path, repository):
    """Ctrl-C while the archive comes in: one line, and no stream."""
    arguments = ["--repo", repository, "oci", "import-layer", NONE]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with commands.start(tmp_path, "composefs", *arguments, **streams) as process:
        process.stdin.write(ARCHIVE[:1024])
        process.stdin.flush()
        assert commands.wait_until(lambda: os.path.exists(f"/proc/{process.pid}/fd/3"))
        assert commands.wait_until(lambda: _reads_from_pipe(process.pid))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=commands.TIMEOUT)

    assert process.returncode == 1
    assert err.decode().splitlines() == error("interrupted; what was stored is kept for the next run")
    assert not (repository / "streams").exists()


def _reads_from_pipe(pid):
    with open(f"/proc/{pid}/wchan") as file:
        return "pipe" in file.read()


def test_interrupted_copy(tmp_path, repository):
    """Ctrl-C while layers are copied: one line, no names, and no process stays."""
    slow = [layouts.slow_layer(number, 60) for number in range(2)]
    composefs.Repository.init(tmp_path / "target", Algorithm.SHA512, require_verity=False)
    with composefs.Repository.open(repository) as opened:
        layout = image_layout(tmp_path / "slow", [files_layer({}), *slow])
        composefs.import_image(opened, str(layout), name="os", workers=1)
    arguments = ["--repo", tmp_path / "target", "oci", "copy", "os", "--from", repository, "--workers", "2"]
    with commands.start(tmp_path, "composefs", *arguments, stderr=subprocess.PIPE) as process:
        assert commands.wait_until(lambda: len(commands.session_members(process.pid)) >= 4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=commands.TIMEOUT)

    assert process.returncode == 1
    assert err.decode().splitlines() == error("interrupted; what was stored is kept for the next run")
    assert not (tmp_path / "target/streams").exists()
    assert commands.wait_until(lambda: not commands.session_members(process.pid))


@pytest.mark.parametrize("command", [["import", "LAYOUT", "--name", "os"], ["oci", "pull", "LAYOUT", "os"]])
def test_expectations(layout, repository, capsys, command):
    """What a repository must be is asked of it before an image is imported."""
    words = [str(layout) if word == "LAYOUT" else word for word in command]
    for option, status, message in [
        (["--hash", "sha512"], 1, "has the algorithm fsverity-sha256-12, but --hash sha512 was given"),
        (["--require-verity"], 1, "was made without fs-verity"),
        (["--no-repo"], 2, "--no-repo is only for commands that compute: compute-id, compute-karg, create-dumpfile"),
    ]:
        assert main(["--repo", str(repository), *option, *words]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
    assert not (repository / "streams").exists()


def test_import_makes_what_is_expected(layout, tmp_path, capsys):
    """A repository that `import` makes is of the algorithm that --hash asks for."""
    arguments = ["--repo", str(tmp_path / "new"), "--hash", "sha256", "import", str(layout), "--quiet", "--json"]

    assert main(arguments) == 0
    assert len(json.loads(capsys.readouterr().out)["image"]) == 64


def test_import_prints_the_images(layout, repository, capsys):
    """`import` prints the ids of the images, too."""
    assert main(["--repo", str(repository), "import", str(layout), "--bootable", "--progress", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines] == ["manifest", "config", "verity", "tagged", "objects", "image", "Boot"]
    assert re.fullmatch(r"image    [0-9a-f]{64}", lines[5])
    assert re.fullmatch(r"Boot image: [0-9a-f]{64}", lines[6])
