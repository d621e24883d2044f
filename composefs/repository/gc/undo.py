"""Bring back what the last collection of garbage has set aside.

The order is that of an import: objects, one flush of the file system, names.  What was stored or named again meanwhile
stays as it is, but for an object that is broken: a power cut may have left it half written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from composefs import _native
from composefs._native.sweep import SweepAction
from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError, NotFoundError
from composefs.repository import Repository
from composefs.repository.directories import Missing, open_directory
from composefs.repository.gc import trash
from composefs.repository.gc.live import read_image, read_stream
from composefs.repository.gc.names import object_of_link, removal_order
from composefs.repository.gc.objects import ObjectSet
from composefs.repository.gc.trash import Batch, State
from composefs.repository.gc.work import opened, threads
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.objects import ObjectStore
from composefs.repository.streams import DIRECTORY as STREAMS


@dataclass(slots=True)
class Restored:
    """What was brought back.

    Attributes:
        batch: name of the batch.
        objects_restored: how many.
        names_restored: paths of names.
        names_taken: paths of those that lead to something else by now, and stay so.
        names_lost: paths of those that need an object which is neither in the repository nor in the batch.
    """

    batch: str
    objects_restored: int = 0
    names_restored: list[str] = field(default_factory=list)
    names_taken: list[str] = field(default_factory=list)
    names_lost: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return it for machines: see docs/json.md."""
        return {
            "batch": self.batch,
            "objects_restored": self.objects_restored,
            "names_restored": self.names_restored,
            "names_taken": self.names_taken,
            "names_lost": self.names_lost,
        }


def undo_collection(repository: Repository, *, wait: float | None = 0, workers: int | None = None) -> Restored:
    """Bring back the latest batch of the trash: its objects, and the names that are free.

    They have no references: what none is made for is garbage again.

    Args:
        repository: open.
        wait: for how many seconds at most, while others have the repository open; None: as long as it takes.
        workers: threads.

    Raises:
        NotFoundError: the trash is empty.
        BusyError: others have the repository open still.
        OSError: something cannot be moved; another call goes on with it.
    """
    repository.check_writable()
    with repository.exclusive(wait=wait), threads(workers) as pool, opened(repository) as fd:
        batches, strays = trash.find_batches(fd, repository.path)
        if not batches:
            others = f"; what stands there is no batch: {', '.join(strays)}" if strays else ""
            raise NotFoundError(f"{repository.path}: there is nothing in {trash.DIRECTORY}/ to bring back{others}")
        batch = trash.set_state(fd, repository.path, batches[-1], State.RETURNING)
        return _Undo(fd, repository, batch, pool).run()


class _Undo:
    """Brings *batch* back to *repository*, whose directory is *fd*."""

    def __init__(self, fd: int, repository: Repository, batch: Batch, pool: ThreadPoolExecutor) -> None:
        self._fd, self._repository, self._where = fd, repository, repository.path
        self._batch, self._pool = batch, pool
        self._restored = Restored(batch.name)
        self._lost: set[bytes] = set()  # objects, raw, of the names that are lost

    def run(self) -> Restored:
        # What was stored again meanwhile stays, so it must be on disk before the other copy goes.
        self._repository.sync()
        self._restored.objects_restored = self._move_objects()
        self._repository.sync()
        for path in sorted(self._links(), key=removal_order, reverse=True):
            self._move_name(path)
        _native.syncfs(self._fd)
        trash.delete(self._fd, self._where, self._batch)
        return self._restored

    def _move_objects(self) -> int:
        """Move the objects back that are not here, or broken here; return how many."""
        algorithm = self._repository.algorithm
        objects = ObjectSet(self._fd, self._where, algorithm, self._pool, f"{self._batch.path}/{OBJECTS}")
        try:
            if not len(objects):
                return 0
            here = ObjectSet(self._fd, self._where, algorithm, self._pool)
            here.close()
            objects.mark(here.digests)
            target = open_directory(self._fd, OBJECTS, self._where, missing=Missing.MAKE)
            try:
                for byte in objects.dead_directories():
                    os.close(open_directory(target, f"{byte:02x}", f"{self._where}/{OBJECTS}", missing=Missing.MAKE))
                count = objects.sweep(SweepAction.MOVE, target).done
            finally:
                os.close(target)
            return count + self._replace_broken(objects.marked())
        finally:
            objects.close()

    def _replace_broken(self, raws: Iterable[bytes]) -> int:
        """Put those of the objects *raws* that are whole in the place of those here that are not; return how many."""
        repository, directory = self._repository, f"{self._batch.path}/{OBJECTS}"
        store = ObjectStore(
            self._fd, self._where, repository.algorithm, require_verity=repository.verity, directory=directory
        )

        def replace(raw: bytes) -> bool:
            digest = Digest(repository.algorithm, raw)
            if _is_whole(repository.objects, digest) or not _is_whole(store, digest):
                return False
            path = digest.object_path
            trash.move_name(self._fd, self._where, f"{directory}/{path}", f"{OBJECTS}/{path}")
            return True

        try:
            return sum(self._pool.map(replace, raws))
        finally:
            store.close()

    def _links(self) -> Iterator[str]:
        """Yield the paths of the links in the batch, relative to it."""
        pending = [IMAGES, STREAMS]
        while pending:
            path = pending.pop()
            try:
                dir_fd = open_directory(self._fd, f"{self._batch.path}/{path}", self._where, flags=os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                with os.scandir(dir_fd) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
                pending += [f"{path}/{entry.name}" for entry in found if entry.is_dir(follow_symlinks=False)]
                yield from (f"{path}/{entry.name}" for entry in found if entry.is_symlink())
            finally:
                os.close(dir_fd)

    def _move_name(self, path: str) -> None:
        """Move the link *path* back, unless another one is there, or it would lead to what is not whole."""
        text = os.readlink(f"{self._batch.path}/{path}", dir_fd=self._fd)
        try:
            taken = os.readlink(path, dir_fd=self._fd)
        except FileNotFoundError:
            taken = None
        except OSError:  # no link
            taken = ""
        if taken is not None:
            if taken != text:
                self._restored.names_taken.append(path)
            return
        raw = object_of_link(text, self._repository.algorithm)
        if raw is not None and not self._has_all(path, raw):
            self._lost.add(raw)
            self._restored.names_lost.append(path)
        else:
            trash.move_name(self._fd, self._where, f"{self._batch.path}/{path}", path)
            self._restored.names_restored.append(path)

    def _has_all(self, path: str, raw: bytes) -> bool:
        """Tell whether all is here that the entry *path*, the object *raw*, needs, and none of it is lost.

        What it shared with something that was kept then may have been deleted later.
        """
        objects = self._repository.objects
        directory, _, name = path.partition("/")
        try:
            if directory == IMAGES:
                return not objects.missing(read_image(self._repository, name, raw))
            table, named = read_stream(self._repository, name, raw)
        except (NotFoundError, IntegrityError):
            return False
        except FormatError:  # it never was a stream or image that anybody knows
            return True
        return self._lost.isdisjoint(named) and not objects.missing([table, *named])


def _is_whole(store: ObjectStore, digest: Digest) -> bool:
    """Tell whether an object is there, and what it is called."""
    try:
        store.open(digest).close()
    except (NotFoundError, IntegrityError):
        return False
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
    return True
