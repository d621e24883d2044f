"""Calls in threads that nobody waits for when the program ends: a server that does not answer has minutes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


class Daemons:
    """Threads for calls, *count* at most, and as many as there are calls; they are called *name*.

    The threads of `concurrent.futures` would be waited for, also after Ctrl-C.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()  # that wait
        self._running = 0  # threads

    def begin(self, call: Callable[[], _T]) -> Future[_T]:
        """Have *call* made as soon as a thread is free, and return what becomes of it."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # whatever it is, it is for who asks for the result
                future.set_exception(error)

        with self._lock:
            self._calls.append(run)
            if self._running == self._count:
                return future
            self._running += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._running -= 1
                    return
                call = self._calls.popleft()
            call()
