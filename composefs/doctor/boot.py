"""The image that the kernel arguments of this boot select, in the system's repository."""

from __future__ import annotations

import os
from dataclasses import dataclass

from composefs.boot.kargs import ImageArgument, parse_cmdline
from composefs.cpus import read_lines
from composefs.doctor.finding import Finding, Status
from composefs.errors import FormatError

_SHOWN = 12  # digits of an id


@dataclass(frozen=True, slots=True)
class Selection:
    """What the kernel arguments select.

    Attributes:
        arguments: the images that they name, in their order.
        present: whether the repository has each of them.
        problem: what is wrong with the arguments; empty: nothing.
    """

    arguments: tuple[ImageArgument, ...] = ()
    present: tuple[bool, ...] = ()
    problem: str = ""


def find_selection(path: str, proc: str = "/proc") -> Selection:
    """Return what the kernel arguments select of the repository *path*."""
    try:
        arguments = tuple(parse_cmdline("\n".join(read_lines(f"{proc}/cmdline"))))
    except FormatError as error:
        return Selection(problem=str(error))
    return Selection(arguments, tuple(_has(path, argument) for argument in arguments))


def judge_selection(selection: Selection, *, sealed: bool) -> Finding:
    """Return whether *selection* can be booted from a repository that requires fs-verity, or does not (*sealed*)."""
    status, remedy = Status.MISSING, None
    pairs = zip(selection.arguments, selection.present, strict=True)
    chosen = next((argument for argument, is_there in pairs if is_there), None)
    if selection.problem:
        found, remedy = selection.problem, "mend it in the entry of the boot loader; composefs compute-karg prints one"
    elif not selection.arguments:
        status, found = Status.OK, "no kernel argument of this boot names an image"
    elif chosen is None:
        names = ", ".join(_short(each) for each in selection.arguments)
        found = f"the kernel arguments name {names}, which is not here"
        remedy = "import that image again (--bootable), or boot an entry of one that composefs images lists"
    elif not chosen.insecure and not sealed:
        found = f"the argument of {_short(chosen)} requires fs-verity, and this repository was made without"
        remedy = "put a ? behind the = of the argument, or import into a new repository with fs-verity"
    else:
        status, found = Status.OK, f"{_short(chosen)}, as the kernel arguments of this boot say, is here"
    return Finding("repository.boot", "boot", status, found, remedy)


def _has(path: str, argument: ImageArgument) -> bool:
    """Tell whether the repository *path* has the image, and not only a link that leads nowhere."""
    return os.path.exists(os.path.join(path, "images", argument.digest.hex))


def _short(argument: ImageArgument) -> str:
    return f"{argument.digest.hex[:_SHOWN]}…"
