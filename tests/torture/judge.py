"""What must hold of a repository whatever was stopped in it, and whenever.

1. Nothing outlived the stop.
2. Each name and each file is as it was before the operation, or as it is after it; what is in both is there.
3. It can be opened, `fsck` and `oci fsck` find nothing that they did not find before or after, nor does `cfsctl fsck`:
   what has a name is whole, and checked.  Objects that nothing refers to may be left, and files on their way to be
   something else, of the documented names.
4. The same operation, done again, ends well, and in the repository that it makes when nothing stops it.
5. A collection of garbage takes what was left, and no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from composefs.errors import ComposefsError, FormatError
from composefs.oci.fsck import OciReport, check_images
from composefs.repository import Repository
from composefs.repository.fsck import record
from composefs.repository.gc import collect_garbage
from tests.torture.operations import Operation, Workshop
from tests.torture.syscalls import Outcome

# What may be left of files on their way, see `composefs.repository.refs` and `composefs.repository.staging`.
ON_THE_WAY = re.compile(
    r"\.(symlink|fsck-record)-[0-9a-f]{12}|objects/\.tmp-object-[0-9a-f]{12}|trash/\.(new|old)-[0-9]{6}(/.*)?"
)

# What is set aside lies in a directory for each run, with a note of why and when; two runs may share the work, and
# leave a directory with nothing in it.
_SET_ASIDE = re.compile(r"(quarantine|trash)/[^/]+(/.*)?")
_NOTE = re.compile(r"(quarantine|trash)(/\*(/manifest\.jsonl|/\.?batch\.json)?)?")

_RECORD = record.NAME  # of a check: inodes and times, which are never the same again

State = dict[str, str]  # what each path is, those on their way aside
Findings = dict[str, str]  # message by what it is about


@dataclass(frozen=True)
class Span:
    """An operation that nothing stopped.

    Attributes:
        operation: it.
        before: the repository before it.
        after: and after it.
        findings: what checks find in it, before or after.
        collected: and after a collection of garbage; None: it is refused, since something is damaged.
        calls: how many change files.
    """

    operation: Operation
    before: State
    after: State
    findings: Findings
    collected: State | None
    calls: int


def undisturbed(workshop: Workshop, operation: Operation, cfsctl: str) -> Span:
    """Do *operation* without a stop.

    Raises:
        RuntimeError: it fails all the same.
    """
    with workshop.copy(operation.start) as repository:
        before, found = state_of(repository), findings_of(repository, cfsctl)
        outcome = workshop.run(operation, repository)
        if outcome.status != operation.status or outcome.survivors:
            raise RuntimeError(f"{operation.name} without a stop: {outcome}")
        after, found = state_of(repository), found | findings_of(repository, cfsctl)
        return Span(operation, before, after, found, _collected(repository), len(outcome.calls))


def judge(workshop: Workshop, span: Span, repository: Path, outcome: Outcome, cfsctl: str) -> list[str]:
    """Return what is wrong with *repository*, in which *span* was to be done, with that outcome; a line each.

    Args:
        workshop: that has it.
        span: what should have become of it.
        repository: its directory; the operation is done again there.
        outcome: of the run that was stopped, or not.
        cfsctl: path of that program.
    """
    stopped = state_of(repository)
    problems = [f"{outcome.survivors} processes outlived it"] if outcome.survivors else []
    problems += _half_way(span, stopped)
    problems += _new_findings(span, repository, cfsctl, "after the stop")
    status, output = workshop.run_here(span.operation, repository)
    done = span.operation.again and span.operation.again in output and not difference(span.after, stopped)
    if status != span.operation.status and not done:
        problems.append(f"done again, it exits with {status}: {output.strip()}")
    problems += [f"after the next run: {each}" for each in difference(span.after, state_of(repository))]
    problems += _new_findings(span, repository, cfsctl, "after the next run")
    collected = _collected(repository)
    if span.collected is not None:
        problems += [f"after gc: {path} is left" for path in paths_of(repository) if ON_THE_WAY.fullmatch(path)]
        problems += [f"after gc: {each}" for each in difference(span.collected, collected or {})]
    return problems


def paths_of(repository: Path) -> list[str]:
    """Return the path of everything in *repository*, relative to it."""
    return [
        os.path.relpath(os.path.join(where, name), repository)
        for where, directories, files in os.walk(repository)
        for name in (*directories, *files)
    ]


def state_of(repository: Path) -> State:
    """Return what everything in *repository* is."""
    found: State = {}
    for path in paths_of(repository):
        if ON_THE_WAY.fullmatch(path):
            continue
        aside = _SET_ASIDE.fullmatch(path)
        name = path if aside is None else f"{aside[1]}/*{aside[2] or ''}"
        if not _NOTE.fullmatch(name) and name != _RECORD:
            found[name] = _describe(repository / path)
    return found


def _collected(repository: Path) -> State | None:
    """Collect the garbage of *repository*, and return what is left; None: that is refused."""
    try:
        with Repository.open(repository) as opened:
            collect_garbage(opened)
    except (ComposefsError, OSError):
        return None
    return state_of(repository)


def difference(wanted: State, got: State) -> list[str]:
    """Return in which paths they differ, a line each."""
    return [
        f"{path} is {got.get(path, 'not there')}, and should be {wanted.get(path, 'not there')}"
        for path in sorted(wanted.keys() | got.keys())
        if wanted.get(path) != got.get(path)
    ]


def findings_of(repository: Path, cfsctl: str) -> Findings:
    """Return what `composefs oci fsck` finds, which is also what `composefs fsck` does, and what `cfsctl fsck` does.

    Of a damaged image all findings are one: what is found of it changes while it is mended.
    """
    try:
        with Repository.open(repository) as opened:
            report = check_images(opened, workers=1)
            lines = _since_last(opened, report)
    except (ComposefsError, OSError) as error:  # before there is one, it is right that none is found
        return {f"open: {type(error).__name__}": f"cannot be opened: {error}"}
    done = subprocess.run([cfsctl, "--repo", repository, "fsck", "--json"], check=False, capture_output=True, text=True)
    theirs = json.loads(done.stdout)["errors"] if done.returncode == 0 else [f"exits with {done.returncode}"]
    lines += [*map(str, report.repository.findings), *(f"cfsctl: {line}" for line in theirs)]
    return {line: line for line in lines} | {f"image {each.name}": str(each) for each in report.findings}


def _since_last(repository: Repository, whole: OciReport) -> list[str]:
    """Return what is wrong with the record of the last check: what it vouches for must be right."""
    try:
        last = record.load(repository)
    except FileNotFoundError:
        return []
    except FormatError as error:
        return [str(error)]
    found = check_images(repository, last=last, workers=1)
    return [] if found.as_json()["errors"] == whole.as_json()["errors"] else ["fsck --since-last finds something else"]


def _new_findings(span: Span, repository: Path, cfsctl: str, when: str) -> list[str]:
    """Return what checks find now, and neither before *span* nor after it, a line each."""
    found = findings_of(repository, cfsctl)
    return [f"{when}: {found[each]}" for each in sorted(found.keys() - span.findings.keys())]


def _half_way(span: Span, stopped: State) -> list[str]:
    """Return where the stopped repository is neither before nor after, a line each; more objects may be there."""
    problems = []
    for path in sorted(span.before.keys() | span.after.keys() | stopped.keys()):
        before, after, got = span.before.get(path), span.after.get(path), stopped.get(path)
        is_extra = before is None and after is None and path.startswith("objects/")
        is_gone = got is None and path in span.operation.gone
        if got not in (before, after) and not is_extra and not is_gone:
            problems.append(f"{path} is {got or 'not there'}, was {before or 'not there'}, is to be {after}")
    return problems


def _describe(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(mode):
        return f"file {mode & 0o7777:o} {hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}"
    return f"{'directory' if stat.S_ISDIR(mode) else 'special'} {mode & 0o7777:o}"
