"""Fixtures that more than one directory of tests uses."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from composefs import Repository, _native
from composefs.digest import Algorithm
from composefs.registry import session, upload
from composefs.registry.pool import close_connections
from tests import damage
from tests.hosts import Host
from tests.registries.scripted import ScriptedServer

# The same examples every time, so that a failure belongs to the change that it appears with.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, print_blob=True)  # others each time
hypothesis.settings.load_profile("repeatable")

# In the background of a script Ctrl-C is ignored, by the programs that are tested, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IMPLEMENTATIONS = [
    pytest.param((algorithm, name), id=f"{algorithm.hash_name}-{name}")
    for algorithm in Algorithm
    for name in _native.hash_implementations(algorithm.kernel_id)
]


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Let what a command does to the logs of its process end with the test."""
    library = logging.getLogger("composefs")
    former = library.handlers, library.propagate, library.level
    yield
    library.handlers, library.propagate = former[:2]
    library.setLevel(former[2])


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Iterator[Algorithm]:
    """Run the test with every hash implementation that this CPU can run; the value is its algorithm."""
    algorithm, name = request.param
    former = _native.hash_implementation(algorithm.kernel_id)
    _native.select_hash_implementation(algorithm.kernel_id, name)
    yield algorithm
    _native.select_hash_implementation(algorithm.kernel_id, former)


@pytest.fixture
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(_native, "syncfs", lambda _: None)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """An empty repository that has SHA-256 digests and wants no fs-verity, at `tmp_path / "repository"`."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as opened:
        yield opened


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> damage.Place:
    """A repository without damage, which nobody changes."""
    return damage.make(tmp_path_factory.mktemp("fsck"))


@pytest.fixture
def place(original: damage.Place, tmp_path: Path) -> damage.Place:
    """A copy of it."""
    return original.copy(tmp_path / "repository")


@pytest.fixture
def no_connections() -> Iterator[None]:
    """Leave no connection of this process behind."""
    yield
    close_connections()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch, no_connections: None) -> None:
    """Let nobody wait for long before a registry is asked again."""
    monkeypatch.setattr(session, "_FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(session, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(upload, "_FIRST_BACKOFF", 0.01)


@pytest.fixture
def server(no_connections: None) -> Iterator[ScriptedServer]:
    """A registry without contents that does all right."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without any configuration, in `tmp_path / "host"`, for a user who is not root."""
    return Host(tmp_path / "host")
