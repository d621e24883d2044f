"""`composefs probe-image`: which image the kernel arguments select."""

from __future__ import annotations

import argparse
import json

from composefs.cli.booting import add_cmdline, open_selected

EXAMPLES = """\
examples:
  composefs probe-image
  composefs probe-image --cmdline "$(cat /etc/kernel/cmdline)" && reboot
  composefs --repo repo probe-image --cmdline composefs=?0ecf6925... --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Print which image the kernel arguments select, composefs= and
composefs.digest=: the first that the repository has. It is opened and proved
as it would be to boot it; the exit status is 1 if it cannot be."""
    parser.epilog = EXAMPLES
    add_cmdline(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from composefs.kernel import Verity
    from composefs.mount import open_image

    with open_selected(arguments) as (repository, argument), open_image(repository, argument.digest.hex) as image:
        is_required = image.verity is not Verity.DISABLED
        path = repository.path
    if arguments.json:
        found = {
            "image": argument.digest.hex,
            "algorithm": argument.digest.algorithm.value,
            "argument": str(argument),
            "insecure": argument.insecure,
            "verity": is_required,
            "repository": path,
        }
        print(json.dumps(found, indent=2))
        return 0
    print(f"image       {argument.digest.hex}")
    print(f"argument    {argument}")
    print(f"repository  {path}")
    print(f"fs-verity   {'required' if is_required else 'not required'}")
    return 0
