"""Something to do, and who has it done: at once, or later in another thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Task: TypeAlias = Callable[[], object]
Do: TypeAlias = Callable[[Task], object]  # has tasks done, now or later, but in order


def do_now(task: Task) -> None:
    """Do *task*."""
    task()
