"""The commands that mount, where the kernel enforces digests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm
from composefs.cli import main
from composefs.mount.table import mounted_images, requires_verity
from composefs.mountinfo import find_mount

DATA = b"0123456789abcdef" * 600
ZEROS = "0" * 64


@pytest.fixture
def repository(scratch: Path) -> Path:
    """A repository that requires fs-verity, with the image os of one file."""
    source = scratch / "source"
    (source / "usr").mkdir(parents=True)
    (source / "usr/file").write_bytes(DATA)
    (source / "usr/small").write_bytes(b"small")
    assert composefs.Repository.init(scratch / "repository", Algorithm.SHA256, require_verity=True)
    run(scratch / "repository", "create-image", source, "os")
    return scratch / "repository"


@pytest.fixture
def image(repository: Path) -> str:
    """Its id."""
    with composefs.Repository.open(repository) as opened:
        return opened.images.resolve("os").hex


def run(repository: Path, *arguments: object) -> None:
    assert main(["--repo", str(repository), *map(str, arguments)]) == 0


def check_mounted(repository: Path, target: Path, *, verity: bool = True) -> None:
    """Check that all of the image can be read at *target*, and end the mount."""
    mount = find_mount(str(target))
    assert mount is not None
    assert requires_verity(mount) == verity
    assert (target / "usr/file").read_bytes() == DATA
    assert (target / "usr/small").read_bytes() == b"small"
    run(repository, "umount", target)
    assert mounted_images() == []


def test_names(repository: Path, image: str, target: Path) -> None:
    """By whatever name, fs-verity is demanded of every file."""
    for name in ("os", "refs/os", image):
        run(repository, "--require-verity", "mount", name, target)
        check_mounted(repository, target)


def test_object_without_verity(repository: Path, target: Path) -> None:
    """A file whose object was replaced by its like without fs-verity cannot be read; others can."""
    with composefs.Repository.open(repository) as opened, composefs.Image.open(opened, "os") as read:
        digest = read.digest("/usr/file")
        assert digest is not None
    path = repository / "objects" / digest.object_path
    path.unlink()
    path.write_bytes(DATA)

    run(repository, "mount", "os", target)

    with pytest.raises(OSError, match="Input/output error"):
        (target / "usr/file").read_bytes()
    assert (target / "usr/small").read_bytes() == b"small"
    run(repository, "umount", target)


def test_image_without_verity(repository: Path, image: str, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that is not sealed any more is not mounted, although it is the right one."""
    path = repository / "objects" / image[:2] / image[2:]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)

    for name in ("os", image):
        assert main(["--repo", str(repository), "mount", name, str(target)]) == 1
        assert f"wanted {image}, got no fs-verity" in capsys.readouterr().err
    assert mounted_images() == []

    argument = f"composefs=?{image}"  # which does not require it
    run(repository, "mount", "--from-cmdline", "--cmdline", argument, target)
    check_mounted(repository, target, verity=False)


def test_kernel_arguments(repository: Path, image: str, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first image that is there is told and mounted, and demands fs-verity, with or without a mark."""
    for mark in ("", "?"):
        cmdline = f"quiet composefs={mark}{ZEROS} composefs.digest={mark}v1-sha256-12:{image}"
        capsys.readouterr()
        run(repository, "probe-image", "--cmdline", cmdline, "--json")
        found = json.loads(capsys.readouterr().out)
        assert (found["image"], found["insecure"], found["verity"]) == (image, bool(mark), True)

        run(repository, "mount", "--from-cmdline", "--cmdline", cmdline, target)
        check_mounted(repository, target)


def test_image_file(repository: Path, image: str, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that is a file is mounted if its digest is the given one, and demands those of its files."""
    file = repository / "images" / image

    def mount(options: str) -> int:
        words = ["mount.composefs", "-o", f"basedir={repository}/objects,{options}", str(file), str(target)]
        return main(words)

    for options in (f"digest={image}", "verity", "tryverity"):
        assert mount(options) == 0
        check_mounted(repository, target)
    assert mount("ro") == 0
    check_mounted(repository, target, verity=False)
    assert mount(f"digest={ZEROS}") == 1
    assert f"Image has wrong fs-verity: wanted {ZEROS}, got {image}" in capsys.readouterr().err
    assert mount(f"digest={ZEROS * 2}") == 1
    assert "Image has wrong fs-verity: wanted sha512" in capsys.readouterr().err
    data = file.read_bytes()
    file.resolve().unlink()
    file.resolve().write_bytes(data)
    assert mount(f"digest={image}") == 1
    assert "Image has no fs-verity" in capsys.readouterr().err
    assert mounted_images() == []


def test_helper_of_mount(repository: Path, image: str, target: Path, scratch: Path) -> None:
    """`mount -t composefs` does so, too."""
    program = scratch / "sbin/mount.composefs"
    program.parent.mkdir()
    start = f"import sys; sys.path[:] = {sys.path!r}\nfrom composefs.cli import main\nsys.exit(main())"
    program.write_text(f"#!{sys.executable}\n{start}\n")
    program.chmod(0o755)
    layers = f"lowerdir={program.parent}:/usr/sbin"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "sbin", "/usr/sbin"], check=True)
    options = f"basedir={repository}/objects,digest={image},nofail"

    try:
        subprocess.run(["mount", "-t", "composefs", "-o", options, repository / "images" / image, target], check=True)
    finally:
        subprocess.run(["umount", "/usr/sbin"], check=True)
    check_mounted(repository, target)


@pytest.mark.every_kernel
@pytest.mark.parametrize("disk", ["xfs"], indirect=True)
def test_without_verity(disk: Path, target: Path) -> None:
    """Where nothing is sealed every kernel mounts an image, with and without an upper layer."""
    source, repository, upper, work = (disk / name for name in ("source", "repository", "upper", "work"))
    (source / "usr").mkdir(parents=True)
    (source / "usr/file").write_bytes(DATA)
    (source / "usr/small").write_bytes(b"small")
    composefs.Repository.init(repository, require_verity=False)
    run(repository, "create-image", source, "os")
    upper.mkdir()
    work.mkdir()

    run(repository, "mount", "--upperdir", upper, "--workdir", work, "--read-write", "os", target)
    (target / "usr/new").touch()
    assert (upper / "usr/new").exists()
    check_mounted(repository, target, verity=False)
    run(repository, "mount", "os", target)
    assert not (target / "usr/new").exists()
    check_mounted(repository, target, verity=False)


@pytest.mark.every_kernel
@pytest.mark.parametrize("required", [False, True])
def test_sealed(
    scratch: Path,
    target: Path,
    kernel_version: tuple[int, int],
    capsys: pytest.CaptureFixture[str],
    required: bool,
) -> None:
    """Digests of files are demanded wherever the kernel can; where it cannot, but must, nothing is mounted."""
    (scratch / "source/usr").mkdir(parents=True)
    (scratch / "source/usr/file").write_bytes(DATA)
    (scratch / "source/usr/small").write_bytes(b"small")
    composefs.Repository.init(scratch / "repository", require_verity=required)
    run(scratch / "repository", "create-image", scratch / "source", "os")
    can_demand = kernel_version >= (6, 6)

    status = main(["--repo", str(scratch / "repository"), "mount", "os", str(target)])

    if can_demand or not required:
        assert status == 0
        check_mounted(scratch / "repository", target, verity=can_demand)
    else:
        assert status == 1
        assert "this kernel lacks verity=require of overlayfs (Linux 6.6)" in capsys.readouterr().err
        assert mounted_images() == []
