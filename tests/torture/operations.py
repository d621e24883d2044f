"""What is done to repositories, to be stopped half way: commands, each over a repository that was prepared for it.

A workshop makes each prepared repository once, and copies it for each run: it has some sixty small files.  It lies in
memory where it can: whoever kills processes does not ask what is on the disk, and syncfs(2) is a call like any other.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from composefs.cli import main
from composefs.digest import Algorithm
from composefs.repository import Repository
from tests.commands import ROOT, write_script
from tests.damage import flip
from tests.layouts import files_layer, image_layout, noise
from tests.torture.syscalls import MUTATING, Action, Outcome, run

_SHARED = [("none", 1), ("gzip", 2)]  # compression and seed of the layers that both images have
_SHARED_SIZE = 3000  # bytes of the file that is in every layer
# The same command, with so short a time between checkpoints that each layer has its own.
_CHECKPOINTS_SCRIPT = """\
import sys
from composefs.cli import main
from composefs.oci import checkpoints
if __name__ == "__main__":
    checkpoints._INTERVAL = 0.001
    sys.exit(main())
"""
_MEMORY = Path("/dev/shm")
_SEMAPHORE = "/dev/shm/sem."  # where the C library makes them, for the moment until they have lost their names


@dataclass(frozen=True)
class Operation:
    """A command.

    Attributes:
        name: what it is called here.
        start: the prepared repository that it begins with.
        arguments: of `composefs`, behind the repository; REPO stands for it, PLACE for the workshop, REPOSITORIES for
            the directory of those that are prepared.
        again: what it may say when it is done already, and there is nothing to do; empty: it succeeds again.
        checkpoints: whether an import names its layers one by one, as a long one does.
        gone: paths that are not there for a while.
        status: with which it ends; a check that could not mend all ends with 1.
    """

    name: str
    start: str
    arguments: tuple[str, ...]
    again: str = ""
    status: int = 0
    checkpoints: bool = False
    gone: frozenset[str] = frozenset()


def _operation(name: str, start: str, arguments: str, **options: object) -> Operation:
    return Operation(name, start, tuple(arguments.split()), **options)  # type: ignore[arg-type]


OPERATIONS = {
    operation.name: operation
    for operation in (
        _operation("init", "nothing", "init REPO"),
        _operation(
            "reset", "both", "init --reset-metadata --algorithm fsverity-sha256-12 REPO", gone=frozenset(["meta.json"])
        ),
        _operation("import", "empty", "import oci:PLACE/first:os --name os --workers 2"),
        _operation("checkpoints", "empty", "import oci:PLACE/first:os --name os --workers 1", checkpoints=True),
        _operation("import-again", "first", "import oci:PLACE/first:os --name os --workers 2"),
        _operation("import-second", "first", "import oci:PLACE/second:os --name os --workers 2"),
        _operation("import-mends", "lacking", "import oci:PLACE/second:os --name other --workers 2"),
        _operation("import-refused", "empty", "import oci:PLACE/forged:os --name os --workers 1", status=1),
        _operation("tag", "both", "oci tag os new"),
        _operation("retag", "both", "oci tag os other"),
        _operation("untag", "both", "oci untag other", again="no tag"),
        _operation("create-image", "first", "create-image PLACE/tree web/os"),
        _operation("gc", "garbage", "gc"),
        _operation("gc-trash", "garbage", "gc --trash 7"),
        _operation("gc-undo", "trashed", "gc --undo", again="nothing in trash/"),
        _operation("gc-expired", "expired", "gc"),
        _operation("fsck", "first", "fsck --since-last"),
        _operation("repair", "damaged", "fsck --repair-from REPOSITORIES/first"),
        _operation("repair-oci", "damaged", "fsck --repair-from oci:PLACE/first:os"),
        _operation("quarantine", "damaged", "fsck --quarantine", status=1),
        _operation("copy", "first", "oci copy other --from REPOSITORIES/both --name other --workers 2"),
    )
}


class Workshop:
    """A directory with images, prepared repositories, and copies of them.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs = 0
        shared = [files_layer(_files(seed), compression) for compression, seed in _SHARED]
        for image, seed in (("first", 3), ("second", 4)):
            image_layout(path / image, [*shared, files_layer(_files(seed), "zstd")], "os")
        forged = files_layer({"usr/small": b""}, "gzip", diff_id=f"sha256:{0:064}")  # the last one, since the smallest
        image_layout(path / "forged", [*shared, forged], "os")
        for name, data in _files(5).items():
            file = path / "tree" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        self._script = write_script(path, "composefs")
        self._checkpoints_script = path / "checkpoints"
        self._checkpoints_script.write_text(_CHECKPOINTS_SCRIPT)
        for name, prepare in _PREPARED.items():
            prepare(self, path / "prepared" / name)

    def argv(self, operation: Operation, repository: Path) -> list[str]:
        """Return the command as a program and its arguments."""
        script = self._checkpoints_script if operation.checkpoints else self._script
        return [sys.executable, "-W", "error", str(script), *self._arguments(operation, repository)]

    @contextmanager
    def copy(self, start: str) -> Iterator[Path]:
        """Yield a fresh copy of the prepared repository *start*, alone in a directory that is removed in the end."""
        self._runs += 1
        directory = self.path / f"run{self._runs}"
        try:
            (directory / "tmp").mkdir(parents=True)
            if start != "nothing":
                shutil.copytree(self.path / "prepared" / start, directory / "repository", symlinks=True)
            yield directory / "repository"
        finally:
            shutil.rmtree(directory)

    def run(
        self,
        operation: Operation,
        repository: Path,
        *,
        at: int | None = None,
        action: Action | None = None,
        calls: frozenset[str] = MUTATING,
        once: bool = True,
    ) -> Outcome:
        """Run *operation* over *repository* as a process of its own, with what is to happen at its *at*-th call."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",  # the same calls each time
            "TMPDIR": str(repository.parent / "tmp"),  # what is left there goes with the copy
        }
        argv = self.argv(operation, repository)
        outcome = run(argv, at=at, action=action, calls=calls, env=environment, cwd=repository.parent, once=once)
        for call in outcome.calls:
            if call.what.startswith(_SEMAPHORE):  # which a stop has kept from being removed
                Path(call.what).unlink(missing_ok=True)
        return outcome

    def run_here(self, operation: Operation, repository: Path) -> tuple[int, str]:
        """Run *operation* over *repository* in this process, which is faster; return status and all that it printed."""
        return _main(*self._arguments(operation, repository, workers="1"))

    def _arguments(self, operation: Operation, repository: Path, workers: str | None = None) -> list[str]:
        places = {"REPOSITORIES": f"{self.path}/prepared", "REPO": str(repository), "PLACE": str(self.path)}
        words = list(operation.arguments)
        for name, path in places.items():
            words = [word.replace(name, path) for word in words]
        if workers is not None and "--workers" in words:
            words[words.index("--workers") + 1] = workers
        return ["--repo", str(repository), *words]


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Yield a workshop in a directory that is removed in the end, in memory where that can be."""
    memory = str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="composefs-torture-", dir=memory) as directory:
        yield Workshop(Path(directory))


