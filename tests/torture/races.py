"""Many programs in one repository at once: eight imports, and all else beside them, by both tools.

    python -m tests.torture.races --rounds 20 --seed 1

1. Every command ends well, or with a refusal that is documented (garbage is not collected while others work).
2. Whatever moment a check of the repository meets, it finds nothing: what it sees half done is not broken.
3. In the end the repository is the one that the same imports make one after the other: names, objects, ids.  The order
   of references in manifests and configs, which composefs-rs does not keep, does not count.
4. Nobody waits for ever.
"""

# ruff: noqa: T201  # this one is a program

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composefs.digest import Algorithm
from composefs.oci.importer import import_image
from composefs.repository import Repository
from tests.commands import ROOT, write_script
from tests.layouts import Layer, files_layer, image_layout, noise
from tests.torture.stops import cfsctl_path

IMPORTS = 8
_BASE = "base"  # the tag of an image that is there before
_LAYERS = 10  # of which each image has some
_TIMEOUT = 120  # seconds, after which a command is taken to wait for ever
_MEMORY = Path("/dev/shm")
_BUSY = re.compile(r" is in use by | there is nothing in trash/ ")
# What a tag that another process takes away meanwhile leads to, in the words of either tool.
_GONE = re.compile(r": no tag |No such file or directory|not found")
_NEVER = re.compile(r"(?!)")
# composefs-rs reads the names of a directory, then looks at each: a tag that went in between is a broken link to it.
_SEEN_GOING = re.compile(r"fsck: (broken-symlink|stat-failed): streams/refs/oci/moving")
_REORDERED = ("oci-manifest-", "oci-config-")  # streams whose references composefs-rs writes in any order


@dataclass(frozen=True)
class Step:
    """A command: of composefs or of cfsctl.

    Attributes:
        tool: which.
        arguments: behind the repository.
        refusals: what it may say on standard error, and fail.
        is_check: it prints JSON, which must say that all is well.
    """

    tool: str
    arguments: tuple[str, ...]
    refusals: re.Pattern[str] = _NEVER
    is_check: bool = False

    def __str__(self) -> str:
        return " ".join((self.tool, *self.arguments))


@dataclass
class Round:
    """What came of one race.

    Attributes:
        commands: how many ended, by tool and what they did.
        refused: how many of them with a documented refusal.
        excused: findings of `cfsctl fsck` that only say that a tag went while it looked.
        failures: what must not be.
    """

    commands: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    excused: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """A repository, so that two are equal if nobody can tell the difference.

    Attributes:
        names: what each link leads to; for a stream whose references have no order, what it holds and refers to.
        objects: all but those that are such streams.
    """

    names: dict[str, object]
    objects: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> State:
        """Return the state of the repository at *path*."""
        links = [link for top in ("streams", "images") for link in (path / top).rglob("*") if link.is_symlink()]
        names: dict[str, object] = {str(link.relative_to(path)): os.readlink(link) for link in links}
        objects = {str(file.relative_to(path / "objects")) for file in (path / "objects").glob("*/*")}
        with Repository.open(path) as repository:
            for name, digest in repository.streams.names():
                if name.startswith(_REORDERED):
                    objects.discard(digest.object_path)
                    names[f"streams/{name}"] = _meaning(repository, name)
        return cls(names, frozenset(objects))

    def difference(self, other: State) -> str:
        """Say what *other* has otherwise; empty: nothing."""
        names = [name for name in {*self.names, *other.names} if self.names.get(name) != other.names.get(name)]
        return ", ".join(sorted([*names, *(self.objects ^ other.objects)]))


def _meaning(repository: Repository, name: str) -> object:
    """Return what the stream *name* holds, and refers to; a config by its name, since that has no order either."""
    with repository.streams.open(name) as stream:
        refs = stream.reader.named_refs.items()
        return stream.read_body(), {key: "" if key.startswith("config:") else digest.hex for key, digest in refs}


