"""Interrupt pulls of one image at random moments, then finish it: nothing that was done is fetched again.

    python -m tests.torture.interruptions --count 100 --seed 1

A registry counts what it sends.  Each run of composefs-import is ended after a random number of bytes: by Ctrl-C,
SIGTERM or SIGKILL, to the command alone or, as a terminal does it, to all its processes.  In some of them all
connections are cut before that.  Then one run is left alone.  It has to make the image, and:

1. A layer that a run said was done is not fetched again, unless it was killed within `GRACE` of that: until then the
   layer may have no name.
2. All that was sent is at most 1.1 times the image, and what was in flight at each interruption: what had been sent of
   layers that were not done.
"""

# ruff: noqa: T201  # this one is a program

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from composefs.digest import Algorithm
from composefs.repository import Repository
from tests import commands
from tests.layouts import Layer, files_layer, image_layout, noise
from tests.registries import answers
from tests.registries.scripted import ScriptedServer

GRACE = 3.0  # seconds: the interval of checkpoints, and time for one flush
FACTOR = 1.1
_TIMEOUT = 120  # seconds of a run
_RATE = 2_000_000  # bytes per second of a connection
_WAYS = ("SIGINT", "SIGINT to all", "SIGTERM", "SIGKILL", "SIGKILL to all")
_CUTS = 0.3  # of the runs lose their connections before


@dataclass
class Run:
    """One run of composefs-import.

    Attributes:
        way: how it was interrupted; None: it was left alone.
        status: of the process.
        ended: when.
        done: diff_ids of the layers that it said were done, and when.
        sent: bytes of each blob, by digest.
        seconds: from the interruption to the end.
    """

    way: str | None
    status: int = 0
    ended: float = 0.0
    seconds: float = 0.0
    done: dict[str, float] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)


@dataclass
class Figures:
    """What all of it came to; sizes in bytes."""

    image: int
    cuts: int = 0
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(run.sent.total() for run in self.runs)

    def in_flight(self, diff_ids: dict[str, str]) -> int:
        """Return what was sent of layers that were not done when it was interrupted; *diff_ids* by blob."""
        return sum(
            size
            for run in self.runs
            if run.way is not None
            for digest, size in run.sent.items()
            if not _is_safe(run, diff_ids[digest])
        )


def _is_safe(run: Run, diff_id: str) -> bool:
    """Tell whether the layer was done, and its name due, when the run ended."""
    done = run.done.get(diff_id)
    if done is None:
        return False
    return run.way is None or not run.way.startswith("SIGKILL") or run.ended - done > GRACE


def make_layers(count: int, seed: int) -> list[Layer]:
    """Return layers of 30 kB to 2 MB."""
    chance = random.Random(f"layers {seed}")
    sizes = [int(30_000 * 2 ** chance.uniform(0, 6)) for _ in range(count)]
    kinds = ("gzip", "zstd", "none")
    return [
        files_layer({f"file{number}": noise(size, number)}, kinds[number % len(kinds)])
        for number, size in enumerate(sizes)
    ]


