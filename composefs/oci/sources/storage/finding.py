"""Where container storage is: said with the reference, by variables, or in a file; no variable is read here.

Source: containers-transports(5), containers-storage.conf(5).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from composefs.errors import FormatError
from composefs.reference.values import Store

SYSTEM_CONFIGURATIONS = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")  # the first one counts
SYSTEM_ROOT = "/var/lib/containers/storage"
_CONFIGURATION_SIZE = 1 << 20  # bytes; real ones have some thousands
_STORE_OPTIONS = frozenset(["additionalimagestore", "imagestore"])  # behind the driver's name, if that is there
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class Candidates(NamedTuple):
    """Directories that may be stores, the likely ones first."""

    roots: tuple[str, ...]
    driver: str | None  # of all of them, if that is said


def find_candidates(named: Store | None, environ: Mapping[str, str], uid: int) -> Candidates:
    """Return where an image may be.

    A store that is named is the only one, with those that its options add.  Otherwise they are, in order:
    `CONTAINERS_STORAGE_ROOT`; that of this user, as storage.conf has it, or below `XDG_DATA_HOME` or `HOME`; that of
    the system; those that storage.conf and `STORAGE_OPTS` add.

    Args:
        named: what the reference says of it.
        environ: variables, as a program has them.
        uid: of the user; inside of a user namespace of podman, that outside counts.

    Raises:
        FormatError: a storage.conf is broken.
        OSError: it cannot be read.
    """
    if named is not None:
        return Candidates(_unique((named.root, *_added(named.options))), named.driver)
    outside = environ.get("_CONTAINERS_ROOTLESS_UID", "")
    uid = int(outside) if outside.isdecimal() and outside.isascii() else uid
    system = next(filter(None, map(_read, SYSTEM_CONFIGURATIONS)), _Configuration())
    chosen = environ.get("CONTAINERS_STORAGE_CONF")
    roots = [environ.get("CONTAINERS_STORAGE_ROOT")]
    homes = [_below(environ.get("XDG_DATA_HOME"), ""), _below(environ.get("HOME"), ".local/share")]
    if chosen:
        own = _read(chosen) or _Configuration()
        roots += [own.root, own.image_store]
    elif uid == 0:
        own = system
        roots += [own.root or SYSTEM_ROOT, own.image_store]
    else:
        config_home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
        own = _read(os.path.join(config_home, "containers/storage.conf")) or _Configuration()
        roots += [own.root, _expanded(system.rootless_root, environ, uid), own.image_store]
    roots += [*homes, system.root, SYSTEM_ROOT, *own.added, *system.added]
    options = environ.get("STORAGE_OPTS", "").split(",")
    return Candidates(_unique([*filter(None, roots), *_added(options)]), None)


@dataclass(frozen=True)
class _Configuration:
    """What a storage.conf says of where stores are."""

    root: str | None = None
    rootless_root: str | None = None
    image_store: str | None = None
    added: tuple[str, ...] = ()


def _read(path: str) -> _Configuration | None:
    """Return what the file *path* says; None: there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_CONFIGURATION_SIZE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        value = tomllib.loads(data.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise FormatError(path, 0, f"broken TOML: {error}") from None
    storage = _table(value, "storage", path)
    options = _table(storage, "options", path)
    added = options.get("additionalimagestores", [])
    if not isinstance(added, list) or not all(isinstance(root, str) for root in added):
        raise FormatError(path, 0, "storage.options.additionalimagestores is no list of texts")
    return _Configuration(
        root=_text(storage, "graphroot", path),
        rootless_root=_text(storage, "rootless_storage_path", path),
        image_store=_text(storage, "imagestore", path),
        added=tuple(added),
    )


def _table(value: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise FormatError(path, 0, f"{key} is no table")
    return found


def _text(storage: dict[str, Any], key: str, path: str) -> str | None:
    found = storage.get(key)
    if found is not None and not isinstance(found, str):
        raise FormatError(path, 0, f"storage.{key} is no text")
    return found or None


def _added(options: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Yield the stores that options of a driver add, such as `overlay.imagestore=PATH`."""
    for option in options:
        name, equals, path = option.strip().partition("=")
        if equals and path and name.rpartition(".")[2] in _STORE_OPTIONS:
            yield path


def _below(directory: str | None, middle: str) -> str | None:
    return os.path.join(directory, middle, "containers/storage") if directory else None


def _expanded(path: str | None, environ: Mapping[str, str], uid: int) -> str | None:
    """Return *path* with the variables that storage.conf may have there."""
    if path is None:
        return None
    values = {**environ, "UID": str(uid)}
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[2], found[0]), path)


def _unique(roots: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for root in roots:
        found.setdefault(os.path.realpath(root), root)
    return tuple(found.values())
