"""Which kernels guests boot: chosen among Debian's packages by pattern, with the modules a guest needs, in order."""

import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

# 6.1 has neither data-only layers nor EROFS in files; 6.12 has what composefs wants; 7 is the newest there is.
SERIES = ("6.1", "6.12", "7")

# What a guest uses, by module name; any of them can be built into a kernel. Later nothing loads more on demand.
MODULES = """
virtio_pci virtio_blk virtio_console virtio_rng fuse virtiofs sha512_generic loop overlay erofs btrfs xfs
""".split()

_PACKAGE = re.compile(r"linux-(image|binary|modules)-(\d[^-]*(?:-\d+)?-cloud-amd64)(-unsigned)?")


def choose_packages(names: Iterable[str], series: str) -> list[str]:
    """Return the packages of the newest kernel of *series* among *names*.

    Up to 7.1 all is in `linux-image-*`; later ones are cut into `linux-binary-*`, the kernel, and `linux-modules-*`.
    """
    releases: dict[str, dict[str, str]] = {}
    for name in sorted(names):  # a signed kernel, which is the same, gives way to the unsigned one
        if (match := _PACKAGE.fullmatch(name)) and match[2].startswith(f"{series}."):
            releases.setdefault(match[2], {})[match[1]] = name
    if not releases:
        raise LabError(f"there is no package of a kernel {series}")
    parts = releases[max(releases, key=_numbers)]
    if "modules" in parts:
        return [parts["binary"], parts["modules"]]
    return [parts["image"]]


def _numbers(release: str) -> list[int]:
    """Return the key that orders releases: 6.12.9 is before 6.12.10."""
    return [int(number) for number in re.findall(r"\d+", release)]


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel."""

    series: str
    release: str  # as `uname -r` says it
    image: Path
    modules: Path  # the directory lib/modules/RELEASE

    @classmethod
    def find(cls, series: str, root: Path) -> "Kernel":
        """Return the kernel whose packages are unpacked in *root*."""
        try:
            (modules,) = (path for pattern in ("usr/lib/modules/*", "lib/modules/*") for path in root.glob(pattern))
            (image,) = (
                path for pattern in ("boot/vmlinuz-*", "*/lib/modules/*/vmlinuz") for path in root.glob(pattern)
            )
        except ValueError:
            raise LabError(f"{root} does not hold one kernel and its modules; remove it") from None
        return cls(series, modules.name, image, modules)

    def load_order(self, wanted: Sequence[str] = MODULES) -> Iterator[tuple[str, bytes]]:
        """Yield name and contents of the modules *wanted* and of those they need, which come first.

        What is wanted and has no file is taken to be built in.
        """
        files = {_module_name(path.name): path for path in sorted(self.modules.rglob("*.ko*"))}
        loaded: set[str] = set()

        def load(name: str) -> Iterator[tuple[str, bytes]]:
            if name in loaded:
                return
            loaded.add(name)
            contents = _read_module(files[name])
            for needed in needed_modules(contents):
                yield from load(needed)
            yield name, contents

        for name in wanted:
            if name in files:
                yield from load(name)


def needed_modules(module: bytes) -> list[str]:
    """Return the names of the modules that *module*, an ELF file, says it needs."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [_module_name(name) for name in match[1].decode().split(",") if name] if match else []


def _module_name(file: str) -> str:
    return file.partition(".ko")[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    contents = path.read_bytes()
    return lzma.decompress(contents) if path.suffix == ".xz" else contents
