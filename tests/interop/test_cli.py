"""The `oci` commands beside those of composefs-rs: the same arguments give the same output and the same exit status."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from composefs import Algorithm, Repository
from composefs.cli import main
from tests.golden import vectors
from tests.tools import require_tool

CONFIGURATIONS = [(Algorithm.SHA256, 1), (Algorithm.SHA512, 1), (Algorithm.SHA512, 2)]
IMAGES = {"os": "four-layers", "boot": "boot-without-policy", "a/b:c%": "whiteouts", "x": "xattrs-kinds"}
ARTIFACT = vectors.ROOT / "artifacts/blobs/layout"
NONE = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def cfsctl():
    """Run `cfsctl` with arguments, and return its exit status and output."""
    program = require_tool("cfsctl")

    def run(*arguments, data=b""):
        done = subprocess.run([program, *map(str, arguments)], input=data, capture_output=True, check=False)
        return done.returncode, done.stdout

    assert run("--version") == (0, b"cfsctl 0.9.4\n")
    return run


@pytest.fixture(scope="session")
def layouts(tmp_path_factory):
    """The layouts of the images, by tag."""
    root = tmp_path_factory.mktemp("layouts")
    found = {tag: vectors.write_layout(name, root / name) for tag, name in IMAGES.items()}
    return found | {"art": ARTIFACT}


def make(cfsctl, layouts, path, algorithm, version):
    """Make a repository of composefs-rs with all images."""
    init = ["init", "--insecure", "--algorithm", algorithm.value, "--erofs-version", version, path]
    assert cfsctl(*init)[0] == 0
    for tag, layout in layouts.items():
        bootable = ["--bootable"] if tag == "boot" else []
        assert cfsctl("--repo", path, "oci", "pull", f"oci:{layout}", tag, *bootable)[0] == 0
    return path


@pytest.fixture(scope="session", params=CONFIGURATIONS, ids=lambda param: f"{param[0].hash_name}-V{param[1]}")
def theirs(request, cfsctl, layouts, tmp_path_factory):
    """A repository of composefs-rs, of each kind, to be read only."""
    return make(cfsctl, layouts, tmp_path_factory.mktemp("theirs") / "repository", *request.param)


@pytest.fixture(scope="session")
def scratch(cfsctl, layouts, tmp_path_factory):
    """A repository of composefs-rs, for what should change no name in it."""
    return make(cfsctl, layouts, tmp_path_factory.mktemp("scratch") / "repository", Algorithm.SHA512, 1)


@pytest.fixture
def both(cfsctl, capfdbinary):
    """Run both programs with the same arguments; return status and output of each."""

    def run(*arguments, data=b""):
        return cfsctl(*arguments, data=data), ours(capfdbinary, *arguments)

    return run


def ours(capfdbinary, *arguments):
    capfdbinary.readouterr()
    status = main(list(map(str, arguments)))
    out, err = capfdbinary.readouterr()
    assert b"Traceback" not in err
    if status:
        assert err
    return status, out


def digests(repository, tag):
    """Return the digests of manifest, config and layers of an image."""
    with Repository.open(repository) as opened:
        manifest = opened.streams.ref("oci/" + tag.replace("%", "%25").replace("/", "%2F")).removeprefix(
            "oci-manifest-"
        )
        with opened.streams.open(f"oci-manifest-{manifest}") as stream:
            value = json.loads(stream.read_body())
            layers = [name for name in stream.reader.named_refs if name.startswith("sha256:")]
    return manifest, value["config"]["digest"], layers


def words(arguments, repository):
    """Return *arguments* with MANIFEST, CONFIG, LAYER and IMAGE replaced by those of the image `os`."""
    manifest, config, layers = digests(repository, "os")
    with Repository.open(repository) as opened, opened.streams.open(f"oci-config-{config}") as stream:
        refs = stream.reader.named_refs
        verity = stream.digest.hex
    image = next(digest.hex for name, digest in refs.items() if name.startswith("composefs.image"))
    known = {"MANIFEST": manifest, "CONFIG": config, "LAYER": layers[0], "IMAGE": image, "VERITY": verity}
    known["BLOB"] = digests(repository, "art")[2][0]
    return [
        re.sub("MANIFEST|CONFIG|LAYER|IMAGE|VERITY|BLOB", lambda match: known[match.group()], word)
        for word in arguments
    ]


READING = [
    "inspect os",
    "inspect boot",
    "inspect art",
    "inspect a/b:c%",
    "inspect os --manifest",
    "inspect os --config",
    "inspect art --config",
    "inspect @MANIFEST",
    "layer LAYER",
    "layer LAYER --json",
    "layer LAYER --dumpfile",
    "dump os",
    "dump a/b:c%",
    "dump x",
    "dump x --xattrs keep-user-xattrs",
    "dump boot --bootable",
    "dump @CONFIG",
    "dump @CONFIG VERITY",
    "compute-id os",
    "compute-id boot --bootable",
    "compute-id x --xattrs keep-user-xattrs",
    "compute-id @CONFIG",
    "compute-id @CONFIG VERITY",
    "linked-erofs-images IMAGE",
]


@pytest.mark.parametrize("command", READING)
def test_reading(both, theirs, command):
    """What is read of their repository is what they read of it, byte for byte."""
    arguments = words(command.split(), theirs)

    their_result, our_result = both("--repo", theirs, "oci", *arguments)

    assert our_result == their_result
    assert our_result[0] == 0
    assert our_result[1]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("command", ["compute-id os", "compute-id boot --bootable", "inspect os", "inspect boot"])
def test_other_version(both, theirs, version, command):
    """--erofs-version says which images are meant."""
    their_result, our_result = both("--repo", theirs, "--erofs-version", version, "oci", *command.split())

    assert our_result == their_result
    assert our_result[0] == 0


def test_every_layer(both, theirs):
    """Facts and entries of every layer of every image are the same."""
    count = 0
    for tag in IMAGES:
        for layer in digests(theirs, tag)[2]:
            for form in ([], ["--json"], ["--dumpfile"]):
                their_result, our_result = both("--repo", theirs, "oci", "layer", layer, *form)
                assert our_result == their_result
                count += 1
    assert count == 24


def test_linked_images(both, theirs):
    """The list is the same from whichever image it is asked for, in any case of letters."""
    with Repository.open(theirs) as opened:
        names = sorted(path.name for path in (theirs / "images").iterdir() if len(path.name) > 60)
    assert opened.algorithm.digest_size * 2 == len(names[0])
    for name in [*names, names[0].upper()]:
        their_result, our_result = both("--repo", theirs, "oci", "linked-erofs-images", name)
        assert our_result[0] == their_result[0] == 0
        key = lambda image: image["id"]  # noqa: E731  # theirs is the order of a hash map
        assert sorted(json.loads(our_result[1]), key=key) == sorted(json.loads(their_result[1]), key=key)


def test_images(both, theirs):
    """The list of images has the same facts; ours is sorted."""
    their_result, our_result = both("--repo", theirs, "oci", "images", "--json")

    their_list, our_list = (json.loads(result[1])["images"] for result in (their_result, our_result))
    assert our_list == sorted(their_list, key=lambda image: image["name"].replace("/", "%2F"))
    assert len(our_list) == 5


WRONG = [
    "inspect none",
    "inspect sha256:00",
    f"inspect {NONE}",
    f"inspect @{NONE}",
    "inspect @sha256:00",
    "inspect os --manifest --config",
    "inspect",
    "tag MANIFEST",
    "tag @sha256:00 new",
    "untag none",
    "untag @none",
    "untag",
    "layer sha256:00",
    f"layer {NONE}",
    f"layer {NONE} --json",
    f"layer {NONE} --dumpfile",
    "layer LAYER --json --dumpfile",
    "layer BLOB",
    "layer BLOB --json",
    "layer BLOB --dumpfile",
    "layer",
    "dump none",
    "dump art",
    f"dump @{NONE}",
    "dump os --bootable",
    "dump os --xattrs some",
    "dump os zz",
    "dump @CONFIG 00",
    "dump",
    "compute-id none",
    "compute-id art",
    f"compute-id @{NONE}",
    "compute-id os --bootable",
    "compute-id os --xattrs some",
    "compute-id @CONFIG 00",
    "import-layer",
    "import-layer sha256:00",
    f"import-layer {NONE}0",
    "copy os",
    "copy none --from REPO --name new",
    "copy os --from /nowhere --name new",
    "copy sha256:00 --from REPO --name new",
    f"copy @{NONE} --from REPO --name new",
    "linked-erofs-images zz",
    "linked-erofs-images 00",
    "linked-erofs-images",
    "pull oci:/nowhere new",
    "pull /nowhere new",
    "pull oci:LAYOUT:none new",
    "pull oci:LAYOUT new --bootable",
    "pull oci:LAYOUT new --expected-digest 00",
    "pull oci:LAYOUT new --expected-digest 00 --bootable",
    "pull oci:LAYOUT new --local-fetch some",
    "pull",
    "frobnicate",
    "images --frobnicate",
]


@pytest.fixture
def fill_in(scratch, layouts):
    """Return the words of a command, what stands for something replaced."""
    places = {"REPO": str(scratch), "LAYOUT": str(layouts["os"])}

    def fill(command):
        known = words(command.split(), scratch)
        return [re.sub("REPO|LAYOUT", lambda match: places[match.group()], word) for word in known]

    return fill


@pytest.mark.parametrize("command", WRONG)
def test_wrong(both, scratch, fill_in, command):
    """What they refuse is refused with the same status, nothing is printed, and no name for it is made."""
    before = tags(scratch)

    their_result, our_result = both("--repo", scratch, "oci", *fill_in(command))

    assert our_result[0] == their_result[0]
    assert our_result[0] in (1, 2)
    assert our_result[1] == b""
    assert {name: text for name, text in tags(scratch).items() if "new" not in name} == before


@pytest.mark.parametrize(
    ("command", "their_status", "our_status"),
    [
        ("tag MANIFEST @new", 1, 2),
        (f"tag {NONE} new", 0, 1),  # theirs leads nowhere
        ("tag none new", 2, 1),  # ours may be a tag
        ("tag os new", 2, 0),
        ("tag sha256:00 new", 2, 1),
        ("inspect @CONFIG", 1, 0),
        ("inspect MANIFEST", 1, 0),
        ("compute-id @MANIFEST", 1, 0),
        ("dump MANIFEST", 1, 0),
        ("layer @LAYER --json", 2, 0),
        (f"layer sha512:{'0' * 128}", 1, 2),
        ("layer md5:0", 1, 2),
        ("import-layer LAYER ../x", 0, 2),  # theirs is made outside of refs/
        (f"import-layer {NONE}", 0, 1),  # theirs does not look at the digest
        ("pull LAYOUT new", 1, 0),
        ("pull oci:LAYOUT @new", 0, 2),  # theirs cannot be used
        ("copy @CONFIG --from REPO", 1, 0),
        ("copy os --from REPO --name @new", 1, 2),
    ],
)
def test_other_status(cfsctl, capfdbinary, scratch, fill_in, tmp_path, command, their_status, our_status):
    """Where the status is another one, it is known, and told in docs/compatibility.md."""
    repository = Path(shutil.copytree(scratch, tmp_path / "repository", symlinks=True))

    our_result = ours(capfdbinary, "--repo", repository, "oci", *fill_in(command))
    their_result = cfsctl("--repo", repository, "oci", *fill_in(command))

    assert (their_result[0], our_result[0]) == (their_status, our_status)


@pytest.mark.parametrize(
    "command", ["images", "inspect os", "tag MANIFEST new", "untag os", "layer LAYER", "dump os", "compute-id os",
                "copy os --from REPO", "linked-erofs-images IMAGE", "import-layer LAYER", "pull oci:LAYOUT new"]
)  # fmt: skip
def test_no_repository(both, fill_in, tmp_path, command):
    """Without a repository nothing works, and none is made."""
    assert both("--repo", tmp_path / "none", "oci", *fill_in(command)) == ((1, b""), (1, b""))
    assert not (tmp_path / "none").exists()


def names(repository):
    """Return the names in a repository, and what they stand for."""
    found = [path for part in ("streams", "images") for path in (repository / part).rglob("*") if path.is_symlink()]
    return {str(path.relative_to(repository)): str(path.readlink()) for path in found}


def tags(repository):
    return {name: text for name, text in names(repository).items() if "/refs/" in name}


@pytest.fixture
def pair(scratch, tmp_path):
    """Two copies of their repository: one to be changed by them, one by us."""
    return [Path(shutil.copytree(scratch, tmp_path / who, symlinks=True)) for who in ("them", "us")]


@pytest.mark.parametrize(
    "command",
    [
        "tag MANIFEST new",
        "tag MANIFEST a/b:c%",
        "tag MANIFEST docker://host/x/y:z",
        "untag os",
        "untag a/b:c%",
        "import-layer LAYER",
        "import-layer LAYER some/name",
    ],
)
def test_names(cfsctl, capfdbinary, pair, command):
    """Commands that only change names print the same and change the same."""
    arguments = words(command.split(), pair[0])
    before = names(pair[0])

    their_result = cfsctl("--repo", pair[0], "oci", *arguments)
    our_result = ours(capfdbinary, "--repo", pair[1], "oci", *arguments)

    assert our_result == their_result
    assert our_result[0] == 0
    assert names(pair[1]) == names(pair[0])
    if command != "import-layer LAYER":
        assert names(pair[0]) != before


@pytest.mark.parametrize("name", ["hard-links", "framing-empty-layers", "xattrs-sizes", "names-gnu-long"])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_import_layer(cfsctl, capfdbinary, tmp_path, monkeypatch, algorithm, name):
    """A layer that comes on standard input becomes the same stream, with the same objects."""
    for who in ("them", "us"):
        assert cfsctl("init", "--insecure", "--algorithm", algorithm.value, tmp_path / who)[0] == 0
    for number, archive in enumerate(vectors.layer_archives(name)):
        arguments = ["oci", "import-layer", "sha256:" + hashlib.sha256(archive).hexdigest(), f"layers/{number}"]
        (tmp_path / "layer.tar").write_bytes(archive)
        with (tmp_path / "layer.tar").open() as file:
            monkeypatch.setattr("sys.stdin", file)
            our_result = ours(capfdbinary, "--repo", tmp_path / "us", *arguments)
        assert our_result == cfsctl("--repo", tmp_path / "them", *arguments, data=archive)
        assert our_result[0] == 0

    assert vectors.listing(tmp_path / "us") == vectors.listing(tmp_path / "them")


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("options", [[], ["--bootable"]], ids=["plain", "bootable"])
def test_pull(cfsctl, capfdbinary, layouts, tmp_path, algorithm, options):
    """A pull prints the same, but for the stream of the manifest, which theirs names before it is replaced."""
    reference = f"oci:{layouts['boot']}"
    results = []
    for who in ("them", "us"):
        assert cfsctl("init", "--insecure", "--algorithm", algorithm.value, tmp_path / who)[0] == 0
    arguments = ["oci", "pull", reference, "a/b", *options]
    results.append(cfsctl("--repo", tmp_path / "them", *arguments))
    results.append(ours(capfdbinary, "--repo", tmp_path / "us", *arguments))

    assert results[0][0] == results[1][0] == 0
    their_lines, our_lines = (result[1].splitlines() for result in results)
    assert len(our_lines) == len(their_lines) == 5 + len(options)
    assert [line for line in our_lines if not line.startswith(b"verity")] == [
        line for line in their_lines if not line.startswith(b"verity")
    ]
    assert names(tmp_path / "us") == names(tmp_path / "them")
    (manifest,) = (tmp_path / "us/streams").glob("oci-manifest-*")
    assert our_lines[2].decode() == "verity   " + "".join(manifest.readlink().parts[-2:])


def test_pull_artifact(cfsctl, capfdbinary, layouts, tmp_path):
    """An artifact is tagged and told about; a boot image of it there is none, and the status says so."""
    for who in ("them", "us"):
        assert cfsctl("init", "--insecure", tmp_path / who)[0] == 0
    for options, status in ([], 0), (["--bootable"], 1):
        arguments = ["oci", "pull", f"oci:{layouts['art']}", "art", *options]
        theirs = cfsctl("--repo", tmp_path / "them", *arguments)
        us = ours(capfdbinary, "--repo", tmp_path / "us", *arguments)
        assert us[0] == theirs[0] == status
        assert us[1].splitlines()[:4] == theirs[1].splitlines()[:4]  # the counts of a blob that comes twice are chance
        assert len(us[1].splitlines()) == 5
    assert names(tmp_path / "us") == names(tmp_path / "them")


@pytest.mark.parametrize("version", [1, 2])
def test_expected_digest(cfsctl, capfdbinary, theirs, layouts, tmp_path, version):
    """The image for booting that has a digest is found, and what it is is said in the same words."""
    computed = cfsctl("--repo", theirs, "--erofs-version", version, "oci", "compute-id", "boot", "--bootable")
    expected = computed[1].decode().strip()
    with Repository.open(theirs) as opened:
        algorithm = opened.algorithm
    arguments = ["oci", "pull", f"oci:{layouts['boot']}", "new", "--bootable", "--expected-digest", expected]
    lines = []
    for who, run in ("them", cfsctl), ("us", lambda *words: ours(capfdbinary, *words)):
        assert cfsctl("init", "--insecure", "--algorithm", algorithm.value, tmp_path / who)[0] == 0
        status, out = run("--repo", tmp_path / who, *arguments)
        assert status == 0
        lines.append(out.splitlines()[-1].decode())

    assert lines[0] == lines[1]
    assert lines[1] == f"Boot image: {expected} (xattr-mode=allowlist-only, format-version=V{version})"
    assert names(tmp_path / "us") == names(tmp_path / "them")


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("named", [True, False], ids=["tagged", "untagged"])
@pytest.mark.parametrize("image", ["boot", "@MANIFEST"])
def test_copy(cfsctl, capfdbinary, theirs, tmp_path, algorithm, named, image):
    """A copy prints the same and makes the same; the order in a manifest of several layers is theirs by chance."""
    (image,) = words([image], theirs)
    arguments = ["oci", "copy", image, "--from", theirs, *(["--name", "new"] if named else [])]
    lines = []
    for who, run in ("them", cfsctl), ("us", lambda *words: ours(capfdbinary, *words)):
        assert cfsctl("init", "--insecure", "--algorithm", algorithm.value, tmp_path / who)[0] == 0
        status, out = run("--repo", tmp_path / who, *arguments)
        assert status == 0
        lines.append(out.decode().splitlines())

    chance = [] if image == "boot" else ["Manifest verity"]
    assert [line for line in lines[0] if line.split(":")[0] not in chance] == [
        line for line in lines[1] if line.split(":")[0] not in chance
    ]
    assert len(lines[1]) == 5
    kinds = ("oci-layer-", "oci-config-", "refs/", "images/")
    theirs_named, ours_named = (
        {name: text for name, text in names(tmp_path / who).items() if any(kind in name for kind in kinds)}
        for who in ("them", "us")
    )
    assert ours_named == theirs_named


def test_in_turn(cfsctl, capfdbinary, layouts, tmp_path):
    """One repository, each command by the other tool; their check finds nothing at any step."""
    path = tmp_path / "repository"
    run = lambda *words: ours(capfdbinary, "--repo", path, *words)  # noqa: E731
    them = lambda *words: cfsctl("--repo", path, *words)  # noqa: E731
    assert cfsctl("init", "--insecure", path)[0] == 0
    manifest = json.loads((layouts["os"] / "index.json").read_text())["manifests"][0]["digest"]
    for tool, command in [
        (run, f"oci pull oci:{layouts['os']} one"),
        (them, f"oci tag {manifest} two"),
        (run, "oci untag one"),
        (them, "gc"),
        (them, f"oci pull oci:{layouts['os']} three"),
        (run, f"oci pull oci:{layouts['boot']} boot --bootable"),
        (run, f"oci copy two --from {path} --name four"),
        (them, "oci untag two"),
        (run, "oci tag four five"),
        (them, "gc"),
    ]:
        assert tool(*command.split())[0] == 0, command
        for check in ("fsck", "oci fsck"):
            assert json.loads(them(*check.split(), "--json")[1])["ok"], command
    listed = json.loads(run("oci", "images", "--json")[1])["images"]
    assert [image["name"] for image in listed] == ["boot", "five", "four", "three"]
    assert run("oci", "compute-id", "five") == them("oci", "compute-id", "four")
