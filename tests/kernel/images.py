"""An image that has everything, imported and mounted by either tool."""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import composefs
from composefs import Algorithm
from composefs.cli import main
from tests.layouts import Layout
from tests.tools import require_tool

NAME = "everything"

Run = Callable[..., object]  # here, or there


def here(path: Path, *arguments: object) -> None:
    """Run `composefs` on the repository at *path*."""
    assert main(["--repo", str(path), *map(str, arguments)]) == 0


def there(path: Path, *arguments: object) -> None:
    """Run `cfsctl` on the repository at *path*."""
    command = [require_tool("cfsctl"), "--repo", path, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fill(path: Path, layout: Layout, algorithm: Algorithm = Algorithm.SHA512, **options: Any) -> Path:
    """Make a repository, with fs-verity where the disk has it, import the image, and return *path*.

    The *options* are those of `Repository.init`.
    """
    composefs.Repository.init(path, algorithm, **options)
    with composefs.Repository.open(path) as repository, ThreadPoolExecutor(1) as executor:
        composefs.import_image(repository, str(layout), name=NAME, executor=executor)
    return path


@contextmanager
def mounted(run: Run, path: Path, target: Path, *options: object) -> Iterator[Path]:
    """Mount the image of the repository at *path*, by *run*."""
    run(path, *options, "oci", "mount", NAME, target)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def has_verity(disk: Path) -> bool:
    """Tell whether the file system of the fixture *disk* has fs-verity."""
    return disk.parent.name != "xfs"


def mount_options(target: Path) -> tuple[str, str, str, set[str]]:
    """Return options of the mount, its type, its source, and the options of its file system, without layers."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(target):
            kind, source, options = fields[fields.index("-") + 1 :]
            layers = ("lowerdir", "datadir")
            return fields[5], kind, source, {each for each in options.split(",") if not each.startswith(layers)}
    raise AssertionError(f"{target} is no mountpoint")
