"""The package as others get it: built into a wheel, and installed into an environment of its own, beside pytest."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .errors import LabError, UnavailableError
from .tools import cache, locked

# All that a wheel is made of, relative to the checkout.
_SOURCES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "csrc",
    "composefs",
)
_GENERATED = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_cfs.c")
_TEST_TOOLS = {"coverage", "hypothesis", "pytest"}  # among the requirements of development


def ensure_environment(checkout: Path) -> Path:
    """Return a virtual environment with the package of *checkout* as it is now, and what its tests import."""
    with tempfile.TemporaryDirectory(prefix="lab-") as work, locked(cache() / "environment.lock"):
        sources = Path(work, "sources")
        _copy_sources(checkout, sources)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        environment = cache() / f"environment-{version}"
        stamp, digest = environment / "sources", _digest(sources)
        if not stamp.exists() or stamp.read_text() != digest:
            stamp.unlink(missing_ok=True)
            _install(_build(sources, Path(work)), environment, requirements(sources / "pyproject.toml"))
            stamp.write_text(digest)
        return environment


def requirements(configuration: Path) -> tuple[str, list[str]]:
    """Return the package's extras, as in `[a,b]`, and the requirements of its tests, from *configuration*."""
    extras = tomllib.loads(configuration.read_text())["project"]["optional-dependencies"]
    needed = [each for each in extras.pop("dev") if re.split(r"[^\w-]", each)[0] in _TEST_TOOLS]
    return f"[{','.join(extras)}]" if extras else "", needed


def _copy_sources(checkout: Path, target: Path) -> None:
    """Copy what a wheel is made of: building leaves files beside it, and others may be building too."""
    target.mkdir()
    for name in _SOURCES:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, target / name, ignore=_GENERATED)
        else:
            shutil.copy(checkout / name, target / name)


def _digest(directory: Path) -> str:
    """Return a digest of all files below *directory* and of the Python that runs."""
    digest = hashlib.sha256(f"{sys.base_prefix} {sys.version}".encode())
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        contents = path.read_bytes()
        digest.update(f"{path.relative_to(directory)}\0{len(contents)}\0".encode() + contents)
    return digest.hexdigest()


def _build(sources: Path, work: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", f"--wheel-dir={work}"]
    done = _pip(sys.executable, "wheel", *options, str(sources))
    if done.returncode != 0:
        raise LabError(f"no wheel can be built:\n{done.stdout}")
    (wheel,) = work.glob("*.whl")
    return wheel


def _install(wheel: Path, environment: Path, needed: tuple[str, list[str]]) -> None:
    python = environment / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    extras, tools = needed
    again = ["--force-reinstall", "--no-deps", str(wheel)]  # the version is the old one's
    for arguments in ([f"{wheel}{extras}", *tools], again):
        done = _pip(str(python), "install", "--prefer-binary", *arguments)
        if done.returncode != 0:
            raise UnavailableError(f"the environment of the guests cannot be installed: {_last_line(done.stdout)}")


def _pip(python: str, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", action, "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def _last_line(text: str) -> str:
    return next(iter(reversed(text.strip().splitlines())), "no reason given")
