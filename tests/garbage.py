"""Repositories made piece by piece: objects, streams, images and references in whatever relation a test wants."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from composefs import Algorithm, Repository
from composefs.digest import Digest, object_path
from composefs.erofs.writer import write_image
from composefs.splitstream import ContentType
from composefs.tree import Directory, Leaf, Object, Stat

ALGORITHM = Algorithm.SHA256
_INFO = Stat(0o755, 0, 0, 0, 0)


class Maker:
    """What makes a repository at *path*, which is open meanwhile and not used by anybody else."""

    def __init__(self, path: Path, algorithm: Algorithm = ALGORITHM) -> None:
        self.path, self.algorithm = path, algorithm
        Repository.init(path, algorithm, require_verity=False)

    def object(self, data: bytes) -> bytes:
        """Store an object; return its digest, raw, as all that follow do."""
        with Repository.open(self.path) as repository:
            return repository.objects.ensure(data)[0]

    def stream(
        self,
        name: str | None,
        objects: Iterable[bytes] = (),
        named: Mapping[str, bytes] | None = None,
        text: bytes = b"",
        content_type: bytes = ContentType.LAYER,
    ) -> bytes:
        """Store a stream, with a name if there is one; *text* makes it different from others."""
        with Repository.open(self.path) as repository:
            writer = repository.streams.writer(content_type)
            writer.inline(text or (name or "").encode())
            for raw in objects:
                writer.external(raw, 100)
            for ref, raw in (named or {}).items():
                writer.name(ref, raw)
            digest = repository.streams.store(writer)
            if name is not None:
                repository.streams.link(name, digest)
            return digest.raw

    def image(self, objects: Iterable[bytes], text: str = "x", *, link: bool = True) -> bytes:
        """Store an EROFS image with a file for each of *objects*, and with a name unless *link* is False."""
        entries = {raw.hex().encode()[:16]: Leaf(_INFO, Object(100, raw)) for raw in objects}
        root = Directory(_INFO, {**entries, text.encode(): Directory(_INFO, {})})
        with Repository.open(self.path) as repository:
            digest = repository.images.store(write_image(root, 1))
            if link:
                repository.images.link(digest)
            return digest.raw

    def link(self, path: str, text: str) -> None:
        """Make the symbolic link *path* below the repository."""
        where = self.path / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.symlink_to(text)

    def ref(self, path: str, entry: str) -> None:
        """Let the reference *path*, `streams/refs/...` or `images/refs/...`, stand for *entry*."""
        self.link(path, "../" * (path.count("/") - 1) + entry)

    def link_image(self, raw: bytes) -> str:
        """Give an image its name, and return that."""
        hex_digits = Digest(self.algorithm, raw).hex
        self.link(f"images/{hex_digits}", f"../objects/{object_path(raw)}")
        return hex_digits


def contents(path: Path) -> dict[str, str]:
    """Return all that is below *path* and what it is: a link's text, a file's size; the trash aside."""
    found = {}
    for top, directories, files in os.walk(path):
        if top == str(path):
            directories[:] = [name for name in directories if name != "trash"]
        for name in (*directories, *files):
            where = Path(top, name)
            if where.is_symlink():
                found[str(where.relative_to(path))] = f"-> {where.readlink()}"
            elif not where.is_dir():
                found[str(where.relative_to(path))] = str(where.stat().st_size)
    return found


def objects_in(path: Path) -> set[bytes]:
    """Return the digests, raw, of the objects that there are."""
    return {bytes.fromhex(f"{file.parent.name}{file.name}") for file in path.glob("objects/??/*")}


@dataclass(frozen=True)
class Node:
    """A stream or an image, to be made."""

    is_image: bool
    objects: frozenset[int]  # indexes of those that it refers to
    named: frozenset[int]  # of nodes before it; a stream refers to them by name
    is_linked: bool  # it has a name


@dataclass(frozen=True)
class Plan:
    """A repository, to be made."""

    object_count: int
    nodes: tuple[Node, ...]
    refs: frozenset[int]  # indexes of nodes that have a reference, if they have a name
    roots: frozenset[int]  # of nodes that are additional roots, likewise
    gone: frozenset[int]  # of nodes, and behind them of objects, whose files are missing


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Repositories whose objects, streams, images and references have any relation."""
    object_count = draw(st.integers(1, 5))
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 7))):
        node = Node(
            draw(st.booleans()),
            draw(st.frozensets(st.integers(0, object_count - 1))),
            draw(st.frozensets(st.integers(0, number - 1), max_size=3)) if number else frozenset(),
            draw(st.integers(0, 3)) > 0,
        )
        nodes.append(node)
    some = st.frozensets(st.integers(0, len(nodes) - 1), max_size=3)
    gone = st.frozensets(st.integers(0, len(nodes) + object_count - 1), max_size=2)
    return Plan(object_count, tuple(nodes), draw(some), draw(some), draw(st.one_of(st.just(frozenset()), gone)))


@dataclass
class Made:
    """A repository that was made as a plan says."""

    objects: list[bytes]  # digests, raw, as the next
    nodes: list[bytes]
    names: dict[int, str]  # of nodes

    def roots(self, plan: Plan) -> list[str]:
        """Return the names of the additional roots."""
        return [self.names[index] for index in sorted(plan.roots) if index in self.names]


def make(plan: Plan, path: Path) -> Made:
    """Make the repository of *plan* at *path*."""
    maker = Maker(path)
    made = Made([maker.object(b"object %d " % index * 20) for index in range(plan.object_count)], [], {})
    for index, node in enumerate(plan.nodes):
        objects = [made.objects[each] for each in sorted(node.objects)]
        if node.is_image:
            raw = maker.image(objects, f"image{index}", link=node.is_linked)
            name = raw.hex()
        else:
            named = {f"n{each}": made.nodes[each] for each in sorted(node.named)}
            name = f"stream{index}"
            raw = maker.stream(name if node.is_linked else None, objects, named, text=b"%d" % index)
        made.nodes.append(raw)
        if node.is_linked:
            made.names[index] = name
    for index in sorted(plan.refs & made.names.keys()):
        directory = "images" if plan.nodes[index].is_image else "streams"
        maker.ref(f"{directory}/refs/{'deep/' * (index % 3)}r{index}", made.names[index])
    for index in plan.gone:
        (path / "objects" / object_path([*made.nodes, *made.objects][index])).unlink(missing_ok=True)
    return made


def live(plan: Plan, made: Made) -> set[bytes] | None:
    """Return what is alive, by the rules and in the plainest way; None: what is needed to know it is missing."""
    wanted = (plan.refs | plan.roots) & made.names.keys()
    alive: set[bytes] = set()
    pending = sorted(wanted)
    seen: set[int] = set()
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        alive.add(made.nodes[index])
        node = plan.nodes[index]
        if node.is_image and index not in wanted:
            continue
        if index not in made.names and index not in wanted:
            continue
        if index in plan.gone:
            return None
        alive.update(made.objects[each] for each in node.objects)
        if not node.is_image:
            pending += node.named
    return alive
