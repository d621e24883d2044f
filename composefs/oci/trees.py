"""The file systems of images that are in the repository, from their layers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple

from composefs.collector import paused_collector
from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError, NotFoundError
from composefs.oci.erofs import bootable_tree
from composefs.oci.images import check_sha256
from composefs.oci.index import Kind, LayerIndex, content_of, meaning_of, read_entries, stat_of
from composefs.oci.manifest import Config
from composefs.oci.merge import Merger
from composefs.oci.names import config_name, layer_name, manifest_name
from composefs.oci.read import read_layers
from composefs.oci.tags import NamedBy, find
from composefs.oci.work import layer_label
from composefs.repository import Repository
from composefs.splitstream import ContentType
from composefs.transform import transform_for_oci
from composefs.tree import Content, Directory, Stat
from composefs.xattrs import XattrFilter


class LayerEntry(NamedTuple):
    """An entry of the archive of a layer."""

    path: bytes  # with a slash before it and none behind it; else as it is spelled; of the root empty
    stat: Stat
    content: Content | None  # None: a directory or a hard link
    target: bytes | None  # of a hard link: a path as above


def tree_of_image(
    repository: Repository,
    image: str,
    *,
    xattrs: XattrFilter = XattrFilter.ALLOWLIST_ONLY,
    bootable: bool = False,
    config_verity: Digest | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> Directory:
    """Return the file system that an image's EROFS image holds.

    Args:
        repository: where it is.
        image: a tag, or the digest of a manifest or config.  What a digest names is proved by it; of a config that
            includes all layers, which are read whole.
        xattrs: which extended attributes stay.
        bootable: that of the image for booting.
        config_verity: of the config's stream, which proves all that a digest of the config would.
        workers: layers to read at the same time; by default one for each CPU this process may use.
        executor: reads the layers instead of processes of its own.

    Raises:
        UsageError: *image* can be no image.
        NotFoundError: there is no such image, or not all of it; or the tree lacks what an image must have.
        FormatError, TreeError: a part of it is broken, or the tree cannot be that of an image.
        IntegrityError: a part of it is not what its digest says.
    """
    merger = merge_image(repository, image, config_verity=config_verity, workers=workers, executor=executor)
    with paused_collector():
        if bootable:
            return bootable_tree(repository, merger, xattrs)
        root = merger.list().tree()
        transform_for_oci(root, xattrs)
    return root


def merge_image(
    repository: Repository,
    image: str,
    *,
    config_verity: Digest | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> Merger:
    """Return the merged layers of an image, and no more; arguments and errors are those of `tree_of_image`."""
    merger = Merger()
    for layer in layers_of_image(repository, image, config_verity=config_verity, workers=workers, executor=executor):
        merger.apply(layer)
    return merger


def layers_of_image(
    repository: Repository,
    image: str,
    *,
    config_verity: Digest | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> list[LayerIndex]:
    """Return the layers of an image, the lowest first; arguments and errors are those of `tree_of_image`."""
    found = find(repository, image)
    if found.by is NamedBy.MANIFEST:
        assert found.manifest is not None
        with repository.streams.open(manifest_name(found.manifest), ContentType.MANIFEST) as stream:
            check_sha256(f"manifest {found.manifest}", stream.read_body(), found.manifest)
    with repository.streams.open(config_name(found.config), ContentType.CONFIG) as stream:
        if config_verity is not None and stream.digest != config_verity:
            raise IntegrityError(f"stream of config {found.config}", config_verity.hex, stream.digest.hex)
        data, refs = stream.read_body(), stream.reader.named_refs
    check_sha256(f"config {found.config}", data, found.config)
    diff_ids = Config.parse(data, f"config {found.config}").diff_ids
    for diff_id in diff_ids:
        if diff_id not in refs:
            raise FormatError(f"stream of config {found.config}", 0, f"refers to no layer {diff_id}")
    layers = {diff_id: refs[diff_id] for diff_id in diff_ids}
    verify = found.by is NamedBy.CONFIG and config_verity is None
    indexes = read_layers(repository, layers, verify=verify, workers=workers, executor=executor)
    return [indexes[diff_id] for diff_id in diff_ids]


def layer_entries(repository: Repository, diff_id: str) -> Iterator[LayerEntry]:
    """Yield the entries of a layer, in the order of its archive.

    Raises:
        NotFoundError: there is no such layer.
        FormatError: it is broken, or no archive; or an entry is something that no tree can hold.
        IntegrityError: its stream is broken.
    """
    if repository.streams.find(layer_name(diff_id)) is None:
        raise NotFoundError(f"{repository.path}: no layer {diff_id}")
    with repository.streams.open(layer_name(diff_id), ContentType.LAYER) as stream:
        for entry, content in read_entries(stream.reader, layer_label(diff_id)):
            kind, value, number = meaning_of(entry, content)
            if kind == Kind.REFUSED:
                raise FormatError(layer_label(diff_id), entry.offset, value.decode(), entry.name)
            has_content = kind not in (Kind.DIRECTORY, Kind.HARD_LINK)
            yield LayerEntry(
                _absolute(entry.path),
                stat_of(entry),
                content_of(kind, value, number) if has_content else None,
                _absolute(value) if kind == Kind.HARD_LINK else None,
            )


def _absolute(path: bytes) -> bytes:
    return (b"/" + path.removeprefix(b"/")).rstrip(b"/")
