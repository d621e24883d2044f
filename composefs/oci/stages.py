"""Let the stages of one layer overlap: threads that work ahead of, and behind, the one that splits the archive.

What they do is C that releases the GIL.  A thread is begun when there is a CPU for it: where there are as many layers
at a time as CPUs, each does all its work in one thread, which costs less; the last ones get what the others leave idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from enum import Enum, auto
from queue import SimpleQueue
from typing import Generic, TypeVar

from composefs.tasks import Task

_T = TypeVar("_T")


class _Token(Enum):
    """What a thread that works ahead is told."""

    ROOM = auto()  # for one more item
    STOP = auto()


class Ahead(Generic[_T]):
    """Go through *items*, in a thread as soon as *may_begin*, at most *depth* items ahead; then `close`."""

    def __init__(self, items: Generator[_T], depth: int, may_begin: Callable[[], bool]) -> None:
        self._items, self._depth, self._may_begin = items, depth, may_begin
        self._room: SimpleQueue[_Token] = SimpleQueue()
        self._ready: SimpleQueue[tuple[_T | None, BaseException | None]] = SimpleQueue()  # two None: the end
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __iter__(self) -> Iterator[_T]:
        """Yield the items; what they raise is raised here."""
        while not self._may_begin():
            item = next(self._items, None)
            if item is None:
                return
            yield item
        self._begin()
        while True:
            item, error = self._ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
            self._room.put(_Token.ROOM)

    def close(self) -> None:
        """End the thread, which finishes the item it is about, and the items."""
        self._is_closed = True
        self._room.put(_Token.STOP)
        _join(self._thread)
        self._items.close()

    def _begin(self) -> None:
        for _ in range(self._depth):
            self._room.put(_Token.ROOM)
        self._thread = threading.Thread(target=self._run, name="composefs-ahead")
        self._thread.start()

    def _has_room(self) -> bool:
        """Wait for room; tell whether to go on, however much of it there is."""
        return self._room.get() is _Token.ROOM and not self._is_closed

    def _run(self) -> None:
        try:
            while self._has_room() and (item := next(self._items, None)) is not None:
                self._ready.put((item, None))
            self._ready.put((None, None))
        except BaseException as error:
            self._ready.put((None, error))


class Behind:
    """Do tasks in order, in a thread as soon as *may_begin*, at most *depth* waiting; `finish`, then `close`."""

    def __init__(self, depth: int, may_begin: Callable[[], bool]) -> None:
        self._depth, self._may_begin = depth, may_begin
        self._room: SimpleQueue[None] = SimpleQueue()
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = False

    def do(self, task: Task) -> None:
        """Have *task* done, or raise what an earlier one has raised."""
        if self._thread is None:
            if self._has_ended or not self._may_begin():
                task()
                return
            self._begin()
        self.check()
        self._room.get()
        self._tasks.put(task)

    def check(self) -> None:
        """Raise what a task has raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is done, and raise what one has raised; later tasks are done at once."""
        self.close()
        self.check()

    def close(self) -> None:
        """End the thread, which finishes what it has been given unless something was raised."""
        self._tasks.put(None)
        _join(self._thread)
        self._thread, self._has_ended = None, True

    def _begin(self) -> None:
        for _ in range(self._depth):
            self._room.put(None)
        self._thread = threading.Thread(target=self._run, name="composefs-behind")
        self._thread.start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                if self._error is None:
                    task()
            except BaseException as error:
                self._error = error
            del task  # and what it holds, before the next one comes
            self._room.put(None)


def _join(thread: threading.Thread | None) -> None:
    if thread is not None and thread.is_alive():  # it is not where the system had no thread for it
        thread.join()
