"""The programs that are compared, and their commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCE, OURS, LIMIT = "cfsctl", "composefs", "limit"
NAME = "bench"  # what the imported image is called
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, and its commands by what they do; REPO, IMAGE, LAYOUT and DIRECTORY in them stand for paths."""

    name: str
    version: str
    commands: Mapping[str, tuple[str, ...]]
    programs: Mapping[str, tuple[str, ...]]  # how they are called, by name

    def command(self, name: str, repo: Path, image: Path, *options: str) -> list[str]:
        """Return the command called *name*, for the image in the directory *image*, with more *options*."""
        paths = {"REPO": repo, "IMAGE": image, "LAYOUT": image / "layout", "DIRECTORY": image / "root"}
        program, *words = self.commands[name]
        for variable, path in paths.items():
            words = [word.replace(variable, str(path)) for word in words]
        return [*self.programs[program], *words, *options]


def find_tools(ours: str | None, reference: str | None, algorithm: str) -> list[Tool]:
    """Return the tools that are here, in the order in which they take turns."""
    found = (find_reference(reference, algorithm), find_limit(algorithm), find_ours(ours, algorithm))
    return [tool for tool in found if tool is not None]


def find_ours(path: str | None, algorithm: str) -> Tool | None:
    """Return our commands: those at *path*, or beside this Python, or in PATH."""
    beside = Path(sys.executable).parent / "composefs-import"
    found = path or (str(beside) if beside.exists() else shutil.which("composefs-import"))
    if found is None:
        return None
    programs = {"composefs-import": (found,), "composefs": (str(Path(found).with_name("composefs")),)}
    options = ("--repo", "REPO", "--name", NAME, "--algorithm", algorithm, "--progress", "none", "--json")
    commands = {
        "init": ("composefs", "init", "--insecure", "--algorithm", algorithm, "REPO"),
        "pull": ("composefs-import", "oci:LAYOUT", *options),
        **_common("composefs", algorithm),
    }
    return Tool(OURS, _version(found), commands, programs)


def find_reference(path: str | None, algorithm: str) -> Tool | None:
    """Return cfsctl: the one at *path*, or the one that scripts/cfsctl.sh finds or builds."""
    if path is None:
        script = _HERE.parent / "scripts" / "cfsctl.sh"
        found = subprocess.run([script], check=False, stdout=subprocess.PIPE, text=True)
        if found.returncode != 0:
            return None
        path = found.stdout.strip()
    commands = {
        "init": ("cfsctl", "--repo", "REPO", "init", "--insecure", "--algorithm", algorithm),
        "pull": ("cfsctl", "--repo", "REPO", "oci", "pull", "oci:LAYOUT", NAME),
        **_common("cfsctl", algorithm),
    }
    return Tool(REFERENCE, _version(path), commands, {"cfsctl": (path,)})


def find_limit(algorithm: str) -> Tool:
    """Return the program that does the unavoidable work only."""
    commands = {"pull": ("limit.py", "run", "IMAGE", "REPO/objects", "--algorithm", algorithm)}
    return Tool(LIMIT, "", commands, {"limit.py": (sys.executable, str(_HERE / "limit.py"))})


def locate_files(images: Sequence[Path]) -> None:
    """Make the lists that the limit works from."""
    for image in images:
        subprocess.run([sys.executable, _HERE / "limit.py", "locate", image], check=True)


def _common(program: str, algorithm: str) -> dict[str, tuple[str, ...]]:
    """Return the commands that both tools spell alike; what the last two print must be the same."""
    return {
        "fsck": (program, "--repo", "REPO", "fsck"),
        "gc-dry-run": (program, "--repo", "REPO", "gc", "--dry-run"),
        "gc": (program, "--repo", "REPO", "gc"),
        "dump": (program, "--repo", "REPO", "oci", "dump", NAME),
        "compute-id": (program, "--no-repo", "--hash", algorithm.split("-")[1], "compute-id", "DIRECTORY"),
    }


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
