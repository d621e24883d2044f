"""`composefs mkcomposefs SOURCE [IMAGE]`, also `mkcomposefs`: make an image file of a directory or a dump.

Two programs of that name exist.  The images are those of the C one, and where the options mean different things, its
meaning holds: dumps are in its dialect, `--use-epoch`, `--skip-devices`, `--skip-xattrs` and `--user-xattrs` are about
directories only, and version 1 is chosen where there are whiteouts.  `--hardlinks` is of the other, composefs-rs.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import refuse_terminal, standard_input, write_bytes
from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.dumpfile import Dump
    from composefs.repository.objects import ObjectStore
    from composefs.tree import Directory

EXAMPLES = """\
examples:
  mkcomposefs --digest-store=objects /srv/root image.cfs
  mkcomposefs --print-digest-only /srv/root
  composefs-info dump image.cfs | mkcomposefs --from-file - copy.cfs

With CFS_PARSE_STRICT in the environment, dumpfiles must also have the sizes
of links, no device numbers elsewhere, and a newline at their end."""

VERSIONS = (0, 1)
STRICT = "CFS_PARSE_STRICT"  # in the environment, with any value

_STANDARD = "-"  # input or output
_DIRECTORY_ONLY = ("digest_store", "use_epoch", "skip_devices", "skip_xattrs", "user_xattrs", "hardlinks")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Make an EROFS image of the metadata of a directory, whose contents are named by their fs-verity digests "
        "(SHA-256). The same directory always gives the same image, that of the C program mkcomposefs."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="the directory, or the dumpfile; - for standard input")
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="the file to write; - for standard output")
    parser.add_argument("--from-file", action="store_true", help="SOURCE is a dumpfile, see composefs-dump(5)")
    parser.add_argument("--digest-store", metavar="DIR", help="copy contents beyond 64 bytes to DIR/xx/rest")
    parser.add_argument("--print-digest", action="store_true", help="print the fs-verity digest of the image")
    parser.add_argument("--print-digest-only", action="store_true", help="print that, and write no image")
    group = parser.add_argument_group("what is taken from a directory")
    group.add_argument("--use-epoch", action="store_true", help="all times are 1970-01-01")
    group.add_argument("--skip-devices", action="store_true", help="no block and character devices")
    group.add_argument("--skip-xattrs", action="store_true", help="no extended attributes")
    group.add_argument("--user-xattrs", action="store_true", help="of extended attributes only user.*")
    group.add_argument("--hardlinks", action="store_true", help="keep hard links (default: files of their own)")
    group.add_argument("--threads", type=options.positive, metavar="N", help="default: one for each CPU")
    group = parser.add_argument_group("version of the format: 1 if there are whiteouts, else 0")
    group.add_argument("--min-version", type=int, choices=VERSIONS, help="at least this one, else 0")
    group.add_argument("--max-version", type=int, choices=VERSIONS, help="at most this one, unless the other is higher")


def run(arguments: argparse.Namespace) -> int:
    """Make it."""
    from composefs.dumpfile import Dump
    from composefs.erofs.writer import write_image
    from composefs.verity import compute_digest

    _check(arguments)
    dump = _read_dump(arguments) if arguments.from_file else Dump(_scan(arguments), {})
    version = choose_version(dump.root, arguments.min_version, arguments.max_version)
    image = write_image(dump.root, version, dialect=Dialect.C, homes=dump.homes)
    if arguments.image == _STANDARD:
        write_bytes([memoryview(image)])
    elif arguments.image is not None:
        write_file(arguments.image, image)
    if arguments.print_digest or arguments.print_digest_only:
        print(compute_digest(image, Algorithm.SHA256).hex)
    return 0


def choose_version(root: Directory, lowest: int | None, highest: int | None) -> int:
    """Return the version of the image of *root*, between what was asked for: None is 0, or 0 and 1 if both are.

    Version 1 is needed for whiteouts to survive in a stack of images; it is chosen only if there are some.
    """
    from composefs.erofs.writer import has_whiteout

    if lowest is None and highest is None:
        highest = 1
    if lowest == 1 or not highest:
        return lowest or 0
    return int(has_whiteout(root))


def write_file(path: str, data: bytes | bytearray) -> None:
    """Write the file *path*: it is there with all of *data*, or as before.

    A device or pipe is written to; a symbolic link stays, and the file that it leads to is replaced.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "wb") as file:
            file.write(data)
        return
    temporary = f"{path}.tmp-{os.urandom(6).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from None
        raise


def _check(arguments: argparse.Namespace) -> None:
    if arguments.print_digest_only and arguments.image is not None:
        raise UsageError("IMAGE must be left out with --print-digest-only")
    if not arguments.print_digest_only and arguments.image is None:
        raise UsageError("IMAGE is missing (or --print-digest-only)")
    if not arguments.source:
        raise UsageError("SOURCE is empty")
    if arguments.image == "":
        raise UsageError("IMAGE is empty")
    if arguments.digest_store == "":
        raise UsageError("--digest-store needs a path")
    if arguments.image == _STANDARD:
        refuse_terminal("an image")
    if not arguments.from_file and arguments.skip_xattrs and arguments.user_xattrs:
        raise UsageError("--skip-xattrs and --user-xattrs exclude each other")
    if arguments.from_file:
        for name in _DIRECTORY_ONLY:
            if getattr(arguments, name):
                print(f"warning: --{name.replace('_', '-')} is ignored when --from-file is specified", file=sys.stderr)


def _read_dump(arguments: argparse.Namespace) -> Dump:
    from composefs.dumpfile import parse_dump, read_lines

    strict = STRICT in os.environ
    if arguments.source == _STANDARD:
        return parse_dump(read_lines(standard_input()), "standard input", dialect=Dialect.C, strict=strict)
    with open(arguments.source, "rb") as file:
        return parse_dump(read_lines(file), arguments.source, dialect=Dialect.C, strict=strict)


@contextmanager
def _open_store(path: str | None) -> Iterator[ObjectStore | None]:
    """Open the directory *path* as a store of objects, and make it if it is missing."""
    from composefs.repository.objects import ObjectStore

    if path is None:
        yield None
        return
    os.makedirs(path, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    store = ObjectStore(fd, path, Algorithm.SHA256, require_verity=False, directory=".")
    try:
        yield store
    finally:
        store.close()
        os.close(fd)


def _scan(arguments: argparse.Namespace) -> Directory:
    from composefs.scan import Xattrs, scan_directory
    from composefs.tree import nodes

    xattrs = Xattrs.USER if arguments.user_xattrs else Xattrs.NONE if arguments.skip_xattrs else Xattrs.ALL
    with _open_store(arguments.digest_store) as store:
        root = scan_directory(
            arguments.source,
            Algorithm.SHA256,
            store=store,
            hard_links=arguments.hardlinks,
            devices=not arguments.skip_devices,
            xattrs=xattrs,
            workers=arguments.threads,
        )
    if arguments.use_epoch:
        for node in nodes(root):
            node.stat = node.stat._replace(mtime=0, nanoseconds=0)
    return root
