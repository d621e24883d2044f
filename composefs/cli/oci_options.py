"""What several of the `oci` commands share: arguments, and how things look as JSON."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from composefs.cli.transforms import add_transforms
from composefs.digest import Digest
from composefs.errors import RepositoryError

if TYPE_CHECKING:
    from composefs.oci.importer import ImportStats
    from composefs.oci.merge import Merger
    from composefs.oci.slots import ErofsImage
    from composefs.oci.tags import NamedBy
    from composefs.repository import Repository


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which image."""
    parser.add_argument("image", metavar="TAG", help="the image: a tag, or @sha256:..., of its manifest or config")


def say_which(repository: Repository, image: str, usual: NamedBy) -> None:
    """Say what a digest is taken for, if that is not the *usual* thing: to `cfsctl` it means one thing by command.

    Raises:
        UsageError, NotFoundError, FormatError, IntegrityError: as `composefs.oci.tags.find`.
    """
    from composefs.oci.tags import NamedBy, find

    found = find(repository, image)
    if found.by is NamedBy.CONFIG is not usual:
        print(f"{found.config} is a config, of manifest {found.manifest or '(none)'}", file=sys.stderr)
    elif found.by is NamedBy.MANIFEST is not usual:
        print(f"{found.manifest} is a manifest, of config {found.config}", file=sys.stderr)


def add_tree(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which tree of an image."""
    add_image(parser)
    parser.add_argument(
        "config_verity",
        metavar="CONFIG_VERITY",
        nargs="?",
        help="with the digest of a config: the id of its stream, which proves as much and saves reading all layers",
    )
    add_transforms(parser)


def merge(arguments: argparse.Namespace, repository: Repository) -> Merger:
    """Return the merged layers of the image that the arguments of `add_tree` are about; errors are `merge_image`'s."""
    from composefs.oci.tags import NamedBy
    from composefs.oci.trees import merge_image

    say_which(repository, arguments.image, usual=NamedBy.CONFIG)
    verity = arguments.config_verity
    config_verity = parse_id(repository, verity) if verity is not None else None
    return merge_image(repository, arguments.image, config_verity=config_verity)


def erofs_version(arguments: argparse.Namespace, repository: Repository) -> int:
    """Return the EROFS format that this call is about."""
    chosen = arguments.erofs_version
    return repository.meta.erofs_versions[0] if chosen is None else int(chosen)


def parse_id(repository: Repository, text: str) -> Digest:
    """Return the id that *text*, hexadecimal digits, is in *repository*.

    Raises:
        RepositoryError: it can be none there.
    """
    try:
        return Digest.from_hex(repository.algorithm, text)
    except ValueError as error:
        raise RepositoryError(repository.path, str(error)) from None


def counts(stats: ImportStats) -> dict[str, object]:
    """Return what storing objects came to; sizes in bytes."""
    return {
        "objects_new": stats.objects_new,
        "objects_present": stats.objects_present,
        "bytes_new": stats.bytes_new,
        "bytes_inline": stats.bytes_inline,
    }


def erofs_json(image: ErofsImage) -> dict[str, object]:
    """Return what is known of an EROFS image, under the names that `cfsctl` gives it."""
    return {
        "id": image.digest.hex,
        "bootable": image.bootable,
        "version": image.version,
        "xattrMode": image.xattrs.value if image.bootable else None,
    }
