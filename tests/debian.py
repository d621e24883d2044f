"""Layers of what Debian's packages have installed on this machine: real names, owners, links and sizes; no network."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator

PACKAGES = """
apt base-files base-passwd bash bsdutils coreutils dash debconf debianutils diffutils dpkg findutils gpgv grep gzip
hostname init-system-helpers libc-bin libc6 login mawk mount ncurses-base ncurses-bin passwd perl-base sed
sysvinit-utils tar tzdata util-linux zlib1g
""".split()  # of nearly every Debian


def package_files(package: str) -> list[str]:
    """Return the paths that a package has installed; none if it is not there."""
    command = ["dpkg-query", "-L", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return [line for line in done.stdout.splitlines() if line.startswith("/")] if done.returncode == 0 else []


def package_layer(packages: Iterable[str]) -> bytes:
    """Return the tar archive of what *packages* have installed, as far as it is still there."""
    found = {_place(path) for package in packages for path in package_files(package)}
    found |= {above for place in found for above in _parents(place)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for place in sorted(found):
            if place != "/" and os.path.lexists(place) and not stat.S_ISSOCK(os.lstat(place).st_mode):
                archive.add(place, recursive=False)
    return buffer.getvalue()


def _place(path: str) -> str:
    """Return *path* without links to directories on its way: /lib may be one to /usr/lib."""
    directory, name = os.path.split(os.path.normpath(path))
    return os.path.join(os.path.realpath(directory), name)


def _parents(place: str) -> Iterator[str]:
    while place != "/":
        place = os.path.dirname(place)
        yield place
