"""What a lab needs on the host, fetched once into the user's cache: an emulator, and the kernels to boot."""

import fcntl
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import UnavailableError
from .kernels import Kernel, choose_packages
from .packages import Packages

# Older emulators than 10 corrupt the guest's memory now and then; older virtiofsd wants to be root.
_TOOLS_SUITE = "trixie"
_TOOLS = ("qemu-system-x86", "virtiofsd", "busybox-static")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that run a guest, with their own libraries, unpacked in the directory *root*."""

    root: Path

    @property
    def busybox(self) -> Path:
        """The shell and the commands of a guest's first minutes."""
        return self.root / "usr/bin/busybox"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the programs need."""
        return {"QEMU_MODULE_DIR": str(self.root / _LIBRARIES / "qemu")}

    def emulator(self, *arguments: str) -> list[str]:
        """Return the command that runs qemu."""
        firmware = ["-L", f"{self.root}/usr/share/qemu", "-L", f"{self.root}/usr/share/seabios"]
        return self._command("usr/bin/qemu-system-x86_64", *firmware, *arguments)

    def file_server(self, *arguments: str) -> list[str]:
        """Return the command that runs virtiofsd."""
        return self._command("usr/libexec/virtiofsd", *arguments)

    def _command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs *program* with the libraries it was built for."""
        libraries = self.root / _LIBRARIES
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        return [*loader, str(self.root / program), *arguments]


def cache() -> Path:
    """Return the directory of what the lab keeps between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "composefs-dev" / "lab"
    root.mkdir(parents=True, exist_ok=True)
    return root


def ensure_tools() -> Tools:
    """Return the programs that run a guest, fetched if need be."""
    if platform.machine() != "x86_64":
        raise UnavailableError(f"guests are x86-64, and so must be the machine, which is {platform.machine()}")
    return Tools(_ensure("tools", lambda packages, into: packages.unpack_complete(_TOOLS, _TOOLS_SUITE, into)))


def ensure_kernel(series: str) -> Kernel:
    """Return the newest kernel of *series*, fetched if need be."""

    def fetch(packages: Packages, into: Path) -> None:
        packages.unpack(choose_packages(packages.names("linux-"), series), into)

    return Kernel.find(series, _ensure(f"kernel-{series}", fetch))


def _ensure(name: str, fetch: Callable[[Packages, Path], None]) -> Path:
    """Return the directory *name* of the cache; *fetch* fills it the first time."""
    target = cache() / name
    with locked(cache() / "lock"):
        if not target.exists():
            sys.stderr.write(f"fetching {name} for the kernel lab, once\n")
            with tempfile.TemporaryDirectory(dir=cache()) as work:
                fetch(Packages(Path(work, "apt")), Path(work, name))
                os.rename(Path(work, name), target)
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep others who ask for the same from doing it at the same time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
