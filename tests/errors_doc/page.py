"""The page, and its quotes."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import damage
from tests.errors_doc import (  # noqa: F401  # they have the situations
    asking,
    checking,
    configuring,
    damages,
    exporting,
    importing,
    mounting,
    storing,
    unpacking,
    using,
)
from tests.errors_doc.cases import CASES
from tests.errors_doc.scene import Scene

PAGE = Path(__file__).parents[2] / "docs/errors.md"

_QUOTE = re.compile(r"<!-- ([a-z0-9-]+) -->\n```\n(.*?)```\n", re.DOTALL)


def quotes(text: str) -> dict[str, str]:
    """Return what the page *text* quotes, by situation."""
    found = _QUOTE.findall(text)
    assert len(found) == len(dict(found)), "a quote stands twice"
    return {name: quote.rstrip("\n") for name, quote in found}


def say(name: str, place: damage.Place) -> str:
    """Return what is said in the situation *name*."""
    with tempfile.TemporaryDirectory() as directory:
        return CASES[name](Scene(Path(directory), place))


def rewritten(text: str, said: Callable[[str], str]) -> str:
    """Return the page *text* with new quotes."""
    return _QUOTE.sub(lambda match: f"<!-- {match[1]} -->\n```\n{said(match[1])}\n```\n", text)
