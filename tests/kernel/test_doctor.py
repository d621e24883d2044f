"""The doctor on real file systems and kernels: what it finds is so, and what it advises helps."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, Repository
from composefs.doctor import Finding, Job, Status, examine
from composefs.erofs.writer import write_image
from composefs.tree import Directory, Stat
from tests.layouts import noise

every_kernel = pytest.mark.every_kernel


def by_id(path: Path, *, require_verity: bool = False) -> dict[str, Finding]:
    return {finding.id: finding for finding in examine(path, require_verity=require_verity)}


def prevented(found: dict[str, Finding]) -> dict[str, tuple[Job, ...]]:
    """Return which findings prevent what."""
    return {name: finding.prevents for name, finding in found.items() if finding.prevents}


def make_repository(path: Path, *, require_verity: bool | None = None) -> Path:
    """Make a repository of a few objects."""
    Repository.init(path, require_verity=require_verity)
    with Repository.open(path) as repository:
        for seed in range(4):
            repository.objects.ensure(noise(5000, seed))
    return path


@contextmanager
def ext4(scratch: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """Give a new ext4: its device, and where it is mounted."""
    image, point = scratch / "image", scratch / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", *options, image], check=True)
    command = ["losetup", "--find", "--show", image]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", device, point], check=True)
        try:
            yield device, point
        finally:
            subprocess.run(["umount", point], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@every_kernel
@pytest.mark.parametrize(
    ("filesystem", "verity", "reflinks"),
    [
        ("ext4", Status.OK, Status.DEGRADED),
        ("btrfs", Status.OK, Status.OK),
        ("xfs", Status.MISSING, Status.OK),
    ],
)
def test_file_systems(filesystem: str, verity: Status, reflinks: Status, kernel_version: tuple[int, int]) -> None:
    """What file systems can do is found out without a change to the directory."""
    directory = Path("/disks", filesystem)
    before = directory.stat().st_ctime_ns, os.listdir(directory)

    found = by_id(directory / "repository")

    assert (directory.stat().st_ctime_ns, os.listdir(directory)) == before
    assert found["filesystem.type"].found.startswith(f"{filesystem}, /dev/")
    assert found["filesystem.verity"].status is verity
    assert found["filesystem.reflinks"].status is reflinks
    assert found["filesystem.unnamed-files"].status is Status.OK
    assert found["kernel.verity"].status is Status.OK
    assert found["kernel.data-only-layers"].status is (Status.OK if kernel_version >= (6, 5) else Status.DEGRADED)
    assert found["kernel.erofs-file"].status is (Status.OK if kernel_version >= (6, 12) else Status.DEGRADED)
    assert found["mount.kernel"].status is (Status.OK if kernel_version >= (6, 5) else Status.UNKNOWN)
    assert prevented(found) == {}


@every_kernel
@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_sealed_repository(filesystem: str, kernel_version: tuple[int, int]) -> None:
    """In a sealed repository an object is read through a mount that enforces its digest, if the kernel can do so."""
    path = make_repository(Path("/disks", filesystem, "doctor-sealed"))

    found = by_id(path)

    assert found["repository.verity"].status is Status.OK
    assert found["repository.objects"].found == "4 objects looked at: 4 with fs-verity, each as its name says"
    if kernel_version >= (6, 6):
        assert found["mount.kernel"].found.endswith("and an object read through it")
        assert prevented(found) == {}
    else:
        assert prevented(found) == {"kernel.overlay-verity": (Job.MOUNT,), "mount.kernel": (Job.MOUNT,)}


@every_kernel
@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_open_repository(filesystem: str) -> None:
    """A repository that does without fs-verity is mounted by every kernel."""
    path = make_repository(Path("/disks", filesystem, "doctor-open"), require_verity=False)

    found = by_id(path)

    assert found["mount.kernel"].found.endswith("and an object read through it")
    assert found["repository.verity"].status is Status.DEGRADED
    assert prevented(found) == {}
    assert prevented(by_id(path, require_verity=True)).keys() >= {"repository.verity"}


def test_remedy_for_the_flag(scratch: Path) -> None:
    """The advised command gives an ext4 fs-verity."""
    with ext4(scratch, "-b", "4096") as (device, point):
        found = by_id(point / "repository")["filesystem.verity"]
        assert found.status is Status.MISSING
        command, _, rest = found.remedy.partition(",")
        assert (command, rest) == (f"tune2fs -O verity {device}", " then mount it anew")

        subprocess.run(["umount", point], check=True)
        subprocess.run(command.split(), check=True)
        subprocess.run(["mount", device, point], check=True)

        assert by_id(point / "repository")["filesystem.verity"].status is Status.OK


@pytest.mark.parametrize("options", [(), ("-O", "verity")])
def test_small_blocks(scratch: Path, options: tuple[str, ...]) -> None:
    """Blocks of 1024 bytes are too small for fs-verity as composefs has it: the file system must be made anew."""
    with ext4(scratch, "-b", "1024", *options) as (device, point):
        found = by_id(point / "repository")["filesystem.verity"]

    assert found.status is Status.MISSING
    assert "1024 bytes" in f"{found.found} {found.remedy}"
    assert found.remedy.endswith(f"mkfs.ext4 -b 4096 -O verity {device}")


def test_unsealed_object() -> None:
    """An object that lost its seal is found, and prevents mounts."""
    path = make_repository(Path("/disks/ext4/doctor-unsealed"))
    name = min((path / "objects").glob("??/*"))
    data = name.read_bytes()
    name.unlink()
    name.write_bytes(data)

    found = by_id(path)

    assert found["repository.objects"].found == "1 of 4 objects looked at have no fs-verity: reading them fails"
    assert found["repository.objects"].prevents == (Job.MOUNT,)


def test_swapped_object() -> None:
    """An object that is sealed with the digest of other contents is found."""
    path = make_repository(Path("/disks/ext4/doctor-swapped"))
    first, second = sorted((path / "objects").glob("??/*"))[:2]
    first.unlink()
    os.link(second, first)

    found = by_id(path)["repository.objects"]

    assert found.prevents == (Job.MOUNT,)
    assert second.parent.name + second.name in found.found


def test_read_only_disk() -> None:
    """Where nothing can be written, as on bootc hosts, an image of the repository is mounted: no other can be made."""
    path = make_repository(Path("/disks/ext4/doctor-read-only"))
    with Repository.open(path) as repository:
        image = write_image(Directory(Stat(0o755, 0, 0, 0, 0)))
        repository.images.link(repository.images.store(image))
    subprocess.run(["mount", "--bind", "-o", "ro", path, path], check=True)
    try:
        found = by_id(path)
    finally:
        subprocess.run(["umount", path], check=True)

    assert found["filesystem.access"].found == "mounted read-only"
    assert found["filesystem.verity"].status is Status.OK
    assert found["mount.kernel"].found == "an image of the repository was mounted where nobody sees it"
    assert prevented(found) == {"filesystem.access": (Job.IMPORT,)}


def test_algorithms() -> None:
    """Repositories of both algorithms are sealed and read."""
    for algorithm in Algorithm:
        path = Path("/disks/ext4", f"doctor-{algorithm.hash_name}")
        Repository.init(path, algorithm)
        with Repository.open(path) as repository:
            repository.objects.ensure(noise(100))

        found = by_id(path)

        assert algorithm.value in found["repository.metadata"].found
        assert found["mount.kernel"].found.endswith("and an object read through it")