class Torture:
    """Pulls into a repository below *directory* of an image of *layers* at *server*."""

    def __init__(self, directory: Path, server: ScriptedServer, layers: list[Layer], seed: int) -> None:
        self._directory, self._server, self._chance = directory, server, random.Random(seed)
        self.diff_ids = {layer.digest: layer.diff_id for layer in layers}
        self._size = sum(layer.size for layer in layers)
        self.figures = Figures(self._size)
        self.repository = directory / "repository"
        Repository.init(self.repository, Algorithm.SHA256, require_verity=False)
        layout = image_layout(directory / "layout", layers)
        self.layout = str(layout)
        server.contents.put_layout(layout.path, "x", "tag")
        server.always("GET .*/blobs/", answers.slow(_RATE))

    def interrupt(self, most: int) -> Run:
        """Begin a pull, and end it when up to *most* bytes of layers have been sent."""
        run = Run(self._chance.choice(_WAYS))
        after = self._chance.randint(0, most)
        with self._started(run) as process:
            began = self._server.blob_bytes
            if self._chance.random() < _CUTS:
                self._wait_for(process, began + after // 2)
                self._server.cut_all()
                self.figures.cuts += 1
            self._wait_for(process, began + after)
            time.sleep(self._chance.uniform(0, 0.05))
            stopped = time.monotonic()
            self._stop(process, run)
            self._wait(process, run)
            run.seconds = time.monotonic() - stopped
        return run

    def finish(self) -> Run:
        """Pull, and let it end."""
        run = Run(None)
        with self._started(run) as process:
            self._wait(process, run)
        if run.status != 0:
            self.figures.failures.append(f"the last run ended with {run.status}")
        return run

    def _wait_for(self, process: subprocess.Popen[str], sent: int) -> None:
        """Wait until so many bytes of layers have been sent in all."""
        deadline = time.monotonic() + _TIMEOUT
        while self._server.blob_bytes < sent and process.poll() is None:
            assert time.monotonic() < deadline, "nothing is fetched"
            time.sleep(0.005)

    def _stop(self, process: subprocess.Popen[str], run: Run) -> None:
        assert run.way is not None
        name, _, to_all = run.way.partition(" ")
        signum = signal.Signals[name]
        with contextlib.suppress(ProcessLookupError):
            if to_all:
                os.killpg(process.pid, signum)
            else:
                process.send_signal(signum)

    @contextlib.contextmanager
    def _started(self, run: Run) -> Iterator[subprocess.Popen[str]]:
        """Run the command, and note what it says, and what it is sent."""
        first = len(self._server.requests)
        reference = f"docker://{self._server.address}/x:tag"
        options = ("--name", "x", "--tls-verify=false", "--policy=none", "--progress=json")
        process = commands.start(
            self._directory,
            "composefs-import",
            *("--repo", self.repository, reference, *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        listening = threading.Thread(target=_listen, args=[process, run])
        listening.start()
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            listening.join()
            process.stderr.close()
            for request in self._server.requests[first:]:
                digest = request.path.rpartition("/")[2]
                if request.method == "GET" and digest in self.diff_ids:
                    run.sent[digest] += request.sent
            self.figures.runs.append(run)

    def _wait(self, process: subprocess.Popen[str], run: Run) -> None:
        try:
            run.status = process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.figures.failures.append(f"{run.way}: it does not end")
        run.ended = time.monotonic()
        if not commands.wait_until(lambda: not commands.session_members(process.pid), 5):
            self.figures.failures.append(f"{run.way}: processes are left")

    def judge(self) -> Figures:
        """Return the figures, with what is wrong."""
        figures = self.figures
        safe: set[str] = set()
        for number, run in enumerate(figures.runs):
            again = safe & {self.diff_ids[digest] for digest in run.sent}
            if again:
                figures.failures.append(f"run {number}: {len(again)} finished layers are fetched again")
            safe |= {diff_id for diff_id in run.done if _is_safe(run, diff_id)}
            if run.way is not None and run.status == 0:
                figures.failures.append(f"run {number} ended before it was interrupted: {run.way}")
            if run.way is not None and run.seconds > 2:
                figures.failures.append(f"run {number}: {run.way} took {run.seconds:.1f} s")
        most = FACTOR * figures.image + figures.in_flight(self.diff_ids)
        if figures.sent > most:
            figures.failures.append(f"{figures.sent} bytes were sent, more than {most:.0f}")
        return figures


def _listen(process: subprocess.Popen[str], run: Run) -> None:
    """Note what the command says, until all its processes have gone."""
    indexes: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if event["event"] == "import-started":
                indexes = [layer["diff_id"] for layer in event["layers"]]
            elif event["event"] == "layer-done":
                run.done[indexes[event["index"]]] = time.monotonic()


def torture(count: int, seed: int, layers: int, directory: Path) -> tuple[Torture, Figures]:
    """Interrupt the pull of one image of so many *layers* *count* times, then finish it."""
    with ScriptedServer() as server:
        made = Torture(directory, server, make_layers(layers, seed), seed)
        # On average all interrupted runs together fetch half of the image, so that the last ones have something to do.
        most = made.figures.image // count
        for number in range(count):
            made.interrupt(most)
            _show(number + 1, count)
        made.finish()
        return made, made.judge()


def _show(done: int, count: int) -> None:
    if done % 10 == 0 and sys.stderr.isatty():
        print(f"{done} of {count}", file=sys.stderr)


def main() -> int:
    """Do it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="of interruptions (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=120, help="of the image (default: 120)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        made, figures = torture(arguments.count, arguments.seed, arguments.layers, Path(directory))
    in_flight = figures.in_flight(made.diff_ids)
    ways = Counter(run.way for run in figures.runs if run.way is not None)
    signalled = [run.seconds for run in figures.runs if run.way is not None]
    print(f"interruptions   {sum(ways.values())}: " + ", ".join(f"{n} {way}" for way, n in sorted(ways.items())))
    print(f"connections     cut {figures.cuts} times before that")
    print(f"image           {figures.image / 1e6:.1f} MB, {len(made.diff_ids)} layers")
    print(f"sent            {figures.sent / 1e6:.1f} MB, of it in flight when interrupted {in_flight / 1e6:.1f} MB")
    print(f"without that    {(figures.sent - in_flight) / figures.image:.3f} of the image; at most {FACTOR} is right")
    print(f"ends after      {max(signalled, default=0):.2f} s at most, from signal to exit")
    for failure in figures.failures:
        print(f"FAILED          {failure}")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
