"""An image in a scripted registry, and a repository that is to get it, or to stay as it is."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from composefs import Repository, import_image
from tests.layouts import Layout, files_layer, image_layout, noise
from tests.registries.reaching import reaching
from tests.registries.scripted import ScriptedServer

LAYER = files_layer({"file": noise(1_400_000)}, "gzip")
SMALL = files_layer({"small": b"small" * 100}, "zstd")
BLOB = f"GET .*/blobs/{LAYER.digest}"
SIZE = len(LAYER.blob)
MIB = 1 << 20
WITHIN = 10  # seconds


def names(path: Path) -> dict[str, str]:
    """Return all names of the repository at *path*, with what they lead to."""
    links = [link for top in ("streams", "images") for link in (path / top).rglob("*") if link.is_symlink()]
    return {str(link.relative_to(path)): os.readlink(link) for link in links}


@dataclass
class Scene:
    """A registry that has the image x:tag, and a repository that has another image."""

    server: ScriptedServer
    repository: Repository
    layout: Layout
    manifest: str

    def pull(self, *, name: str = "x:tag", **options):
        """Import the image, in threads of this process."""
        reference = f"docker://{self.server.address}/{name}"
        return import_image(self.repository, reference, access=reaching(**options), name="new", workers=1)

    def succeed(self, **options) -> None:
        """Import the image, which is as if it came from its layout."""
        result = self.pull(**options)
        other = import_image(self.repository, str(self.layout), name="again")
        assert (result.manifest, result.config, result.verity) == (other.manifest, other.config, other.verity)

    def fail(self, kind: type[BaseException] | tuple[type[BaseException], ...], *parts: str, **options) -> str:
        """Fail to import the image, in time and without a new name; *parts* are in the error."""
        before, began = names(Path(self.repository.path)), time.monotonic()
        with pytest.raises(kind) as caught:
            self.pull(**options)
        assert time.monotonic() - began < WITHIN
        assert names(Path(self.repository.path)) == before
        text = "; ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert "\n" not in text
        for part in parts:
            assert part in text
        return text


def make_layout(directory: Path) -> Layout:
    """Write the layout of the image of `LAYER` and `SMALL` into *directory*."""
    return image_layout(directory / "x", [LAYER, SMALL])


@contextlib.contextmanager
def made_scene(layout: Layout, repository: Repository, directory: Path) -> Iterator[Scene]:
    """Give a scene while the context lasts; *repository* gets another image, whose layout is in *directory*."""
    other = image_layout(directory / "base", [files_layer({"base": b"base"})])
    import_image(repository, str(other), name="base")
    with ScriptedServer() as server:
        manifest = server.contents.put_layout(layout.path, "x", "tag")
        yield Scene(server, repository, layout, manifest)
