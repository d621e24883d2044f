"""Tests that need a kernel with fs-verity run in a guest of the lab (`make kernel`), and nowhere else.

A test marked `every_kernel` runs on each kernel of the lab, the others on the one that has all (6.12).
"""

import os

import pytest

from tests.kernel.fixtures import archives, disk, layout, scratch, sources, target, wanted

__all__ = ["archives", "disk", "layout", "scratch", "sources", "target", "wanted"]

if "COMPOSEFS_LAB" not in os.environ:  # which a guest has
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_kernel: runs on each kernel of the lab, not on 6.12 alone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep this guest's part where several share the tests."""
    number, count = map(int, os.environ.get("COMPOSEFS_LAB_PART", "0/1").split("/"))
    items[:] = items[number::count]


@pytest.fixture(scope="session")
def kernel_version() -> tuple[int, int]:
    """The running kernel's version, as (6, 12)."""
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int(minor)
