"""What is done with a repository while the power fails: steps, after each of which all is flushed.

What a step makes is a mixture that the seed decides: many small files, some large ones, some that layers share.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composefs import Algorithm
from composefs.verity import compute_digest
from tests.layouts import Layer, files_layer, image_layout

_ALGORITHM = Algorithm.SHA512  # what `composefs init` takes
_COMPRESSIONS = ("none", "gzip", "zstd")


@dataclass(frozen=True)
class Command:
    """Arguments of `composefs`, but for `--repo`.

    Attributes:
        arguments: these.
        status: with which it ends.
        may_fail: it may end otherwise when it is done again: all may be done.
    """

    arguments: tuple[str, ...]
    status: int = 0
    may_fail: bool = False


@dataclass(frozen=True)
class Step:
    """Something that the power may fail in.

    Attributes:
        name: for figures.
        commands: what is done; nothing is flushed between them.
        weight: how many cuts it gets, compared with others.
        damages: paths of objects that are broken before.
        moves: what it takes away it sets aside.
        others: what may be done after a cut instead of the commands, and comes to the same.
    """

    name: str
    commands: tuple[Command, ...]
    weight: int = 1
    damages: tuple[str, ...] = ()
    moves: bool = False
    others: tuple[Command, ...] = ()

    def again(self, seed: int) -> tuple[Command, ...]:
        """Return what is to be done after a cut, as *seed* decides."""
        return self.others if self.others and seed % 2 else self.commands


@dataclass(frozen=True)
class Sources:
    """Images and a directory tree, in a directory that holds nothing else."""

    first: str  # reference; as the next, which has some of its layers and contents
    second: str
    tree: Path
    objects: tuple[str, ...]  # paths of some objects that only the first has, in a repository made by `composefs init`


def make_sources(directory: Path, seed: int) -> Sources:
    """Make what is imported: the same for each *seed*."""
    chance = random.Random(seed)
    shared = [_content(chance) for _ in range(8)]
    contents = [_contents(chance, shared) for _ in range(6)]
    layers = [_layer(chance, number, each) for number, each in enumerate(contents)]
    image_layout(directory / "first", layers[:4])
    image_layout(directory / "second", [*layers[:2], *layers[4:]])
    tree = directory / "tree"
    for number, content in enumerate([*shared, *(_content(chance) for _ in range(20))]):
        path = tree / f"usr/dir{number % 5}/file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (seed, seed))
    large = [content for content in contents[2] if len(content) > 4096 and content not in shared]
    objects = tuple(f"objects/{compute_digest(content, _ALGORITHM).object_path}" for content in large)
    return Sources(f"oci:{directory / 'first'}", f"oci:{directory / 'second'}", tree, objects)


def _contents(chance: random.Random, shared: list[bytes]) -> list[bytes]:
    return [_content(chance) for _ in range(chance.randrange(15, 40))] + chance.sample(shared, 3)


def _layer(chance: random.Random, number: int, contents: list[bytes]) -> Layer:
    files = {f"usr/layer{number}/{index % 7}/file{index}": content for index, content in enumerate(contents)}
    return files_layer(files, chance.choice(_COMPRESSIONS))


def _content(chance: random.Random) -> bytes:
    """Return some bytes: of most files a few kilobytes, of some many."""
    return chance.randbytes(int(65 * 10 ** (3 * chance.random() ** 2)) if chance.random() < 0.9 else 50_000)


def make_steps(sources: Sources) -> list[Step]:
    """Return all steps, each of which needs those before it."""

    def step(name: str, *commands: str, others: Sequence[str] = (), **more: Any) -> Step:
        return Step(name, tuple(map(_parse, commands)), others=tuple(map(_parse, others)), **more)

    first, second = (f"import {reference} --name" for reference in (sources.first, sources.second))
    collect = ("?oci untag second", "?oci untag again", "gc")
    trash = ("?oci untag second", "gc --trash 7")
    return [
        step("init", "init"),
        step("import", f"{first} first --quiet", weight=6),
        step("import of what is there in part", f"{second} second --quiet", weight=4),
        step("import with nothing new", f"{first} again --quiet"),
        step("tag", "oci tag first other"),
        step("tag and untag", "?oci untag again", "oci tag second again", "?oci untag other"),
        step("create-image", f"create-image {sources.tree} tree", weight=3),
        step("import, and fsck at once", "?oci untag second", "gc", f"{second} second --quiet", "fsck"),
        step("gc", *collect, weight=3, others=[f"{second} second --quiet", *collect]),
        step("import anew", f"{second} second --quiet", weight=2),
        step("gc --trash", *trash, weight=2, moves=True, others=["?gc --undo", *trash]),
        step("gc --undo", "?gc --undo", weight=2, moves=True),
        step("fsck --repair-from", f"fsck --repair-from {sources.first}", weight=2, damages=sources.objects[2:]),
        step("fsck --quarantine", "!fsck --quarantine", weight=2, damages=sources.objects[:2], moves=True),
    ]


def _parse(text: str) -> Command:
    return Command(tuple(text.lstrip("?!").split()), status=int(text.startswith("!")), may_fail=text.startswith("?"))
