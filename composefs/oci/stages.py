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

    @property
    def is_waited_for(self) -> bool:
        """Whether no item is ready for who goes through them."""
        return self._ready.empty()

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
    """Do tasks, in threads as soon as *may_begin*; `finish`, then `close`.

    Args:
        depth: room, for what waits and what is being done.
        may_begin: asked before each task, until it says yes.
        threads: with one, tasks are done in order.
    """

    def __init__(self, depth: int, may_begin: Callable[[], bool], threads: int = 1) -> None:
        self._depth, self._may_begin, self._thread_count = depth, may_begin, threads
        self._room: SimpleQueue[None] = SimpleQueue()
        self._tasks: SimpleQueue[tuple[Task, int] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._has_ended = False
        self._lock = threading.Lock()  # of who takes room: several at a time would wait for each other

    def do(self, task: Task, size: int = 1) -> None:
        """Have *task* done, which takes *size* of the room, or raise what an earlier one has raised."""
        with self._lock:
            if self._begins():
                self.check()
                size = min(size, self._depth)
                for _ in range(size):
                    self._room.get()
                self._tasks.put((task, size))
                return
        task()

    def check(self) -> None:
        """Raise what a task has raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is done, and raise what one has raised; later tasks are done at once."""
        self.close()
        self.check()

    def close(self) -> None:
        """End the threads, which finish what they have been given unless something was raised."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            _join(thread)
        self._threads, self._has_ended = [], True

    def _begins(self) -> bool:
        """Tell whether there are threads, which are begun now if they may."""
        if self._threads:
            return True
        if self._has_ended or not self._may_begin():
            return False
        for _ in range(self._depth):
            self._room.put(None)
        self._threads = [threading.Thread(target=self._run, name="composefs-behind") for _ in range(self._thread_count)]
        for thread in self._threads:
            thread.start()
        return True

    def _run(self) -> None:
        while (given := self._tasks.get()) is not None:
            task, size = given
            try:
                if self._error is None:
                    task()
            except BaseException as error:
                self._error = error
            del given, task  # and what it holds, before the next one comes
            for _ in range(size):
                self._room.put(None)


def _join(thread: threading.Thread | None) -> None:
    if thread is not None and thread.is_alive():  # it is not where the system had no thread for it
        thread.join()
