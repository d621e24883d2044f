"""The collection of garbage in a whole repository.

The order is what makes it safe to be stopped anywhere, also by a power cut:

1. the exclusive lock: nobody stores or names anything;
2. everything that could be wrong is looked at: until here nothing is changed;
3. names of what is not alive are removed, or moved into the trash;
4. one flush of the file system;
5. objects that are not alive are removed, or moved likewise.

So no name is left without its object, and what is left of the work is garbage again for the next run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from composefs import _native
from composefs._native.sweep import SweepAction
from composefs.collector import paused_collector
from composefs.errors import ComposefsError, UsageError
from composefs.repository import Repository
from composefs.repository.directories import open_directory
from composefs.repository.gc import trash
from composefs.repository.gc.clock import Clock
from composefs.repository.gc.leftovers import find_leftovers
from composefs.repository.gc.live import mark_images, mark_streams
from composefs.repository.gc.names import Names, find_roots, read_names, removal_order
from composefs.repository.gc.objects import ObjectSet
from composefs.repository.gc.report import Report
from composefs.repository.gc.trash import Batch, State
from composefs.repository.gc.work import opened, threads
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.streams import DIRECTORY as STREAMS


def collect_garbage(
    repository: Repository,
    *,
    roots: Sequence[str] = (),
    dry_run: bool = False,
    trash_days: int | None = None,
    wait: float | None = 0,
    workers: int | None = None,
) -> Report:
    """Remove what no reference keeps: objects, and the names that led to them.

    What an import has stored is safe from its first object on: it holds the shared lock until it has given the last
    name, and this wants the exclusive one.

    Args:
        repository: open.
        roots: names in `images/` and `streams/` that are kept as if references stood for them.
        dry_run: only find out what would be removed; others may have the repository open, and what an import has
            stored and not yet named counts as garbage then.
        trash_days: move it into the trash, where it can be had back by `undo_collection` for so many days at least;
            None: delete it.  What has been there for long enough is deleted in any case.
        wait: for how many seconds at most, while others have the repository open; None: as long as it takes.
        workers: threads; by default one for each CPU this process may use, but at least four.

    Raises:
        UsageError: there are no such days.
        BusyError: others have the repository open still.
        RepositoryError: something stands where only names and objects should, or a reference leads nowhere.
        NotFoundError: one of *roots* is no name, or an object that is alive is missing.
        IntegrityError, FormatError: a stream or image is broken, so that nobody knows what it needs.
        OSError: something cannot be read, or removed.
    """
    if trash_days is not None and not 0 < trash_days <= trash.DAYS_MAX:
        raise UsageError(f"the trash keeps what is in it for 1 to {trash.DAYS_MAX} days, not for {trash_days}")
    if not dry_run:
        repository.check_writable()
    with (
        contextlib.nullcontext() if dry_run else repository.exclusive(wait=wait),
        paused_collector(),
        threads(workers) as pool,
        opened(repository) as fd,
    ):
        return _Collection(fd, repository, pool).run(roots, dry_run=dry_run, trash_days=trash_days)


class _Plan(NamedTuple):
    """What there is to do."""

    objects: ObjectSet  # all, those marked that stay
    names: list[str]  # paths of those that lead nowhere, or will
    leftovers: list[str]  # paths
    batches: list[Batch]  # of the trash
    expired: list[Batch]  # of them
    newest: int  # when an object that goes was changed last, in seconds since the epoch


class _Collection:
    """One run in *repository*, whose directory is *fd*."""

    def __init__(self, fd: int, repository: Repository, pool: ThreadPoolExecutor) -> None:
        self._fd, self._repository, self._where, self._pool = fd, repository, repository.path, pool

    def run(self, roots: Sequence[str], *, dry_run: bool, trash_days: int | None) -> Report:
        try:
            report, plan = self._plan(roots, dry_run=dry_run)
        except (ComposefsError, OSError) as error:
            error.add_note("nothing was removed")
            raise
        try:
            if trash_days is not None:
                report.trash_days = trash_days
            if not dry_run:
                self._do(plan, report)
        finally:
            plan.objects.close()
        return report

    def _plan(self, roots: Sequence[str], *, dry_run: bool) -> tuple[Report, _Plan]:
        """Find out what there is to do; nothing is changed."""
        batches, strays = trash.find_batches(self._fd, self._where)
        trash.check_none_returns(batches, self._where)
        objects, names = self._find_live(roots)
        try:
            dead = {each.directory: list(_dead_names(each, objects)) for each in names}
            leftovers = list(find_leftovers(self._fd, self._where))
            weighed = objects.sweep(SweepAction.WEIGH)
            now = Clock.read()
            expired = [batch for batch in batches if batch.has_expired(now)]
            report = Report(
                dry_run,
                objects_removed=weighed.done,
                objects_bytes=weighed.size,
                objects_kept=sum(objects.marks),
                images_pruned=len(dead[IMAGES]),
                streams_pruned=len(dead[STREAMS]),
                leftovers_removed=len(leftovers),
                strays=[*objects.strays, *strays],
                from_future=[batch.name for batch in batches if batch.is_from_future(now)],
            )
            for batch in expired:
                self._weigh(batch, report)
        except BaseException:
            objects.close()
            raise
        doomed = sorted([*dead[STREAMS], *dead[IMAGES]], key=removal_order)
        return report, _Plan(objects, doomed, leftovers, batches, expired, weighed.newest)

    def _find_live(self, roots: Sequence[str]) -> tuple[ObjectSet, tuple[Names, Names]]:
        """Return all objects, those marked that are alive, and all names."""
        algorithm = self._repository.algorithm
        images = read_names(self._fd, self._where, IMAGES, algorithm)
        streams = read_names(self._fd, self._where, STREAMS, algorithm)
        others = find_roots(roots, images, streams, self._where)
        objects = ObjectSet(self._fd, self._where, algorithm, self._pool)
        try:
            of_images = [*images.roots(self._where), *others[IMAGES]]
            of_streams = [*streams.roots(self._where), *others[STREAMS]]
            # Images keep Python busy, and streams what hashes them.
            marked = self._pool.submit(mark_images, self._repository, images, of_images, objects)
            mark_streams(self._repository, streams, of_streams, objects, self._pool)
            marked.result()
        except BaseException:
            objects.close()
            raise
        return objects, (streams, images)

    def _do(self, plan: _Plan, report: Report) -> None:
        """Do what was planned."""
        trash.clear(self._fd, self._where)
        self._unlink(plan.leftovers)
        batch = None
        if report.trash_days is not None and (plan.names or report.objects_removed):
            batch = trash.begin(
                self._fd,
                self._where,
                plan.batches,
                days=report.trash_days,
                newest=plan.newest,
                names=plan.names,
                objects=plan.objects,
            )
            report.batch, report.expires = batch.name, batch.expires
            try:
                report.objects_removed = trash.take(self._fd, self._where, batch, plan.names, plan.objects)
            except OSError as error:
                error.add_note(f"what was moved is in {batch.path}: `composefs gc --undo` brings it back")
                raise
        else:
            self._unlink(plan.names)
            if plan.names or report.objects_removed:  # a run that was stopped may have removed the names
                _native.syncfs(self._fd)
            report.objects_removed = plan.objects.sweep(SweepAction.REMOVE).done
        number = None if batch is None else batch.number
        others = [other for other in plan.batches if other.number != number]
        for other in others if batch is None else [*others, batch]:
            if other.state is State.FILLING:
                _native.syncfs(self._fd)
                trash.set_state(self._fd, self._where, other, State.KEPT)
        for other in others:
            if other in plan.expired:
                trash.delete(self._fd, self._where, other)

    def _weigh(self, batch: Batch, report: Report) -> None:
        """Add to *report* what an expired batch holds."""
        path = f"{batch.path}/{OBJECTS}"
        objects = ObjectSet(self._fd, self._where, self._repository.algorithm, self._pool, path)
        try:
            weighed = objects.sweep(SweepAction.WEIGH)
        finally:
            objects.close()
        report.expired.append(batch.name)
        report.expired_objects += weighed.done
        report.expired_bytes += weighed.size

    def _unlink(self, paths: Iterable[str]) -> None:
        for path in paths:
            directory, _, name = path.rpartition("/")
            fd = open_directory(self._fd, directory, self._where)
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"{self._where}/{path}") from None
            finally:
                os.close(fd)


def _dead_names(names: Names, objects: ObjectSet) -> Iterator[str]:
    """Yield the paths of names that lead nowhere, or will."""
    for name, raw in names.entries.items():
        if not objects.is_alive(raw):
            yield f"{names.directory}/{name}"
    for ref in names.refs:
        if ref.entry is None and ref.dangles:
            yield ref.path
