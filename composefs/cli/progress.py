"""Three readers of an import's events: bars, plain lines, JSON lines; all on standard error."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from composefs.oci.progress import (
    BuildingImage,
    ImportDone,
    ImportStarted,
    LayerDone,
    LayerPlan,
    LayerPresent,
    LayerProgress,
    Syncing,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_Event = TypeVar("_Event")
_SHORT = 12  # hexadecimal digits of a digest in a bar
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


@contextmanager
def listener(
    style: str, lines: Callable[[], Callable[[_Event], None]], bars: Callable[[Progress], Callable[[_Event], None]]
) -> Iterator[Callable[[_Event], None]]:
    """Yield the reader called *style*: auto, bar, plain, json or none; *lines* and *bars* make the first two."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "plain"
    match style:
        case "bar":
            with _progress() as progress:
                yield bars(progress)
        case "plain":
            yield lines()
        case "json":
            yield _json_line
        case _:
            yield lambda _: None


def say(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _json_line(event: Any) -> None:
    name = _WORDS.sub("-", type(event).__name__).lower()
    say(json.dumps({"event": name} | dataclasses.asdict(event)))


class Lines:
    """A line for each layer."""

    def __call__(self, event: object) -> None:
        """Print what there is to say of *event*."""
        match event:
            case ImportStarted():
                say(f"importing {event.reference}: {missing_layers(event.layers, event.total)}")
            case LayerPresent():
                say(f"already have layer {event.diff_id}")
            case LayerDone():
                say(f"imported layer {event.diff_id}: {event.objects_new} new objects, {event.objects_present} present")
            case BuildingImage():
                say(f"making the EROFS image, format V{event.version}{', for booting' if event.bootable else ''}")
            case Syncing():
                say("flushing the file system")


class Bars:
    """A bar for the whole, and one for each layer being read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._total: TaskID | None = None  # the task that is the whole
        self._layers: dict[int, TaskID] = {}
        self._names: list[str] = []
        self._done: dict[int, int] = {}

    def __call__(self, event: object) -> None:
        """Draw what *event* changes."""
        match event:
            case ImportStarted():
                self.begin(event.layers, event.total)
            case LayerPresent():
                self._progress.console.print(f"already have layer {event.diff_id}", highlight=False, soft_wrap=True)
            case LayerProgress():
                self._advance(event)
            case LayerDone():
                self.end_layer(event.index)
            case BuildingImage() | Syncing():
                self.update(description="flushing" if isinstance(event, Syncing) else "image")
            case ImportDone():
                self.end()

    def begin(self, layers: Sequence[LayerPlan], total: int) -> None:
        """Show the bar for the whole: *total* bytes, of *layers*."""
        self._names = [layer.diff_id for layer in layers]
        self._total = self._progress.add_task("total", total=total)

    def update(self, **changes: Any) -> None:
        """Change the bar for the whole, if it is shown, as rich says."""
        if self._total is not None:
            self._progress.update(self._total, **changes)

    def end_layer(self, index: int) -> None:
        """Take the bar of layer *index* away."""
        if (task := self._layers.pop(index, None)) is not None:
            self._progress.remove_task(task)

    def end(self) -> None:
        """Take the bar for the whole away."""
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
def _progress() -> Iterator[Progress]:
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
        yield bars


def missing_layers(layers: Sequence[LayerPlan], total: int) -> str:
    """Return how many of *layers* are missing, which are *total* bytes."""
    missing = len({layer.diff_id for layer in layers if not layer.present})
    return f"{missing} of {len(layers)} layers, {megabytes(total)}"


def megabytes(size: int) -> str:
    """Return *size* bytes as text."""
    return f"{size / 1e6:,.1f} MB"
