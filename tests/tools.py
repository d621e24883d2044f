"""Programs of others that some tests compare with: a missing one skips the test by name, unless CI wants all."""

import os
import shutil

import pytest

_FOR_ROOT = "/usr/sbin:/sbin"  # where some are that all may run, though only root's PATH has it


def require_tool(name: str) -> str:
    """Return the path of the program *name*; without it skip, or fail where COMPOSEFS_REQUIRE_TOOLS=1."""
    path = shutil.which(name) or shutil.which(name, path=_FOR_ROOT)
    if path is not None:
        return path
    if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{name} is missing, and COMPOSEFS_REQUIRE_TOOLS=1 wants it")
    pytest.skip(f"{name} is missing")


def require_root(why: str) -> None:
    """Skip what only root can do, or fail where COMPOSEFS_REQUIRE_TOOLS=1; *why* says what for."""
    if os.geteuid() == 0:
        return
    if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"root is needed for {why}, and COMPOSEFS_REQUIRE_TOOLS=1 wants it")
    pytest.skip(f"root is needed for {why}")