class Workshop:
    """Images that have layers in common, in *directory*, chosen by *seed*; a tree; and the programs."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, rng = directory, random.Random(seed)
        shared = [noise(rng.randrange(100, 60_000), index) for index in range(12)]
        layers = [self._layer(rng, index, shared) for index in range(_LAYERS)]
        self.images = [_BASE, *(f"image{number}" for number in range(IMPORTS))]
        for name in self.images:
            chosen = sorted(rng.sample(range(_LAYERS), rng.randint(2, 4)))
            image_layout(directory / name, [layers[index] for index in chosen], name, author=name)
        index = json.loads((directory / _BASE / "index.json").read_text())
        self.manifest: str = index["manifests"][0]["digest"]
        self.tree = directory / "tree"
        (self.tree / "usr").mkdir(parents=True)
        for index, data in enumerate(shared[:6]):
            (self.tree / f"usr/file{index}").write_bytes(data)
        os.utime(self.tree / "usr", (0, 0))
        script = write_script(directory, "composefs")
        self.programs = {"composefs": [sys.executable, str(script)], "cfsctl": [cfsctl_path()]}

    @staticmethod
    def _layer(rng: random.Random, index: int, shared: list[bytes]) -> Layer:
        files = {f"usr/share/{number}-{index % 3}": data for number, data in enumerate(rng.sample(shared, 5))}
        files[f"usr/own{index}"] = noise(rng.randrange(10, 200_000), 100 + index)
        return files_layer(files, ("none", "gzip", "zstd")[index % 3])

    def reference(self, image: str) -> str:
        """Return what an import takes."""
        return f"oci:{self.directory / image}:{image}"

    def run(self, step: Step, repository: Path) -> subprocess.CompletedProcess[str]:
        """Do *step* in *repository*, and wait for its end."""
        command = [*self.programs[step.tool], "--repo", str(repository), *step.arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=environment)

    def new_repository(self, name: str, algorithm: Algorithm) -> Path:
        """Make a repository that has the base image."""
        path = self.directory / name
        Repository.init(path, algorithm, require_verity=False)
        with Repository.open(path) as repository:
            import_image(repository, self.reference(_BASE), name=_BASE, workers=1)
        return path

    def one_after_the_other(self, algorithm: Algorithm) -> State:
        """Return what all imports make if none is disturbed."""
        path = self.new_repository(f"sequential-{algorithm.hash_name}", algorithm)
        with Repository.open(path) as repository:
            for image in self.images[1:]:
                import_image(repository, self.reference(image), name=image, workers=1)
        self._must(Step("composefs", ("create-image", str(self.tree), "tree")), path)
        self._must(Step("composefs", ("gc",)), path)
        return State.of(path)

    def _must(self, step: Step, path: Path) -> None:
        done = self.run(step, path)
        if done.returncode != 0:
            raise RuntimeError(f"{step}: {done.stderr}")


class Race:
    """What goes on in the repository at *path* until all imports are done."""

    def __init__(self, workshop: Workshop, path: Path, rng: random.Random) -> None:
        self._workshop, self._path, self._rng = workshop, path, rng
        self._lock = threading.Lock()  # of the result
        self._done = threading.Event()
        self.result = Round()

    def run(self) -> None:
        """Run it."""
        rng = self._rng
        importers = [self._importer(image, random.Random(rng.random())) for image in self._workshop.images[1:]]
        others = [self._garbage, self._checks, self._tags, self._tags, self._builder, self._readers]
        beside = [self._repeated(other, random.Random(rng.random())) for other in others]
        threads = [threading.Thread(target=work) for work in (*importers, *beside)]
        for thread in threads:
            thread.start()
        for thread in threads[: len(importers)]:
            thread.join()
        self._done.set()
        for thread in threads[len(importers) :]:
            thread.join()

    def _importer(self, image: str, rng: random.Random) -> Callable[[], None]:
        """Return what imports *image*, takes its name away, and imports it again, with another tool perhaps."""
        pulls = [self._pull(image, rng.choice(("composefs", "cfsctl"))) for _ in range(2)]
        untag = Step(rng.choice(("composefs", "cfsctl")), ("oci", "untag", image))
        return lambda: self.do(pulls[0], untag, pulls[1])

    def _pull(self, image: str, tool: str) -> Step:
        return Step(tool, ("oci", "pull", self._workshop.reference(image), image))

    def _repeated(self, choose: Callable[[random.Random], Step], rng: random.Random) -> Callable[[], None]:
        def work() -> None:
            while not self._done.is_set() and not self.result.failures:
                self.do(choose(rng))

        return work

    def _garbage(self, rng: random.Random) -> Step:
        ours = rng.choice(["gc", "gc --wait 2", "gc --dry-run", "gc --trash 1 --wait 1", "gc --undo --wait 1"])
        # composefs-rs waits as long as it takes, which is until nobody has the repository open.
        return rng.choice([Step("composefs", tuple(ours.split()), _BUSY), Step("cfsctl", ("gc",))])

    def _checks(self, rng: random.Random) -> Step:
        both, ours = ["fsck --json", "oci fsck --json"], ["fsck --fast --json", "fsck --since-last --json"]
        tool = rng.choice(("composefs", "composefs", "cfsctl"))
        return Step(tool, tuple(rng.choice(both + ours * (tool == "composefs")).split()), is_check=True)

    def _tags(self, rng: random.Random) -> Step:
        """Choose between giving and taking a tag that another one gives and takes likewise."""
        if rng.random() < 0.5:
            return Step(rng.choice(("composefs", "cfsctl")), ("oci", "untag", "moving"), _GONE)
        return Step(rng.choice(("composefs", "cfsctl")), ("oci", "tag", self._workshop.manifest, "moving"), _GONE)

    def _builder(self, rng: random.Random) -> Step:
        return Step(rng.choice(("composefs", "cfsctl")), ("create-image", str(self._workshop.tree), "tree"))

    def _readers(self, rng: random.Random) -> Step:
        arguments = rng.choice([("oci", "images"), ("images",), ("oci", "dump", _BASE), ("oci", "inspect", _BASE)])
        return Step(rng.choice(("composefs", "cfsctl")), arguments)

    def do(self, *steps: Step) -> None:
        """Do the *steps*, and judge what comes of each; what fails is no reason to stop."""
        for step in steps:
            try:
                done = self._workshop.run(step, self._path)
            except subprocess.TimeoutExpired:
                return self._fail(f"{step}: waits for ever")
            with self._lock:
                self._judge(step, done)
        return None

    def _judge(self, step: Step, done: subprocess.CompletedProcess[str]) -> None:
        result = self.result
        result.commands[f"{step.tool} {' '.join(step.arguments[: 1 + (step.arguments[0] == 'oci')])}"] += 1
        if step.is_check and done.stdout:
            self._judge_check(step, json.loads(done.stdout))
        elif done.returncode != 0 and step.refusals.search(done.stderr):
            result.refused += 1
        elif done.returncode != 0:
            result.failures.append(f"{step}: status {done.returncode}: {done.stderr.strip()}")

    def _judge_check(self, step: Step, found: dict[str, Any]) -> None:
        errors = [*found["errors"], *found.get("repo", {}).get("errors", [])]
        if step.tool == "cfsctl":
            excused = [error for error in errors if _SEEN_GOING.match(error)]
            self.result.excused += len(excused)
            errors = [error for error in errors if error not in excused]
        self.result.failures += [f"{step}: {error}" for error in errors]

    def _fail(self, what: str) -> None:
        with self._lock:
            self.result.failures.append(what)


def run_round(workshop: Workshop, algorithm: Algorithm, wanted: State, seed: int) -> Round:
    """Have one race, and return what came of it; the repository must be as *wanted* in the end."""
    rng = random.Random(f"{seed} {algorithm.hash_name}")
    path = workshop.new_repository(f"race-{algorithm.hash_name}-{seed}", algorithm)
    race = Race(workshop, path, rng)
    race.run()
    result = race.result
    tool = rng.choice(("composefs", "cfsctl"))
    ending = [
        Step("cfsctl", ("oci", "untag", "moving"), _GONE),
        Step("composefs", ("create-image", str(workshop.tree), "tree")),
        Step(tool, ("gc",)),
        *(Step(each, ("oci", "fsck", "--json"), is_check=True) for each in workshop.programs),
    ]
    race.do(*ending)
    if difference := wanted.difference(State.of(path)):
        result.failures.append(f"another repository than one after the other makes: {difference}")
    if result.failures:
        result.failures.append(f"(--seed {seed} --rounds 1, {algorithm.hash_name})")
    else:
        shutil.rmtree(path)
    return result


@contextmanager
def workshop(seed: int) -> Iterator[Workshop]:
    """Make a workshop, in memory where there is some, and remove it."""
    with tempfile.TemporaryDirectory(
        prefix="composefs-races-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
    ) as directory:
        yield Workshop(Path(directory), seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="races in each algorithm (20)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first (1)")
    options = parser.parse_args(arguments)
    begin, total = time.monotonic(), Round()
    for seed in range(options.seed, options.seed + options.rounds):
        with workshop(seed) as shop:
            for algorithm in Algorithm:
                result = run_round(shop, algorithm, shop.one_after_the_other(algorithm), seed)
                for failure in result.failures:
                    print(failure, file=sys.stderr, flush=True)
                total.commands += result.commands
                total.refused += result.refused
                total.excused += result.excused
                total.failures += result.failures
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(total.commands.items()))
    print(
        f"races: {2 * options.rounds} rounds of {IMPORTS} imports, {total.commands.total()} commands ({kinds}); "
        f"{total.refused} refused as documented, {total.excused} findings of cfsctl that a tag went while it looked; "
        f"{len(total.failures)} failures; {time.monotonic() - begin:.0f} s"
    )
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
