"""A damaged repository: whatever its files are, all that reads it ends with errors of their types.

What a check calls clean is that; and what collecting garbage leaves of it is.  An input is edits of a small repository,
one a line: what to do, the number of a path (modulo how many there are), and what with.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import shutil
import socket
import stat
from itertools import count
from pathlib import Path

from composefs import Repository
from composefs.errors import ComposefsError
from composefs.oci.fsck import OciReport, check_images
from composefs.oci.images import list_images
from composefs.oci.trees import tree_of_image
from composefs.repository.fsck.quarantine import set_aside
from composefs.repository.gc import collect_garbage, explain, undo_collection
from composefs.tree import walk
from tests import damage, reference
from tests.fuzz.mutations import havoc
from tests.fuzz.target import Target, chance_of
from tests.fuzz.workplace import fresh_directory

_EDITS_MAX = 12
_ERRORS = (ComposefsError, OSError)  # of the system, with the path
_numbers = count()
logging.getLogger("composefs").addHandler(logging.NullHandler())  # tags that cannot be read are many


@functools.cache
def _original() -> damage.Place:
    """Return the repository that is damaged, made once in a process, with something in its trash."""
    place = damage.make(Path(fresh_directory()))
    with Repository.open(place.path) as repository:
        collect_garbage(repository, trash_days=30, workers=1)
        repository.objects.ensure(b"not needed" * 10)
        check_images(repository, records=True, workers=1)
    return place


@functools.cache
def _paths() -> list[str]:
    """Return all paths in it, by name."""
    root = os.fspath(_original().path)
    found = [os.path.join(top, name) for top, names, others in os.walk(root) for name in names + others]
    return sorted(os.path.relpath(path, root) for path in found)


def check(data: bytes) -> bool:
    """Damage a copy and have everything read it; tell whether a check finds it clean."""
    copy = _original().copy(_original().path.parent / f"copy-{next(_numbers)}")
    try:
        for line in data.split(b"\n")[:_EDITS_MAX]:
            with contextlib.suppress(OSError):
                _edit(copy.path, line)
        return _read_all(copy, chance_of(data))
    finally:
        for top, names, _ in os.walk(copy.path):
            for name in names:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(top, name), 0o700, follow_symlinks=True)
        shutil.rmtree(copy.path)


def _edit(root: Path, line: bytes) -> None:
    """Do what *line* says, if that can be done."""
    operation, _, rest = line.partition(b" ")
    number, _, argument = rest.partition(b" ")
    paths = _paths()
    path = root / paths[int(number) % len(paths) if number.isdigit() and len(number) < 9 else 0]
    if operation in (b"write", b"insert", b"cut") and not stat.S_ISREG(path.lstat().st_mode):
        return
    at = sum(argument[:2])
    match operation:
        case b"write":  # over what is there
            content = path.read_bytes()
            path.write_bytes(content[:at] + argument[2:] + content[at + len(argument) - 2 :])
        case b"insert":
            content = path.read_bytes()
            path.write_bytes(content[:at] + argument[2:] + content[at:])
        case b"cut":
            path.write_bytes(path.read_bytes()[:at])
        case b"remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        case b"link":  # to what the argument says
            path.unlink(missing_ok=True)
            os.symlink(argument.replace(b"\0", b"0")[:4000], path)
        case b"same":  # a link to what another one is to
            other = root / paths[at % len(paths)]
            target = os.readlink(other)
            path.unlink(missing_ok=True)
            os.symlink(target, path)
        case b"move":  # to another place
            os.rename(path, root / paths[at % len(paths)])
        case b"new":  # a file beside it
            name = argument.replace(b"/", b"_").replace(b"\0", b"0")[:200] or b"new"
            with open(os.path.join(os.fsencode(path.parent), name), "xb"):
                pass
        case b"other":  # something else in its place
            path.unlink(missing_ok=True)
            _OTHERS[at % len(_OTHERS)](path)
        case _:
            return


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))


_OTHERS = (Path.mkdir, os.mkfifo, _bind, Path.touch, lambda path: path.symlink_to(path.name))


def _read_all(place: damage.Place, chance: random.Random) -> bool:
    """Have a repository read and cleaned; return whether it was clean."""
    is_clean = False
    try:
        with Repository.open(place.path) as repository:
            report = check_images(repository, workers=1)
            is_clean = report.ok
            if is_clean:
                _prove_objects(place)
            else:
                _set_aside(repository, place, report)
            _read_images(repository, must_work=is_clean)
            for what in (place.unused, place.image_name, damage.TAG, place.manifest):
                with contextlib.suppress(*_ERRORS):
                    explain(repository, what)
            days = chance.choice((None, 1))
            with contextlib.suppress(*_ERRORS):
                collect_garbage(repository, dry_run=True, workers=1)
            with contextlib.suppress(*_ERRORS):
                collect_garbage(repository, trash_days=days, workers=1)
                _check_collected(repository, is_clean=is_clean)
                if days is not None:
                    undo_collection(repository, workers=1)
                    _check_collected(repository, is_clean=is_clean)
    except _ERRORS as error:
        assert not is_clean, f"clean, but: {error}"
    return is_clean


def _set_aside(repository: Repository, place: damage.Place, report: OciReport) -> None:
    """What is broken is moved, and nothing is lost; then there is nothing more to move."""
    before = _inodes(place)
    with contextlib.suppress(*_ERRORS):
        first = set_aside(repository, report.repository.findings)
        assert before <= _inodes(place), "something was removed"
        second = set_aside(repository, check_images(repository, workers=1).repository.findings)
        moved = {each.path for each in first.moved}
        assert not moved & {each.path for each in second.moved}, "moved twice"


def _inodes(place: damage.Place) -> set[int]:
    """Return the numbers of all that is no directory."""
    return {os.lstat(os.path.join(top, name)).st_ino for top, _, names in os.walk(place.path) for name in names}


def _check_collected(repository: Repository, *, is_clean: bool) -> None:
    """What was clean still is, and all that has a name can still be had."""
    is_clean_now = check_images(repository, workers=1).ok
    assert is_clean_now or not is_clean, "collecting garbage did damage"
    _read_images(repository, must_work=is_clean)


def _prove_objects(place: damage.Place) -> None:
    """A check that finds nothing has seen that every object is what it is called, and every name leads to one."""
    for path in (place.path / "objects").glob("[0-9a-f][0-9a-f]/*"):
        if not path.name.startswith("."):  # of what did not become one
            digest = reference.verity_digest(path.read_bytes(), "sha256").hex()
            assert f"{path.parent.name}{path.name}" == digest, "a wrong object"
    for directory in ("streams", "images"):
        for top, _, names in os.walk(place.path / directory):
            for name in names:
                assert name.startswith(".") or Path(top, name).is_file(), f"{name} leads nowhere"


def _read_images(repository: Repository, *, must_work: bool) -> None:
    try:
        tags = [image.name for image in list_images(repository)]
    except _ERRORS as error:
        assert not must_work, error
        return
    for tag in tags:
        try:
            tree = tree_of_image(repository, tag, workers=1)
            assert sum(1 for _ in walk(tree)) > 1
        except _ERRORS as error:
            assert not must_work, error


_WORDS = [
    b"../objects/", b"../../objects/", b"/etc/passwd", b"..", b"\xff", b"../objects/00/" + b"0" * 62,
    b"oci-layer-sha256:", b"oci-config-sha256:", b"oci-manifest-sha256:", b".tmp", b"{", b'"incompatible": ["x"]',
    b"SplitStream", b"refs",
]  # fmt: skip
_OPERATIONS = [b"write", b"write", b"insert", b"cut", b"remove", b"link", b"same", b"move", b"new", b"other"]


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Put in another edit, or change or remove one."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            lines[at] = havoc(chance, lines[at], _WORDS)
        case 1 if len(lines) > 1:
            del lines[at]
        case _:
            argument = chance.choice((bytes([chance.randrange(256), chance.randrange(256)]), b"\0\0", b""))
            argument += chance.choice((b"", b"x", chance.choice(_WORDS), chance.randbytes(8)))
            number = b"%d" % chance.randrange(200)
            lines.insert(at, b" ".join((chance.choice(_OPERATIONS), number, argument.replace(b"\n", b"n"))))
    return b"\n".join(lines)


def _seeds() -> dict[str, bytes]:
    return {"whole": b"", "removed": b"remove 40", "changed": b"write 20 \0\0x", "linked": b"link 50 ../objects/00/x"}


REPOSITORY = Target("repository", check, mutate, _seeds, share=0.25, size_max=1 << 12)
