"""Directories for what targets read from files: in memory where that can be, and gone with the process."""

import atexit
import os
import shutil
import tempfile


def fresh_directory() -> str:
    """Return a new directory."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="composefs-fuzz-", dir=place)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
