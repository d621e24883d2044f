"""What the user calls an image: text in, values out.

    docker://HOST/NAME[:TAG][@DIGEST]    an image in a registry; registry: says the same
    oci:PATH[:TAG]  oci-archive:PATH[:TAG]  docker-archive:PATH[:NAME]  dir:PATH      files; :@N is image number N
    containers-storage:[STORE]IMAGE      the local store of podman
    docker-daemon:NAME:TAG               the local store of Docker
    PATH[:TAG]  HOST/NAME[:TAG]          without a transport: a file or directory, or an image in a registry

A path is looked at only to tell such readings apart; nothing is opened.  What has two readings is refused, with both.
The text of a value parses to that value again, as long as the same files are there.

Source: containers-transports(5); the grammar of names is that of github.com/distribution/reference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from composefs.errors import UsageError
from composefs.reference.names import CREDENTIALS, has_credentials, names_host, parse_name
from composefs.reference.values import (
    ArchiveReference,
    DaemonReference,
    DirReference,
    DockerArchiveReference,
    OciArchiveReference,
    OciReference,
    OtherReference,
    Reference,
    RegistryReference,
    StorageReference,
    Store,
    name_or_index,
    tag_or_index,
)

STDIN = "/dev/stdin"  # what `-` stands for where an archive is named
_Split = tuple[str, str | None]  # a path, and what follows its colon
# Compiled when they are needed.
_IMAGE_ID = "[0-9a-f]{64}"
_STORE = r"(?s)\[(?:([^@\]/+:]+)@)?([^+:\]]+)(?:\+([^:\]]+))?(?::([^\]]*))?\](.*)"


def parse_reference(
    text: str, *, exists: Callable[[str], bool] | None = None, is_directory: Callable[[str], bool] | None = None
) -> Reference:
    """Return what *text* means.

    Args:
        text: as typed.
        exists: tells whether there is a file or directory of that path; by default the file system is asked.
        is_directory: tells whether there is a directory of that path; likewise.

    Raises:
        UsageError: it means nothing, or two things.
    """
    return _Parser(text, exists or os.path.exists, is_directory or os.path.isdir).parse()


def is_short_name(text: str) -> bool:
    """Tell whether *text* is a name without a host, such as `fedora:42`, and neither a path nor of a transport."""
    prefix, colon, _ = text.partition(":")
    if (colon and prefix in _TRANSPORTS) or text.startswith(".") or names_host(text):
        return False
    if any(os.path.exists(path) for path, _ in _splits(text)):
        return False
    try:
        parse_name(text)
    except UsageError:
        return False
    return True


class _Parser:
    def __init__(self, text: str, exists: Callable[[str], bool], is_directory: Callable[[str], bool]) -> None:
        self._text, self._exists, self._is_directory = text, exists, is_directory

    def parse(self) -> Reference:
        if "\0" in self._text:
            raise UsageError(f"{self._text!r} holds a NUL byte, which no name of an image or file does")
        prefix, colon, details = self._text.partition(":")
        if not colon or prefix not in _TRANSPORTS:
            return self._bare()
        return _TRANSPORTS[prefix](self, prefix, details)

    def _registry(self, prefix: str, details: str) -> RegistryReference:
        if not details.startswith("//") and prefix == "docker" and not has_credentials(details):
            raise UsageError(
                f"{self._text!r} lacks the slashes; wanted docker://{_typed(details) or 'HOST/NAME[:TAG]'}"
            )
        return RegistryReference(parse_name(details.removeprefix("//")).versioned(), self._text)

    def _oci(self, _: str, details: str) -> OciReference:
        path, version = self._split(details, self._is_directory, "oci:PATH[:TAG]", "directory")
        return OciReference(path, *tag_or_index(version, self._text), self._text)

    def _oci_archive(self, _: str, details: str) -> OciArchiveReference:
        path, version = self._split(details, self._exists, "oci-archive:PATH[:TAG]", "file")
        return OciArchiveReference(_or_stdin(path), *tag_or_index(version, self._text), self._text)

    def _docker_archive(self, _: str, details: str) -> DockerArchiveReference:
        wanted = "docker-archive:PATH[:NAME[:TAG]]"
        path, version = self._split(details, self._exists, wanted, "file", _by_first_colon)
        return DockerArchiveReference(_or_stdin(path), *name_or_index(version, self._text), self._text)

    def _dir(self, _: str, details: str) -> DirReference:
        if not details:
            raise UsageError(f"{self._text!r} names no directory; wanted dir:PATH")
        return DirReference(details, self._text)

    def _storage(self, _: str, details: str) -> StorageReference:
        store, image = _parse_store(details, self._text)
        at = image.rpartition("@")
        image_id = None
        if at[1] and re.fullmatch(_IMAGE_ID, at[2]):
            image, image_id = at[0], at[2]
        elif re.fullmatch(_IMAGE_ID, image.removeprefix("sha256:")):
            image, image_id = "", image.removeprefix("sha256:")
        if not image:
            if image_id is None:
                raise UsageError(f"{self._text!r} names no image; wanted containers-storage:NAME[:TAG] or @ID")
            return StorageReference(store, image, None, image_id, self._text)
        if image.startswith("@"):
            raise UsageError(f"{self._text!r}: {image[1:]!r} is no ID of an image, which has 64 hexadecimal digits")
        return StorageReference(store, image, parse_name(image).versioned(), image_id, self._text)

    def _daemon(self, _: str, details: str) -> DaemonReference:
        algorithm, colon, digits = details.partition(":")
        if algorithm == "sha256" and colon:
            if not re.fullmatch(_IMAGE_ID, digits):
                raise UsageError(f"{self._text!r}: an ID of an image has 64 hexadecimal digits, not {digits!r}")
            return DaemonReference(None, digits, self._text)
        if re.fullmatch(_IMAGE_ID, details):
            raise UsageError(f"{self._text!r} is a bare ID; wanted docker-daemon:sha256:{details}")
        name = parse_name(details)
        if name.tag is None and name.digest is None:
            raise UsageError(f"{self._text!r} has no tag; wanted docker-daemon:{details}:TAG")
        return DaemonReference(name, None, self._text)

    def _other(self, prefix: str, details: str) -> OtherReference:
        if not details:
            raise UsageError(f"{self._text!r} names no image; wanted {prefix}:DETAILS")
        return OtherReference(prefix, details, self._text)

    def _bare(self) -> Reference:
        text = self._text
        if text == "-":
            return ArchiveReference(STDIN, None, text)
        if text.startswith(("/", "./", "../")) or text in (".", ".."):
            return self._path()
        scheme, marker, rest = text.partition("://")
        is_path = any(path and self._exists(path) for path, _ in _splits(text))
        if has_credentials(rest if marker else text) and not is_path:
            raise UsageError(CREDENTIALS)
        if marker and not is_path:
            raise UsageError(f"{scheme!r} is no transport; for an image in a registry write docker://{_typed(rest)}")
        try:
            name = parse_name(text)
        except UsageError as error:
            if is_path:
                return self._path()
            raise UsageError(self._no_name(error.what)) from None
        if is_path and names_host(text):
            raise UsageError(
                f"{text!r} is ambiguous: there is such a path, and it is a name in a registry; "
                f"write ./{text} for the path, docker://{text} for the registry"
            )
        if is_path:
            return self._path()
        if names_host(text):
            return RegistryReference(name.versioned(), text)
        raise UsageError(
            f"{text!r} is ambiguous: there is no such path, and before a slash no host of a registry; "
            f"write ./{_typed(text)} for a file or directory, docker://{name.versioned()} for Docker Hub"
        )

    def _no_name(self, problem: str) -> str:
        """Say why the text is neither a path nor a name, and what to write."""
        if not self._text or self._text.startswith(":"):
            return f"{self._text!r} names no image; wanted a path, HOST/NAME[:TAG], or TRANSPORT:DETAILS"
        return f"{problem}; and there is no such path, for which write ./{_typed(self._text)}"

    def _path(self) -> Reference:
        """Return what a path means, by what lies there; what does not exist is taken for an OCI layout."""
        text = self._text
        path, version = (text, None) if self._exists(text) else self._split(text, self._exists, "PATH[:TAG]", "path")
        if self._exists(path) and not self._is_directory(path):
            return ArchiveReference(path, version, text)
        if not self._exists(os.path.join(path, "index.json")) and self._exists(os.path.join(path, "manifest.json")):
            if version is not None:
                raise UsageError(f"{text!r} holds a single image (dir:), which has no tag; wanted dir:{_typed(path)}")
            return DirReference(path, text)
        return OciReference(path, *tag_or_index(version, text), text)

    def _split(
        self,
        details: str,
        is_there: Callable[[str], bool],
        wanted: str,
        what: str,
        otherwise: Callable[[list[_Split]], _Split] | None = None,
    ) -> _Split:
        """Return path and version of *details*: the shortest path that is there.

        So it is skopeo's reading (the path ends at the first colon) if that path exists, and else, where a path holds
        colons, composefs-rs's (the version begins at the last colon, and holds no slash).
        """
        splits = list(_splits(details))
        found = next((split for split in splits if is_there(split[0])), None)
        path, version = found or (otherwise or _by_last_colon)(splits)
        if not path:
            raise UsageError(f"{self._text!r} names no {what}; wanted {wanted}")
        if version == "":
            raise UsageError(f"{self._text!r} has an empty tag; wanted {wanted}")
        return path, version


def _splits(details: str) -> Iterator[_Split]:
    """Yield what *details* may mean: a path that ends at the first colon, at the next one, ..., all of it."""
    colon = details.find(":")
    while colon >= 0:
        yield details[:colon], details[colon + 1 :]
        colon = details.find(":", colon + 1)
    yield details, None


def _by_first_colon(splits: list[_Split]) -> _Split:
    return splits[0]


def _by_last_colon(splits: list[_Split]) -> _Split:
    """Return the split at the last colon, unless a slash follows, which no tag of composefs-rs holds."""
    last = splits[-2] if len(splits) > 1 else splits[-1]
    return splits[-1] if "/" in (last[1] or "") else last


def _typed(text: str) -> str:
    """Return *text* as it is to be typed, or at least as one line."""
    return text if text.isprintable() else repr(text)


def _or_stdin(path: str) -> str:
    return STDIN if path == "-" else path


def _parse_store(details: str, text: str) -> tuple[Store | None, str]:
    """Return store and image of what follows `containers-storage:`."""
    if not details.startswith("["):
        return None, details
    match = re.fullmatch(_STORE, details)
    if match is None:
        raise UsageError(f"{text!r}: wanted [[DRIVER@]ROOT[+RUNROOT][:OPTION,...]] before the image")
    driver, root, run_root, options, image = match.groups()
    if not all(path.startswith("/") for path in (root, run_root) if path is not None):
        raise UsageError(f"{text!r}: the paths of a store start with a slash")
    return Store(driver, root, run_root, tuple(options.split(",")) if options else ()), image


_TRANSPORTS: dict[str, Callable[[_Parser, str, str], Reference]] = {
    "docker": _Parser._registry,
    "registry": _Parser._registry,
    "oci": _Parser._oci,
    "oci-archive": _Parser._oci_archive,
    "docker-archive": _Parser._docker_archive,
    "dir": _Parser._dir,
    "containers-storage": _Parser._storage,
    "docker-daemon": _Parser._daemon,
    "ostree": _Parser._other,
    "sif": _Parser._other,
    "tarball": _Parser._other,
}


def names_transport(text: str) -> bool:
    """Tell whether *text* begins as a reference does that names its transport, so that it is no path."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix in _TRANSPORTS
