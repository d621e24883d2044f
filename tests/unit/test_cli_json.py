"""docs/json.md describes what commands print: every key, of the type that is told, and no other."""

import errno
import io
import json
import os
import re
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm
from composefs.cli import main, main_import
from composefs.repository.gc import collect_garbage
from composefs.splitstream import ContentType
from tests import damage, layouts
from tests.layouts import files_layer, image_layout, noise
from tests.registries import answers

PAGE = Path(__file__).parents[2] / "docs/json.md"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
NONE = "sha256:" + "0" * 64
ARCHIVE = layouts.tar({"usr/": b""})


def sections():
    """Return the rows of the table of each section: cells of keys and types, by heading."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        rows = [
            [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            for line in text.splitlines()
            if line.startswith("| `")
        ]
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", heading), rows)
    return found


SECTIONS = sections()


def leaves(value, path=""):
    """Yield path and type of each value that holds no others."""
    if isinstance(value, dict) and not path.endswith(("xattrs", "annotations")):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, "object" if isinstance(value, dict) else TYPES[type(value)]


def check(documented, value):
    """Compare *value* with the documented keys and types: {key: text of the column}."""
    found = {}
    for path, kind in leaves(value):
        found.setdefault(path, set()).add(kind)
    assert found.keys() <= documented.keys(), "not documented"
    for path, kinds in found.items():
        told = set(re.split(r", | or ", documented[path])) - {"optional"}
        assert kinds <= told, path
    needed = {path for path, text in documented.items() if "optional" not in text}
    assert needed <= found.keys(), "documented, but not there"


@pytest.fixture
def place(tmp_path, server):
    """A directory with layouts, and a repository that has images of every kind."""
    first = files_layer({"usr/lib/a": noise(100), "boot/": b"", "sysroot/": b"", "usr/small": b"x"})
    second = files_layer({"usr/b": noise(200), "usr/lib/a": noise(100, 2)}, "gzip")
    image_layout(tmp_path / "layout", [first, second])
    image_layout(tmp_path / "other", [first])
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        composefs.import_image(repository, f"oci:{tmp_path / 'other'}", name="other", workers=1)
        result = composefs.import_image(repository, f"oci:{tmp_path / 'layout'}", name="os", bootable=True, workers=1)
        repository.streams.link("gone", repository.streams.store(repository.streams.writer(ContentType.LAYER)))
        collect_garbage(repository, trash_days=1)
        repository.streams.set_ref(f"oci-referrers/{result.manifest}/{NONE}", f"oci-manifest-{NONE}")
        repository.images.set_ref("ref", result.image)
    composefs.Repository.init(tmp_path / "target", Algorithm.SHA512, require_verity=False)
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "usr/file").write_bytes(noise(100))
    (root / "usr/link").symlink_to("file")
    for name in ("boot", "sysroot"):
        (root / name).mkdir()
    digest = server.contents.put_layout(tmp_path / "layout", "os", "1")
    signature = {"mediaType": layouts.MANIFEST, "digest": NONE, "size": 1, "artifactType": "application/x"}
    server.contents.referrers = {digest: [signature, signature | {"artifactType": None}]}
    return {
        "DIR": tmp_path,
        "REGISTRY": server.address,
        "MANIFEST": result.manifest,
        "LAYER": result.layers[0].diff_id,
        "IMAGE": result.image.hex,
        "ARCHIVE": layouts.sha256(ARCHIVE),
    }


COMMANDS = {
    "composefs oci pull": "oci pull oci:DIR/layout os --bootable --progress none --json",
    "composefs import": "import oci:DIR/layout --name os --bootable --progress none --json",
    "composefs-import": "oci:DIR/layout --name os --progress none --json",
    "composefs oci plan": "oci plan oci:DIR/layout --json",
    "composefs oci images": "oci images --json",
    "composefs oci referrers": "oci referrers docker://REGISTRY/os:1 --tls-verify=false --json",
    "composefs oci inspect": "oci inspect os",
    "composefs oci tag": "oci tag MANIFEST new --json",
    "composefs oci layer": "oci layer LAYER --json",
    "composefs oci compute-id": "oci compute-id os --json",
    "composefs oci import-layer": "oci import-layer ARCHIVE name --json",
    "composefs oci export": "oci export os oci:DIR/exported --progress none --json",
    "composefs oci push": "oci push os oci-archive:DIR/exported.tar --progress none --json",
    "composefs oci copy": "oci copy os --from DIR/repository --json",
    "composefs oci linked-erofs-images": "oci linked-erofs-images IMAGE",
    "composefs fsck": "fsck --json",
    "composefs oci fsck": "oci fsck --json",
    "composefs gc": "gc --trash 1 --json",
    "composefs gc --undo": "gc --undo --json",
    "composefs gc --explain": "gc --explain oci-layer-LAYER --json",
    "composefs images": "images --json",
    "composefs mount": "mount --json",
    "composefs probe-image": "probe-image --cmdline composefs=?IMAGE --json",
    "composefs image-objects": "image-objects ref --json",
    "composefs create-image": "create-image DIR/root --json",
    "composefs compute-id": "compute-id DIR/root --json",
    "composefs compute-karg": "compute-karg DIR/root --json",
    "composefs ls": "ls -R ref --json",
    "composefs extract": "extract ref DIR/extracted --json",
    "composefs diff": "diff tag:os dir:DIR/root --json",
    "composefs bench": "bench DIR --quick --json",
    "composefs doctor": "doctor --json",
}
DIFFERENT = {"composefs diff", "composefs fsck", "composefs oci fsck"}  # commands whose exit status 1 is no failure
DEPENDS_ON_HOST = {"composefs doctor"}  # commands whose exit status 1 says that images cannot be mounted here
ABSENT = {  # elements of arrays that the command of this test has none of
    "composefs mount": [f"mounts[].{key}" for key in ("mountpoint", "image", "fuse", "read_only", "verity")],
    "composefs create-image": ["others[].id", "others[].algorithm", "others[].erofs_version"],
    "composefs gc": ["strays[]", "expired[]", "from_future[]"],
    "composefs gc --undo": ["names_taken[]", "names_lost[]"],
    "composefs gc --explain": ["held_by[]"],
    "composefs fsck": ["findings[].hurts[]", "findings[].files[]"],
    "composefs oci fsck": [
        "errors[]",
        *(f"findings[].{key}" for key in ("kind", "name", "detail", "digest", "wanted", "got")),
        "repo.findings[].hurts[]",
        "repo.findings[].files[]",
    ],
}


def test_every_command_is_documented():
    """There is a section for each command that has the option, and none for others."""
    assert SECTIONS.keys() == COMMANDS.keys() | {"--progress json"}
    sources = Path(main.__code__.co_filename).parent.glob("*.py")
    with_option = {source.stem for source in sources if '"--json"' in source.read_text()}
    shared = {"importing": 3, "diff": 1, "checking": 2, "gc": 3, "oci_export": 2}
    count = sum(shared.get(name, 1) for name in with_option)
    assert count == len(COMMANDS.keys() - {"composefs oci inspect", "composefs oci linked-erofs-images"})


def refuse(*_, **__):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("command", COMMANDS)
def test_keys(place, command, capsys, monkeypatch):
    """What a command prints has the documented keys."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ARCHIVE)))
    if command == "composefs extract":
        monkeypatch.setattr(os, "chown", refuse)
    if command.startswith("composefs gc"):  # which does not go on where a reference leads nowhere
        (place["DIR"] / f"repository/streams/refs/oci-referrers/{place['MANIFEST']}/{NONE}").unlink()
    names = "|".join(place)
    words = [re.sub(names, lambda match: str(place[match.group()]), word) for word in COMMANDS[command].split()]
    repository = ["--repo", str(place["DIR"] / "repository")]

    status = main_import([*words, *repository]) if command == "composefs-import" else main([*repository, *words])

    assert status == (1 if command in DIFFERENT else 0) or command in DEPENDS_ON_HOST
    documented = {key: text for key, text, *_ in SECTIONS[command]}
    for key in ABSENT.get(command, []):
        documented[key] += ", optional"
    check(documented, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("command", ["composefs fsck", "composefs oci fsck"])
def test_keys_of_what_is_done_about_damage(original, tmp_path, capsys, command):
    """So has what a check prints that mends, and sets aside."""
    broken = original.copy(tmp_path / "broken")
    for name in ("flipped", "removed", "stray-object", "ref-to-object"):
        damage.DAMAGES[name].do(broken)
    lacks = original.copy(tmp_path / "lacks")
    damage.DAMAGES["flipped"].do(lacks)

    main(["--repo", str(broken.path), *command.split()[1:], "--repair-from", str(lacks.path), "--quarantine", "--json"])

    documented = {key: text for key, text, *_ in SECTIONS[command]}
    of_both = {"repair", "quarantine", "after", "quarantine.failed[].path", "quarantine.failed[].why"}
    healed = {key for key in documented if key.partition(".")[0] in of_both} - of_both
    for key in healed | {"findings[].hurts[]", "findings[].files[]"}:
        documented[key] = documented.get(key, "string, optional").removesuffix(", optional")
    for key in documented:
        if key.partition(".")[0] == "repo" or (command == "composefs oci fsck" and "findings" in key):
            documented[key] += ", optional"
    check(documented, json.loads(capsys.readouterr().out))


def test_progress(place, server, tmp_path, capsys):
    """Every event that is told is documented, and every documented one is told."""
    documented = {}
    for event, key, text, *_ in SECTIONS["--progress json"]:
        documented.setdefault(event, {})
        if key:
            documented[event][key] = text
    options = ("--progress", "json")
    reference, target = f"oci:{place['DIR']}/layout", tmp_path / "target"
    seen = set()
    server.always("GET .*/manifests/", answers.say(404, {"Warning": '299 - "to be closed"'}))
    main(["--repo", str(target), "oci", "pull", f"docker://{server.address}/os:1", "--tls-verify=false", *options])
    main(["--repo", str(target), "oci", "pull", f"oci:{place['DIR']}/other", "first", "--quiet"])
    main(["--repo", str(target), "oci", "pull", reference, "new", "--progress", "json"])
    main(["--repo", str(target), "oci", "export", "new", f"{reference}:again", "--progress", "json"])
    main(["--repo", str(target), "oci", "export", "new", f"oci:{tmp_path / 'out'}", "--progress", "json"])

    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("composefs: ")]
    for event in map(json.loads, lines):
        seen.add(event["event"])
        check({"event": "string"} | documented[event["event"]], event)
    assert seen | {"layer-progress", "sending"} == documented.keys()
