"""The situations of docs/errors.md: a function each, whose name is that of the situation."""

from collections.abc import Callable

from tests.errors_doc.scene import Scene

Make = Callable[[Scene], str]

CASES: dict[str, Make] = {}


def case(make: Make) -> Make:
    """Take *make*, which makes a situation and returns what a command says in it, for the page."""
    name = make.__name__.replace("_", "-")
    assert name not in CASES
    CASES[name] = make
    return make
