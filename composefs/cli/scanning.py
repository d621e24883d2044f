"""What the commands on a directory share: their arguments, and the tree and image of the directory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.transforms import add_untransformed
from composefs.digest import Algorithm, Digest
from composefs.errors import NotFoundError, UsageError
from composefs.xattrs import XattrFilter

if TYPE_CHECKING:
    from composefs.repository.objects import ObjectStore
    from composefs.scan import Sharing
    from composefs.tree import Directory

NO_ROOT_REMEDY = "for what is no root file system there is --no-propagate-usr-to-root"
EROFS_VERSION = 1  # of an image that is only computed, whatever a repository is set to


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add what all of them have."""
    parser.add_argument("path", metavar="PATH", help="the directory: a root file system")
    add_untransformed(parser)
    parser.add_argument(
        "--workers", type=options.positive, metavar="N", help="threads that hash files (default: one for each CPU)"
    )


def read_directory(
    arguments: argparse.Namespace,
    algorithm: Algorithm,
    store: ObjectStore | None = None,
    sharing: Sharing | None = None,
) -> Directory:
    """Return the tree of the directory, as the image of a container has it, but not yet bootable."""
    from composefs.collector import paused_collector
    from composefs.scan import Sharing, scan_directory
    from composefs.transform import transform_for_oci

    if not arguments.path:
        raise UsageError("PATH is empty")
    with paused_collector():
        root = scan_directory(
            arguments.path, algorithm, store=store, sharing=sharing or Sharing.REFLINK, workers=arguments.workers
        )
    if not arguments.no_propagate_usr_to_root:
        try:
            transform_for_oci(root, XattrFilter(arguments.xattrs))
        except NotFoundError as error:
            remedy = "for what is no root file system there is --no-propagate-usr-to-root"
            raise NotFoundError(f"{arguments.path}: {error}; {remedy}") from None
    return root


def compute_tree(arguments: argparse.Namespace, algorithm: Algorithm) -> Directory:
    """Return the tree of the directory as the arguments want it; nothing is stored."""
    from composefs.boot import transform_for_boot_from_directory

    root = read_directory(arguments, algorithm)
    if arguments.bootable:
        transform_for_boot_from_directory(root, arguments.path)
    return root


def compute_image(arguments: argparse.Namespace) -> tuple[Digest, int]:
    """Return the digest of the image of the directory, and its version; nothing is stored."""
    from composefs.erofs.writer import write_image
    from composefs.verity import compute_digest

    algorithm = options.algorithm(arguments)
    version = EROFS_VERSION if arguments.erofs_version is None else arguments.erofs_version
    return compute_digest(write_image(compute_tree(arguments, algorithm), version), algorithm), version


def as_json(digest: Digest, version: int) -> dict[str, object]:
    """Return what is known of an image."""
    return {"id": digest.hex, "algorithm": digest.algorithm.value, "erofs_version": version}
