"""Work that first stores and then names: no garbage may be collected in between, not even by the same handle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

from composefs.repository import Repository

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def holding(function: Callable[_P, _Result]) -> Callable[_P, _Result]:
    """Return *function*, during whose calls the repositories among its arguments are locked once more.

    An open repository is locked, but another thread of the same program may turn that lock into the exclusive one.
    """

    @functools.wraps(function)
    def held(*args: _P.args, **kwargs: _P.kwargs) -> _Result:
        with ExitStack() as locks:
            for argument in (*args, *kwargs.values()):
                if isinstance(argument, Repository):
                    locks.enter_context(argument.held())
            return function(*args, **kwargs)

    return held
