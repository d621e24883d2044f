"""Where the situations of docs/errors.md are made, and how a command is heard there."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from composefs import Algorithm, Repository
from composefs.cli import main, main_import
from tests import damage, layouts
from tests.layouts import Layer, Layout, files_layer, image_layout, noise

FILES = {"small": b"s" * 10, "dir/large": noise(20_000, 5)}

_STANDS_FOR = (  # what differs between two runs, or machines, or is too long to be read, in this order
    (re.compile(r"objects/[0-9a-f]{2}/[0-9a-f]{62,126}"), "objects/…"),
    (re.compile(r"\b[0-9a-f]{40,128}\b"), "…"),
    (re.compile(r"objects/[0-9a-f]{2}\b"), "objects/…"),
)


class Scene:
    """A directory, called `/srv` in what is said, with a repository and layouts."""

    def __init__(self, path: Path, place: damage.Place) -> None:
        self.path, self._place = path, place
        self.algorithm = Algorithm.SHA256
        self.repository = path / "repository"

    def beside(self, name: str) -> "Scene":
        """Return another scene, in a directory of this one."""
        (self.path / name).mkdir()
        return Scene(self.path / name, self._place)

    # What can be there

    def damaged(self, name: str | None = None) -> damage.Place:
        """Make the repository of `tests.damage`, and what happens to it."""
        place = self._place.copy(self.repository)
        if name is not None:
            damage.DAMAGES[name].do(place)
        return place

    def made(self, algorithm: Algorithm = Algorithm.SHA256) -> Path:
        """Make an empty repository."""
        if not self.repository.exists():
            Repository.init(self.repository, algorithm, require_verity=False)
        return self.repository

    def layout(self, *layers: Layer, **options: object) -> Layout:
        """Write the layout of one image."""
        return image_layout(self.path / "layout", layers or [files_layer(FILES)], **options)

    # What is said

    def run(self, *arguments: object, program: str = "composefs", stdin: bytes | None = b"") -> str:
        """Run a command, with the repository of the scene, and return all that it says on standard error."""
        return self.outcome(*arguments, program=program, stdin=stdin)[1]

    def outcome(self, *arguments: object, program: str = "composefs", stdin: bytes | None = b"") -> tuple[str, str]:
        """Run a command, and return what it says on standard output and on standard error."""
        call = [str(argument) for argument in arguments]
        where = ["--repo", str(self.repository)]
        if "--repo" not in call:
            call = [*where, *call] if program == "composefs" else [*call, *where]
        with heard(stdin) as (out, err):
            status = {"composefs": main, "composefs-import": main_import}[program](call)
        assert status in {1, 2}, f"{call} is not refused, but says {_text(out)!r}"
        return self.plain(_text(out)), self.plain(_text(err))

    def refuses(self, reference: object, *arguments: object, workers: int = 1) -> str:
        """Import what is refused, and return what is said."""
        self.made()
        options = ("--progress", "none", "--workers", workers)
        return self.run(reference, *arguments, *options, program="composefs-import")

    def finds(self, kind: str, *command: str) -> str:
        """Check the repository, and return the first line that has a finding of that *kind*."""
        out, _ = self.outcome(*command or ["fsck"])
        lines = [line.removeprefix("  - ") for line in out.splitlines() if f"fsck: {kind}" in line]
        assert lines, f"no {kind} in {out}"
        return lines[0]

    def plain(self, text: str) -> str:
        """Return *text* as it stands on the page."""
        text = text.replace(str(self.path), "/srv")
        for pattern, short in _STANDS_FOR:
            text = pattern.sub(short, text)
        return text.strip("\n")


@contextlib.contextmanager
def heard(stdin: bytes | None) -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Yield what is written to standard output and error meanwhile."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))),
    ):
        yield out, err


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def failing(number: int, path: object = None) -> Callable[..., object]:
    """Return a function that fails as the system does."""

    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number), None if path is None else str(path))

    return fail


def corrupt(path: Path, offset: int | None = None) -> None:
    """Change a byte of the file *path*, by default in the middle."""
    damage.flip(path, path.stat().st_size // 2 if offset is None else offset)


def plain_layer(files: dict[str, bytes], compression: str = "none", **forged: object) -> Layer:
    """Return a layer of *files* alone."""
    return layouts.layer(layouts.tar(files), compression, **forged)
