"""Three readers of an import's events: bars, plain lines, JSON lines; all on standard error."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs.oci.progress import (
    BuildingImage,
    Event,
    ImportDone,
    ImportStarted,
    LayerDone,
    LayerPresent,
    LayerProgress,
    Listener,
    Syncing,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SHORT = 12  # hexadecimal digits of a digest in a bar
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


@contextmanager
def listener(style: str) -> Iterator[Listener]:
    """Yield the reader called *style*: auto, bar, plain, json or none."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "plain"
    match style:
        case "bar":
            with _bars() as bars:
                yield bars
        case "plain":
            yield _Lines()
        case "json":
            yield _json_line
        case _:
            yield lambda _: None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _json_line(event: Event) -> None:
    name = _WORDS.sub("-", type(event).__name__).lower()
    _say(json.dumps({"event": name} | dataclasses.asdict(event)))


class _Lines:
    """A line for each layer."""

    def __init__(self) -> None:
        self._done = self._count = 0

    def __call__(self, event: Event) -> None:
        match event:
            case ImportStarted():
                self._count = len(event.layers)
                missing = len({layer.diff_id for layer in event.layers if not layer.present})
                _say(f"importing {event.reference}: {missing} of {self._count} layers, {_megabytes(event.total)}")
            case LayerPresent():
                _say(f"already have layer {event.diff_id}")
            case LayerDone():
                _say(
                    f"imported layer {event.diff_id}: {event.objects_new} new objects, {event.objects_present} present"
                )
            case BuildingImage():
                _say(f"making the EROFS image, format V{event.version}{', for booting' if event.bootable else ''}")
            case Syncing():
                _say("flushing the file system")
            case LayerProgress() | ImportDone():
                pass


class _Bars:
    """A bar for the whole, and one for each layer being read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._total: TaskID | None = None
        self._layers: dict[int, TaskID] = {}
        self._names: list[str] = []
        self._done: dict[int, int] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case ImportStarted():
                self._names = [layer.diff_id for layer in event.layers]
                self._total = self._progress.add_task("total", total=event.total)
            case LayerPresent():
                self._progress.console.print(f"already have layer {event.diff_id}", highlight=False, soft_wrap=True)
            case LayerProgress():
                self._advance(event)
            case LayerDone():
                if (task := self._layers.pop(event.index, None)) is not None:
                    self._progress.remove_task(task)
            case BuildingImage() | Syncing():
                if self._total is not None:
                    what = "flushing" if isinstance(event, Syncing) else "image"
                    self._progress.update(self._total, description=what)
            case ImportDone():
                if self._total is not None:
                    self._progress.remove_task(self._total)

    def _advance(self, event: LayerProgress) -> None:
        assert self._total is not None
        if event.index not in self._layers:
            name = self._names[event.index].partition(":")[2][:_SHORT]
            self._layers[event.index] = self._progress.add_task(name, total=event.total)
        self._done[event.index] = event.done
        self._progress.update(self._layers[event.index], completed=event.done)
        self._progress.update(self._total, completed=sum(self._done.values()))


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich import console, progress  # takes 50 ms, and only bars need it

    with progress.Progress(
        progress.TextColumn("{task.description:<12}"),
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console.Console(stderr=True),
        transient=True,
    ) as bars:
        yield _Bars(bars)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
