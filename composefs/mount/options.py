"""The options of mount.composefs: text after `-o`, in which a comma separates and a backslash protects.

    basedir=A[:B...],digest=HEX,idmap=PATH,upperdir=PATH,workdir=PATH,verity,tryverity,ro,rw

As the C tool and composefs-rs have them.  Besides there is what mount(8) hands over: options of any mount, such as
nosuid, which are heeded, and some that are meant for itself, such as nofail, which are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from composefs.digest import Algorithm, Digest
from composefs.errors import UsageError
from composefs.kernel import Attribute, Verity

_WITH_VALUE = ("basedir", "digest", "idmap", "upperdir", "workdir")
_FLAGS = ("verity", "tryverity", "ro", "rw")
_ATTRIBUTES = {
    "nosuid": Attribute.NO_SUID,
    "nodev": Attribute.NO_DEV,
    "noexec": Attribute.NO_EXEC,
    "noatime": Attribute.NO_ATIME,
    "strictatime": Attribute.STRICT_ATIME,
    "nodiratime": Attribute.NO_DIR_ATIME,
}
_ANY_TIME = Attribute.NO_ATIME | Attribute.STRICT_ATIME  # one of them, or neither: relatime
_OPPOSITES = {
    "suid": Attribute.NO_SUID,
    "dev": Attribute.NO_DEV,
    "exec": Attribute.NO_EXEC,
    "atime": Attribute.NO_ATIME,
    "relatime": _ANY_TIME,
    "nostrictatime": Attribute.STRICT_ATIME,
    "diratime": Attribute.NO_DIR_ATIME,
}
_OF_MOUNT = frozenset(
    ["_netdev", "auto", "comment", "defaults", "group", "nofail", "noauto", "nouser", "owner", "user", "users"]
)
_OF_OTHERS = "x-"  # begins what is for other programs, such as systemd
_ALGORITHMS = {2 * algorithm.digest_size: algorithm for algorithm in Algorithm}

# Key, perhaps = and value, then a comma or the end.  A backslash and what follows it belong together.
_ELEMENT = re.compile(r"((?:\\.|[^\\,=]|\\\Z)*)(?:=((?:\\.|[^\\,]|\\\Z)*))?(?:,|\Z)", re.DOTALL)
_PROTECTED = re.compile(r"\\(.?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How to mount an image that is a file.

    Attributes:
        basedirs: directories of objects; what is in an earlier one hides what is in a later one.
        digest: that the kernel must measure of the image.
        verity: what the kernel demands of objects.
        read_only: whether nothing can be written, even with an upper layer.
        upper: directory that takes changes; with one there is the other.
        work: see *upper*.
        idmap: file of a user namespace.
        attributes: of the mount, beside that.
    """

    basedirs: tuple[str, ...]
    digest: Digest | None = None
    verity: Verity = Verity.DISABLED
    read_only: bool = False
    upper: str | None = None
    work: str | None = None
    idmap: str | None = None
    attributes: Attribute = Attribute.NONE


def parse_options(text: str, *, sloppy: bool = False) -> FileOptions:
    """Return what *text*, the options of mount.composefs, asks for; of an option that is repeated the last one holds.

    Args:
        text: the options.
        sloppy: pass over unknown ones.

    Raises:
        UsageError: an option that there is not, lacks its value, or makes no sense.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
    read_only, attributes = False, Attribute.NONE
    for key, value in split_options(text):
        if key in _WITH_VALUE:
            if value is None:
                raise UsageError(f"No value specified for {key} option")
            values[key] = value
        elif key in _FLAGS:
            flags.add(key)
            read_only = key == "ro" or (read_only and key != "rw")
        elif key in _ATTRIBUTES or key in _OPPOSITES:
            attributes = _changed(attributes, key)
        elif not sloppy and key not in _OF_MOUNT and not key.startswith(_OF_OTHERS):
            raise UsageError(f"Unsupported option: {key}")
    basedirs = tuple(filter(None, values.get("basedir", "").split(":")))
    if not basedirs:
        raise UsageError("No object dirs specified")
    if ("upperdir" in values) != ("workdir" in values):
        raise UsageError("Both workdir and upperdir must be specified if used")
    verity = Verity.TRY if "tryverity" in flags else Verity.DISABLED
    return FileOptions(
        basedirs=basedirs,
        digest=_parse_digest(values["digest"]) if "digest" in values else None,
        verity=Verity.REQUIRED if "verity" in flags or "digest" in values else verity,
        read_only=read_only,
        upper=values.get("upperdir"),
        work=values.get("workdir"),
        idmap=values.get("idmap"),
        attributes=attributes,
    )


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the options in *text*: key, as it is written, and value, without the backslashes; None: there is none."""
    position = 0
    while position < len(text):
        match = _ELEMENT.match(text, position)
        assert match is not None  # anything can be a key
        key, value = match.groups()
        yield key, None if value is None else _PROTECTED.sub(r"\1", value)
        position = match.end()


def _changed(attributes: Attribute, key: str) -> Attribute:
    """Return what *attributes* become by the option *key*."""
    if key in _OPPOSITES:
        return attributes & ~_OPPOSITES[key]
    if _ATTRIBUTES[key] in _ANY_TIME:
        attributes &= ~_ANY_TIME
    return attributes | _ATTRIBUTES[key]


def _parse_digest(text: str) -> Digest:
    algorithm = _ALGORITHMS.get(len(text), Algorithm.SHA256)
    try:
        return Digest.from_hex(algorithm, text)
    except ValueError as error:
        raise UsageError(f"Invalid digest value: {error}") from None
