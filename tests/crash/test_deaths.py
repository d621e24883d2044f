"""Whoever is killed, and whenever: one line says so, no process stays, and nothing in shared memory."""

import multiprocessing
import os
import random
import signal
import subprocess
import time

import pytest

from composefs import ComposefsError, Repository
from composefs.oci.pool import run_jobs
from composefs.oci.progress import Board
from tests import commands
from tests.crash import dying
from tests.golden import vectors
from tests.layouts import files_layer, image_layout, noise, slow_layer
from tests.tools import require_tool

SOON = 3.0  # seconds, where one is promised, and machines are busy


def run(*whats, workers):
    board = Board(len(whats))
    results = []
    try:
        jobs = [dying.Job(what, board.path, number) for number, what in enumerate(whats)]
        start = time.monotonic()
        run_jobs(
            dying.work, jobs, board, workers=workers, executor=None, on_progress=lambda *_: None,
            on_result=lambda _, result: results.append(result),
        )  # fmt: skip
    finally:
        board.close()
        assert time.monotonic() - start < 2 * SOON  # processes are started, too
        assert not multiprocessing.active_children()
    return results


@pytest.mark.parametrize("what", ["nothing", "half a result", "lock of results", "lock of jobs"])
@pytest.mark.parametrize("others", [["wait"], ["wait", "wait"], ["quick"], ["quick", "wait"]], ids=" ".join)
def test_worker_that_holds_something(what, others):
    """A worker that dies ends all, whatever it held and whatever the others do, and none waits for what never comes."""
    with pytest.raises(ComposefsError, match="its worker process died; out of memory, or killed$"):
        run(what, *others, workers=len(others) + 1)


def test_finished_before_a_death():
    """What was finished before a worker died is passed on."""
    board = Board(2)
    results = []
    jobs = [dying.Job(what, board.path, number) for number, what in enumerate(("quick", "nothing"))]
    try:
        with pytest.raises(ComposefsError):
            run_jobs(
                dying.work, jobs, board, workers=2, executor=None, on_progress=lambda *_: None,
                on_result=lambda _, result: results.append(result),
            )  # fmt: skip
    finally:
        board.close()

    assert results == ["quick"]


@pytest.fixture(scope="module")
def slow_image(tmp_path_factory):
    """An image of layers that take some seconds together."""
    layers = [slow_layer(seed, 200) for seed in range(3)] + [files_layer({"usr/x": noise(100)})]
    return image_layout(tmp_path_factory.mktemp("slow") / "layout", layers)


class Import:
    """A `composefs-import` of *image* into an empty repository, in a session of its own."""

    def __init__(self, image, directory):
        self.path = directory / "repository"
        arguments = [image, "--repo", self.path, "--workers", "3", "--progress", "none"]
        Repository.init(self.path, require_verity=False)
        self.process = commands.start(
            directory, "composefs-import", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def workers(self):
        """Return the processes that work on layers: those that neither the import nor the tests have started."""
        members = commands.session_members(self.pid)
        return [pid for pid in members if commands.parent_of(pid) not in (self.pid, os.getpid(), 0)]

    def check_end(self, status, *, killed=False):
        """It ends soon with *status* and says one line, or none if *killed*; no process is left, and no wrong name."""
        start = time.monotonic()
        _, err = self.process.communicate(timeout=30)
        assert time.monotonic() - start < SOON
        assert self.process.returncode == status, err
        if not killed:
            assert len(err.splitlines()) == (status != 0), err
        assert commands.wait_until(lambda: not commands.session_members(self.pid), SOON)
        with Repository.open(self.path) as repository:
            for name, _ in repository.streams.names():
                assert status == 0 or name.startswith("oci-layer-")
        return err


@pytest.fixture
def importing(slow_image, tmp_path):
    running = Import(slow_image, tmp_path)
    yield running
    for pid in commands.session_members(running.pid):
        os.kill(pid, signal.SIGKILL)
    running.process.communicate()


def is_at_work(pid):
    """Tell whether the process *pid* has opened a layer."""
    directory = f"/proc/{pid}/fd"
    try:
        return any("/blobs/" in os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory))
    except FileNotFoundError:
        return False


def shared_memory():
    return set(os.listdir("/dev/shm"))


