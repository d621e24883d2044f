"""What the library logs while a command runs, such as that a registry asks to wait: on standard error.

Left alone, logging prints warnings there, also those of workers.
"""

from __future__ import annotations

import argparse
import sys

_LIBRARY = "composefs"  # not others, who log URLs that may be signed


def configure(arguments: argparse.Namespace) -> None:
    """Have it shown as options say, where there are: --quiet not at all, --verbose more, --progress json as events."""
    if getattr(arguments, "quiet", False):
        import logging

        logging.basicConfig(level=logging.ERROR)
    elif getattr(arguments, "progress", None) == "json":
        import json
        import logging

        class Events(logging.Handler):
            """A line of JSON for each record."""

            def emit(self, record: logging.LogRecord) -> None:
                event = {"event": "notice", "text": record.getMessage()}
                print(json.dumps(event), file=sys.stderr, flush=True)

        logging.basicConfig(level=logging.ERROR)  # of workers, too: their lines would be no JSON
        library = logging.getLogger(_LIBRARY)
        library.handlers, library.propagate = [Events()], False
        library.setLevel(logging.DEBUG if arguments.verbose else logging.WARNING)
    elif arguments.verbose:
        import logging

        logging.basicConfig(format="%(message)s")
        logging.getLogger(_LIBRARY).setLevel(logging.DEBUG)
