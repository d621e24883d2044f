"""What must hold after a power cut."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from composefs import Digest, Repository
from composefs.erofs.check import collect_objects
from composefs.erofs.reader import ErofsReader
from composefs.repository.fsck import check_repository
from composefs.splitstream import SplitstreamReader

from .recording import CHECKOUT, NAME, Names, Span, names, objects, run_here
from .steps import Command, Step

_LAYER = "streams/oci-layer-"
_OF_OBJECTS = {"missing-object-ref", "missing-named-ref", "image-missing-object"}  # kinds that end with an object


@dataclass
class Verdict:
    """What became of one cut.

    Attributes:
        problems: what must not be; a line each.
        half_written: objects that are not what they are called, and that nothing named needs.
        kept: layers that the cut import had named, so that the next one did not import them again.
    """

    problems: list[str] = field(default_factory=list)
    half_written: int = 0
    kept: int = 0


@dataclass(frozen=True)
class State:
    """What a repository comes to when its garbage is collected: names, paths of objects, and findings of fsck."""

    names: Names
    objects: frozenset[str]
    findings: frozenset[str]


def judge(directory: Path, span: Span, step: Step, wanted: State, seed: int) -> Verdict:
    """Judge the repository in the file system *directory*, which is as a cut in *step* has left it, and mend it.

    Args:
        directory: where it is mounted.
        span: what the step did.
        step: the same for all who do it.
        wanted: what comes of it without a cut.
        seed: decides how the work goes on.
    """
    verdict, repository = Verdict(), directory / NAME
    found = names(repository)
    verdict.problems += compare_names(found, span.states)
    if step.moves and (lost := set(span.objects) - objects(repository)):
        verdict.problems.append(f"neither there nor set aside: {sorted(lost)[:3]}")
    is_there = (repository / "meta.json").exists()
    if is_there:
        verdict.half_written = _check(repository, step.damages, "after the cut", verdict)
    elif step.name != "init":
        verdict.problems.append("meta.json is gone")
    _do_again(repository, step.again(seed), {name for name in found if name not in span.states[0]}, verdict)
    if not verdict.problems:
        # What is not whole is proved now, or replaced, or still unnamed.
        _check(repository, step.damages if step.name == "fsck --quarantine" else (), "after the next run", verdict)
        verdict.problems += compare_names(names(repository), span.states[-1:])
        status, output = run_here(repository, ["gc"])
        if status != 0:
            verdict.problems.append(f"gc gave {status}: {output.strip()[-300:]}")
        got = settle(repository)
        for what in ("names", "objects", "findings"):
            if getattr(got, what) != getattr(wanted, what):
                difference = sorted(set(getattr(got, what)) ^ set(getattr(wanted, what)))
                verdict.problems.append(f"in the end, other {what} than without the cut: {difference[:3]}")
    return verdict


def look(repository: Path) -> tuple[Names, frozenset[str]] | None:
    """Return the names in *repository*, and what is wrong there; None: there is none."""
    if not (repository / "meta.json").exists():
        return None
    ours, theirs = _findings(repository)
    return names(repository), ours | theirs


def settle(repository: Path) -> State:
    """Have the reference collect the garbage of *repository*, and return what is left."""
    subprocess.run([_cfsctl(), "--repo", repository, "gc"], check=True, capture_output=True)
    found = frozenset(str(path.relative_to(repository)) for path in repository.glob("objects/*/*"))
    ours, theirs = _findings(repository)
    return State(names(repository), found, ours | theirs)


def compare_names(found: Names, states: list[Names]) -> list[str]:
    """Return what is wrong with the names *found*: each must be as it was in one of *states*, or not be as it was not.

    So what is there in all of them cannot be lost.
    """
    every = {*found, *(name for state in states for name in state)}
    return [
        f"{name} -> {found.get(name)}, which it never was"
        for name in sorted(every)
        if found.get(name) not in {state.get(name) for state in states}
    ]


def needed(repository: Path) -> set[str]:
    """Return the paths of the objects that any stream or image in *repository* needs, by looking at each."""
    found: set[str] = set()
    with Repository.open(repository, upgrade=False) as opened:
        algorithm = opened.algorithm
    for name, text in names(repository).items():
        if not text.startswith("../objects/"):
            continue
        path = text.removeprefix("../")
        found.add(path)
        with (repository / path).open("rb") as file:
            if name.startswith("images/"):
                digests = [Digest(algorithm, raw) for raw in collect_objects(ErofsReader(file.read()))]
            else:
                reader = SplitstreamReader(file, algorithm, name)
                digests = [*reader.object_refs, *reader.stream_refs]
        found |= {f"objects/{digest.object_path}" for digest in digests}
    return found


def _check(repository: Path, damaged: Iterable[str], when: str, verdict: Verdict) -> int:
    """Have both tools check *repository*; return how many objects are not whole, of which none may be needed."""
    # First, since a clean run would record that all is well now; what was recorded before must not hide anything.
    status, output = run_here(repository, ["fsck", "--since-last", "--json"])
    since_last = frozenset(map(_brief, json.loads(output)["errors"])) if status in (0, 1) else frozenset([output])
    ours, theirs = _findings(repository)
    if since_last != ours:
        verdict.problems.append(f"{when}: fsck --since-last and fsck differ: {sorted(since_last ^ ours)[:3]}")
    if ours != theirs:
        verdict.problems.append(f"{when}: fsck and cfsctl fsck differ: {sorted(ours ^ theirs)[:3]}")
    allowed = [each for path in damaged for each in (path, path.removeprefix("objects/").replace("/", ""))]
    others = {line for line in ours | theirs if not any(each in line for each in allowed)}
    if not others:
        return 0
    try:
        named = needed(repository)
    except Exception as error:  # whatever is wrong with what has a name
        verdict.problems.append(f"{when}: what has a name cannot be read: {error}")
        return 0
    broken = set()
    for line in others:
        path = line.split(": ")[1]
        broken.add(path)
        if not path.startswith("objects/") or path in named:
            verdict.problems.append(f"{when}: {line}")
    return len(broken)


def _findings(repository: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return kind and path of each finding, ours and cfsctl's, in their common form."""
    with Repository.open(repository, upgrade=False) as opened:
        report = check_repository(opened, workers=1)
    ours = frozenset(_brief(str(finding)) for finding in report.findings)
    done = subprocess.run([_cfsctl(), "--repo", repository, "fsck", "--json"], check=False, capture_output=True)
    theirs = frozenset(_brief(line) for line in json.loads(done.stdout)["errors"])
    return ours, theirs


