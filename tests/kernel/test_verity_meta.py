"""`meta.json` says by its seal whether fs-verity is required, and is sealed by both tools at the same occasions."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from composefs import Algorithm, verity
from composefs.cli import main
from composefs.digest import Digest
from composefs.errors import RepositoryError
from composefs.repository import Repository
from tests.kernel.images import has_verity
from tests.tools import require_tool

MIB = 1 << 20


def ours(*arguments: object) -> int:
    """Run `composefs`, and return its status."""
    return main([str(argument) for argument in arguments])


def theirs(*arguments: object) -> int:
    """Run `cfsctl`, and return its status."""
    require_tool("cfsctl")
    return subprocess.run(["cfsctl", *map(str, arguments)], check=False, capture_output=True).returncode


Run = Callable[..., int]
BOTH = pytest.mark.parametrize("run", [ours, theirs])


def seal_of(path: Path, algorithm: Algorithm = Algorithm.SHA512) -> Digest | None:
    with (path / "meta.json").open("rb") as file:
        measured = verity.measure(file.fileno(), algorithm)
        assert measured in (None, verity.compute_file_digest(file.fileno(), algorithm))
        return measured


@pytest.mark.every_kernel
@BOTH
@pytest.mark.parametrize("algorithm", Algorithm)
def test_init(disk: Path, run: Run, algorithm: Algorithm) -> None:
    """Made as usual it is sealed by the repository's own algorithm; made insecure it is not."""
    path = disk / "repository"
    status = run("init", "--algorithm", algorithm.value, path)
    if not has_verity(disk):
        # One takes what there is, the other refuses.
        assert (status == 0) == (run is ours)
        assert (path / "meta.json").exists() == (run is ours)
        assert ours("init", "--require-verity", "--algorithm", algorithm.value, disk / "strict") == 1
        assert not (disk / "strict/meta.json").exists()
        return
    assert status == 0
    assert seal_of(path, algorithm) is not None

    assert run("init", "--insecure", "--algorithm", algorithm.value, disk / "insecure") == 0
    assert seal_of(disk / "insecure", algorithm) is None
    assert (disk / "insecure/meta.json").read_bytes() == (path / "meta.json").read_bytes()


@BOTH
def test_policy_stays(scratch: Path, run: Run) -> None:
    """Asked for again, the other way round, a repository stays as it is."""
    for options, again in (((), ("--insecure",)), (("--insecure",), ())):
        path = scratch / f"repository{len(options)}"
        assert run("init", *options, path) == 0
        seal = seal_of(path)
        assert run("init", *again, path) == 0
        assert (seal is None) == bool(options)
        assert seal_of(path) == seal


def test_require(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who demands fs-verity is refused an insecure repository, also one whose objects have it."""
    for options in ((), ("--insecure",)):
        path = scratch / f"repository{len(options)}"
        assert ours("init", *options, path) == 0
        with Repository.open(path) as repository:
            assert repository.verity == (not options)
            repository.objects.ensure(b"x" * 1000)
        assert ours("--repo", path, "--require-verity", "images") == len(options)
    assert "was made without fs-verity" in capsys.readouterr().err
    with pytest.raises(RepositoryError, match="was made without fs-verity"):
        Repository.open(path, require_verity=True)
    with Repository.open(path) as repository:
        assert not repository.verity  # objects with fs-verity change nothing


@BOTH
@pytest.mark.parametrize("sealed", [True, False])
def test_upgrade(scratch: Path, run: Run, sealed: bool) -> None:
    """An old repository gets a `meta.json` that is sealed if its objects are."""
    path = scratch / "repository"
    Repository.init(path, require_verity=False)
    with Repository.open(path) as repository:
        digest, _ = repository.objects.ensure(b"an old object" * 100)
    (path / "meta.json").unlink()
    if not sealed:
        name = path / "objects" / Digest(Algorithm.SHA512, digest).object_path
        data = name.read_bytes()
        name.unlink()
        name.write_bytes(data)

    assert run("--repo", path, "oci", "images") == 0  # opens, and thereby upgrades it

    assert (seal_of(path) is not None) == sealed
    with Repository.open(path) as repository:
        assert repository.verity == sealed


def test_wrong_algorithm(scratch: Path) -> None:
    """One that is sealed by another algorithm than it names is refused by both."""
    path = scratch / "repository"
    Repository.init(path, Algorithm.SHA512, require_verity=False)
    with (path / "meta.json").open("rb") as file:
        assert verity.enable(file.fileno(), Algorithm.SHA256)

    assert ours("--repo", path, "images") == 1
    assert theirs("--repo", path, "images", "list") != 0


def test_busy(scratch: Path) -> None:
    """It is sealed though a child that somebody forked has it open for a while."""
    children = []
    real = os.fsync

    def fork(fd: int) -> None:
        real(fd)
        child = os.fork()
        if child == 0:
            os.read(wait, 1)  # until the parent closes its end
            os._exit(0)
        children.append(child)

    wait, end = os.pipe()
    os.set_inheritable(wait, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fork)
        Repository.init(scratch / "repository", require_verity=True)
    os.write(end, b"x" * len(children))
    for child in children:
        os.waitpid(child, 0)
    os.close(wait)
    os.close(end)

    assert seal_of(scratch / "repository") is not None