def _main(*arguments: str) -> tuple[int, str]:
    output = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stdout(output), redirect_stderr(output):
        status = main(list(arguments))
    return status, output.buffer.getvalue().decode(errors="replace")


def _do(*arguments: object) -> None:
    status, output = _main(*map(str, arguments))
    if status != 0:
        raise RuntimeError(f"{arguments}: status {status}: {output}")


def _files(seed: int) -> Mapping[str, bytes]:
    """Return the files of a layer, small and large; one of them is in each."""
    files = {f"usr/{seed}/{number}": noise(40 + 1500 * number, 10 * seed + number) for number in range(5)}
    return files | {"usr/shared": noise(_SHARED_SIZE)}


# The prepared repositories; each may use those before it.


def _empty(_: Workshop, repository: Path) -> None:
    Repository.init(repository, Algorithm.SHA256, require_verity=False)


def _first(workshop: Workshop, repository: Path) -> None:
    """One image."""
    _empty(workshop, repository)
    _do("--repo", repository, "import", f"oci:{workshop.path}/first:os", "--name", "os", "--workers", 1)


def _both(workshop: Workshop, repository: Path) -> None:
    """Two images, which share layers."""
    _first(workshop, repository)
    _do("--repo", repository, "import", f"oci:{workshop.path}/second:os", "--name", "other", "--workers", 1)


def _garbage(workshop: Workshop, repository: Path) -> None:
    """Two images, of which one has lost its name, and an object that nothing ever needed."""
    _both(workshop, repository)
    _do("--repo", repository, "oci", "untag", "other")
    with Repository.open(repository) as opened:
        opened.objects.ensure(noise(5000, 99))


def _trashed(workshop: Workshop, repository: Path) -> None:
    """One image, and another one in the trash."""
    _garbage(workshop, repository)
    _do("--repo", repository, "gc", "--trash", 7)


def _expired(workshop: Workshop, repository: Path) -> None:
    """One image, and another one that was in the trash for long enough."""
    _trashed(workshop, repository)
    (file,) = repository.glob("trash/*/batch.json")
    batch = json.loads(file.read_text())
    batch["created"] |= {"boot": "another", "wall": batch["created"]["wall"] - 8 * 86_400}
    file.write_text(json.dumps(batch))


def _damaged(workshop: Workshop, repository: Path) -> None:
    """One image, of which one object has other contents, and one is missing."""
    _first(workshop, repository)
    flip(_object(repository, noise(_SHARED_SIZE)), 1000)
    _object(repository, _files(1)["usr/1/2"]).unlink()


def _lacking(workshop: Workshop, repository: Path) -> None:
    """One image, of which an object is missing; and half an object of another one, as a power cut would leave it."""
    _first(workshop, repository)
    _object(repository, _files(1)["usr/1/2"]).unlink()
    flip(_object(repository, _files(4)["usr/4/3"]), 1000)


def _object(repository: Path, data: bytes) -> Path:
    """Return the path of the object that *data* are; it is stored if it is not."""
    with Repository.open(repository) as opened:
        digest = opened.objects.ensure(data)[0].hex()
    return repository / "objects" / digest[:2] / digest[2:]


_PREPARED: dict[str, Callable[[Workshop, Path], None]] = {
    "empty": _empty,
    "first": _first,
    "both": _both,
    "garbage": _garbage,
    "trashed": _trashed,
    "expired": _expired,
    "damaged": _damaged,
    "lacking": _lacking,
}
