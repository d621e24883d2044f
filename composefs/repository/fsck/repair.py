"""Mend a repository: what is broken or missing comes from elsewhere, proved, and the rest stays as it is.

An object is on disk before it gets its name, and replaces a broken one by rename; names of streams and images come
after all that they need.  So nothing that has a name is worse at any moment, and a repair that was cut is begun again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from composefs.errors import RepositoryError
from composefs.repository import Repository, meta
from composefs.repository.fsck.check import Progress, check_repository
from composefs.repository.fsck.damage import NOTHING, Damage, is_entry
from composefs.repository.fsck.findings import Report
from composefs.repository.fsck.quarantine import Quarantine, WrongName, set_aside
from composefs.repository.holding import holding


class Source(Protocol):
    """Where to get what is broken or missing."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    def mend(self, damage: Damage) -> Mapping[str, str]:
        """Mend what can be of *damage*; return why the rest cannot, by path.

        Raises:
            ComposefsError, OSError: nothing can be mended; not of one thing alone.
        """


@dataclass(slots=True)
class Repair:
    """What became of a repair.

    Attributes:
        source: what a person calls it.
        after: what a check finds now.  Contents of objects were looked at where they were broken or missing.
        mended: paths of what is right now.
        failed: paths of what is not, and why.
    """

    source: str
    after: Report
    mended: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, later: Repair) -> None:
        """Take in what became of another one, which came later."""
        self.after = later.after
        self.mended = sorted({*self.mended, *later.mended} - later.failed.keys())
        self.failed = {path: why for path, why in self.failed.items() if path not in later.mended} | later.failed

    def as_json(self) -> dict[str, object]:
        """Return the fields as they are printed; what is found now stands elsewhere."""
        failed = [{"path": path, "why": why} for path, why in self.failed.items()]
        return {"source": self.source, "mended": self.mended, "failed": failed}


@holding
def repair(
    repository: Repository,
    report: Report,
    source: Source,
    *,
    entries: Collection[str] = (),
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Repair:
    """Mend what *report* says is broken or missing in *repository*.

    What was missing may need more that is missing: that is mended, too.

    Args:
        repository: open, and writable.
        report: of a check of it.
        source: has what it lacks.
        entries: paths in `streams/` of what is another stream than its name says, which only its contents tell.
        workers: threads of the check afterwards.
        on_progress: as of `check_repository`.

    Raises:
        RepositoryError: it cannot be written.
        ComposefsError, OSError: of the source, or of the check.
    """
    repository.check_writable()
    tried, failed = NOTHING, dict[str, str]()
    after = report
    pending = Damage.of(repository, report.findings).plus(Damage(frozenset(), frozenset(entries)))
    while pending:
        repository.objects.distrust(pending.objects)
        failed.update(source.mend(pending))
        tried = tried.plus(pending)
        after = check_repository(repository, only=tried.objects, workers=workers, on_progress=on_progress)
        pending = Damage.of(repository, after.findings).without(tried)
    left = Damage.of(repository, after.findings).paths
    left.update(path for path in entries if path in failed)
    result = Repair(source.name, after)
    for path in sorted(tried.paths):
        if path in left:
            result.failed[path] = failed.get(path, "is still broken or missing")
        else:
            result.mended.append(path)
    return result


@dataclass(slots=True)
class Healing:
    """What became of a repository that was found broken.

    Attributes:
        after: what a check finds now.
        repair: what was mended, if that was wanted.
        quarantine: what was set aside, if that was wanted.
    """

    after: Report
    repair: Repair | None = None
    quarantine: Quarantine | None = None


def heal(
    repository: Repository,
    report: Report,
    *,
    source: Source | None = None,
    quarantine: bool = False,
    wrong: Collection[WrongName] = (),
    stale: Collection[str] = (),
    wait: float | None = 0,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Healing:
    """Mend *repository* from *source*, and then set aside what is broken still.

    What is set aside may have stood in the way of what can be mended: that is mended then.

    Args:
        repository: open, and writable.
        report: of a check of it.
        source: has what it lacks; None: nothing is mended.
        quarantine: set aside what is itself broken.
        wrong: names that are wrong, though only what they stand for tells.
        stale: paths of more entries to make again, which themselves are right.
        wait: seconds to wait until nobody else has the repository open, to set something aside; None: as long as
            it takes.
        workers: threads of the checks.
        on_progress: as of `check_repository`.

    Raises:
        RepositoryError: it cannot be written, or its `meta.json` is broken, by which all else is judged.
        BusyError: others have it open.
        ComposefsError, OSError: of the source, or of the check.
    """
    if any(finding.path == meta.NAME for finding in report.findings):
        what = f"cannot be mended while its {meta.NAME} is broken; without one, the next command writes it anew"
        raise RepositoryError(repository.path, what)
    healing = Healing(report)
    entries = {*stale, *(each.path for each in wrong if is_entry(each.path))}
    if source is not None:
        healing.repair = repair(repository, report, source, entries=entries, workers=workers, on_progress=on_progress)
        healing.after = healing.repair.after
    if not quarantine:
        return healing
    left = [each for each in wrong if healing.repair is None or each.path not in healing.repair.mended]
    healing.quarantine = set_aside(repository, healing.after.findings, wrong=left, wait=wait)
    moved = {each.path for each in healing.quarantine.moved}
    if not moved:
        return healing
    objects = Damage.of(repository, report.findings).objects
    healing.after = check_repository(repository, only=objects, workers=workers, on_progress=on_progress)
    if healing.repair is not None and source is not None:
        names = [path for path in moved if is_entry(path)]  # which may be those of something that can be had
        again = repair(repository, healing.after, source, entries=names, workers=workers, on_progress=on_progress)
        healing.after = again.after
        healing.repair.add(again)
        left_over = Damage.of(repository, again.after.findings).paths
        healing.repair.failed = {path: why for path, why in healing.repair.failed.items() if path in left_over}
    return healing
