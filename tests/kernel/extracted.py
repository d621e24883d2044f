"""Layers as GNU tar extracts them, one over the other: what a mounted image must look like."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.trees_on_disk import make_archivable, make_everything, snapshot

WHITEOUT = b"/dev/whiteout"  # a device of that kind, in the lowest layer
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
KEPT = "security.capability"  # the one extended attribute that an image of a container has
XATTRS = ("--xattrs", "--xattrs-include=*")

Tree = dict[bytes, tuple[object, ...]]


def pack(source: Path) -> bytes:
    """Return a tar archive of everything below *source*."""
    command = ["tar", "-C", source, "--format=pax", "--sort=name", "--numeric-owner", *XATTRS, "-cf", "-", "."]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def make_layers(scratch: Path) -> list[bytes]:
    """Return the archives of three layers: everything there can be, then changes, then changes of these."""
    lowest = scratch / "lowest"
    make_everything(lowest)
    shutil.rmtree(lowest / "run")
    make_archivable(lowest)
    changes = _directories(scratch / "changes", "usr/bin", "usr/lib/deep", "usr/new")
    (changes / "usr/bin/same").write_bytes(b"another size" * 100)
    (changes / "usr/bin/.wh.tool").touch()  # one of four names of a file
    (changes / "usr/lib/deep/.wh.er").touch()
    (changes / "usr/new/file").write_bytes(b"new" * 1000)
    os.link(changes / "usr/new/file", changes / "usr/new/link")
    (changes / "usr/.wh.up").touch()
    highest = _directories(scratch / "highest", "usr/new", "usr/bin", "var", "usr/lib/size-65")
    (highest / "usr/new" / _OPAQUE).touch()
    (highest / "usr/new/other").write_bytes(b"other" * 2000)
    (highest / "usr/bin/same").symlink_to("tool2")
    (highest / "usr/lib/size-65/now a directory").write_bytes(b"small")
    (highest / "var/.wh.sparse").touch()
    layers = [lowest, changes, highest]
    for layer in layers[1:]:
        for number, path in enumerate(sorted(layer.rglob("*"), reverse=True)):
            os.utime(path, ns=(number, 1_600_000_000_000_000_000 + number), follow_symlinks=False)
    return [pack(layer) for layer in layers]


def extract(layers: Sequence[bytes], target: Path) -> Path:
    """Extract *layers*, the lowest first, into the new directory *target*, and return it."""
    target.mkdir()
    for archive in layers:
        _remove(archive, target)
        command = ["tar", "-C", target, "--numeric-owner", *XATTRS, f"--exclude={_WHITEOUT}*", "-xpf", "-"]
        subprocess.run(command, check=True, input=archive)
    return target


def visible(root: Path) -> Tree:
    """Return what is to be seen at *root*, but for what an image of a container does not keep.

    The root has the metadata of /usr.  A character device 0/0 shows as what overlayfs makes of it.
    """
    tree = snapshot(root)
    del tree[b""], tree[WHITEOUT]
    return {path: _kept(fields) for path, fields in tree.items()}


def _kept(fields: tuple[object, ...]) -> tuple[object, ...]:
    *others, xattrs, content = fields
    assert isinstance(xattrs, dict)
    return (*others, {name: value for name, value in xattrs.items() if name == KEPT}, content)


def _directories(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def _remove(archive: bytes, target: Path) -> None:
    """Remove below *target* what *archive* says is gone."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = [member.name for member in opened]
    for name in names:
        directory, base = os.path.split(os.path.normpath(target / name))
        if base == _OPAQUE:
            for entry in os.listdir(directory) if os.path.isdir(directory) else []:
                _remove_tree(os.path.join(directory, entry))
        elif base.startswith(_WHITEOUT):
            _remove_tree(os.path.join(directory, base.removeprefix(_WHITEOUT)))


def _remove_tree(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
