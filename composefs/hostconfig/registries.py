"""registries.conf, version 2: where the images of a registry are fetched from, or that they are not.

The files are read one after the other: lists of a later one take the place of those before, and so do its registries
that have the same prefix.

Source: containers-registries.conf(5), and the behaviour of skopeo 1.9.3.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from composefs.errors import FormatError, PolicyError, UsageError
from composefs.hostconfig.files import read_file
from composefs.hostconfig.places import RegistriesFiles
from composefs.reference.names import RegistryName, names_host, parse_name

AUTH_FILES = "containers-auth.json"  # in credential-helpers: the files of credentials, which are no program
_WILDCARD = "*."
_VERSION_1 = "is of version 1, which is not read; write [[registry]] tables and unqualified-search-registries instead"

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Pulls(Enum):
    """What a mirror is for."""

    ALL = "all"
    BY_DIGEST = "digest-only"
    BY_TAG = "tag-only"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the images of a registry are.

    Attributes:
        location: what takes the place of the prefix; empty: the prefix is a wildcard, and names stay as they are.
        insecure: certificates are not checked, and HTTP without TLS will do.
        pulls: of a mirror, what it is for.
    """

    location: str
    insecure: bool = False
    pulls: Pulls = Pulls.ALL


@dataclass(frozen=True, slots=True)
class Registry:
    """A table `[[registry]]`.

    Attributes:
        prefix: of the names that it is for: host[:port][/path], or `*.domain`.
        primary: where they are.
        mirrors: to be tried before, in this order.
        blocked: nothing is fetched.
        source: the file.
    """

    prefix: str
    primary: Location
    mirrors: tuple[Location, ...]
    blocked: bool
    source: str

    def match(self, name: str) -> int | None:
        """Return how much of *name*, host[:port]/path, is matched; None: it is not one of these."""
        if self.prefix.startswith(_WILDCARD):
            host = name.partition("/")[0].partition(":")[0]
            return len(host) if host.endswith(self.prefix[1:]) else None
        size = len(self.prefix)
        # That example.com matches example.com:5000, too, is skopeo's way.
        return size if name.startswith(self.prefix) and name[size : size + 1] in ("", "/", ":") else None


class Alias(NamedTuple):
    """A short name, and what it stands for."""

    short: str
    full: str
    source: str  # the file


@dataclass(frozen=True, slots=True)
class PullSource:
    """A place to fetch an image from: `host/repository`, as a name."""

    name: RegistryName
    insecure: bool


@dataclass(frozen=True, slots=True)
class Registries:
    """What the files say.

    Attributes:
        tables: no two of the same prefix.
        credential_helpers: to be asked in this order.
        helpers_source: the file that says so.
        aliases: the first for a name counts.
        search: registries that short names are looked for in.
        search_source: the file that says so.
        files: that were read, in this order.
    """

    tables: tuple[Registry, ...] = ()
    credential_helpers: tuple[str, ...] = (AUTH_FILES,)
    helpers_source: str = ""
    aliases: tuple[Alias, ...] = ()
    search: tuple[str, ...] = ()
    search_source: str = ""
    files: tuple[str, ...] = ()

    def find(self, name: str) -> Registry | None:
        """Return the table for *name*, host[:port]/path: that of the longest prefix."""
        matching = [table for table in self.tables if table.match(name) is not None]
        return max(matching, key=lambda table: len(table.prefix), default=None)

    def check_blocked(self, name: RegistryName) -> None:
        """See that images of *name* may be fetched.

        Raises:
            PolicyError: they may not.
        """
        table = self.find(name.without_version)
        if table is not None and table.blocked:
            raise PolicyError(f"docker://{name}", "blocked", f"registry {table.prefix}", table.source)

    def sources(self, name: RegistryName) -> tuple[PullSource, ...]:
        """Return where to fetch the image *name* from, in the order to try it; the last is the place itself.

        Raises:
            PolicyError: it is blocked.
            FormatError: what should take the place of a prefix makes no name.
        """
        self.check_blocked(name)
        table = self.find(name.without_version)
        if table is None:
            return (PullSource(name, insecure=False),)
        unwanted = Pulls.BY_TAG if name.digest is not None else Pulls.BY_DIGEST
        places = [mirror for mirror in table.mirrors if mirror.pulls is not unwanted]
        return tuple(PullSource(_rewritten(name, table, place), place.insecure) for place in (*places, table.primary))

    def is_insecure(self, name: RegistryName) -> bool:
        """Tell whether the registry that *name* itself says needs no certificate, and no TLS."""
        table = self.find(name.without_version)
        return table is not None and table.primary.insecure

    def full_names(self, short: str, noted: tuple[Alias, ...] = ()) -> tuple[RegistryName, ...]:
        """Return what the short name *short* stands for: its alias, or a name in each registry that is searched.

        Args:
            short: `name[:tag][@digest]`, without a host.
            noted: aliases that go before those of the files.

        Raises:
            FormatError: an alias is no name, or a registry none.
        """
        path = short.partition("@")[0].partition(":")[0]
        version = short[len(path) :]
        alias = next((alias for alias in (*noted, *self.aliases) if alias.short == path), None)
        if alias is not None and alias.full:  # an empty one takes back one of another file
            return (_parse_full(f"{alias.full}{version}", f"the alias {alias.short}", alias.source),)
        what = "unqualified-search-registries"
        return tuple(_parse_full(f"{host}/{path}{version}", what, self.search_source) for host in self.search)


