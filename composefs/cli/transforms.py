"""The options that say what becomes of a tree before it is an image."""

from __future__ import annotations

import argparse

from composefs.xattrs import XattrFilter


def add_transforms(parser: argparse._ActionsContainer) -> None:
    """Add them to a parser, or to a group of one."""
    parser.add_argument(
        "--bootable", action="store_true", help="make it bootable: empty /boot and /sysroot, label for SELinux"
    )
    parser.add_argument(
        "--xattrs",
        metavar="MODE",
        choices=[mode.value for mode in XattrFilter],
        default=XattrFilter.ALLOWLIST_ONLY.value,
        help="which extended attributes stay: allowlist-only (the default: security.capability) or keep-user-xattrs "
        "(user.* too)",
    )


def add_untransformed(parser: argparse._ActionsContainer) -> None:
    """Add the option that leaves out the transform for containers, with which --xattrs means nothing."""
    parser.add_argument(
        "--no-propagate-usr-to-root",
        action="store_true",
        help="take directories as they are: metadata of the root, /run and all extended attributes stay",
    )
