"""What a command on trees may be given: which thing an argument means, and the tree of that."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import BinaryIO, NamedTuple

from composefs.boot import transform_for_boot_from_directory
from composefs.cli import options
from composefs.cli.output import standard_input
from composefs.cli.scanning import NO_ROOT_REMEDY
from composefs.diff import Layer
from composefs.digest import Algorithm
from composefs.dumpfile import parse_dump, read_lines
from composefs.erofs import ondisk
from composefs.erofs.load import load_tree
from composefs.erofs.superblock import read_image, read_superblock
from composefs.errors import NotFoundError, UsageError
from composefs.oci import tags
from composefs.oci.erofs import make_bootable
from composefs.oci.index import LayerIndex
from composefs.oci.merge import find_origins, merge_layers
from composefs.oci.trees import layers_of_image
from composefs.oci.work import layer_label
from composefs.repository import Repository
from composefs.scan import scan_directory
from composefs.transform import transform_for_oci
from composefs.tree import Backed, Directory, Leaf, Object, nodes
from composefs.verity import compute_digest
from composefs.xattrs import XattrFilter

STDIN = "-"


class Kind(Enum):
    """What an argument means; the value is its prefix."""

    IMAGE = "image"
    TAG = "tag"
    DIRECTORY = "dir"
    DUMP = "dump"
    FILE = "file"

    @property
    def noun(self) -> str:
        """What people call it."""
        return _NOUNS[self]


_NOUNS = {
    Kind.IMAGE: "image",
    Kind.TAG: "OCI tag",
    Kind.DIRECTORY: "directory",
    Kind.DUMP: "dumpfile",
    Kind.FILE: "image file",
}
_PREFIXES = {kind.value: kind for kind in Kind} | {"oci-tag": Kind.TAG}
_IN_REPOSITORY = (Kind.IMAGE, Kind.TAG)
_TRANSFORMED = (Kind.TAG, Kind.DIRECTORY)  # of the others the tree is as it is


class Source(NamedTuple):
    """What an argument means."""

    kind: Kind
    name: str  # in the repository, or a path; of a dumpfile also - for standard input

    def __str__(self) -> str:
        return f"{self.kind.noun} {self.name}"


@dataclass(frozen=True)
class Transforms:
    """What is done to the trees of directories and OCI images."""

    container: bool = True
    xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY
    bootable: bool = False

    def apply(self, source: Source, root: Directory, for_boot: Callable[[Directory], None]) -> None:
        """Do it to *root* of *source*, in place; *for_boot* does the second part, which depends on the source."""
        try:
            if self.container:
                transform_for_oci(root, self.xattrs)
        except NotFoundError as error:
            raise NotFoundError(f"{source}: {error}; {NO_ROOT_REMEDY}") from None
        if self.bootable:
            for_boot(root)


class Encoded(NamedTuple):
    """What an image is beside its tree: one tree gives other bytes, and ids, in other formats."""

    version: int  # of the EROFS format
    checksum: bytes


@dataclass
class Loaded:
    """The tree of a source."""

    source: Source
    root: Directory
    layers: Sequence[LayerIndex] = field(default=())  # of an OCI image, the lowest first; read from the repository
    encoded: Encoded | None = None  # of an image

    @cached_property
    def _origins(self) -> dict[bytes, int]:
        return find_origins(self.layers)

    def layer_of(self, path: bytes) -> Layer | None:
        """Return the layer that brought what is at *path*, None if nobody knows."""
        number = self._origins.get(path) if self.layers else None
        if number is None:
            return None
        return Layer(number + 1, self.layers[number].label.removeprefix(layer_label("")))


@contextmanager
def load_all(arguments: argparse.Namespace, names: Sequence[str], transforms: Transforms) -> Iterator[list[Loaded]]:
    """Give the trees of *names*, all with digests of one algorithm as far as possible; the repository stays open.

    Args:
        arguments: choose the repository, `hash` and `workers`.
        names: as `composefs.cli.diff.HELP` says.
        transforms: what to do with directories and OCI images.

    Raises:
        UsageError: a name means two things, or the options make no sense with it.
        NotFoundError: a name means nothing.
        ComposefsError, OSError: something cannot be read, or is broken.
    """
    with _repository_for(arguments, names) as repository:
        sources = [find(name, repository) for name in names]
        _check(sources, transforms)
        loaded: dict[int, Loaded] = {}
        # Directories last: their digests are to be of the algorithm that the others have.
        for i in sorted(range(len(sources)), key=lambda i: sources[i].kind is Kind.DIRECTORY):
            source = sources[i]
            if source.kind is Kind.DIRECTORY:
                algorithm = _algorithm(arguments, loaded.values())
                loaded[i] = _load_directory(source, algorithm, arguments.workers, transforms)
            elif source.kind in _IN_REPOSITORY:
                assert repository is not None
                loaded[i] = _load_from_repository(source, repository, arguments.workers, transforms)
            else:
                loaded[i] = _load_file(source)
        yield [loaded[i] for i in range(len(sources))]


def find(text: str, repository: Repository | None) -> Source:
    """Return what *text* means; errors are those of `load_all`.

    Args:
        text: as `composefs.cli.diff.HELP` says.
        repository: where images and tags are; None: there is none.
    """
    prefix, colon, rest = text.partition(":")
    if not text:
        raise UsageError("'' names nothing")
    if colon and prefix in _PREFIXES:
        if not rest:
            raise UsageError(f"{text} names nothing")
        return Source(_PREFIXES[prefix], rest)
    if text == STDIN:
        return Source(Kind.DUMP, STDIN)
    found = [source for source in (_on_disk(text), *_in_repository(text, repository)) if source is not None]
    if len(found) > 1:
        choices = " or ".join(f"{source.kind.value}:{source.name}" for source in found)
        raise UsageError(f"{text} may mean {' or '.join(map(_with_article, found))}: say {choices}")
    if not found:
        where = f"and no image or tag in {repository.path}" if repository is not None else "and there is no repository"
        raise NotFoundError(f"{text}: no such file or directory, {where}")
    return found[0]


def _with_article(source: Source) -> str:
    noun = source.kind.noun
    return f"{'an' if noun[0] in 'aeiouO' else 'a'} {noun}"


def _on_disk(path: str) -> Source | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return Source(Kind.DIRECTORY, path)
    if not stat.S_ISREG(status.st_mode):
        return Source(Kind.DUMP, path)  # from a pipe
    with open(path, "rb") as file:
        begin = file.read(ondisk.SUPERBLOCK_OFFSET + 4)
    magics = (begin[:4], begin[ondisk.SUPERBLOCK_OFFSET :])
    wanted = tuple(magic.to_bytes(4, "little") for magic in (ondisk.HEADER_MAGIC, ondisk.EROFS_MAGIC))
    is_image = magics[0] == wanted[0] or magics[1] == wanted[1]
    return Source(Kind.FILE if is_image else Kind.DUMP, path)


def _in_repository(name: str, repository: Repository | None) -> Iterator[Source]:
    if repository is None or not _may_be_there(name):
        return
    try:
        repository.images.resolve(name)
        yield Source(Kind.IMAGE, name)
    except NotFoundError:
        pass
    try:
        tags.find(repository, name)
        yield Source(Kind.TAG, name)
    except (NotFoundError, UsageError):
        pass


def _may_be_there(text: str) -> bool:
    """Tell whether *text*, which is no path beyond doubt, may be an image or tag."""
    return not text.startswith(("/", "./", "../")) and text not in {".", ".."}


@contextmanager
def _repository_for(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[Repository | None]:
    """Open the repository if *names* need it; one that need not be there may be missing."""
    prefixes = [_PREFIXES.get(name.partition(":")[0]) if ":" in name else None for name in names]
    needed = any(kind in _IN_REPOSITORY for kind in prefixes)
    bare = [name for name, kind in zip(names, prefixes, strict=True) if kind is None and name != STDIN]
    wanted = any(map(_may_be_there, bare)) and not arguments.no_repo
    if needed or (wanted and _exists(arguments)):
        with options.open_repository(arguments) as repository:
            yield repository
    else:
        yield None


def _exists(arguments: argparse.Namespace) -> bool:
    if arguments.repo is not None:
        return True  # or opening it says what is wrong
    try:
        return Repository.exists(options.repository_path(arguments))
    except UsageError:  # no home directory
        return False


def _check(sources: Sequence[Source], transforms: Transforms) -> None:
    if transforms != Transforms() and not any(source.kind in _TRANSFORMED for source in sources):
        raise UsageError(
            "--bootable, --xattrs and --no-propagate-usr-to-root are for directories and OCI tags; the others are "
            "compared as they are"
        )
    if [source for source in sources if source == Source(Kind.DUMP, STDIN)][1:]:
        raise UsageError("standard input can be read once only")


def _algorithm(arguments: argparse.Namespace, others: Iterable[Loaded]) -> Algorithm:
    """Return the algorithm for a directory: as told, as in the other trees, or as for commands that compute."""
    if arguments.hash is None:
        for other in others:
            for node in nodes(other.root):
                content = node.content if isinstance(node, Leaf) else None
                if isinstance(content, Object | Backed) and content.digest is not None:
                    return next(each for each in Algorithm if each.digest_size == len(content.digest))
    return options.algorithm(arguments)


def _load_directory(source: Source, algorithm: Algorithm, workers: int | None, transforms: Transforms) -> Loaded:
    root = scan_directory(source.name, algorithm, workers=workers)
    transforms.apply(source, root, lambda tree: transform_for_boot_from_directory(tree, source.name))
    return Loaded(source, root)


def _load_from_repository(
    source: Source, repository: Repository, workers: int | None, transforms: Transforms
) -> Loaded:
    if source.kind is Kind.IMAGE:
        with repository.images.open(source.name) as file:
            return _load_image(source, read_image(file), str(source))
    layers = layers_of_image(repository, source.name, workers=workers)
    root = merge_layers(layers)
    transforms.apply(source, root, lambda tree: make_bootable(repository, tree))
    return Loaded(source, root, layers)


def _load_image(source: Source, data: bytes, name: str) -> Loaded:
    root = load_tree(data, name)
    version = read_superblock(data, name).version
    return Loaded(source, root, encoded=Encoded(version, compute_digest(data, Algorithm.SHA256).raw))


def _load_file(source: Source) -> Loaded:
    with _open(source.name) as file:
        if source.kind is Kind.FILE:
            return _load_image(source, read_image(file), source.name)
        name = "standard input" if source.name == STDIN else source.name
        return Loaded(source, parse_dump(read_lines(file), name).root)


def _open(path: str) -> BinaryIO | nullcontext[BinaryIO]:
    return nullcontext(standard_input()) if path == STDIN else open(path, "rb")
