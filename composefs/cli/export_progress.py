"""Readers of an export's events, which are those of an import and some of its own."""

from __future__ import annotations

from composefs.cli.progress import Bars, Lines, megabytes, missing_layers, say
from composefs.oci.export.events import ExportDone, ExportStarted, LayerExported, Sending
from composefs.oci.progress import LayerPresent


class ExportLines(Lines):
    """A line for each layer."""

    def __init__(self) -> None:
        self._is_sending = False

    def __call__(self, event: object) -> None:
        """Print what there is to say of *event*."""
        match event:
            case ExportStarted():
                say(f"exporting {event.image} to {event.destination}: {missing_layers(event.layers, event.total)}")
            case LayerPresent():
                say(f"already there: layer {event.diff_id}")
            case LayerExported():
                say(f"exported layer {event.diff_id}: {megabytes(event.size)}")
            case Sending() if event.total and not self._is_sending:
                self._is_sending = True
                say(f"sending {megabytes(event.total)}")
            case _:
                super().__call__(event)


class ExportBars(Bars):
    """A bar for the whole, and one for each layer that is made."""

    def __call__(self, event: object) -> None:
        """Draw what *event* changes."""
        match event:
            case ExportStarted():
                self.begin(event.layers, event.total)
            case LayerExported():
                self.end_layer(event.index)
            case Sending():
                self.update(description="sending", completed=event.done, total=event.total)
            case ExportDone():
                self.end()
            case _:
                super().__call__(event)
