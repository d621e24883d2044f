"""A pull that is stopped, by a signal or for want of room, ends at once, whatever it waits for."""

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composefs.oci.split import ArchiveSplitter
from tests import commands
from tests.layouts import Layout
from tests.registries import answers, honest
from tests.registries.scene import BLOB, MIB, SMALL, WITHIN, Scene, made_scene, make_layout, names
from tests.registries.scripted import Answer
from tests.registries.wire import Request


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return make_layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture
def scene(layout, repository, tmp_path) -> Iterator[Scene]:
    with made_scene(layout, repository, tmp_path) as made:
        yield made


def test_a_full_disk_ends_the_download(scene, monkeypatch):
    """The connection is closed, and no thread waits for the rest of the blob."""
    scene.server.always(BLOB, answers.stall(MIB))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ArchiveSplitter, "feed", full)
    scene.fail(OSError, os.strerror(errno.ENOSPC))

    assert not [thread.name for thread in threading.enumerate() if thread.name == "composefs-download"]


STATES: dict[str, tuple[str, Answer]] = {
    "ping": ("/v2/$", answers.silent),
    "manifest": ("GET .*/manifests/", answers.silent),
    "manifest in parts": ("GET .*/manifests/", answers.stall(10)),
    "blob": (BLOB, answers.silent),
    "blob in parts": (BLOB, answers.stall(MIB)),
    "too many": (BLOB, answers.too_many("1000000000")),
    "token": ("/token", answers.silent),
}


MOMENTS = [(state, signal.SIGINT) for state in STATES] + [
    ("manifest", signal.SIGTERM),
    ("blob in parts", signal.SIGTERM),
    ("blob in parts", signal.SIGKILL),
]


@pytest.mark.parametrize(("state", "signum"), MOMENTS)
def test_a_signal_ends_a_command_within_a_second(scene, tmp_path, state, signum):
    """Whatever it waits for; without a new name, and without a process that stays."""
    pattern, answer = STATES[state]
    scene.server.tokens = honest.Tokens()
    scene.server.always(pattern, answer)
    path = Path(scene.repository.path)
    before = names(path)

    reference = f"docker://{scene.server.address}/x:tag"
    options = ("--name", "new", "--tls-verify=false", "--policy=none")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with commands.start(tmp_path, "composefs-import", "--repo", path, reference, *options, **pipes) as process:
        try:
            assert commands.wait_until(lambda: any(is_for(pattern, request) for request in scene.server.requests))
            time.sleep(0.2)
            began = time.monotonic()
            process.send_signal(signum)
            _, err = process.communicate(timeout=WITHIN)
            took = time.monotonic() - began
        finally:
            process.kill()

    assert process.returncode != 0
    assert took < 1.5  # one, and half of one for a machine that has other things to do
    assert "Traceback" not in err
    assert commands.wait_until(lambda: not commands.session_members(process.pid))
    assert set(names(path)) - set(before) <= {f"streams/oci-layer-{SMALL.diff_id}"}  # which was finished


def is_for(pattern: str, request: Request) -> bool:
    return re.search(pattern, f"{request.method} {request.target}") is not None