@pytest.mark.parametrize("seed", range(3))
def test_killed_worker(importing, seed):
    """A worker that is killed at any moment ends the import with one line."""
    chance = random.Random(seed)
    assert commands.wait_until(importing.workers)
    time.sleep(chance.random() * 0.6)
    workers = importing.workers()
    os.kill(chance.choice(workers), signal.SIGKILL)

    err = importing.check_end(1)

    assert err.endswith(": its worker process died; out of memory, or killed\n")


def test_killed_forkserver(importing):
    """Killing the process that starts workers leaves none of them."""
    assert commands.wait_until(lambda: sum(map(is_at_work, importing.workers())) == 3)
    os.kill(commands.parent_of(importing.workers()[0]), signal.SIGKILL)

    err = importing.check_end(1)

    assert "its worker process died" in err


@pytest.mark.parametrize("wait", [0.0, 0.4, 0.8])
def test_killed_import(importing, wait):
    """When the import itself is killed all its processes go, and what they shared."""
    before = shared_memory()
    time.sleep(wait)

    importing.process.kill()

    importing.check_end(-signal.SIGKILL, killed=True)
    new = shared_memory() - before  # some may be of others who use this machine
    assert commands.wait_until(lambda: not {name for name in new & shared_memory() if name.startswith("sem.mp")})


@pytest.mark.parametrize("signals", [[2, 2], [15, 2], [2, 15, 2, 15, 2]], ids=str)
@pytest.mark.parametrize("pause", [0, 0.05])
def test_stopped_again(importing, signals, pause):
    """More than one stop is as good as one: one line, in good order."""
    assert commands.wait_until(importing.workers)
    for signum in signals:
        importing.process.send_signal(signum)
        time.sleep(pause)

    err = importing.check_end(1)

    assert err.endswith("ed; what was stored is kept for the next run\n")


@pytest.mark.parametrize("seed", range(3))
def test_stopped_at_any_moment(slow_image, tmp_path, seed):
    """Ctrl-C from the terminal, twice, at any moment after the first lines: one line or the end, never a traceback."""
    chance = random.Random(seed)
    running = Import(slow_image, tmp_path)
    time.sleep(0.15 + chance.random())
    for _ in range(2):
        if running.process.poll() is None:
            os.killpg(running.pid, signal.SIGINT)

    running.check_end(1)


# Each look at the clock finds it a minute further back, from the year 2100 on.
_CLOCK = """\
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t now = 4102444800;

int clock_gettime(clockid_t clock, struct timespec *time)
{
	if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
		return syscall(SYS_clock_gettime, clock, time);
	time->tv_sec = now -= 60;
	time->tv_nsec = 0;
	return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	(void)zone;
	time->tv_sec = now -= 60;
	time->tv_usec = 0;
	return 0;
}

time_t time(time_t *result)
{
	now -= 60;
	if (result)
		*result = now;
	return now;
}
"""


def test_clock_that_runs_backwards(tmp_path):
    """Nothing depends on what time it is: not what is stored, nor what is kept, nor when something ends."""
    (tmp_path / "clock.c").write_text(_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([require_tool("cc"), "-shared", "-fPIC", "-O2", "-o", library, tmp_path / "clock.c"], check=True)
    layers = [files_layer({f"usr/file{seed}": noise(3000, seed)}, "gzip") for seed in range(3)]
    images = [image_layout(tmp_path / name, layers[first:]) for name, first in (("one", 0), ("two", 1))]
    commands_of_a_day = [
        *(["import", image, "--name", image.path.name, "--workers", "2", "--progress", "none"] for image in images),
        ["oci", "tag", "two", "three"],
        ["oci", "untag", "one"],
        ["gc"],
        ["oci", "fsck"],
    ]
    listings = []
    for name, environment in (("forwards", {}), ("backwards", {"LD_PRELOAD": str(library)})):
        path = tmp_path / name
        Repository.init(path, require_verity=False)
        for words in commands_of_a_day:
            result = commands.run(tmp_path, "composefs", "--repo", path, *words, env=environment)
            assert result.returncode == 0, result.stderr
            for file in (path / "objects").glob("*/*"):
                os.utime(file, (4e9, 4e9) if environment else None)  # as if it was stored in the future
        (path / "fsck-record").unlink(missing_ok=True)  # has the inodes of files
        listings.append(vectors.listing(path))

    year = subprocess.run(
        ["date", "+%Y"], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    assert year.stdout == "2099\n"
    assert listings[0] == listings[1]