def _brief(line: str) -> str:
    """Return of a finding the kind, and the path or, of what is missing, the object."""
    _, kind, path, *rest = line.split(": ")
    return f"{kind}: {path}" + (f": {rest[-1]}" if kind in _OF_OBJECTS else "")


def _do_again(repository: Path, commands: Iterable[Command], new: set[str], verdict: Verdict) -> None:
    """Go on with *commands*; *new* are the names that were made before the cut."""
    for command in commands:
        status, output = _run(repository, command)
        if status != command.status and not command.may_fail:
            verdict.problems.append(f"{' '.join(command.arguments)} gave {status}: {output.strip()[-300:]}")
        elif command.arguments[0] == "import":
            for layer in json.loads(output)["layers"]:
                if f"{_LAYER}{layer['diff_id']}" in new:
                    verdict.kept += 1
                    if layer["status"] != "present":
                        verdict.problems.append(f"layer {layer['diff_id']} had a name, and was imported again")


def _run(repository: Path, command: Command) -> tuple[int, str]:
    """Run *command* in this process, and have an import say what it did."""
    more = ["--json", "--workers", "1"] if command.arguments[0] == "import" else []
    return run_here(repository, [*command.arguments, *more])


@functools.cache
def _cfsctl() -> str:
    """Return the path of cfsctl, which is in PATH in a guest."""
    found = shutil.which("cfsctl")
    if found is not None:
        return found
    return subprocess.run(
        [CHECKOUT / "scripts/cfsctl.sh"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
