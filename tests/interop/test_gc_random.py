"""Repositories of any shape: `cfsctl gc` and ours leave the same, or both refuse."""

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings

from composefs import _native
from tests.collecting import Outcome, compare, run_both
from tests.garbage import make, plans
from tests.tools import require_tool


@pytest.fixture(scope="module")
def cfsctl():
    """Return the program."""
    return require_tool("cfsctl")


@settings(max_examples=30)
@given(plan=plans())
def test_both_keep_the_same(plan, cfsctl):
    """There is no difference at all where only files are missing."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    with mock.patch.object(os, "fsync"), mock.patch.object(_native, "syncfs"):
        try:
            made = make(plan, directory / "repository")
            outcome = compare(*run_both(cfsctl, directory / "repository", directory, made.roots(plan)))
        finally:
            shutil.rmtree(directory)

    assert outcome in {Outcome.SAME, Outcome.BOTH_REFUSE}
