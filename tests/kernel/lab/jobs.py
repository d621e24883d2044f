"""What a command finds in a guest: variables, programs in PATH, and the files of the host it needs."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .guest import Job
from .kernels import Kernel
from .tools import cache

CHECKOUT = Path(__file__).parents[3]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def guest_job(
    command: Sequence[str | Path],
    kernel: Kernel,
    environment: Path,
    *,
    directory: Path = CHECKOUT,
    variables: Mapping[str, str] | None = None,
    shown: Sequence[Path] = (),
) -> Job:
    """Return the job of a guest that runs *command*.

    Args:
        command: program and arguments; of PATH, or a path of the host's.
        kernel: what it boots.
        environment: the virtual environment whose programs come first in PATH.
        directory: where the command starts.
        variables: more for its environment.
        shown: more files that it must see.
    """
    path = [str(environment / "bin"), *_reference(), _PATH]
    variables = {
        "PATH": ":".join(path),
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # The checkout is read-only.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what plugins bring is compiled anew in each guest
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        "COMPOSEFS_LAB": kernel.series,
        "COMPOSEFS_LAB_PACKAGE": str(CHECKOUT),
        **(variables or {}),
    }
    needed = [CHECKOUT, environment, Path(sys.base_prefix), cache().parent, *shown]
    return Job([str(word) for word in command], variables, str(directory), needed)


def _reference() -> list[str]:
    """Return the directory of cfsctl and mkcomposefs, if they can be had."""
    done = subprocess.run([CHECKOUT / "scripts/cfsctl.sh"], stdout=subprocess.PIPE, text=True, check=False)
    return [os.path.dirname(done.stdout.strip())] if done.returncode == 0 else []
