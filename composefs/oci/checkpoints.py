"""Name layers as they are finished, so that what is cut short goes on where it was, and does not begin again.

A checkpoint is one flush of the file system, and then the names of those layers that were stored before it began.  It
costs the workers nothing that can be measured: what it writes had to be written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from composefs.digest import Digest
from composefs.errors import ComposefsError
from composefs.oci.names import layer_name
from composefs.repository import Repository

_INTERVAL = 2.0  # seconds without a checkpoint: so much work is lost at a power cut; a guess


class Checkpoints:
    """Makes checkpoints in *repository* as long as its context lasts, and one more if that ends by an error.

    A thread makes them.  Where a flush failed there is no other: after an error the kernel takes for written what was
    not, so that the next flush, which says nothing of it, would prove nothing.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._stored: dict[str, Digest] = {}  # since the last checkpoint
        self._lock = threading.Lock()  # of these
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if error is None:
            self._check()
        elif self._failure is None:
            self._try(self._make)
            if self._failure is not None:
                error.add_note(f"finished layers could not be kept: {self._failure}")

    def add(self, diff_id: str, stream: Digest) -> None:
        """Note that the layer *diff_id*, every digest of it checked, is stored as *stream*.

        Raises:
            OSError: the last checkpoint failed.
            RepositoryError: likewise.
        """
        self._check()
        with self._lock:
            self._stored[layer_name(diff_id)] = stream
        if self._thread is None:
            self._thread = threading.Thread(target=self._try, args=[self._run], daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self._make()

    def _make(self) -> None:
        with self._lock:
            stored, self._stored = self._stored, {}
        if stored:
            self._repository.name(stored)

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (ComposefsError, OSError) as error:
            self._failure = error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
