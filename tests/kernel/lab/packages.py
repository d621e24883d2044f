"""Files of Debian's packages, from any release, without installing anything: an apt of its own in a directory.

It asks the mirror that the machine's apt uses, and believes that nothing is installed, so that what it fetches is
complete: a program comes with its libraries, down to libc, and runs on whatever the machine has.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import UnavailableError

SUITES = ("bookworm", "trixie", "trixie-backports")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suites}
Components: main
Signed-By: {keyring}
"""

# Everything apt would read or write elsewhere; what the machine says of proxies and time limits still holds.
_CONFIGURATION = """\
Dir::Etc::sourcelist "{root}/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
"""


class Packages:
    """The packages of SUITES, as fetched by an apt that lives in the directory *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("lists/partial", "cache/archives/partial"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()  # no package is installed
        sources = _SOURCES.format(mirror=_mirror(), suites=" ".join(SUITES), keyring=KEYRING)
        (root / "debian.sources").write_text(sources)
        self._configuration = root / "apt.conf"
        self._configuration.write_text(_CONFIGURATION.format(root=root))
        self._run("apt-get", "update", "-qq", "--error-on=any")

    def names(self, prefix: str) -> list[str]:
        """Return the names of all packages that begin with *prefix*."""
        return self._run("apt-cache", "pkgnames", prefix).split()

    def unpack(self, names: Sequence[str], into: Path) -> None:
        """Fetch the packages *names*, without what they depend on, and unpack them to the directory *into*."""
        place = self.root / "single"
        place.mkdir()
        self._run("apt-get", "download", "-qq", *names, cwd=place)
        _unpack(place, into)

    def unpack_complete(self, names: Sequence[str], suite: str, into: Path) -> None:
        """Fetch the packages *names* of *suite* with all that they depend on, and unpack them to *into*."""
        self._run("apt-get", "install", "-qq", "--download-only", f"--target-release={suite}", *names)
        _unpack(self.root / "cache/archives", into)

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return _run([program, f"--config-file={self._configuration}", *arguments], cwd)


def _mirror() -> str:
    """Return the address of Debian's archive that this machine's apt is configured for."""
    if shutil.which("apt-get") is None:
        raise UnavailableError("apt-get, which would fetch it, is missing")
    if not KEYRING.exists():
        raise UnavailableError(f"{KEYRING} is missing (package debian-archive-keyring)")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    for line in _run(command).splitlines():
        address, component = line.split()
        if component == "main" and address.rstrip("/").endswith("/debian"):
            return address
    raise UnavailableError("this machine's apt knows no Debian mirror")


def _unpack(archives: Path, into: Path) -> None:
    """Unpack all packages of a directory, and remove them."""
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(into)])
        archive.unlink()


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = next((line for line in done.stderr.splitlines() if line.startswith("E:")), done.stderr.strip()[-200:])
        raise UnavailableError(f"{' '.join([command[0], *command[2:4]])} failed: {why}")
    return done.stdout