def read_registries(files: RegistriesFiles) -> Registries:
    """Return what *files* say together.

    Raises:
        FormatError: one is broken, or of version 1.
        FileNotFoundError: one that somebody named is missing.
        OSError: one cannot be read.
    """
    found = Registries()
    for path in (files.main, *_drop_ins(files.directories)):
        data = read_file(path)
        if data is not None:
            _logger.debug("reading %s", path)
            found = _merged(replace(found, files=(*found.files, path)), _parse_toml(data, path), path)
        elif files.required and path == files.main:
            raise FileNotFoundError(2, "No such file or directory", path)
    return found


def read_aliases(path: str) -> tuple[Alias, ...]:
    """Return the short names that podman noted in *path*, with their full names, none if there is no such file."""
    data = read_file(path)
    return _aliases(_parse_toml(data, path), path) if data is not None else ()


def _drop_ins(directories: Iterable[str]) -> list[str]:
    """Return the files *.conf of *directories*, each by name."""
    paths: list[str] = []
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                names = sorted(each.name for each in entries if each.name.endswith(".conf") and not _is_directory(each))
        except (FileNotFoundError, NotADirectoryError):
            continue
        paths += (f"{directory}/{name}" for name in names)
    return paths


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _parse_toml(data: bytes, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise FormatError(path, error.start, "broken TOML: not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(path, 0, f"broken TOML: {error}") from None


def _merged(found: Registries, value: dict[str, Any], path: str) -> Registries:
    """Return *found* with what the file *path* says, which is *value*."""
    if value.get("registries"):
        raise FormatError(path, 0, _VERSION_1)
    tables = {table.prefix: table for table in found.tables}
    tables.update(_tables(value, path))
    found = replace(found, tables=tuple(tables.values()), aliases=(*_aliases(value, path), *found.aliases))
    helpers = _texts(value, "credential-helpers", path)
    if helpers is not None:
        found = replace(found, credential_helpers=helpers or (AUTH_FILES,), helpers_source=path)
    search = _texts(value, "unqualified-search-registries", path)
    return found if search is None else replace(found, search=search, search_source=path)


def _tables(value: dict[str, Any], path: str) -> dict[str, Registry]:
    tables: dict[str, Registry] = {}
    by_location: dict[str, Registry] = {}
    for entry in _list_of_tables(value, "registry", path):
        table = _parse_registry(entry, path)
        tables.setdefault(table.prefix, table)  # the first of the same prefix counts
        other = by_location.setdefault(table.primary.location or table.prefix, table)
        if (other.blocked, other.primary.insecure) != (table.blocked, table.primary.insecure):
            what = f"{table.primary.location} stands twice, once insecure or blocked, and once not"
            raise FormatError(path, 0, what)
    return tables


def _parse_registry(entry: Mapping[str, Any], path: str) -> Registry:
    location = _location(entry, "location", path)
    prefix = _location(entry, "prefix", path) or location
    if not prefix:
        raise FormatError(path, 0, "a registry has neither prefix nor location")
    is_wildcard = prefix.startswith(_WILDCARD)
    if is_wildcard and set("/@:") & set(prefix):
        raise FormatError(path, 0, f"the prefix {prefix} has more than *. and a domain")
    if not location and not is_wildcard:
        raise FormatError(path, 0, f"the registry {prefix} has no location")
    if entry.get("pull-from-mirror"):
        raise FormatError(path, 0, f"the registry {prefix} has pull-from-mirror, which is for its mirrors")
    by_digest = _get(entry, "mirror-by-digest-only", bool, path) or False
    mirrors = [
        _parse_mirror(mirror, prefix, path, by_digest=by_digest) for mirror in _list_of_tables(entry, "mirror", path)
    ]
    primary = Location(location, _get(entry, "insecure", bool, path) or False)
    return Registry(prefix, primary, tuple(mirrors), _get(entry, "blocked", bool, path) or False, path)


def _parse_mirror(entry: Mapping[str, Any], prefix: str, path: str, *, by_digest: bool) -> Location:
    location = _location(entry, "location", path)
    if not location:
        raise FormatError(path, 0, f"a mirror of {prefix} has no location")
    pulls = _get(entry, "pull-from-mirror", str, path) or ""
    if pulls and by_digest:
        raise FormatError(path, 0, f"{prefix} has mirror-by-digest-only, and its mirror {location} pull-from-mirror")
    if pulls and pulls not in {each.value for each in Pulls}:
        raise FormatError(path, 0, f"the mirror {location} has pull-from-mirror = {pulls!r}, which is unknown")
    usual = Pulls.BY_DIGEST if by_digest else Pulls.ALL
    return Location(location, _get(entry, "insecure", bool, path) or False, Pulls(pulls) if pulls else usual)


def _location(entry: Mapping[str, Any], key: str, path: str) -> str:
    location = (_get(entry, key, str, path) or "").rstrip("/")
    if location.startswith(("http://", "https://")):
        raise FormatError(path, 0, f"the {key} {location} has a scheme, which is not for here")
    return location


def _rewritten(name: RegistryName, table: Registry, place: Location) -> RegistryName:
    """Return *name* at *place*: what *table* matches of it is replaced."""
    if not place.location:
        return name
    matched = table.match(name.without_version)
    path = f"{place.location}{name.without_version[matched:]}"
    found = _parse_full(path, f"the location {place.location} for {table.prefix}", table.source)
    if found.tag is not None or found.digest is not None:
        raise FormatError(table.source, 0, f"the location {place.location} has a tag or digest")
    return RegistryName(found.host, found.repository, name.tag, name.digest)


def _parse_full(path: str, what: str, source: str) -> RegistryName:
    """Return the name *path*, which *what* in the file *source* makes."""
    if not names_host(path):  # it is not Docker Hub that is meant
        raise FormatError(source, 0, f"{what}: {path} begins with no host, which has a dot or a port, or is localhost")
    try:
        return parse_name(path)
    except UsageError as error:
        raise FormatError(source, 0, f"{what}: {error}") from None


def _aliases(value: Mapping[str, Any], path: str) -> tuple[Alias, ...]:
    aliases = _get(value, "aliases", dict, path) or {}
    if not all(isinstance(full, str) for full in aliases.values()):
        raise FormatError(path, 0, "an alias is no text")
    return tuple(Alias(short, full, path) for short, full in aliases.items())


def _texts(value: Mapping[str, Any], key: str, path: str) -> tuple[str, ...] | None:
    texts = _get(value, key, list, path)
    if texts is not None and not all(isinstance(text, str) for text in texts):
        raise FormatError(path, 0, f"{key} is no list of texts")
    return tuple(texts) if texts is not None else None


def _list_of_tables(value: Mapping[str, Any], key: str, path: str) -> Sequence[Mapping[str, Any]]:
    tables = _get(value, key, list, path) or []
    if not all(isinstance(table, dict) for table in tables):
        raise FormatError(path, 0, f"{key} is no list of tables [[{key}]]")
    return tables


def _get(value: Mapping[str, Any], key: str, kind: type[_T], path: str) -> _T | None:
    found = value.get(key)
    if found is not None and not isinstance(found, kind):
        raise FormatError(path, 0, f"{key} is no {_KINDS[kind]}")
    return found


_KINDS: dict[type, str] = {str: "text", bool: "true or false", list: "list", dict: "table"}
